"""Rescaling an optimizer's state along with the parameters."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from enorm_jax.enorm import Order, computed_once, cumulative_scales
from enorm_jax.groups import Groups, Params, by_path, chain_groups
from enorm_jax.opt_state import Degrees, walk_state
from enorm_jax.scaling import Scales, rescale

StateBias = Literal["scale", "keep", "gauge"]


def rescale_state(
    opt_state: Any,
    params: Params,
    scales: Scales,
    groups: Groups | None = None,
    *,
    bias: StateBias = "scale",
    degrees: Degrees | None = None,
) -> Any:
    r"""Rescales an optax optimizer's state as ``rescale(params, scales)`` demands it.

    .. math::
        \theta \leftarrow f \, \theta \; \Rightarrow \; g \leftarrow g / f, \;
        m \leftarrow m / f, \; v \leftarrow v / f^2

    elementwise, where f is what `rescale` multiplies a weight by, m a mean of gradients and v a
    mean of their squares. Accumulating gradients and then rescaling gives the same state as
    rescaling first and accumulating the gradients of the rescaled network. What is no mean of
    gradients has no such law: weight decay added before a momentum trace scales with the trace.

    Known are the states of SGD with momentum, Adam and its relatives, RMSProp, Adagrad,
    Adadelta, Lion, Adan, Muon, Sophia, schedule-free and lookahead optimizers, and `MultiSteps`,
    alone, chained, masked, partitioned or with injected hyperparameters. Where a state mixes
    elements of a tensor, as Adafactor's, no rescaling is right, and it is refused.

    The class does not always tell the powers: `optax.adamax` and `optax.contrib.adopt` keep
    others in Adam's class. `equi_normalize` measures those of its optimizer; here, call
    `check_degrees` once.

    Args:
      opt_state: state of an optax transform.
      params: parameters, of which only shapes and dtypes matter.
      scales: one vector per group, from `cumulative_scales`.
      groups: as in `rescale`.
      bias: likewise, or ``"gauge"`` where `gauge_gradients` precedes the optimizer.
      degrees: powers of other classes of states, ``{Class: {"field": power}}``, -1 for a mean of
        gradients, -2 of their squares, 1 for parameters, 0 for what does not scale; they go
        before the known ones.

    Returns:
      The state, same structure, shapes and dtypes.

    Raises:
      ValueError: if a state of unknown class holds arrays that may have to be rescaled, or as
        `rescale`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from enorm_jax import rescale_state
      >>> params = {f"layer_{k:02d}": {"kernel": jnp.ones((1, 1))} for k in range(2)}
      >>> state = optax.sgd(0.1, momentum=0.9).init(params)
      >>> state = (state[0]._replace(trace=params), state[1])
      >>> state = rescale_state(state, params, (jnp.array([4.0]),))
      >>> [float(layer["kernel"][0, 0]) for layer in state[0].trace.values()]
      [0.25, 4.0]

    Reference:
      Of momentum: Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019.
    """
    factors = weight_factors(params, scales, groups, bias=bias)
    inverted = vector_paths(params, groups) if bias == "gauge" else frozenset()

    def visit(tree: Any, exponent: int, place: str) -> Any:
        def apply(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path)
            if name not in factors or leaf.shape != factors[name].shape:
                raise ValueError(
                    f"{place}{name} of shape {leaf.shape} belongs to no parameter of these params: "
                    "pass the params that the optimizer was initialized with"
                )
            power = abs(exponent) if name in inverted else exponent
            return _times_power(leaf, factors[name], power)

        return jax.tree_util.tree_map_with_path(apply, tree) if exponent else tree

    return walk_state(opt_state, params, visit, degrees)


def enorm_step_with_state(
    params: Params,
    opt_state: Any,
    c: jax.typing.ArrayLike = 1.0,
    *,
    groups: Groups | None = None,
    p: float = 2,
    cycles: int = 1,
    order: Order = "sequential",
    balance_last: bool = True,
    bias: StateBias = "scale",
    degrees: Degrees | None = None,
) -> tuple[Params, Any, Scales]:
    r"""`enorm_step` on the parameters and the optimizer's state together.

    .. math::
        (\theta, m, v) \leftarrow (f \, \theta, \; m / f, \; v / f^2)

    elementwise, with the factors f by which an ENorm step multiplies the parameters; see
    `rescale_state`.

    Args:
      params: parameters, after the optimizer's step.
      opt_state: the optimizer's state after it.
      c: as in `enorm_step`, and so are groups, p, cycles, order and balance_last.
      groups: what shares a unit's scale; None for a chain.
      p: norm.
      cycles: passes over the groups.
      order: ``"sequential"`` or ``"simultaneous"``.
      balance_last: whether the last group is balanced.
      bias: as in `rescale_state`.
      degrees: likewise.

    Returns:
      The rescaled parameters and state, and the scales they were rescaled by. An average of
      parameters kept elsewhere follows by ``rescale(average, scales, groups)``.

    Raises:
      ValueError: as `enorm_step` and `rescale_state`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from enorm_jax import enorm_step_with_state
      >>> params = {"layer_00": {"kernel": jnp.full((1, 1), 8.0)},
      ...           "layer_01": {"kernel": jnp.full((1, 1), 2.0)}}
      >>> state = optax.adam(1e-3).init(params)
      >>> params, state, scales = enorm_step_with_state(params, state, c=1.0)
      >>> float(scales[0][0])
      0.5

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019.
    """
    if bias not in ("scale", "keep", "gauge"):
        raise ValueError(f"bias must be 'scale', 'keep' or 'gauge', got {bias!r}")
    params = computed_once(params)
    fast = fast_params(params)
    scales = cumulative_scales(
        fast, c, groups=groups, p=p, cycles=cycles, order=order, balance_last=balance_last
    )
    scales = computed_once(scales)

    def moved(tree: Params) -> Params:
        return rescale(tree, scales, groups, bias="keep" if bias == "keep" else "scale")

    opt_state = rescale_state(opt_state, fast, scales, groups, bias=bias, degrees=degrees)
    if isinstance(params, optax.LookaheadParams):
        return optax.LookaheadParams(moved(params.fast), moved(params.slow)), opt_state, scales
    return moved(params), opt_state, scales


def fast_params(params: Any) -> Params:
    """The parameters that an optimizer steps.

    Args:
      params: parameters, or `optax.LookaheadParams`.

    Returns:
      The fast ones of `optax.LookaheadParams`; others as they are.

    Example:
      >>> import optax
      >>> from enorm_jax.state_rescaling import fast_params
      >>> fast_params(optax.LookaheadParams(fast={"w": 1.0}, slow={"w": 2.0}))
      {'w': 1.0}
    """
    return params.fast if isinstance(params, optax.LookaheadParams) else params


def weight_factors(
    params: Params, scales: Scales, groups: Groups | None = None, *, bias: StateBias = "scale"
) -> dict[str, jax.Array]:
    """What `rescale` multiplies each parameter by, elementwise.

    Args:
      params: parameters, of which only shapes and dtypes matter.
      scales: one vector per group.
      groups: as in `rescale`.
      bias: likewise; ``"gauge"`` is ``"scale"``.

    Returns:
      Mapping from paths, as `jax.tree_util.keystr` spells them, to arrays of the parameters'
      shapes, at least float32.
    """

    def one(leaf: Any) -> jax.Array:
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        narrow = inexact and jnp.finfo(leaf.dtype).bits < 32
        return jnp.ones(leaf.shape, jnp.float32 if narrow or not inexact else leaf.dtype)

    ones = jax.tree.map(one, params)
    tree = rescale(ones, scales, groups, bias="scale" if bias == "gauge" else bias)
    return by_path(tree)


def vector_paths(params: Params, groups: Groups | None = None) -> frozenset[str]:
    """Paths of the parameters that are added to hidden units: biases, shifts of norms.

    Args:
      params: parameters.
      groups: as in `rescale`.

    Returns:
      Paths, as `jax.tree_util.keystr` spells them.
    """
    return frozenset((chain_groups(params) if groups is None else groups).vectors)


def _times_power(leaf: jax.Array, factor: jax.Array, exponent: int) -> jax.Array:
    dtype = jnp.promote_types(leaf.dtype, factor.dtype)
    wide, power = leaf.astype(dtype), factor.astype(dtype) ** abs(exponent)
    return (wide * power if exponent > 0 else wide / power).astype(leaf.dtype)
