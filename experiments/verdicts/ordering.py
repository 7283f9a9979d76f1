"""Claims on the order of settings, depth by depth."""

import math
from collections.abc import Sequence

from verdicts.intervals import Estimate, contrast, signed
from verdicts.outcome import Outcome, State, Table, decide, missing, plural, reason, tally
from verdicts.runs import Runs, Setting
from verdicts.store import Store

Pair = tuple[Setting, Setting]


def ordered(
    store: Store, pairs: Sequence[Pair], depths: Sequence[int], needed: int, margin: float = 0.0
) -> Outcome:
    """Whether, at enough depths, the first setting of each pair is above the second.

    A depth speaks for it if the interval of every difference lies above ``-margin``, against it
    if that of one lies below 0. Runs that diverged have no accuracy; where all of a side did,
    two at least, that side is the lower one.

    Args:
      store: all runs.
      pairs: upper and lower setting, one or several.
      depths: where they are compared.
      needed: at how many depths it has to be so.
      margin: what does not count as below, in percent.

    Returns:
      The outcome.
    """
    settings = list(dict.fromkeys(setting for pair in pairs for setting in pair))
    states: dict[int, State] = {}
    rows: list[tuple[str, ...]] = []
    every: list[Runs] = []
    compared = agreeing = 0
    for depth in depths:
        precision = store.precision(settings, [depth])
        runs = {setting: store.at(setting, depth, precision) for setting in settings}
        found = [difference(store, runs[upper], runs[lower]) for upper, lower in pairs]
        of = [
            _state(estimate, runs[upper], runs[lower], margin)
            for estimate, (upper, lower) in zip(found, pairs, strict=True)
        ]
        worst: tuple[State, ...] = ("against", "missing", "one run", "open")
        states[depth] = next((state for state in worst if state in of), "for")
        values = [estimate.value for estimate in found if estimate]
        compared += len(values) == len(pairs)
        agreeing += len(values) == len(pairs) and min(values) >= 0
        every += runs.values()
        texts = [beside(e, pair, depth) for e, pair in zip(found, pairs, strict=True)]
        rows.append((str(depth), precision, *map(str, runs.values()), *texts, states[depth]))
    verdict = decide(states, needed, refuting=len(depths) - needed + 1)
    known = [[_published(pair, depth) for pair in pairs] for depth in depths]
    figures = (
        f"{tally(states)}; means in this order at {agreeing} of {plural(compared, 'depth')}, the "
        f"study's at {sum(min(values) >= 0 for values in known)} of {len(depths)}"
    )
    names = [f"{upper.label} − {lower.label} (study)" for upper, lower in pairs]
    header = ("p", "precision", *(setting.label for setting in settings), *names, "speaks")
    why = reason(states) if verdict == "undecided" else ""
    return Outcome(verdict, figures, (Table(header, tuple(rows)),), why, missing(every))


def difference(store: Store, upper: Runs, lower: Runs) -> Estimate | None:
    """Mean of one minus mean of the other; None if no run of a side finished."""
    if not upper.accuracies or not lower.accuracies:
        return None
    return contrast(store, [(1.0, upper), (-1.0, lower)])


def beside(estimate: Estimate | None, pair: Pair, depth: int) -> str:
    """A difference with the study's in parentheses: ``+1.36 ± 0.50 (+2.36)``."""
    known = _published(pair, depth)
    return f"{estimate or '–'}" + ("" if math.isnan(known) else f" ({signed(known)})")


def _published(pair: Pair, depth: int) -> float:
    upper, lower = (setting.published(depth) for setting in pair)
    return math.nan if upper is None or lower is None else upper - lower


def _state(estimate: Estimate | None, upper: Runs, lower: Runs, margin: float) -> State:
    if upper.all_diverged and len(lower.accuracies) > 1:
        return "against"
    if lower.all_diverged and len(upper.accuracies) > 1:
        return "for"
    if estimate is None:
        return "missing"
    if estimate.half is None:
        return "one run"
    if estimate.above(-margin):
        return "for"
    return "against" if estimate.below() else "open"
