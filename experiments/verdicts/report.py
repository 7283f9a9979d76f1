"""CLAIMS.md: the verdicts in a table, how they were reached, and each claim's figures."""

import math
from collections.abc import Sequence

from enorm_jax.layers import PRECISIONS, Precision
from verdicts.findings import BASELINE, BASELINE_BIAS, BN, BOTH, ENORM, ENORM_BIAS
from verdicts.intervals import spread
from verdicts.outcome import Claim, Outcome, Table
from verdicts.reproduction import WIDEST
from verdicts.runs import DEPTHS, Setting
from verdicts.store import Store

HEAD = """# What holds of what was published

Written by `python experiments/claims.py` from the cells in {folder}; every figure
comes from there or from the published tables in `enorm_jax/published/`. The tests were stated when
most of the runs had yet to be made; those that were not say so below.
"""

READING = """## How to read it

**Runs.** Cells of the same setting are pooled, each seed once: CIFAR-10, width 500, 60 epochs,
batches of 256, weight decay 0.001, c = 1.2, published learning rates, and nothing else changed
but what a claim names. GN, Path-SGD and WN + BN have none that were published: theirs are of
searches of 60 epochs with one seed at p = 1, 7, 13 and 19, the nearest depth's. The largest in the
grid, 0.1, is best for GN and WN + BN, and for Path-SGD at p = 1 and 7. Earlier runs, at the rates
of searches of 10 epochs, have no part in this: there GN was below BN at p = 11–19, and Path-SGD did
not train.

Tables give the mean test accuracy in percent and, in parentheses, the number of runs. Those that
failed, which diverged or ended under 30 %, stand beside it and have no part in it. A comparison is
made in one precision of the matrix products, at each depth the one with the most runs a side, then
with the most in all, then float32 (of all four methods without bias, where only such are compared);
a comparison of depths is made in one precision at all of them. p = 3–7 stands for p = 3, 5, 7.

**Intervals** are of 95 %, by Student's t after Welch and Satterthwaite: both sides keep their own
variance, which is taken from all depths of a setting and precision together, since two or three
runs at one depth say little about it. Where a side has fewer than two runs at a depth there is no
interval, and the depth is undecided. Seeds of two methods are treated as independent there. A
prediction interval is where the mean of as many further runs as were published would lie; one wider
than ±{widest} % would hold any point, and leaves it open. A side all of whose runs failed is the
lower one of a comparison, and a published accuracy lies outside what it would give.

**Verdicts.** A depth speaks *for* a claim or *against* it; else its interval is *open*, or a side
has *one run* (n = 1) or none (*missing*). In parentheses behind a difference stands the published
one, of points read off figures to 0.05 %, ENorm's to 0.15 % at p = 3 and 19 in the study's and at
p = 1 in the original. A last row *mean* is over the depths with an interval; it decides nothing.

**Convolutional networks** and what is measured inside them are compared seed by seed, since runs of
a seed start from the same kernels: means are over the seeds that both sides have, and the interval
is Student's, of their differences. A run that diverged counts as 10 %, chance. This test was stated
when ENorm's convolutional network had been trained but for the third seeds of ENorm and ENorm + BN,
and before all runs on micro-batches: the first one took seeds as independent, but by seed none to
four of that network's ten outputs, which end in a ReLU, are off on nine of ten images or more
before training (ten seeds). On micro-batches, seeds 3–5 of BN, WS + GN and WS + BCN, and 6–8 of
WS + BCN, were added since fewer had left claims open, which makes these intervals somewhat too
narrow.

Standard deviation of a run about the mean of its depth, in percent, with degrees of freedom:
"""

OF_RATES = """**If the variance is taken of each learning rate by itself**, since runs at one may
scatter more than at another, it is the next table's, and the claims after it come out otherwise
than below. This was asked when most runs were there; the tests are left as they were stated.
"""


