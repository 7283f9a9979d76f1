"""Runs out of cells: settings never mixed, each seed once."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from enorm_jax.cell import LATER, POOLED, Cell, same_setting
from enorm_jax.layers import PRECISIONS, Precision
from enorm_jax.results import most_restarted_last
from verdicts.runs import EPOCHS, PLAIN, Run, Runs, Setting

# Whether a run diverges in the first epoch, one of any length shows.
KEYS = [f.name for f in dataclasses.fields(Cell) if f.name not in (*POOLED, "epochs")]


class Store:
    """Runs by setting, depth and precision.

    Attributes:
      results: the study's cells.
      others: cells of other experiments.
      costs: what `step_cost.py` wrote; empty if it has not run.
      mechanisms: the files of `mechanisms.py`.
      of_rates: whether the spread of runs is taken of each learning rate by itself.
    """

    of_rates = False

    def __init__(
        self,
        results: Iterable[dict[str, Any]],
        costs: Mapping[str, Any] | None = None,
        mechanisms: Sequence[Mapping[str, Any]] = (),
    ):
        self.costs, self.mechanisms = costs or {}, mechanisms
        # A search has several runs a seed, and tests on images held out.
        known = [r for r in results if not r.get("rates")]
        self.results = [r for r in known if r.get("experiment") == "fc"]
        self.others = [r for r in known if r.get("experiment") != "fc"]
        self._runs: dict[tuple[Any, ...], list[tuple[int, Run]]] = {}
        for result in (*self.results, *map(_first_epoch, filter(_is_first_epoch, self.others))):
            self._runs.setdefault(_key(LATER | result), []).extend(_runs(result))

    def by_rates(self) -> Self:
        """The same runs, with the spread of each learning rate by itself."""
        other = copy.copy(self)
        other.of_rates = True
        return other

    def at(
        self, setting: Setting, depth: int, precision: Precision, any_epochs: bool = False
    ) -> Runs:
        """Runs of a setting, each seed once, the most often restarted.

        Args:
          setting: the setting.
          depth: number of hidden-to-hidden layers p.
          precision: of the matrix products.
          any_epochs: whether runs of other than the study's 60 epochs count too; of a seed the
            longest does, since they begin alike.

        Returns:
          The runs, by seed; empty if there are none.
        """
        found = self._runs.get(_key(vars(setting.cell(depth, precision))), [])
        if not any_epochs:
            found = [(again, run) for again, run in found if run.epochs == EPOCHS]
        ordered = sorted(found, key=lambda pair: (pair[1].epochs, pair[0]))
        last = {run.seed: run for _, run in ordered}
        return Runs(setting, depth, precision, tuple(last[key] for key in sorted(last)))

    def accuracies(self, cell: Cell) -> dict[int, float | None]:
        """Test accuracy (%) of another experiment's runs at a cell's setting, by seed.

        Args:
          cell: the setting.

        Returns:
          None for a seed that diverged.
        """
        return {
            seed: _percent(accuracy)
            for result in most_restarted_last(self.others)
            if same_setting(cell, result)
            for seed, accuracy in zip(result["seeds"], result["test_accuracy"], strict=True)
        }

    def precision(
        self, settings: Sequence[Setting], depths: Sequence[int], any_epochs: bool = False
    ) -> Precision:
        """The precision to compare settings in: that of the most runs a side, then of all runs.

        Methods of the study without bias are compared in that of all four, so that a point is made
        of the same runs in every table.

        Args:
          settings: the sides of a comparison.
          depths: at which they are compared.
          any_epochs: as for `at`.

        Returns:
          ``"float32"`` if both have as many.
        """
        if {*settings} <= {*PLAIN}:
            settings = PLAIN

        def counts(precision: Precision) -> tuple[int, int]:
            of = [len(self.at(s, p, precision, any_epochs).runs) for s in settings for p in depths]
            return sum(min(of[i :: len(depths)]) for i in range(len(depths))), sum(of)

        return of_most_runs(counts)


def _is_first_epoch(result: Mapping[str, Any]) -> bool:
    """Whether it is a cell of `divergence.py`."""
    return result.get("experiment") == "divergence" and result["epochs"] == 1


def _first_epoch(result: Mapping[str, Any]) -> dict[str, Any]:
    """It as a cell of the study, whose rate does not fall within an epoch."""
    return {**result, "experiment": "fc", "schedule": "linear"}


def of_most_runs(counts: Callable[[Precision], tuple[int, int]]) -> Precision:
    """The precision with the largest counts of runs; ``"float32"`` if both have as many."""
    return max(PRECISIONS, key=lambda p: (counts(p), p == "float32"))


def _key(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(settings.get(key) for key in KEYS)


def _runs(result: Mapping[str, Any]) -> list[tuple[int, Run]]:
    """Runs of a cell, each with the number of restarts that it could have had."""
    columns = (result[name] for name in ("seeds", "test_accuracy", "diverged", "restarted"))
    found = []
    for seed, accuracy, last, earlier in zip(*columns, strict=True):
        lost = (*earlier, last) if last else tuple(earlier)
        found.append((result["restarts"], Run(seed, result["epochs"], _percent(accuracy), lost)))
    return found


def _percent(accuracy: float | None) -> float | None:
    """The accuracy as the share of 10,000 images that it is, without float32's last digits."""
    return None if accuracy is None else round(accuracy, 2)
