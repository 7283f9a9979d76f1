"""What shares a hidden unit's scale: rescaling groups, as data."""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, overload

import jax
import numpy as np

from enorm_jax.chain import chain

Params = Any


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a group's units lie in one tensor.

    Attributes:
      path: the tensor's path in the parameters, as `jax.tree_util.keystr` spells it.
      shape: the tensor's shape.
      axes: the axes, ascending, whose indices tell the unit.
      table: unit of each index of `axes`, int32 in C order, -1 for none of this group; None
        where the units lie in order along one axis.

    Example:
      >>> from enorm_jax.groups import Slot
      >>> Slot("['head']['kernel']", (6, 10), axes=(0,)).units
      array([0, 1, 2, 3, 4, 5], dtype=int32)
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    table: bytes | None = dataclasses.field(default=None, repr=False)

    @functools.cached_property
    def units(self) -> np.ndarray:
        """The unit of each index of `axes`, of the shape of these axes; -1 for none."""
        shape = tuple(self.shape[axis] for axis in self.axes)
        if self.table is None:
            return np.arange(math.prod(shape), dtype=np.int32)
        return np.frombuffer(self.table, np.int32).reshape(shape)

    @functools.cached_property
    def box(self) -> tuple[slice, ...]:
        """The smallest part of the tensor that holds all its units: a slice an axis."""
        box = [slice(0, n) for n in self.shape]
        if self.axes:
            held = np.nonzero(self.units.reshape([self.shape[axis] for axis in self.axes]) >= 0)
            for axis, index in zip(self.axes, held, strict=True):
                box[axis] = slice(int(index.min()), int(index.max()) + 1)
        return tuple(box)

    @property
    def grid(self) -> np.ndarray:
        """The units, broadcastable to the tensor."""
        axes = enumerate(self.shape)
        return self.units.reshape([n if axis in self.axes else 1 for axis, n in axes])

    @property
    def name(self) -> str:
        """The path, readable: ``layer_00/kernel``."""
        return readable(self.path)


@dataclasses.dataclass(frozen=True)
class RescalingGroup:
    """Hidden units that share their tensors, each with a free positive scale.

    Multiplying unit i's part of the producers and vectors by d[i] > 0, and dividing its part of
    the consumers, leaves the network's function as it is. A tensor may be both, as a recurrent
    kernel is: its element from unit i to unit j is multiplied by d[j] / d[i].

    Attributes:
      size: number of units.
      producers: tensors that the units' values are products of: kernels, scales of norms.
      consumers: tensors that multiply the units' values.
      vectors: tensors that are added: biases, shifts of norms. They scale with the unit and
        do not count in its norms.
    """

    size: int
    producers: tuple[Slot, ...]
    consumers: tuple[Slot, ...]
    vectors: tuple[Slot, ...] = ()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All of them: producers, consumers, vectors."""
        return self.producers + self.consumers + self.vectors

    @functools.cached_property
    def loops(self) -> dict[str, tuple[Slot, Slot]]:
        """Tensors that lead from the group's units to the group's units: path -> both slots."""
        consumers = {slot.path: slot for slot in self.consumers}
        pairs = {s.path: (s, consumers[s.path]) for s in self.producers if s.path in consumers}
        return {
            path: (after, before)
            for path, (after, before) in pairs.items()
            if ((after.grid >= 0) & (before.grid >= 0)).any()
        }


@dataclasses.dataclass(frozen=True)
class LeftAlone:
    """Units of a tensor that keep their scale.

    Attributes:
      path: the tensor's path, as `jax.tree_util.keystr` spells it.
      units: how many units it feeds that are left alone; 0 if the tensor feeds none.
      reason: the operation that fixes their scale, and where it is.
    """

    path: str
    units: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Groups(Sequence[RescalingGroup]):
    """An immutable sequence of rescaling groups in network order; may be a static argument.

    Attributes:
      groups: the groups.
      left_alone: what is not balanced, and why.
      checked: whether `check` found that rescaling leaves the function as it is.
    """

    groups: tuple[RescalingGroup, ...]
    left_alone: tuple[LeftAlone, ...] = ()
    checked: bool = False

    @overload
    def __getitem__(self, index: int) -> RescalingGroup: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RescalingGroup, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    @functools.cached_property
    def producers(self) -> dict[str, list[tuple[int, Slot]]]:
        """Path -> its slots as a producer, each with its group's number."""
        return self._by_path("producers")

    @functools.cached_property
    def consumers(self) -> dict[str, list[tuple[int, Slot]]]:
        """Path -> its slots as a consumer, each with its group's number."""
        return self._by_path("consumers")

    @functools.cached_property
    def vectors(self) -> dict[str, list[tuple[int, Slot]]]:
        """Path -> its slots as a vector, each with its group's number."""
        return self._by_path("vectors")

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all tensors that the groups name, each once, always in the same order."""
        return tuple(dict.fromkeys((*self.producers, *self.consumers, *self.vectors)))

    def _by_path(self, side: str) -> dict[str, list[tuple[int, Slot]]]:
        slots = collections.defaultdict(list)
        for number, group in enumerate(self.groups):
            for slot in getattr(group, side):
                slots[slot.path].append((number, slot))
        return dict(slots)

    def leaves(self, params: Params) -> dict[str, jax.Array]:
        """The tensors that the groups name, by path.

        Args:
          params: pytree of parameters.

        Returns:
          Mapping from paths to leaves.

        Raises:
          ValueError: if one is missing or of another shape.
        """
        found = by_path(params)
        for slot in (slot for group in self.groups for slot in group.slots):
            if (path := slot.path) not in found:
                here = ", ".join([*found][:3]) + ", ..." * (len(found) > 3)
                raise ValueError(
                    f"the groups name {path}, and these params have {here or 'no tensors'}: infer "
                    "groups of these; of a Flax NNX module with infer_groups_nnx"
                )
            if found[path].shape != slot.shape:
                raise ValueError(
                    f"{path} has shape {found[path].shape}, the groups were made for {slot.shape}: "
                    "infer them again; use jax.vmap for a leading axis of seeds"
                )
        return {path: found[path] for path in self.paths}


def by_path(params: Params) -> dict[str, Any]:
    """The leaves of a pytree by their paths.

    Args:
      params: any pytree.

    Returns:
      Mapping from paths, as `jax.tree_util.keystr` spells them, to leaves.

    Example:
      >>> from enorm_jax.groups import by_path
      >>> by_path({"layer": {"kernel": 1.0}})
      {"['layer']['kernel']": 1.0}
    """
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def require_groups(groups: Any) -> None:
    """Raises where something else stands in the place of groups.

    Args:
      groups: what a user passed.

    Raises:
      ValueError: if they are not what `infer_groups` returns.
    """
    if not isinstance(groups, Groups):
        raise ValueError(
            f"groups must be what infer_groups returns, got {type(groups).__name__}: "
            "pass infer_groups(apply_fn, params, *inputs)"
        )


def require_arrays(params: Params) -> None:
    """Raises where parameters hold what cannot be trained, as a module of Equinox's does.

    Args:
      params: what a user passed.

    Raises:
      ValueError: if a leaf is a function or a text.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if callable(leaf) or isinstance(leaf, str):
            raise ValueError(
                f"params hold a {type(leaf).__name__} at {readable(jax.tree_util.keystr(path))}: "
                "pass the arrays alone, of an Equinox module the first of "
                "eqx.partition(model, eqx.is_inexact_array)"
            )


