"""Claims on whether runs diverge, and where."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from scipy.stats import beta

from verdicts.outcome import (
    Outcome,
    State,
    Table,
    Verdict,
    decide,
    missing,
    reason,
    tally,
)
from verdicts.runs import CHANCE, EPOCHS, LEARNED, Run, Runs, Setting
from verdicts.store import Store


def lost_in_first_epoch(run: Run) -> bool:
    """Whether the first attempt diverged before the second epoch."""
    return bool(run.lost) and run.lost[0]["epoch"] == 0


def trains(run: Run) -> bool:
    """Whether it finished at once and learned something."""
    return not run.lost and run.accuracy is not None and run.accuracy >= LEARNED


def finishes_at_chance(run: Run) -> bool:
    """Whether it finished at once, and no better than twice guessing."""
    return not run.lost and run.accuracy is not None and run.accuracy <= 2 * CHANCE


@dataclasses.dataclass(frozen=True)
class Expected:
    """What all runs of a setting do at some depths.

    Attributes:
      setting: the setting.
      depths: where.
      does: true for a run that does it.
      any_epochs: whether runs of other than 60 epochs show it, too.
    """

    setting: Setting
    depths: Sequence[int]
    does: Callable[[Run], bool]
    any_epochs: bool = False


def all_do(store: Store, parts: Sequence[Expected], needed: int) -> Outcome:
    """Whether all runs do what is expected, two at least at enough depths.

    Args:
      store: all runs.
      parts: what is expected where; each depth once.
      needed: how many depths have to show it. One depth, of two runs or more, that shows
        another thing refutes it.

    Returns:
      The outcome.
    """
    states: dict[int, State] = {}
    every: list[Runs] = []
    rows: list[tuple[str, ...]] = []
    count = as_expected = 0
    for part in parts:
        for depth in part.depths:
            precision = store.precision([part.setting], [depth], part.any_epochs)
            runs = store.at(part.setting, depth, precision, part.any_epochs)
            every.append(runs)
            good = [part.does(run) for run in runs.runs]
            count, as_expected = count + len(good), as_expected + sum(good)
            enough: State = "for" if all(good) else "against"
            states[depth] = enough if len(good) > 1 else "one run" if good else "missing"
            known = part.setting.published(depth) if part.setting.published_so else None
            study = "" if known is None else "NaN" if math.isnan(known) else f"{known:.2f}"
            what = "; ".join(map(_fate, runs.runs)) or "–"
            rows.append((str(depth), precision, what, study, states[depth]))
    verdict = decide(states, needed, refuting=1)
    header = ("p", "precision", f"{parts[0].setting.label}: each run", "study", "speaks")
    table = Table(header, tuple(sorted(rows, key=lambda row: int(row[0]))))
    figures = f"{as_expected} of {count} runs as claimed; {tally(states)}" if count else "no runs"
    why = reason(states) if verdict == "undecided" and count else ""
    return Outcome(verdict, figures, (table,), why, missing(every))


def occasional(
    store: Store, setting: Setting, depths: Sequence[int], enough: int, rate: float
) -> Outcome:
    """Whether some runs diverge, fewer than half, and train when started with another seed.

    Args:
      store: all runs.
      setting: the setting; in one precision at all depths.
      depths: over which runs, of any number of epochs, are counted together.
      enough: how many runs there have to be.
      rate: what is no longer occasional; refuted if no run diverged and the exact 95 %
        interval of the rate ends below it.

    Returns:
      The outcome.
    """
    precision = store.precision([setting], depths, any_epochs=True)
    groups = [store.at(setting, depth, precision, any_epochs=True) for depth in depths]
    runs = [run for group in groups for run in group.runs]
    whole = [run for run in runs if run.epochs == EPOCHS]
    (verdict, why), (of_whole, _) = (_occasional(some, enough, rate) for some in (runs, whole))
    figures = _counts(runs)
    if len(whole) < len(runs):
        figures += f"; by runs of {EPOCHS} epochs alone, {_counts(whole)}: {of_whole}"
    rows = []
    for group in groups:
        long = [run for run in group.runs if run.epochs == EPOCHS]
        short = [run for run in group.runs if run.epochs != EPOCHS]
        began = [run for run in short if run.lost]
        first = f"{len(began)} of {len(short)} diverged, {sum(map(_cured, began))} cured"
        texts = ("; ".join(map(_fate, long)) or "–", first if short else "–")
        rows.append((str(group.depth), precision, *texts))
    header = ("p", "precision", f"{setting.label}: each run", "seeds of fewer epochs alone")
    return Outcome(verdict, figures, (Table(header, tuple(rows)),), why, missing(groups))


def _occasional(runs: Sequence[Run], enough: int, rate: float) -> tuple[Verdict, str]:
    """The verdict, and why it is undecided."""
    lost = [run for run in runs if run.lost]
    cured = sum(map(_cured, lost))
    # Started again, and lost again or no better than before it learned.
    again = sum(len(run.lost) > 1 or run.accuracy is not None for run in lost)
    if len(runs) < enough:
        return "undecided", f"{enough} runs are needed"
    if again > cured or 2 * len(lost) >= len(runs) or (not lost and _bound(runs) < rate):
        return "does not hold", ""
    if not lost:
        return "undecided", "none diverged, which a rate that is called occasional does not exclude"
    if cured < len(lost):
        return "undecided", "not every lost run was started again"
    return "holds", ""


def _counts(runs: Sequence[Run]) -> str:
    lost = [run for run in runs if run.lost]
    return (
        f"{len(lost)} of {len(runs)} runs diverged, {sum(map(_cured, lost))} of them cured by a "
        f"restart; 95 % bound on the rate {100 * _bound(runs):.0f} %"
    )


def _bound(runs: Sequence[Run]) -> float:
    """The end of the exact 95 % interval of the rate at which runs diverge."""
    lost = sum(bool(run.lost) for run in runs)
    return float(beta.ppf(0.975, lost + 1, len(runs) - lost)) if lost < len(runs) else 1.0


def _cured(run: Run) -> bool:
    """Whether it ended, having learned if it was a whole one."""
    least = LEARNED if run.epochs == EPOCHS else 2 * CHANCE
    return run.accuracy is not None and run.accuracy >= least


def _fate(run: Run) -> str:
    where = [f"diverged at epoch {d['epoch']}, step {d['step']}" for d in run.lost]
    end = [] if run.accuracy is None else [f"{run.accuracy:.2f} %"]
    return ", then ".join(where + end)
