"""What becomes of a claim: a verdict, its figures, and what is missing."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from verdicts.intervals import Estimate
from verdicts.runs import Runs, Setting
from verdicts.store import Store

Verdict = Literal["holds", "does not hold", "undecided"]
# Of one depth: for the claim, against it, an interval on both sides, one run a side, no runs.
State = Literal["for", "against", "open", "one run", "missing"]
WORDS: dict[State, str] = {
    "open": "interval open at p = {}",
    "one run": "n = 1 at p = {}",
    "missing": "runs missing at p = {}",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table in text.

    Attributes:
      header: names of the columns.
      rows: one tuple of texts a row.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the runs say about a claim.

    Attributes:
      verdict: ``"holds"``, ``"does not hold"`` or ``"undecided"``.
      figures: one line of figures.
      tables: the figures in full.
      reason: why it is undecided; empty otherwise.
      missing: the runs that are missing; empty if none are.
    """

    verdict: Verdict
    figures: str
    tables: tuple[Table, ...] = ()
    reason: str = ""
    missing: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A published finding and the test that it is put to.

    Attributes:
      name: short and unique, for links.
      title: the claim in a few words.
      published: what was published, or what is asked.
      test: stated beforehand: what is measured, at which depths, what decides.
      judge: from all runs to the outcome.
    """

    name: str
    title: str
    published: str
    test: str
    judge: Callable[[Store], Outcome]


def state_of(found: Estimate | None, above: float = 0.0, below: float = 0.0) -> State:
    """What a difference says of a claim that it is above something.

    Args:
      found: the difference; None without runs.
      above: it speaks for the claim if its interval lies above this,
      below: and against it if it lies below this.

    Returns:
      The state.
    """
    if found is None:
        return "missing"
    if found.half is None:
        return "one run"
    if found.above(above):
        return "for"
    return "against" if found.below(below) else "open"


def decide(states: Mapping[int, State], needed: int, refuting: int) -> Verdict:
    """The verdict of depths that each speak for or against a claim.

    Args:
      states: by depth.
      needed: how many depths must speak for it.
      refuting: how many that speak against it refute it.

    Returns:
      The verdict; undecided while neither number is reached.

    Example:
      >>> from verdicts.outcome import decide
      >>> decide({1: "for", 3: "for", 5: "open"}, needed=2, refuting=1)
      'holds'
    """
    of = list(states.values())
    if of.count("against") >= refuting:
        return "does not hold"
    return "holds" if of.count("for") >= needed else "undecided"


def reason(states: Mapping[int, State]) -> str:
    """Why depths do not decide, in words: ``n = 1 at p = 9; no runs at p = 3–7``."""
    found = [
        words.format(depths_text(p for p in states if states[p] == state))
        for state, words in WORDS.items()
        if state in states.values()
    ]
    return "; ".join(found)


def missing(groups: Iterable[Runs], wanted: int = 2) -> str:
    """The runs that are missing, by setting: ``BN: 2 runs at p = 3–7, 1 at p = 9``.

    Args:
      groups: the runs there are, at each depth that is looked at.
      wanted: how many runs there should be at each.

    Returns:
      One line; empty if there are enough.
    """
    lacking: dict[Setting, dict[int, set[int]]] = {}
    for runs in groups:
        count = wanted - len(runs.runs)
        if count > 0:
            lacking.setdefault(runs.setting, {}).setdefault(count, set()).add(runs.depth)
    lines = []
    for setting, counts in lacking.items():
        parts = [
            f"{count} {'run' if count == 1 else 'runs'} at p = {depths_text(counts[count])}"
            for count in sorted(counts, reverse=True)
        ]
        lines.append(f"{setting.label}: {', '.join(parts)}")
    return "; ".join(lines)


def depths_text(depths: Iterable[int]) -> str:
    """Depths in short: ``1, 5–9, 19`` for 1, 5, 7, 9, 19.

    Args:
      depths: odd numbers.

    Returns:
      At least three in a row as a range.

    Example:
      >>> from verdicts.outcome import depths_text
      >>> depths_text([1, 3, 7, 9, 11])
      '1, 3, 7–11'
    """
    rows: list[list[int]] = []
    for depth in sorted(depths):
        if rows and depth == rows[-1][-1] + 2:
            rows[-1].append(depth)
        else:
            rows.append([depth])
    return ", ".join(
        f"{row[0]}–{row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows
    )


def plural(count: int, noun: str) -> str:
    """A number and its noun: ``1 depth``, ``3 depths``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def tally(states: Mapping[int, State]) -> str:
    """How many depths say what, in one line: ``3 depths for it, 1 against it, of 10``."""
    of = list(states.values())
    return (
        f"{plural(of.count('for'), 'depth')} for it, {of.count('against')} against it, of {len(of)}"
    )