def readable(path: str) -> str:
    """A path without its brackets and quotes: ``layer_00/kernel``."""
    return "/".join(re.findall(r"[^\[\]'\".]+", path)) or path


def chain_groups(params: Params) -> Groups:
    """The groups of a chain of dense layers: one per hidden layer; see `chain`.

    Args:
      params: mapping from layer names to layers.

    Returns:
      Groups, taken as checked.

    Raises:
      ValueError: as `chain`, or if a layer has weight normalization.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.groups import chain_groups
      >>> params = {f"layer_{k:02d}": {"kernel": jnp.ones((4, 4))} for k in range(3)}
      >>> [(group.size, group.producers[0].name) for group in chain_groups(params)]
      [(4, 'layer_00/kernel'), (4, 'layer_01/kernel')]
    """
    names = chain(params)
    for name in names:
        if "gain" in params[name]:
            raise ValueError(
                f"{name} has weight normalization: the norm of its kernel means nothing, and ENorm "
                "cannot balance it"
            )
    slot = slots_of(params)
    groups = []
    for before, after in itertools.pairwise(names):
        vectors = (slot(before, "bias"),) if params[before].get("bias") is not None else ()
        producer, consumer = slot(before, "kernel", axis=1), slot(after, "kernel")
        groups.append(RescalingGroup(producer.shape[1], (producer,), (consumer,), vectors))
    return Groups(tuple(groups), checked=True)


def slots_of(params: Params) -> Callable[..., Slot]:
    """What makes slots of tensors in nested mappings, where units lie in order along one axis.

    Args:
      params: mapping from names to mappings or arrays.

    Returns:
      Function from the names that lead to a tensor, and ``axis=`` (0), to its slot. It raises
      ValueError where no tensor is.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.groups import slots_of
      >>> slot = slots_of({"layer_00": {"kernel": jnp.ones((2, 3))}})
      >>> slot("layer_00", "kernel", axis=1).units
      array([0, 1, 2], dtype=int32)
    """
    tensors = {
        tuple(getattr(key, "key", None) for key in path): (jax.tree_util.keystr(path), leaf.shape)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }

    def slot(*names: str, axis: int = 0) -> Slot:
        if names not in tensors:
            raise ValueError(
                f"{'/'.join(names)} is no array of nested mappings: of Flax NNX's variables pass "
                "nnx.as_pure(params)"
            )
        path, shape = tensors[names]
        return Slot(path, tuple(shape), (axis,))

    return slot
