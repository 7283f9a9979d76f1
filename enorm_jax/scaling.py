"""Rescaling a network by its hidden units' scales, and the energy it has then."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from enorm_jax.chain import chain
from enorm_jax.groups import Groups, Params, Slot, chain_groups, require_groups

Scales = tuple[jax.Array, ...]
Bias = Literal["scale", "keep"]


def rescale(
    params: Params, scales: Scales, groups: Groups | None = None, *, bias: Bias = "scale"
) -> Params:
    r"""Multiplies each hidden unit's incoming weights and bias by d, and divides its outgoing by d.

    .. math::
        W_k[i, j] \leftarrow W_k[i, j] \, d_k[j] / d_{k-1}[i], \quad
        b_k[j] \leftarrow b_k[j] \, d_k[j]

    A ReLU network computes the same function before and after. Gradients scale inversely
    to weights: a momentum trace follows with ``rescale(trace, inverse)``, where
    ``inverse = jax.tree.map(jnp.reciprocal, scales)``.

    Args:
      params: parameters, as `enorm_step`.
      scales: one vector per group, ``scales[k]`` of shape (units of group k,).
      groups: what shares a unit's scale, checked or not; None for a chain.
      bias: ``"scale"``, or ``"keep"`` to leave biases as they are.

    Returns:
      Rescaled parameters, same structure, shapes and dtypes.

    Raises:
      ValueError: if the scales do not fit the groups, or the groups the params, or there is no
        such `bias`.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import rescale
      >>> params = {"layer_00": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)},
      ...           "layer_01": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}}
      >>> scaled = rescale(params, (jnp.array([4.0]),))
      >>> [(float(layer["kernel"][0, 0]), float(layer["bias"][0])) for layer in scaled.values()]
      [(4.0, 4.0), (0.25, 1.0)]

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019.
    """
    if bias not in ("scale", "keep"):
        raise ValueError(f"bias must be 'scale' or 'keep', got {bias!r}")
    groups = chain_groups(params) if groups is None else groups
    require_groups(groups)
    groups.leaves(params)
    if [d.shape for d in scales] != [(group.size,) for group in groups]:
        raise ValueError(
            f"scales of shapes {[d.shape for d in scales]} do not fit the groups "
            f"{[(group.producers[0].name, group.size) for group in groups]}: "
            "give one vector per group"
        )

    def apply(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        up = groups.producers.get(name, []) + groups.vectors.get(name, [])
        if bias == "keep":
            up = groups.producers.get(name, [])
        down = groups.consumers.get(name, [])
        if not up and not down:
            return leaf
        new = wide(leaf)
        if up:
            new = new * factor(up, scales).astype(new.dtype)
        if down:  # by the reciprocal of a vector, which costs no division a weight
            new = new * (1 / factor(down, scales)).astype(new.dtype)
        return new.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(apply, params)


def energy(params: Params, groups: Groups | None = None) -> jax.Array:
    r"""The squared norm of all tensors that units' values are products with.

    .. math:: E = \sum_k \|W_k\|_F^2

    Args:
      params: parameters, as `enorm_step`.
      groups: what shares a unit's scale: the sum runs over producers and consumers; None for
        a chain, where it runs over all kernels.

    Returns:
      A scalar; at least float32.

    Raises:
      ValueError: if the groups do not fit the params, or as `enorm_step` for a chain.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import energy
      >>> float(energy({"layer_00": {"kernel": jnp.full((2, 3), 2.0)}}))
      24.0

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019.
    """
    if groups is None:
        weights = [params[name]["kernel"] for name in chain(params)]
    else:
        require_groups(groups)
        leaves = groups.leaves(params)
        weights = [leaves[path] for path in groups.producers | groups.consumers]
    squares = [jnp.sum(jnp.square(wide(weight))) for weight in weights]
    return sum(squares[1:], start=squares[0]) if squares else jnp.zeros(())


def wide(x: jax.Array) -> jax.Array:
    """The tensor in float32 at least."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def factor(slots: Sequence[tuple[int, Slot]], scales: Scales) -> jax.Array:
    """The product of the scales of several slots of one tensor, broadcastable to it.

    Args:
      slots: slots of one tensor, each with its group's number.
      scales: one vector per group.

    Returns:
      Array of the tensor's rank.
    """
    (number, slot), *others = slots
    if not others and slot.table is None:
        return scales[number].reshape(slot.grid.shape)
    vectors = [scales[number] for number, _ in slots]
    ends = np.cumsum([d.shape[0] for d in vectors])
    index = np.array(ends[-1])  # the 1 at the end, for elements of no group
    for (_, slot), end, d in zip(slots, ends, vectors, strict=True):
        index = np.where(slot.grid >= 0, slot.grid + end - d.shape[0], index)
    return jnp.concatenate([*vectors, jnp.ones(1, vectors[0].dtype)])[index]
