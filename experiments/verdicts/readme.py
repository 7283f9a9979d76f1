"""The README's blocks that are written from the cells."""

import re
import textwrap
from collections.abc import Mapping, Sequence

from enorm_jax.errors import InputError
from verdicts.findings import BASELINE, BN, BOTH, ENORM
from verdicts.outcome import Claim, Outcome, Table, plural
from verdicts.report import markdown
from verdicts.runs import DEPTHS, Runs
from verdicts.store import Store

SHOWN = ("enorm-baseline", "both-best", "bias-diverges", "reproduced")


def updated(text: str, blocks: Mapping[str, str]) -> str:
    """A text with what stands between its markers replaced.

    Args:
      text: holds ``<!-- name -->`` and ``<!-- /name -->`` for each block, once.
      blocks: new content by name.

    Returns:
      The new text.

    Raises:
      InputError: if a marker is missing.

    Example:
      >>> from verdicts.readme import updated
      >>> print(updated("<!-- n -->old<!-- /n -->", {"n": "new"}))
      <!-- n -->
      new
      <!-- /n -->
    """
    for name, block in blocks.items():
        parts = re.split(f"<!-- /?{name} -->", text)
        if len(parts) != 3:
            raise InputError(f"needs <!-- {name} --> and <!-- /{name} --> once in the README")
        text = f"{parts[0]}<!-- {name} -->\n{block.strip()}\n<!-- /{name} -->{parts[2]}"
    return text


def verdicts(outcomes: Sequence[tuple[Claim, Outcome]]) -> str:
    """Five lines: how many claims hold, and the main ones.

    Args:
      outcomes: claims with what became of them.

    Returns:
      A list in Markdown.
    """
    found: list[str] = [outcome.verdict for _, outcome in outcomes]
    words = {  # of one, of several
        "holds": ("holds", "hold"),
        "does not hold": ("does not hold", "do not hold"),
        "undecided": ("is undecided", "are undecided"),
    }
    counts = ", ".join(
        f"{count} {one if count == 1 else several}"
        for verdict, (one, several) in words.items()
        for count in [found.count(verdict)]
    )
    lacking = sum(o.verdict == "undecided" and bool(o.missing) for _, o in outcomes)
    counts += f", {lacking} of these for want of runs" if lacking else ""
    lines = [
        f"- Of {plural(len(found), 'claim')}, some of them ours, {counts}: "
        "[figures](experiments/CLAIMS.md)"
    ]
    lines += [
        f"- {claim.title}: **{outcome.verdict}** ({outcome.figures})"
        for claim, outcome in outcomes
        if claim.name in SHOWN
    ]
    return "\n".join(textwrap.fill(line, 99, subsequent_indent="  ") for line in lines)


def results(store: Store) -> str:
    """The table of accuracies without bias beside the study's, and how many runs there are.

    Args:
      store: all runs.

    Returns:
      Markdown.
    """
    settings = (BASELINE, BN, ENORM, BOTH)
    rows: list[tuple[str, ...]] = []
    shown: list[Runs] = []
    for depth in DEPTHS:
        precision = store.precision(settings, [depth])
        runs = [store.at(setting, depth, precision) for setting in settings]
        if any(of.runs for of in runs):
            name = str(depth) + (" (bfloat16)" if precision == "bfloat16" else "")
            rows.append((name, *map(_beside_study, runs)))
            shown += [of for of in runs if of.accuracies]
    table = Table(("p", *(setting.label for setting in settings)), tuple(rows))
    counts = [len(of.accuracies) for of in shown] or [0]
    widest = max((max(of.accuracies) - min(of.accuracies) for of in shown), default=0.0)
    number = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(max(counts))
    differ = f", which differ by up to {widest:.1f} percent" if max(counts) > 1 else ""
    return f"{markdown(table)}\nMeans of {number} runs{differ}."


def _beside_study(runs: Runs) -> str:
    if not runs.runs:
        return ""
    known = runs.setting.published(runs.depth)
    study = "" if known is None else f" ({known:.2f})"
    failed = f", {runs.failed} failed" if runs.failed else ""
    return (f"{runs.mean:.2f}" if runs.accuracies else "–") + study + failed
