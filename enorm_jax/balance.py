"""A unit's norms over all tensors around it, and the scale that balances them."""

import functools
from collections.abc import Callable, Mapping, Sequence
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
    slots = getattr(group, side)
    if not slots:
        raise ValueError(f"a group of {group.size} units has no {side}")
    values = [(slot, _of_others(group, slot, tensor(slot.path))) for slot in slots]
    if p == 2:
        return _root(_over([(slot, x * x) for slot, x in values], group.size, "sum"), p)
    values = [(slot, jnp.abs(x)) for slot, x in values]
    if p == 1:
        return _over(values, group.size, "sum")
    largest = _over(values, group.size, "max")
    if p == jnp.inf:
        return largest
    # In units of the largest, no power overflows and not all of them underflow; neither the norm
    # nor its derivative depends on the unit.
    unit = jax.lax.stop_gradient(jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1))
    powers = [(slot, (x / factor([(0, slot)], (unit,))) ** p) for slot, x in values]
    return unit * _root(_over(powers, group.size, "sum"), p)


def _of_others(group: RescalingGroup, slot: Slot, x: jax.Array) -> jax.Array:
    """The tensor with 0 where a unit feeds itself."""
    if slot.path not in group.loops:
        return x
    after, before = group.loops[slot.path]
    own = (after.grid == before.grid) & (after.grid >= 0)
    return jnp.where(own, jnp.zeros((), x.dtype), x)


def _root(total: jax.Array, p: float) -> jax.Array:
    positive = total > 0
    safe = jnp.where(positive, total, 1)
    return jnp.where(positive, jnp.sqrt(safe) if p == 2 else safe ** (1 / p), 0)


def _over(
    values: Sequence[tuple[Slot, jax.Array]], size: int, how: Literal["sum", "max"]
) -> jax.Array:
    """Sum, or maximum of what is nowhere below 0, over all tensors' elements, per unit."""
    parts = [_per_unit(slot, x, size, how) for slot, x in values]
    return functools.reduce(jnp.add if how == "sum" else jnp.maximum, parts)


def _per_unit(slot: Slot, x: jax.Array, size: int, how: Literal["sum", "max"]) -> jax.Array:
    """The same of one tensor."""
    others = tuple(axis for axis in range(x.ndim) if axis not in slot.axes)
    if slot.table is None:
        return (x.sum(others) if how == "sum" else x.max(others)).reshape(size)
    crop = _occupied(slot.units >= 0)
    inside = dict(zip(slot.axes, crop, strict=True))
    x = x[tuple(inside.get(axis, slice(None)) for axis in range(x.ndim))]
    units = slot.units[crop]
    empty = jnp.zeros(size + 1, x.dtype)  # -1, none of this group, goes to the end
    if how == "sum":
        return empty.at[units].add(x.sum(others))[:size]
    return empty.at[units].max(x.max(others))[:size]


def _occupied(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the true elements."""
    return tuple(slice(int(index.min()), int(index.max()) + 1) for index in np.nonzero(mask))
