"""A unit's norms over all tensors around it, and the scale that balances them."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from enorm_jax.groups import Groups, RescalingGroup, Slot
from enorm_jax.scaling import Scales, factor

Side = Literal["producers", "consumers"]


def norms(
    group: RescalingGroup, groups: Groups, tensors: Mapping[str, jax.Array], read: Scales, p: float
) -> tuple[jax.Array, jax.Array]:
    """Norms of producers and consumers, each without the scale of the group's own units."""

    def into(path: str) -> jax.Array:
        slots = groups.consumers.get(path)
        return tensors[path] * (1 / factor(slots, read)) if slots else tensors[path]

    def out_of(path: str) -> jax.Array:
        slots = groups.producers.get(path)
        return tensors[path] * factor(slots, read) if slots else tensors[path]

    return _norm(group, "producers", into, p), _norm(group, "consumers", out_of, p)


def balance(incoming: jax.Array, outgoing: jax.Array, c: jax.typing.ArrayLike) -> jax.Array:
    """sqrt(outgoing / (c incoming)), or 1 where the norms have no positive finite ratio."""
    usable = (incoming > 0) & (outgoing > 0) & jnp.isfinite(incoming) & jnp.isfinite(outgoing)
    ratio = jnp.where(usable, outgoing, 1) / jnp.where(usable, incoming, 1)
    usable &= (ratio > 0) & jnp.isfinite(ratio)
    ratio = jnp.where(usable, ratio, 1) / jnp.asarray(c, ratio.dtype)
    return jnp.where(usable, jnp.sqrt(ratio), 1)


def _norm(
    group: RescalingGroup, side: Side, tensor: Callable[[str], jax.Array], p: float
) -> jax.Array:
    r"""The p-norm of each unit's part of its producers or consumers.

    .. math::
        L_i = \Big( \sum_{e \in producers,\, out(e) = i} |w_e|^p \Big)^{1/p}, \quad
        R_i = \Big( \sum_{e \in consumers,\, in(e) = i} |w_e|^p \Big)^{1/p}

    Elements that a unit feeds itself through do not depend on its scale and are left out.

    Args:
      group: the group.
      side: ``"producers"`` or ``"consumers"``.
      tensor: the tensor of a path, as the norm shall see it.
      p: norm, >= 1.

    Returns:
      Vector of shape (units,), with gradient 0 where the norm is 0.
    """
    total = None
    for slot in getattr(group, side):
        powers = _powers(tensor(slot.path), p)
        if slot.path in group.loops:
            after, before = group.loops[slot.path]
            own = (after.grid == before.grid) & (after.grid >= 0)
            powers = jnp.where(own, jnp.zeros((), powers.dtype), powers)
        part = _per_unit(slot, powers, group.size, p)
        if total is None:
            total = part
        else:
            total = jnp.maximum(total, part) if p == jnp.inf else total + part
    if total is None:
        raise ValueError(f"a group of {group.size} units has no {side}")
    return _root(total, p)


def _powers(x: jax.Array, p: float) -> jax.Array:
    if p == 2:
        return x * x
    return jnp.abs(x) if p == jnp.inf else jnp.abs(x) ** p


def _root(total: jax.Array, p: float) -> jax.Array:
    if p == jnp.inf:
        return total
    positive = total > 0
    safe = jnp.where(positive, total, 1)
    return jnp.where(positive, jnp.sqrt(safe) if p == 2 else safe ** (1 / p), 0)


def _per_unit(slot: Slot, powers: jax.Array, size: int, p: float) -> jax.Array:
    """Sum, or maximum, of a tensor's elements per unit."""
    others = tuple(axis for axis in range(powers.ndim) if axis not in slot.axes)
    if slot.table is None:
        return (powers.max(others) if p == jnp.inf else powers.sum(others)).reshape(size)
    crop = _occupied(slot.units >= 0)
    inside = dict(zip(slot.axes, crop, strict=True))
    powers = powers[tuple(inside.get(axis, slice(None)) for axis in range(powers.ndim))]
    parts = powers.max(others) if p == jnp.inf else powers.sum(others)
    units = slot.units[crop]
    empty = jnp.zeros(size + 1, parts.dtype)  # -1, none of this group, goes to the end
    filled = empty.at[units].max(parts) if p == jnp.inf else empty.at[units].add(parts)
    return filled[:size]


def _occupied(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the true elements."""
    return tuple(slice(int(index.min()), int(index.max()) + 1) for index in np.nonzero(mask))
