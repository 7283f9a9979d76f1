"""Units of scale: which are the same, and which elements of the parameters lead between which."""

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
        self._cause = np.zeros(1024, np.int32)  # number of a text, 0 for none
        self._texts = [""]
        self._births = [0]
        self.count = 1

    def fresh(self, shape: Sequence[int]) -> np.ndarray:
        """New units, one for each element of an array; they were born together."""
        first, self.count = self.count, self.count + math.prod(shape)
        if self.count > len(self._parent):
            more = np.zeros(2 * self.count - len(self._parent), np.int32)
            self._parent, self._cause = (np.append(a, more) for a in (self._parent, self._cause))
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
        a, b, above_a, above_b = a[differ], b[differ], roots[0][differ], roots[1][differ]
        free = (above_a != 0) & (above_b != 0)
        self._merge(above_a[free], above_b[free])
        if free.all():
            return
        loose, tied = (x[~free] for x in (np.where(above_a, a, b), np.where(above_a, b, a)))
        loose, first = np.unique(self.find(loose), return_index=True)
        causes = self._causes(tied[first])
        if not causes.all():
            self._texts.append(reason())
            causes[causes == 0] = len(self._texts) - 1
        self._cause[loose], self._parent[loose] = causes, 0

    def why(self, ids: np.ndarray) -> list[str]:
        """Why units have the fixed scale; empty for unit 0 itself and for free units."""
        return [self._texts[cause] for cause in self._causes(ids).tolist()]

    def _causes(self, ids: np.ndarray) -> np.ndarray:
        """The number of the text that is nearest on each unit's way to its root."""
        while True:
            found = self._cause[ids]
            above = np.where(found > 0, ids, self._parent[ids])
            if np.array_equal(above, ids):
                return found
            ids = above

    def _merge(self, a: np.ndarray, b: np.ndarray) -> None:
        """Joins classes that are free, given by their roots, pair by pair."""
        while a.size:
            young, old = np.maximum(a, b), np.minimum(a, b)
            np.minimum.at(self._parent, young, old)
            above = self._parent[young]
            # Ways that have become long are halved, until all are short.
            while not np.array_equal(roots := self._parent[above], above):
                self._parent[young] = above = roots
            a, b = above, self.find(old)
            differ = a != b
            a, b = a[differ], b[differ]


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
        unify = self._units.unify
        roots = [self._units.find(ids) for ids in (out, into, old_out, old_in)]
        keeps = (roots[0] == roots[1]) | (roots[2] == roots[3])
        # An end that is fixed by now is so for the same cause in both uses.
        fixed = (roots[1] == 0) & (roots[2] == 0)
        unify(out[keeps], np.where(fixed, old_out, into)[keeps], reason)
        unify(old_out[keeps], old_in[keeps], reason)
        unify(out[~keeps], old_out[~keeps], reason)
        unify(into[~keeps], old_in[~keeps], reason)
