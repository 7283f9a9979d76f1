"""Equi-normalization (ENorm), on plain pytrees.

A ReLU network does not change when the weights into a hidden unit are multiplied by
d > 0 and the weights out of it are divided by d. ENorm picks, unit by unit, the d that
makes the norms on both sides equal (up to the factor `c`); repeated cycles with
``c = 1`` reach the one rescaling of the network with the least energy.

Everything here is a pure function of `params`. Which tensors lie around which units is said by
`groups`, as `infer_groups` finds them for any network. Without, `params` is a chain of dense
layers in the order of their names::

    {"layer_00": {"kernel": (in, out), "bias": (out,)}, "layer_01": ..., "norm_00": ...}

where entries without a ``"kernel"`` (normalization layers) are left as they are.
Scales are a tuple with one vector per group, of the shape (units,): in a chain ``scales[k]``
belongs to the units between W_k, whose column j feeds unit j, and W_{k+1}, whose row i reads
unit i.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from enorm_jax.balance import balance, norms
from enorm_jax.groups import (
    Groups,
    Params,
    chain_groups,
    readable,
    require_arrays,
    require_groups,
)
from enorm_jax.scaling import Bias as Bias
from enorm_jax.scaling import Scales as Scales
from enorm_jax.scaling import energy as energy
from enorm_jax.scaling import rescale as rescale
from enorm_jax.scaling import wide

Order = Literal["sequential", "simultaneous"]


def enorm_step(
    params: Params,
    c: jax.typing.ArrayLike = 1.0,
    *,
    groups: Groups | None = None,
    p: float = 2,
    cycles: int = 1,
    order: Order = "sequential",
    balance_last: bool = True,
    bias: Bias = "scale",
) -> Params:
    r"""Balances the norms around every hidden unit, leaving a ReLU network's function as it is.

    .. math::
        d_k[i] = \sqrt{ \|W_{k+1}[i, :]\|_p / (c \, \|W_k[:, i]\|_p) }, \quad
        W_k[:, i] \leftarrow d_k[i] W_k[:, i], \;
        b_k[i] \leftarrow d_k[i] b_k[i], \;
        W_{k+1}[i, :] \leftarrow W_{k+1}[i, :] / d_k[i]

    With groups, W_k stands for all producers of a group's units and W_{k+1} for all consumers.
    Units with a tensor on both sides (recurrence, residual streams) move by the square root of
    that d, which never raises the energy at c = 1 where d itself might.

    Pure: works under `jit`, `vmap` (seeds on a leading axis), `scan` and `grad`. A unit
    with a zero or non-finite norm on either side keeps d = 1. Without groups, a normalization
    layer after W_k undoes the scaling of its input; its own parameters are left alone, as in
    both public implementations, so that there the function does change.

    The study's code is the default; the original authors' is
    ``order="simultaneous", balance_last=False, bias="keep"``.

    Args:
      params: any pytree with groups; else layers of a chain, names in order:
        ``{"layer_00": {"kernel": (in, out)}, ...}``.
      c: ratio of the norm of the outgoing to that of the incoming weights of a balanced
        unit, > 0. The papers use 1.2 for dense and 1.1 for convolutional networks. A traced
        `c` cannot be checked: one that is not positive and finite spoils the parameters.
      groups: what shares a unit's scale, from `infer_groups`; None for a chain.
      p: norm, >= 1; `jnp.inf` gives cross-layer equalization.
      cycles: passes over the groups.
      order: ``"sequential"`` takes each norm after the layer before was rescaled
        (Gauss-Seidel), ``"simultaneous"`` takes all at the start of the cycle (Jacobi).
      balance_last: whether the last group, in a chain the last hidden layer, is balanced.
      bias: ``"scale"`` multiplies biases with their unit, ``"keep"`` leaves them as they are,
        which does not preserve the function.

    Returns:
      Rescaled parameters, same structure, shapes and dtypes; on a mesh whose axes are explicit,
      same shardings. Elsewhere XLA chooses those, unless ``out_shardings`` of `jax.jit` say them.

    Raises:
      ValueError: if groups do not fit the params, balance nothing or have not passed `check`;
        without groups, if there is no kernel, two kernels do not chain or names are not in
        order; if `c`, `p`, `cycles` or `order` is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import enorm_step
      >>> params = {"layer_00": {"kernel": jnp.full((1, 1), 8.0)},
      ...           "layer_01": {"kernel": jnp.full((1, 1), 2.0)}}
      >>> balanced = enorm_step(params, c=1.0)
      >>> [float(layer["kernel"][0, 0]) for layer in balanced.values()]
      [4.0, 4.0]

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019.
    """
    if bias not in ("scale", "keep"):
        raise ValueError(
            f"bias must be 'scale' or 'keep', got {bias!r}"
            + ("; 'gauge' needs a state: use equi_normalize" if bias == "gauge" else "")
        )
    params = computed_once(params)
    scales = cumulative_scales(
        params, c, groups=groups, p=p, cycles=cycles, order=order, balance_last=balance_last
    )
    return rescale(params, computed_once(scales), groups, bias=bias)


def cycle_scales(
    params: Params,
    c: jax.typing.ArrayLike = 1.0,
    *,
    groups: Groups | None = None,
    p: float = 2,
    order: Order = "sequential",
    balance_last: bool = True,
) -> Scales:
    r"""The scales d of one cycle, one vector per group; see `enorm_step`.

    .. math:: d_k[i] = \sqrt{ \|W_{k+1}[i, :]\|_p / (c \, \|W_k[:, i]\|_p) }

    In sequential order W_k is already scaled by d_{k-1}.

    Args:
      params: parameters, as `enorm_step`.
      c: ratio of outgoing to incoming norm, > 0.
      groups: what shares a unit's scale; None for a chain.
      p: norm, >= 1.
      order: ``"sequential"`` or ``"simultaneous"``.
      balance_last: whether the last group is balanced; its d is 1 if not.

    Returns:
      Tuple of vectors, ``scales[k]`` of shape (units of group k,).

    Raises:
      ValueError: as `enorm_step`.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import cycle_scales
      >>> params = {"layer_00": {"kernel": jnp.full((1, 1), 8.0)},
      ...           "layer_01": {"kernel": jnp.full((1, 1), 2.0)}}
      >>> [float(d[0]) for d in cycle_scales(params, c=1.0)]
      [0.5]

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019.
    """
    return cumulative_scales(
        params, c, groups=groups, p=p, cycles=1, order=order, balance_last=balance_last
    )


def cumulative_scales(
    params: Params,
    c: jax.typing.ArrayLike = 1.0,
    *,
    groups: Groups | None = None,
    p: float = 2,
    cycles: int = 1,
    order: Order = "sequential",
    balance_last: bool = True,
) -> Scales:
    r"""The product of the scales of several cycles: what each hidden activation is multiplied by.

    .. math:: D_k = \prod_{t=1}^{cycles} d_k^{(t)}

    No tensor is rewritten on the way: with D, a chain's rescaled kernel is
    ``W_k[i, j] * D_k[j] / D_{k-1}[i]``, and its norms need W_k alone.

    Args:
      params: parameters, as `enorm_step`.
      c: ratio of outgoing to incoming norm, > 0.
      groups: what shares a unit's scale; None for a chain.
      p: norm, >= 1.
      cycles: number of cycles, >= 1.
      order: ``"sequential"`` or ``"simultaneous"``.
      balance_last: whether the last group is balanced.

    Returns:
      Tuple of vectors D_k of shape (units of group k,), for `rescale`.

    Raises:
      ValueError: as `enorm_step`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import cumulative_scales
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> params = {f"layer_{k:02d}": {"kernel": jax.random.normal(key, (4, 4))}
      ...           for k, key in enumerate(keys)}
      >>> [d.shape for d in cumulative_scales(params, c=1.2, cycles=50)]
      [(4,), (4,)]

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019.
    """
    check_arguments(c, p, cycles, order)
    groups = usable(params, groups)
    tensors = {path: wide(leaf) for path, leaf in groups.leaves(params).items()}
    dtype = np.result_type(*(leaf.dtype for leaf in tensors.values())) if tensors else jnp.float32
    tensors = {path: leaf.astype(dtype) for path, leaf in tensors.items()}
    balanced = len(groups) if balance_last else len(groups) - 1
    total = tuple(jnp.ones(group.size, dtype) for group in groups)

    def cycle(total: Scales) -> Scales:
        new = list(total)
        for k, group in enumerate(groups[:balanced]):
            read = tuple(new) if order == "sequential" else total
            incoming, outgoing = norms(group, groups, tensors, read, p)
            d = balance(incoming * total[k], outgoing / total[k], c)
            new[k] = total[k] * (jnp.sqrt(d) if group.loops else d)
        return tuple(new)

    total = cycle(total)
    if cycles > 1:
        total = jax.lax.fori_loop(1, cycles, lambda _, scales: cycle(scales), total)
    return total


def computed_once(tree: Any) -> Any:
    """Parameters or scales that XLA computes once, whatever reads them.

    Without the barrier it computes the optimizer's update again in every norm, and the scales
    again for every weight.

    Args:
      tree: arrays.

    Returns:
      The same.

    Raises:
      ValueError: as `require_arrays`.
    """
    require_arrays(tree)
    return jax.lax.optimization_barrier(tree)


def check_arguments(c: Any, p: float, cycles: int, order: str) -> None:
    """Raises ValueError unless the arguments of `enorm_step` are in range."""
    if isinstance(c, Groups):
        raise ValueError("groups were given in the place of c: write groups=groups")
    if callable(c):
        raise ValueError("c must be a number here; equi_normalize(..., c=schedule) takes schedules")
    if not isinstance(c, (int, float, np.ndarray, np.generic, jax.Array)):
        raise ValueError(f"c must be a single number, got {c!r}")
    if jnp.ndim(c) != 0:
        raise ValueError(f"c must be a single number, got shape {jnp.shape(c)}")
    if not isinstance(c, jax.core.Tracer) and not 0 < float(c) < float("inf"):
        raise ValueError(f"c must be positive and finite, got {c}")
    require_plain(p=p, cycles=cycles)
    if not (isinstance(p, (int, float, np.number)) and p >= 1):
        raise ValueError(f"p must be at least 1, got {p!r}")
    require_count("cycles", cycles)
    if order not in ("sequential", "simultaneous"):
        raise ValueError(f"order must be 'sequential' or 'simultaneous', got {order!r}")


def require_plain(**numbers: Any) -> None:
    """Raises for an argument that decides what is traced, and could be traced itself.

    Args:
      **numbers: arguments by name.

    Raises:
      ValueError: if one is an array of JAX's.
    """
    for name, value in numbers.items():
        if isinstance(value, jax.Array):
            raise ValueError(
                f"{name} must be a plain number, not an array of JAX's: in "
                "optax.inject_hyperparams name it in static_args"
            )


def require_count(name: str, value: Any) -> None:
    """Raises for what is no number of times.

    Args:
      name: of the argument.
      value: the argument.

    Raises:
      ValueError: if it is no integer of 1 or more.
    """
    if not (isinstance(value, (int, np.integer)) and value >= 1):
        raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")


def usable(params: Params, groups: Groups | None) -> Groups:
    """The groups, or the chain's; raises where they were never checked or balance nothing."""
    if groups is None:
        return chain_groups(params)
    require_groups(groups)
    if not groups.checked:
        raise ValueError(
            "these groups have not passed a check: use check(apply_fn, params, groups, *inputs), "
            "which returns them marked as checked"
        )
    if not groups.groups:
        causes = [f"{readable(left.path)} ({left.reason})" for left in groups.left_alone[:3]]
        raise ValueError(
            f"no hidden unit of this network can be balanced: {', '.join(causes)}; see explain"
        )
    return groups
