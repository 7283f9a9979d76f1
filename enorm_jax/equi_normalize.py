"""ENorm as an optax transform."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from enorm_jax.bias_gauge import advance_gauge, gauge_gradients, initial_gauge
from enorm_jax.chain_guard import require_all, require_last, require_stateless_siblings
from enorm_jax.degree_check import check_degrees
from enorm_jax.enorm import Order, check_arguments, require_count, require_plain, usable
from enorm_jax.groups import Groups, by_path, require_arrays
from enorm_jax.nnx_groups import without_variables
from enorm_jax.opt_state import Degrees
from enorm_jax.scaling import Scales
from enorm_jax.state_rescaling import StateBias, enorm_step_with_state, fast_params


class EquiNormalizeState(NamedTuple):
    """State of `equi_normalize`.

    Attributes:
      inner_state: state of the optimizer, in the gauge of the current parameters.
      steps: steps so far, int32; those in which `optax.MultiSteps` only accumulates do not count.
      gauge: product of each unit's scales since the start with ``bias="gauge"``, else empty.
    """

    inner_state: Any
    steps: jax.Array
    gauge: Scales


def equi_normalize(
    optimizer: Any = None,
    c: jax.typing.ArrayLike | optax.Schedule = 1.0,
    *,
    groups: Groups | None = None,
    every: int = 1,
    p: float = 2,
    cycles: int = 1,
    order: Order = "sequential",
    balance_last: bool = True,
    bias: StateBias = "scale",
    degrees: Degrees | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Balances the parameters after every step of an optimizer, and its state with them.

    .. math::
        u, s \leftarrow \text{optimizer}(g, s, \theta), \quad
        d \leftarrow \text{scales}(\theta + u), \quad
        u \leftarrow d \cdot (\theta + u) - \theta, \quad
        s \leftarrow d \cdot s

    `optax.apply_updates` then gives ``enorm_step(params + u, c, groups=groups)``, and the
    state is that which the optimizer would have, had it seen the gradients of the rescaled network
    all along; see `rescale_state`. That is so where states start at 0 and gradients reach them
    unclipped: the start of `optax.adagrad`, 0.1, and what `optax.clip` cuts off do not scale with
    gradients, nor does the momentum of an optimizer with trust ratios, as `optax.lars`. Around
    `optax.MultiSteps`, or within it, the parameters move only when it emits. What is added to the
    gradients without being one, such as weight decay, acts on the rescaled parameters. Updates have
    the dtype that the optimizer gives them: where weights in bfloat16 are far out of balance, they
    round what a first step changes; call `enorm_step` once before training.

    An average of the parameters that is kept elsewhere does not follow: use
    `enorm_step_with_state`, and `rescale` it by the scales that this returns.

    Nothing may follow that changes the updates: inside an `optax.chain` it must be the last.
    Members of a chain cannot reach each other's states, so that this is a wrapper::

        equi_normalize(optax.chain(optax.clip(1.0), optax.adamw(1e-3)), c=1.2, groups=groups)

    As the last member of a chain, ``optax.chain(optax.sgd(0.1), equi_normalize(c=1.2))`` is
    right if the others keep no state that follows the scale: SGD without momentum, weight decay,
    clipping, schedules. Else `init` refuses; it reads the chain from the calling frames, so that
    in combinators that are not optax's it cannot know, and refuses too.

    Args:
      optimizer: any optax transform, or None to be the last member of an `optax.chain`.
      c: ratio of outgoing to incoming norm, as in `enorm_step`, or a schedule: function of the
        number of steps before; p, cycles, order and balance_last are as in `enorm_step`.
      groups: what shares a unit's scale, as `infer_groups` finds it; None for a chain of layers.
      every: balances after every so many steps.
      p: norm.
      cycles: passes over the groups each time.
      order: ``"sequential"`` or ``"simultaneous"``.
      balance_last: whether the last group is balanced.
      bias: ``"scale"``; ``"keep"`` leaves biases, which does not preserve the function;
        ``"gauge"`` scales them and lets them train as in the network that was never
        rescaled, which keeps deep networks with bias from diverging at c > 1. Exactly so
        with SGD, with or without momentum; Adam divides the difference out.
      degrees: as in `rescale_state`, for optimizers whose states are not known.

    Returns:
      An optax transform; its `update` needs the parameters.

    Raises:
      ValueError: at the call if an argument is wrong, at `init` if the optimizer's state cannot
        be rescaled, at `update` without parameters or as `enorm_step`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from enorm_jax import equi_normalize
      >>> params = {"layer_00": {"kernel": jnp.full((1, 1), 8.0)},
      ...           "layer_01": {"kernel": jnp.full((1, 1), 2.0)}}
      >>> optimizer = equi_normalize(optax.sgd(0.1, momentum=0.9), c=1.0)
      >>> state = optimizer.init(params)
      >>> gradients = jax.tree.map(jnp.zeros_like, params)
      >>> updates, state = optimizer.update(gradients, state, params)
      >>> params = optax.apply_updates(params, updates)
      >>> [float(layer["kernel"][0, 0]) for layer in params.values()]
      [4.0, 4.0]

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019.
    """
    _check_arguments(optimizer, every, bias)
    check_arguments(1.0 if callable(c) else c, p, cycles, order)
    inner = _with_extra_args(optax.identity() if optimizer is None else optimizer)

    def balance(updates: Any, inner_state: Any, gauge: Scales, params: Any, steps: Any) -> Any:
        new, inner_state, scales = enorm_step_with_state(
            optax.apply_updates(params, updates), inner_state, c(steps) if callable(c) else c,
            groups=groups, p=p, cycles=cycles, order=order, balance_last=balance_last, bias=bias,
            degrees=degrees,
        )  # fmt: skip
        updates = jax.tree.map(lambda u, n, old: (n - old).astype(u.dtype), updates, new, params)
        return updates, inner_state, advance_gauge(gauge, scales) if gauge else gauge

    def init(params: Any) -> EquiNormalizeState:
        require_arrays(params)
        if optimizer is None:
            require_stateless_siblings(params, degrees)
        else:
            require_last()
            check_degrees(optimizer, params, degrees)
        fast = fast_params(params)
        found = groups is not None and {*usable(fast, groups).paths} <= by_path(fast).keys()
        if not found:
            require_all("equi_normalize balances all layers", fast)
        if groups is not None:
            groups.leaves(fast if found else without_variables(fast))
        gauge = initial_gauge(without_variables(fast), groups) if bias == "gauge" else ()
        return EquiNormalizeState(inner.init(params), jnp.zeros((), jnp.int32), gauge)

    def update(
        updates: Any, state: EquiNormalizeState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, EquiNormalizeState]:
        if params is None:
            raise ValueError("equi_normalize needs the parameters: update(grads, state, params)")
        if not hasattr(state, "gauge"):
            raise ValueError(
                f"this state is no EquiNormalizeState but {type(state).__name__}: use that of "
                "init, with inner_state replaced where an optimizer's own state is to go on"
            )
        if state.gauge:
            updates = gauge_gradients(updates, state.gauge, groups)
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        stepped = _stepped(state.inner_state, inner_state)
        steps = state.steps + jnp.asarray(stepped, jnp.int32)
        operands = updates, inner_state, state.gauge, params, state.steps
        if stepped is True and every == 1:
            updates, inner_state, gauge = balance(*operands)
        else:
            due = jnp.logical_and(stepped, steps % every == 0)
            updates, inner_state, gauge = jax.lax.cond(
                due, balance, lambda *operands: operands[:3], *operands
            )
        return updates, EquiNormalizeState(inner_state, steps, gauge)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_arguments(optimizer: Any, every: int, bias: str) -> None:
    if optimizer is not None and not hasattr(optimizer, "update"):
        raise ValueError(
            f"the optimizer must be an optax transform, got {optimizer!r}: "
            "write equi_normalize(optimizer, c=1.2) or equi_normalize(c=1.2)"
        )
    require_plain(every=every)
    require_count("every", every)
    if bias not in ("scale", "keep", "gauge"):
        raise ValueError(f"bias must be 'scale', 'keep' or 'gauge', got {bias!r}")
    if bias == "gauge" and optimizer is None:
        raise ValueError(
            "bias='gauge' changes the gradients that the optimizer sees: "
            "write equi_normalize(optimizer, c=..., bias='gauge')"
        )


def _with_extra_args(optimizer: Any) -> optax.GradientTransformationExtraArgs:
    if isinstance(optimizer, optax.MultiSteps):  # it takes them, but is no transform by class
        return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    return optax.with_extra_args_support(optimizer)


def _stepped(before: Any, after: Any) -> Any:
    """Whether the parameters move: True, or if `optax.MultiSteps` is inside, whether it emits."""

    def counted(state: Any) -> list[jax.Array]:
        def found(node: Any) -> bool:
            return isinstance(node, optax.MultiStepsState)

        nodes = jax.tree.leaves(state, is_leaf=found)
        return [node.gradient_step for node in nodes if found(node)]

    pairs = list(zip(counted(before), counted(after), strict=True))
    if not pairs:
        return True
    return jnp.any(jnp.stack([old != new for old, new in pairs]))
