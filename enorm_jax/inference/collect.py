"""From units to groups: units between the same tensors, born together, form one."""

import collections
from collections.abc import Iterable

import numpy as np

from enorm_jax.groups import Groups, LeftAlone, RescalingGroup, Slot
from enorm_jax.inference.interpret import Trace
from enorm_jax.inference.values import compact

Sides = dict[int, tuple[np.ndarray, np.ndarray]]
Tensors = dict[int, tuple[set[int], set[int], set[int]]]


def collect(trace: Trace) -> Groups:
    """The groups that a reading found.

    Args:
      trace: a finished reading.

    Returns:
      Groups in the order in which the network first computes their units, not checked.
    """
    sides = {leaf: _roots(trace, leaf) for leaf in range(len(trace.uses.names))}
    scaled = {leaf: pair for leaf, pair in sides.items() if (pair[0] != pair[1]).any()}
    tensors = _tensors(trace, scaled)
    balanced = {root for root, (into, out_of, _) in tensors.items() if into and out_of}
    members = _members(trace, tensors, balanced)
    group_of = np.full(trace.units.count, -1)
    place_of = np.zeros(trace.units.count, np.int32)
    for number, together in enumerate(members):
        group_of[together] = number
        place_of[together] = np.arange(len(together))
    slots: list[tuple[list[Slot], ...]] = [([], [], []) for _ in members]
    for leaf, (out, into) in scaled.items():
        product = leaf in trace.uses.products
        for side, roots in ((0 if product else 2, out), (1, into)):
            numbers = group_of[roots]
            for number in np.unique(numbers[numbers >= 0]).tolist():
                units = np.where(numbers == number, place_of[roots], -1)
                slots[number][side].append(_slot(trace, leaf, units))
    groups = tuple(
        RescalingGroup(len(together), *map(tuple, kinds))
        for together, kinds in zip(members, slots, strict=True)
    )
    return Groups(groups, tuple(_left_alone(trace, balanced)))


def _roots(trace: Trace, leaf: int) -> tuple[np.ndarray, np.ndarray]:
    """The roots of the units that a tensor feeds and reads, compact; 0 where it is not used."""
    out, into = (compact(np.maximum(side, 0)) for side in trace.uses.sides(leaf))
    return compact(trace.units.find(out)), compact(trace.units.find(into))


def _tensors(trace: Trace, scaled: Sides) -> Tensors:
    """The producers, consumers and vectors of each root."""
    tensors: Tensors = collections.defaultdict(lambda: (set(), set(), set()))
    for leaf, (out, into) in scaled.items():
        for root in np.unique(out).tolist():
            tensors[root][0 if leaf in trace.uses.products else 2].add(leaf)
        for root in np.unique(into).tolist():
            tensors[root][1].add(leaf)
    tensors.pop(0, None)
    return tensors


def _members(trace: Trace, tensors: Tensors, balanced: set[int]) -> list[list[int]]:
    """The roots of each group, oldest first."""
    members = collections.defaultdict(list)
    for root in sorted(balanced):
        around = tuple(frozenset(side) for side in tensors[root])
        members[int(trace.units.birth(np.array(root))), around].append(root)
    return list(members.values())


def _slot(trace: Trace, leaf: int, units: np.ndarray) -> Slot:
    shape = trace.uses.shapes[leaf]
    units = compact(units).astype(np.int32)
    axes = tuple(axis for axis, n in enumerate(units.shape) if n > 1)
    plain = len(axes) <= 1 and np.array_equal(units.ravel(), np.arange(units.size))
    path = trace.uses.names[leaf]
    return Slot(path, shape, axes, None if plain else units.tobytes())


def _left_alone(trace: Trace, balanced: set[int]) -> Iterable[LeftAlone]:
    """What keeps its scale, tensor by tensor."""
    for leaf, path in enumerate(trace.uses.names):
        out, _ = trace.uses.sides(leaf)
        if (out < 0).all():
            yield LeftAlone(path, 0, "not used by the function, or not real numbers")
            continue
        pinned = trace.uses.pinned.get(leaf, "factor 1")
        units = np.unique(compact(out))
        reasons: collections.Counter[str] = collections.Counter()
        roots, whys = trace.units.find(units).tolist(), trace.units.why(units)
        for unit, root, why in zip(units.tolist(), roots, whys, strict=True):
            if unit > 0 and root not in balanced:
                reasons[why or "no kernel reads it"] += 1
        if units.max() == 0:
            yield LeftAlone(path, 0, pinned)
        yield from (LeftAlone(path, count, reason) for reason, count in reasons.items())
