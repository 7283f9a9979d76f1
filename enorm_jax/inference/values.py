"""What is known of an array in a network about its scale, and how arrays of units are handled.

An array of units has the rank of the array it describes, and size 1 along every axis along which
the unit does not vary.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Fixed:
    """An array that does not depend on the units' scales: inputs and constants.

    Attributes:
      value: its value, if it follows from literals alone; 0-dimensional if the same everywhere.
    """

    value: np.ndarray | None = None

    @property
    def zero(self) -> bool:
        """Whether it is known to be zero, which has any scale."""
        return self.value is not None and not np.any(self.value)

    @property
    def scale_free(self) -> bool:
        """Whether it is known to stay itself under any positive scale: 0, inf and NaN."""
        value = self.value
        return value is not None and bool(np.all((value == 0) | ~np.isfinite(value)))


@dataclasses.dataclass(frozen=True)
class Scaled:
    """An array whose elements scale as their units do.

    Attributes:
      ids: its units.
    """

    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class View:
    """Elements of the parameters, possibly times something fixed, before any other use.

    Attributes:
      index: their numbers among all parameters, handled as units are.
      leaves: numbers of the tensors they are from.
      product: whether they were multiplied by data, so that they are no mere additive vector.
    """

    index: np.ndarray
    leaves: frozenset[int]
    product: bool = False


Value = Fixed | Scaled | View


def compact(ids: np.ndarray) -> np.ndarray:
    """The array with size 1 along each axis along which it does not vary."""
    for axis in range(ids.ndim):
        first = ids.take([0], axis) if ids.shape[axis] > 1 else ids
        if (ids == first).all():
            ids = first
    return ids


def reshape(ids: np.ndarray, old: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """The array of units after the array it describes was reshaped from `old` to `new`."""
    if 0 in old:
        return np.zeros(new, ids.dtype)
    full: list[int] = []
    target: list[int] = []
    for before, after in _blocks(old, new):
        constant = all(n == 1 for n in ids.shape[before])
        full += [1] * (before.stop - before.start) if constant else old[before]
        target += [1] * (after.stop - after.start) if constant else new[after]
    return np.broadcast_to(ids, full).reshape(target)


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterable[tuple[slice, slice]]:
    """The smallest runs of axes of two shapes that have the same size."""
    i = j = 0
    while i < len(old) or j < len(new):
        first = i, j
        m = n = 1
        if i < len(old):
            m, i = old[i], i + 1
        if j < len(new):
            n, j = new[j], j + 1
        while m != n:
            if m < n:
                m, i = m * old[i], i + 1
            else:
                n, j = n * new[j], j + 1
        yield slice(first[0], i), slice(first[1], j)


def place(ids: np.ndarray, axes: Sequence[int], rank: int) -> np.ndarray:
    """An array of the given rank whose axis axes[k] is the array's axis k, and size 1 elsewhere."""
    shape = [1] * rank
    for axis, n in zip(axes, ids.shape, strict=True):
        shape[axis] = n
    return ids.transpose(np.argsort(axes)).reshape(shape)


def pick(ids: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """The array's given axes, in this order; the others must have size 1."""
    rest = [axis for axis in range(ids.ndim) if axis not in axes]
    kept = ids.transpose([*axes, *rest])
    return kept.reshape(kept.shape[: len(axes)])
