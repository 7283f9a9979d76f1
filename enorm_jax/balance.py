"""A unit's norms over all tensors around it, and the scale that balances them."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from enorm_jax.groups import Groups, RescalingGroup, Slot
from enorm_jax.scaling import Scales, factor

Side = Literal["producers", "consumers"]


def norms(
    group: RescalingGroup, groups: Groups, tensors: Mapping[str, jax.Array], read: Scales, p: float
) -> tuple[jax.Array, jax.Array]:
    """Norms of producers and consumers, each without the scale of the group's own units."""

    def into(slot: Slot) -> jax.Array:
        tensor, slots = _part(slot, tensors[slot.path]), groups.consumers.get(slot.path)
        return tensor * (1 / _part(slot, factor(slots, read))) if slots else tensor

    def out_of(slot: Slot) -> jax.Array:
        tensor, slots = _part(slot, tensors[slot.path]), groups.producers.get(slot.path)
        return tensor * _part(slot, factor(slots, read)) if slots else tensor

    return _norm(group, "producers", into, p), _norm(group, "consumers", out_of, p)


def balance(incoming: jax.Array, outgoing: jax.Array, c: jax.typing.ArrayLike) -> jax.Array:
    """sqrt(outgoing / (c incoming)), or 1 where the norms have no positive finite ratio."""
    usable = (incoming > 0) & (outgoing > 0) & jnp.isfinite(incoming) & jnp.isfinite(outgoing)
    ratio = jnp.where(usable, outgoing, 1) / jnp.where(usable, incoming, 1)
    usable &= (ratio > 0) & jnp.isfinite(ratio)
    ratio = jnp.where(usable, ratio, 1) / jnp.asarray(c, ratio.dtype)
    return jnp.where(usable, jnp.sqrt(ratio), 1)


def _norm(
    group: RescalingGroup, side: Side, part: Callable[[Slot], jax.Array], p: float
) -> jax.Array:
    r"""The p-norm of each unit's part of its producers or consumers.

    .. math::
        L_i = \Big( \sum_{e \in producers,\, out(e) = i} |w_e|^p \Big)^{1/p}, \quad
        R_i = \Big( \sum_{e \in consumers,\, in(e) = i} |w_e|^p \Big)^{1/p}

    Elements that a unit feeds itself through do not depend on its scale and are left out.

    Args:
      group: the group.
      side: ``"producers"`` or ``"consumers"``.
      part: the part of a tensor that holds a slot, see `_part`, as the norm shall see it.
      p: norm, >= 1.

    Returns:
      Vector of shape (units,), with gradient 0 where the norm is 0.
    """
    slots = getattr(group, side)
    if not slots:
        raise ValueError(f"a group of {group.size} units has no {side}")
    values = [(slot, _of_others(group, slot, part(slot))) for slot in slots]
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
    powers = [(slot, (x / _part(slot, factor([(0, slot)], (unit,)))) ** p) for slot, x in values]
    return unit * _root(_over(powers, group.size, "sum"), p)


def _of_others(group: RescalingGroup, slot: Slot, x: jax.Array) -> jax.Array:
    """A part of a tensor with 0 where a unit feeds itself."""
    if slot.path not in group.loops:
        return x
    after, before = group.loops[slot.path]
    own = (after.grid == before.grid) & (after.grid >= 0)
    return x * np.asarray(~_part(slot, own), x.dtype)


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

    def along(x: jax.Array) -> jax.Array:
        x = x.sum(others) if how == "sum" else x.max(others)
        return _unsharded(x, range(x.ndim))

    if slot.table is None:
        return along(x).reshape(size)
    units = slot.units[tuple(slot.box[axis] for axis in slot.axes)]
    empty = jnp.zeros(size + 1, x.dtype).at[units]
    # -1, none of this group, goes to the end
    return (empty.add(along(x)) if how == "sum" else empty.max(along(x)))[:size]


@overload
def _part(slot: Slot, x: jax.Array) -> jax.Array: ...
@overload
def _part(slot: Slot, x: np.ndarray) -> np.ndarray: ...
def _part(slot: Slot, x: Any) -> Any:
    """The smallest box of a tensor that holds a slot's elements, also of what broadcasts to it.

    Where layers are stacked in one tensor, each of its groups then costs its own layer.
    """
    sizes = enumerate(zip(slot.box, x.shape, strict=True))
    cut = {axis: box for axis, (box, n) in sizes if n > 1 and box != slice(0, n)}
    if not cut:
        return x
    return _unsharded(x, cut)[tuple(cut.get(axis, slice(None)) for axis in range(x.ndim))]


def _unsharded(x: jax.Array, axes: Collection[int]) -> jax.Array:
    """An array that every device holds whole along some axes, where those of the mesh are explicit.

    A unit's tensors may be sharded along different axes: their norms have to lie alike.
    """
    spec = jax.typeof(x).sharding.spec
    if all(spec[axis] is None for axis in axes):
        return x
    kept = (None if axis in axes else sharded for axis, sharded in enumerate(spec))
    return jax.sharding.reshard(x, PartitionSpec(*kept))
