"""Claims that compare runs of any experiment, seed by seed."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from enorm_jax.layers import Precision
from enorm_jax.results import interval
from verdicts.intervals import Estimate
from verdicts.outcome import Outcome, State, Table, decide, state_of
from verdicts.store import Store, of_most_runs


@dataclasses.dataclass(frozen=True)
class Side:
    """Runs of one setting, and a number of each.

    Attributes:
      label: what they are.
      values: from all runs and a precision to the number of each run, by seed.
    """

    label: str
    values: Callable[[Store, Precision], Mapping[int, float]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A difference that a claim is about: the upper side's mean minus the lower's.

    Attributes:
      upper: claimed to be above.
      lower: claimed to be below.
      above: the difference speaks for the claim if its interval lies above this,
      below: and against it if it lies below this.
    """

    upper: Side
    lower: Side
    above: float = 0.0
    below: float = 0.0

    def __str__(self) -> str:
        """As in ``WS + GN at 1 − BN at 64``."""
        return f"{self.upper.label} − {self.lower.label}"


def compared(store: Store, comparisons: Sequence[Comparison]) -> Outcome:
    """Whether every difference is as claimed.

    Args:
      store: all runs.
      comparisons: the differences; all in the precision of the most runs a side.

    Returns:
      The outcome: it holds if all speak for the claim, and not if one speaks against it.
    """

    def of(one: Comparison, precision: Precision) -> tuple[dict[int, float], dict[int, float]]:
        upper, lower = (side.values(store, precision) for side in (one.upper, one.lower))
        seeds = sorted(upper.keys() & lower.keys())
        return {seed: upper[seed] for seed in seeds}, {seed: lower[seed] for seed in seeds}

    def counts(precision: Precision) -> tuple[int, int]:
        shared = [len(of(one, precision)[0]) for one in comparisons]
        every = [len(s.values(store, precision)) for c in comparisons for s in (c.upper, c.lower)]
        return sum(shared), sum(every)

    precision = of_most_runs(counts)
    states: list[State] = []
    rows, lacking = [], []
    for one in comparisons:
        upper, lower = of(one, precision)
        found = paired(upper, lower)
        states.append(state_of(found, one.above, one.below))
        rows.append((str(one), _mean(upper), _mean(lower), str(found or "–"), states[-1]))
        if len(upper) < 2:
            lacking.append(f"{one}: {2 - len(upper)}")
    verdict = decide(dict(enumerate(states)), needed=len(states), refuting=1)
    shown = "; ".join(f"{row[0]} {row[3]}" for row in rows if row[3] != "–")
    header = ("difference", "first", "second", "first − second", "speaks")
    table = Table(header, tuple(rows))
    why = "runs are missing" if lacking else "the intervals do not decide it"
    return Outcome(
        verdict,
        f"in {precision}: {shown}" if shown else "no runs",
        (table,),
        why if verdict == "undecided" else "",
        f"seeds of both: {', '.join(lacking)}" if lacking else "",
    )


def paired(upper: Mapping[int, float], lower: Mapping[int, float]) -> Estimate | None:
    r"""The mean difference of runs of the same seeds, with Student's interval.

    .. math:: \bar d \pm t_{0.975, n-1} \, s_d / \sqrt{n}

    Args:
      upper: numbers of one side by seed.
      lower: of the other, of the same seeds.

    Returns:
      First minus second; without an interval if there is one seed, None if there is none.
    """
    differences = [upper[seed] - lower[seed] for seed in upper]
    return Estimate(*interval(differences)) if differences else None


def _mean(values: Mapping[int, float]) -> str:
    if not values:
        return "–"
    return f"{statistics.fmean(values.values()):.2f} ({len(values)})".replace("-", "−")
