"""95 % intervals of differences between means of runs, after Welch and Satterthwaite."""

import collections
import dataclasses
import math
from collections.abc import Sequence

import scipy.stats

from enorm_jax.results import scatter
from verdicts.runs import DEPTHS, Runs, Setting
from verdicts.store import Store

LEVEL = 0.95
Group = tuple[Setting, str, float]  # precision, and learning rate if those are kept apart


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
      value: in percent, of test accuracy or of time.
      half: half-width of the interval, None where a side has fewer than two runs.
    """

    value: float
    half: float | None

    def above(self, bound: float = 0.0) -> bool:
        """Whether the whole interval lies above a bound."""
        return self.half is not None and self.value - self.half > bound

    def below(self, bound: float = 0.0) -> bool:
        """Whether the whole interval lies below a bound."""
        return self.half is not None and self.value + self.half < bound

    def __str__(self) -> str:
        """As in ``+0.35 ± 0.80``."""
        return signed(self.value) + ("" if self.half is None else f" ± {self.half:.2f}")


def signed(value: float) -> str:
    """A difference with its sign: ``−0.70``."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")  # no −0.00


@dataclasses.dataclass(frozen=True)
class Spread:
    """How much runs of one setting and precision scatter, from all depths, or those of a rate.

    Attributes:
      variance: of a run's accuracy, about the mean of its depth.
      freedom: degrees of freedom, runs minus depths.
    """

    variance: float
    freedom: int


def spread(store: Store, runs: Runs) -> Spread:
    """Scatter of the setting and precision that runs are of.

    Args:
      store: all runs; says whether only depths with the same learning rate count.
      runs: at one depth.

    Returns:
      Its variance; 0 with no degrees of freedom if no depth has two runs.
    """
    depths = sorted({*DEPTHS, runs.depth})
    if store.of_rates:
        rate = runs.learning_rate
        depths = [p for p in depths if runs.setting.learning_rate(p) == rate]
    found = (store.at(runs.setting, depth, runs.precision) for depth in depths)
    return Spread(*scatter(of_depth.accuracies for of_depth in found))


def contrast(store: Store, terms: Sequence[tuple[float, Runs]]) -> Estimate:
    r"""A weighted sum of mean accuracies.

    .. math::
        \sum_i w_i \bar x_i \pm t_{0.975, \nu} \sqrt{\sum_g v_g}, \quad
        v_g = s_g^2 \sum_{i \in g} w_i^2 / n_i, \quad
        \nu = \frac{(\sum_g v_g)^2}{\sum_g v_g^2 / \nu_g}

    where g runs over settings, whose variances s_g² come from all their depths, or over settings
    and learning rates.

    Args:
      store: all runs.
      terms: weights, and runs of which at least one learned.

    Returns:
      The sum; without an interval if fewer than two runs of a term learned.
    """
    value = math.fsum(weight * runs.mean for weight, runs in terms)
    if any(len(runs.accuracies) < 2 for _, runs in terms):
        return Estimate(value, None)
    parts: dict[Group, float] = collections.defaultdict(float)
    spreads: dict[Group, Spread] = {}
    for weight, runs in terms:
        group = runs.setting, runs.precision, runs.learning_rate if store.of_rates else 0.0
        spreads[group] = spread(store, runs)
        parts[group] += spreads[group].variance * weight**2 / len(runs.accuracies)
    return Estimate(value, half_width(list(parts.values()), [spreads[g].freedom for g in parts]))


def prediction(store: Store, runs: Runs, count: int) -> Estimate:
    r"""Where the mean of further runs at the same setting lies, in 95 of 100 cases.

    .. math:: \bar x \pm t_{0.975, \nu} \, s \sqrt{1 / n + 1 / m}

    Args:
      store: all runs.
      runs: of which at least one learned.
      count: number m of further runs.

    Returns:
      Our mean and the interval's half-width; none if fewer than two runs learned.
    """
    if len(runs.accuracies) < 2:
        return Estimate(runs.mean, None)
    scatter = spread(store, runs)
    variance = scatter.variance * (1 / len(runs.accuracies) + 1 / count)
    return Estimate(runs.mean, half_width([variance], [scatter.freedom]))


def half_width(variances: Sequence[float], freedoms: Sequence[int]) -> float:
    """Half of a sum's interval, from its parts' variances and degrees of freedom.

    Args:
      variances: of independent parts.
      freedoms: with how many degrees of freedom each was found.

    Returns:
      The half-width; 0 if nothing varies.
    """
    total = math.fsum(variances)
    if total == 0:
        return 0.0
    freedom = total**2 / math.fsum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(total))
