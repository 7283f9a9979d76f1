"""Claims on the order of settings, depth by depth."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from verdicts.intervals import Estimate, contrast, signed
from verdicts.outcome import Outcome, State, Table, decide, missing, plural, reason, state_of, tally
from verdicts.runs import Runs, Setting, Source
from verdicts.store import Store

Pair = tuple[Setting, Setting]


def ordered(
    store: Store,
    pairs: Sequence[Pair],
    depths: Sequence[int],
    needed: int,
    margin: float = 0.0,
    source: Source = "study",
) -> Outcome:
    """Whether, at enough depths, the first setting of each pair is above the second.

    A depth speaks for it if the interval of every difference lies above ``-margin``, against it
    if that of one lies below 0. Runs that failed have no accuracy; where all of a side did,
    two at least, that side is the lower one.

    Args:
      store: all runs.
      pairs: upper and lower setting, one or several.
      depths: where they are compared.
      needed: at how many depths it has to be so.
      margin: what does not count as below, in percent.
      source: whose published differences stand beside ours.

    Returns:
      The outcome.
    """
    settings = list(dict.fromkeys(setting for pair in pairs for setting in pair))
    at = {depth: _compare(store, settings, pairs, depth, margin) for depth in depths}
    states = {depth: found.state for depth, found in at.items()}
    rows = [found.row(pairs, source) for found in at.values()]
    means = [average(store, [t for found in at.values() for t in found.terms(p)]) for p in pairs]
    rows.append(("mean", "", *("" for _ in settings), *(str(mean or "–") for mean in means), ""))
    every = [[found.above(pair) for pair in pairs] for found in at.values()]
    ours = [values for values in every if not any(map(math.isnan, values))]
    known = [[_published(pair, depth, source) for pair in pairs] for depth in depths]
    agreeing, theirs = (sum(min(values) >= 0 for values in of) for of in (ours, known))
    whose = "study's" if source == "study" else "original figure's"
    figures = (
        f"{tally(states)}; means in this order at {agreeing} of {plural(len(ours), 'depth')}, the "
        f"{whose} at {theirs} of {len(depths)}"
    )
    names = [f"{upper.label} − {lower.label} ({source})" for upper, lower in pairs]
    header = ("p", "precision", *(setting.label for setting in settings), *names, "speaks")
    verdict = decide(states, needed, refuting=len(depths) - needed + 1)
    why = reason(states) if verdict == "undecided" else ""
    lacking = missing(runs for found in at.values() for runs in found.runs.values())
    return Outcome(verdict, figures, (Table(header, tuple(rows)),), why, lacking)


@dataclasses.dataclass(frozen=True)
class _Depth:
    """Settings at one depth, in one precision, and the difference of each pair."""

    depth: int
    runs: Mapping[Setting, Runs]
    estimates: Sequence[Estimate | None]
    state: State

    def row(self, pairs: Sequence[Pair], source: Source) -> tuple[str, ...]:
        """A line of the table."""
        runs = list(self.runs.values())
        texts = [
            beside(e, p, self.depth, source) for e, p in zip(self.estimates, pairs, strict=True)
        ]
        return (str(self.depth), runs[0].precision, *map(str, runs), *texts, self.state)

    def above(self, pair: Pair) -> float:
        """By how much the means differ; infinite if all runs of a side failed, nan without runs."""
        upper, lower = (self.runs[setting] for setting in pair)
        if upper.accuracies and lower.accuracies:
            return upper.mean - lower.mean
        if upper.accuracies and lower.all_failed:
            return math.inf
        return -math.inf if lower.accuracies and upper.all_failed else math.nan

    def terms(self, pair: Pair) -> list[tuple[float, Runs]]:
        """A pair's runs as terms of a contrast; none without an interval."""
        upper, lower = (self.runs[setting] for setting in pair)
        enough = min(len(upper.accuracies), len(lower.accuracies)) > 1
        return [(1.0, upper), (-1.0, lower)] if enough else []


def _compare(
    store: Store, settings: Sequence[Setting], pairs: Sequence[Pair], depth: int, margin: float
) -> _Depth:
    precision = store.precision(settings, [depth])
    runs = {setting: store.at(setting, depth, precision) for setting in settings}
    found = [difference(store, runs[upper], runs[lower]) for upper, lower in pairs]
    of = [
        _state(estimate, runs[upper], runs[lower], margin)
        for estimate, (upper, lower) in zip(found, pairs, strict=True)
    ]
    worst: tuple[State, ...] = ("against", "missing", "one run", "open")
    return _Depth(depth, runs, found, next((state for state in worst if state in of), "for"))


def difference(store: Store, upper: Runs, lower: Runs) -> Estimate | None:
    """Mean of one minus mean of the other; None if no run of a side learned."""
    if not upper.accuracies or not lower.accuracies:
        return None
    return contrast(store, [(1.0, upper), (-1.0, lower)])


def average(store: Store, terms: Sequence[tuple[float, Runs]]) -> Estimate | None:
    """Mean over depths of differences, given as pairs of terms; None if there are none."""
    depths = len(terms) // 2
    return contrast(store, [(sign / depths, runs) for sign, runs in terms]) if terms else None


def beside(estimate: Estimate | None, pair: Pair, depth: int, source: Source = "study") -> str:
    """A difference with the published one in parentheses: ``+1.36 ± 0.50 (+2.36)``."""
    known = _published(pair, depth, source)
    return f"{estimate or '–'}" + ("" if math.isnan(known) else f" ({signed(known)})")


def _published(pair: Pair, depth: int, source: Source) -> float:
    upper, lower = (setting.published(depth, source) for setting in pair)
    return math.nan if upper is None or lower is None else upper - lower


def _state(estimate: Estimate | None, upper: Runs, lower: Runs, margin: float) -> State:
    if upper.all_failed and len(lower.accuracies) > 1:
        return "against"
    if lower.all_failed and len(upper.accuracies) > 1:
        return "for"
    return state_of(estimate, above=-margin)