def claims_text(store: Store, outcomes: Sequence[tuple[Claim, Outcome]], folder: str) -> str:
    """All of CLAIMS.md.

    Args:
      store: all runs.
      outcomes: claims with what became of them.
      folder: where the cells lie, in words.

    Returns:
      Markdown.
    """
    top = Table(
        ("claim", "verdict", "figures"),
        tuple(
            (f"[{claim.title}](#{claim.name})", f"**{outcome.verdict}**", outcome.figures)
            for claim, outcome in outcomes
        ),
    )
    sections = [_section(claim, outcome) for claim, outcome in outcomes]
    apart = store.by_rates()
    return "\n".join(
        [
            HEAD.format(folder=folder),
            markdown(top),
            READING.format(widest=WIDEST),
            markdown(_spreads(store)),
            OF_RATES,
            markdown(_spreads(apart)),
            markdown(_otherwise(apart, outcomes)),
            *sections,
        ]
    )


def markdown(table: Table) -> str:
    """A table in Markdown.

    Args:
      table: the table.

    Returns:
      Its lines, with a newline at the end.

    Example:
      >>> from verdicts.outcome import Table
      >>> from verdicts.report import markdown
      >>> print(markdown(Table(("p", "n"), (("1", "2"),))), end="")
      | p | n |
      |---|---|
      | 1 | 2 |
    """
    lines = [
        "|" + "".join(f" {cell} |" if cell else " |" for cell in row)
        for row in (table.header, *table.rows)
    ]
    return "\n".join([lines[0], "|" + "---|" * len(table.header), *lines[1:]]) + "\n"


def _section(claim: Claim, outcome: Outcome) -> str:
    verdict = f"**{outcome.verdict.capitalize()}**" + (
        f" ({outcome.reason})" if outcome.reason else ""
    )
    parts = [
        f'<a id="{claim.name}"></a>\n\n## {claim.title}\n',
        f"{verdict}: {outcome.figures}.\n",
        f"*Claim.* {claim.published}\n",
        f"*Test.* {claim.test}\n",
        *map(markdown, outcome.tables),
    ]
    return "\n".join([*parts, *([f"*Missing:* {outcome.missing}.\n"] if outcome.missing else [])])


def _spreads(store: Store) -> Table:
    """The spread of runs: a line for each precision, and for each learning rate if kept apart."""
    settings = (BASELINE, BN, ENORM, BOTH, BASELINE_BIAS, ENORM_BIAS)
    rates: set[float | None] = {None}
    if store.of_rates:
        rates = {setting.learning_rate(p) for setting in settings for p in DEPTHS}

    def deviation(setting: Setting, precision: Precision, rate: float | None) -> str:
        depths = [p for p in DEPTHS if rate in (None, setting.learning_rate(p))]
        if not depths:
            return "–"
        found = spread(store, store.at(setting, depths[0], precision))
        return f"{math.sqrt(found.variance):.2f} ({found.freedom})" if found.freedom else "–"

    rows = [
        (
            precision if rate is None else f"{precision}, rate {rate:g}",
            *(deviation(setting, precision, rate) for setting in settings),
        )
        for precision in PRECISIONS
        for rate in sorted(rates, key=lambda rate: -(rate or 0.0))
    ]
    return Table(("precision", *(setting.label for setting in settings)), tuple(rows))


def _otherwise(store: Store, outcomes: Sequence[tuple[Claim, Outcome]]) -> Table:
    """The claims whose verdict or count of depths is another with this store's intervals."""
    rows = []
    for claim, usual in outcomes:
        other = claim.judge(store)
        tables = [[row[-1] for table in of.tables for row in table.rows] for of in (usual, other)]
        if other.verdict != usual.verdict or (
            usual.tables and usual.tables[0].header[-1] == "speaks" and tables[0] != tables[1]
        ):
            rows.append((f"[{claim.title}](#{claim.name})", usual.verdict, other.verdict,
                         other.figures))  # fmt: skip
    return Table(("claim", "verdict below", "verdict then", "figures then"), tuple(rows))
