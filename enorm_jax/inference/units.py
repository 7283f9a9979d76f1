"""Units of scale: which are the same, and which elements of the parameters lead between which."""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

Reason = Callable[[], str]


class Units:
    """Union-find over units, as vectorized as its uses; unit 0 has the fixed scale 1.

    A class's root is its oldest unit. Units that join 0 remember why.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int32)
        self._reasons: dict[int, str] = {}
        self._births = [0]
        self.count = 1

    def fresh(self, shape: Sequence[int]) -> np.ndarray:
        """New units, one for each element of an array; they were born together."""
        first, self.count = self.count, self.count + math.prod(shape)
        if self.count > len(self._parent):
            grown = np.zeros(2 * self.count, np.int32)
            grown[:first] = self._parent[:first]
            self._parent = grown
        ids = np.arange(first, self.count, dtype=np.int32)
        self._parent[first : self.count] = ids
        self._births.append(first)
        return ids.reshape(shape)

    def birth(self, ids: np.ndarray) -> np.ndarray:
        """The same number for units that were born together."""
        return np.searchsorted(self._births, ids, side="right")

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The root of each unit's class."""
        roots = self._parent[ids]
        while not np.array_equal(above := self._parent[roots], roots):
            roots = above
        free = roots != 0  # paths to 0 stay: they tell why
        self._parent[ids[free]] = roots[free]
        return roots

    def top(self, ids: np.ndarray) -> np.ndarray:
        """As `find`, but for a fixed unit one that remembers why it is."""
        while True:
            above = self._parent[ids]
            above = np.where(above == 0, ids, above)
            if np.array_equal(above, ids):
                return ids
            ids = above

    def unify(self, a: np.ndarray, b: np.ndarray, reason: Reason) -> None:
        """Makes units equal, element by element of two arrays that broadcast."""
        a, b = np.broadcast_arrays(a, b)
        roots = self.find(a), self.find(b)
        differ = roots[0] != roots[1]
        if not differ.any():
            return
        pairs = roots[0][differ].astype(np.int64) * self.count + roots[1][differ]
        _, first = np.unique(pairs, return_index=True)
        reason = functools.cache(reason)
        for one, other in zip(a[differ][first].tolist(), b[differ][first].tolist(), strict=True):
            self._join(one, other, reason)

    def why(self, unit: int) -> str | None:
        """Why a unit has the fixed scale; None for unit 0 itself and for free units."""
        while unit not in self._reasons and (above := int(self._parent[unit])) != unit:
            unit = above
        return self._reasons.get(unit)

    def _root(self, unit: int) -> int:
        while (above := int(self._parent[unit])) != unit:
            unit = above
        return unit

    def _join(self, one: int, other: int, reason: Reason) -> None:
        low, high = sorted((self._root(one), self._root(other)))
        if low == high:
            return
        if low == 0:
            self._reasons[high] = self.why(one) or self.why(other) or reason()
        self._parent[high] = low


class Uses:
    """For each element of the parameters, the unit its products feed and the one they read.

    Attributes:
      names: the tensors' paths.
      shapes: the tensors' shapes.
      products: numbers of the tensors whose elements multiply something.
      pinned: number of a tensor -> why its elements must keep their values.
    """

    def __init__(self, units: Units, names: Sequence[str], shapes: Sequence[tuple[int, ...]]):
        self._units = units
        self.names, self.shapes = list(names), list(shapes)
        self._ends = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
        self._out = np.full(self._ends[-1], -1, np.int32)
        self._in = np.full(self._ends[-1], -1, np.int32)
        self.products: set[int] = set()
        self.pinned: dict[int, str] = {}

    def index(self, leaf: int) -> np.ndarray:
        """The numbers of a tensor's elements among all parameters."""
        first, last = self._ends[leaf : leaf + 2]
        return np.arange(first, last, dtype=np.int32).reshape(self.shapes[leaf])

    def sides(self, leaf: int) -> tuple[np.ndarray, np.ndarray]:
        """The units that a tensor's elements feed and read, -1 where they are not used."""
        part = slice(*self._ends[leaf : leaf + 2])
        return self._out[part].reshape(self.shapes[leaf]), self._in[part].reshape(self.shapes[leaf])

    def fixed(self, index: np.ndarray) -> bool:
        """Whether elements are known to keep their values."""
        out, into = self._out[index], self._in[index]
        return bool((out >= 0).all() and (self._units.find(out) == self._units.find(into)).all())

    def record(self, index: np.ndarray, out: np.ndarray, into: np.ndarray, reason: Reason) -> None:
        """Notes that elements read units `into` and feed units `out`; all three broadcast.

        Used before, an element ties both units to those of its other use, unless it keeps its
        value in one of them: then it must in both.
        """
        index, out, into = np.broadcast_arrays(index, out, into)
        unused = self._out[index] < 0
        self._out[index[unused]] = out[unused]
        self._in[index[unused]] = into[unused]
        again = (self._out[index] != out) | (self._in[index] != into)
        if not again.any():
            return
        out, into = out[again], into[again]
        old_out, old_in = self._out[index[again]], self._in[index[again]]
        find, unify = self._units.find, self._units.unify
        keeps = (find(out) == find(into)) | (find(old_out) == find(old_in))
        unify(out[keeps], into[keeps], reason)
        unify(old_out[keeps], old_in[keeps], reason)
        unify(out[~keeps], old_out[~keeps], reason)
        unify(into[~keeps], old_in[~keeps], reason)
