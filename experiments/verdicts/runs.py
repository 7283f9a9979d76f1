"""Settings of the study, and runs at one of them."""

import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping
from typing import Any, Literal

from enorm_jax import published
from enorm_jax.cell import Cell
from enorm_jax.errors import InputError
from enorm_jax.layers import Precision
from enorm_jax.methods import STUDY, make_method
from enorm_jax.optimizer import Schedule
from enorm_jax.rates import known_rate, read_winners
from enorm_jax.state_rescaling import StateBias
from fc_cells import RATES

DEPTHS = tuple(range(1, 20, 2))
SHALLOW, DEEP = DEPTHS[:5], DEPTHS[5:]  # up to p = 9, and above
EPOCHS = 60
CHANCE, LEARNED = 10.0, 30.0  # percent of ten classes; and what no untrained network has
C = 1.2
# Steps of biases up to which short runs at published rates were stable: rate times
# `bias_amplification`.
AMPLIFIED = 35
# The largest c, in hundredths, that keeps them so; 1.2 does up to p = 7.
UNCHANGED = 7
C_BY_DEPTH = {9: 1.15, 11: 1.1, 13: 1.07, 15: 1.06, 17: 1.06, 19: 1.05}

Source = Literal["study", "original"]  # of published accuracies


@dataclasses.dataclass(frozen=True)
class Setting:
    """The study's setting for a method, with what a claim changes in it.

    Attributes:
      method: its name, as `make_method` reads it.
      bias: whether layers have a bias.
      bias_handling: what ENorm does with biases.
      schedule: of the learning rate.
      softmax: whether the outputs pass a softmax before the loss.
      c: ratio of norms that ENorm aims at, or ``"by depth"`` for `C_BY_DEPTH`.
      changes: of other fields of the cell, with their values.
    """

    method: str
    bias: bool = False
    bias_handling: StateBias = "scale"
    schedule: Schedule = "linear"
    softmax: bool = False
    c: float | Literal["by depth"] = C
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """Its name in tables."""
        parts: list[str] = [self.bias_handling] if self.bias_handling != "scale" else []
        parts += [f"{self.schedule} schedule"] if self.schedule != "linear" else []
        parts += ["softmax"] if self.softmax else []
        parts += [f"c {self.c}" if self.c == "by depth" else f"c = {self.c:g}"] * (self.c != C)
        parts += [self._word(*change) for change in self.changes]
        name = make_method(self.method).label + (" with bias" if self.bias else "")
        return name + (f" ({', '.join(parts)})" if parts else "")

    @staticmethod
    def _word(name: str, value: Any) -> str:
        """A change in words."""
        words = {"balance_last": "last left out", "of_norms": "of norms", "fold": f"fold {value}"}
        return words.get(name, f"{name.replace('_', ' ')} {value}".replace("_", " "))

    @property
    def published_so(self) -> bool:
        """Whether it is the setting that the study describes."""
        return self == Setting(self.method, self.bias)

    def cell(self, depth: int, precision: Precision) -> Cell:
        """A cell of this setting, with one seed, at the rate that `fc_sweep.py` takes."""
        c = c_by_depth(depth) if self.c == "by depth" else self.c
        cell = Cell(
            experiment="fc",
            dataset="cifar10",
            method=self.method,
            depth=depth,
            width=500,
            bias=self.bias,
            epochs=EPOCHS,
            learning_rate=0.0,
            c=c if make_method(self.method).equalize else None,
            batch_size=256,
            weight_decay=1e-3,
            precision=precision,
            restarts=0,
            seeds=(0,),
            bias_handling=self.bias_handling,
            schedule=self.schedule,
            softmax=self.softmax,
        )
        cell = dataclasses.replace(cell, learning_rate=rate_of(cell))
        return dataclasses.replace(cell, **dict(self.changes))

    def learning_rate(self, depth: int) -> float:
        """Its initial learning rate at a depth, in either precision; nan if none is known."""
        return self.cell(depth, "float32").learning_rate

    def published(self, depth: int, source: Source = "study") -> float | None:
        """The published accuracy (%), nan if it diverged there, None if there is no such point."""
        return published.accuracies(source, self.method, self.bias).get(depth)


def c_by_depth(depth: int) -> float:
    """The c that keeps biases' steps small at a depth: the next deeper one's that is known.

    Args:
      depth: number of hidden-to-hidden layers p.

    Returns:
      1.2 up to p = 7, then an entry of `C_BY_DEPTH`.

    Raises:
      InputError: if the depth is beyond all that are known.
    """
    if depth <= UNCHANGED:
        return C
    deeper = [known for known in C_BY_DEPTH if known >= depth]
    if not deeper:
        raise InputError(f"no c is known for p = {depth}: choose a depth up to {max(C_BY_DEPTH)}")
    return C_BY_DEPTH[min(deeper)]


PLAIN = BASELINE, BN, ENORM, BOTH = tuple(map(Setting, STUDY))


def rate_of(cell: Cell) -> float:
    """The published learning rate, or that which was found; nan, as of no run, if neither."""
    rate = known_rate(cell.settings(), _winners())
    return math.nan if rate is None else rate


@functools.cache
def _winners() -> list[dict[str, object]]:
    return read_winners(RATES)


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed.

    Attributes:
      seed: as asked for.
      epochs: how many it was to train.
      accuracy: test accuracy (%) after the last epoch, None if it diverged.
      lost: where each attempt diverged, as ``{"epoch": 0, "step": 38}``; empty if none did.
    """

    seed: int
    epochs: int
    accuracy: float | None
    lost: tuple[Mapping[str, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Runs:
    """All runs of a setting at one depth and precision."""

    setting: Setting
    depth: int
    precision: Precision
    runs: tuple[Run, ...]

    @property
    def learning_rate(self) -> float:
        """At which they started."""
        return self.setting.learning_rate(self.depth)

    @property
    def accuracies(self) -> list[float]:
        """Of the runs that learned (%); those that failed have no part in means and spreads."""
        of = [run.accuracy for run in self.runs if run.accuracy is not None]
        return [accuracy for accuracy in of if accuracy >= LEARNED]

    @property
    def failed(self) -> int:
        """How many runs diverged, or ended no better than an untrained network."""
        return len(self.runs) - len(self.accuracies)

    @property
    def all_failed(self) -> bool:
        """Whether there are two runs or more, and none learned."""
        return self.failed > 1 and not self.accuracies

    @property
    def mean(self) -> float:
        """Mean accuracy (%) of the runs that learned; there must be one."""
        return statistics.fmean(self.accuracies)

    def __str__(self) -> str:
        """Mean and number of runs, those that failed beside them: ``52.58 (2, 1 failed)``."""
        found = self.accuracies
        failed = f"{self.failed} failed" if self.failed else ""
        if not found:
            return f"– ({failed})" if failed else "–"
        return f"{self.mean:.2f} ({', '.join(filter(None, [str(len(found)), failed]))})"
