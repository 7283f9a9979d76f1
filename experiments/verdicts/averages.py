"""Claims on means over depths, and on accuracy between depths."""

from collections.abc import Iterable, Sequence

from verdicts.intervals import Estimate, contrast
from verdicts.ordering import average, beside, difference
from verdicts.outcome import Outcome, Table, depths_text, missing, plural
from verdicts.runs import Runs, Setting
from verdicts.store import Store


def on_average(
    store: Store, upper: Setting, lower: Setting, depths: Sequence[int], enough: int
) -> Outcome:
    """Whether a setting is above another one in the mean over depths.

    Args:
      store: all runs.
      upper: claimed to be above.
      lower: claimed to be below.
      depths: where they are compared.
      enough: at how many depths two runs of both have to have learned.

    Returns:
      The outcome, decided by whether the interval of the mean over those depths leaves 0 out.
    """
    used: list[int] = []
    terms: list[tuple[float, Runs]] = []
    every: list[Runs] = []
    rows: list[tuple[str, ...]] = []
    for depth in depths:
        precision = store.precision([upper, lower], [depth])
        sides = [store.at(setting, depth, precision) for setting in (upper, lower)]
        every += sides
        if all(len(side.accuracies) > 1 for side in sides):
            used.append(depth)
            terms += zip((1.0, -1.0), sides, strict=True)
        text = beside(difference(store, *sides), (upper, lower), depth)
        rows.append((str(depth), precision, *map(str, sides), text))
    name = f"{upper.label} − {lower.label}"
    table = Table(("p", "precision", upper.label, lower.label, f"{name} (study)"), tuple(rows))
    mean = average(store, terms)
    figures = f"{mean} in the mean over p = {depths_text(used)}" if used else "no intervals"
    needed = f"on both sides, at {plural(enough, 'depth')}"
    return _decided(mean, figures, table, every, None if len(used) >= enough else needed)


def between_depths(
    store: Store,
    setting: Setting,
    high: Sequence[int],
    low: int,
    enough: int = 1,
    margin: float = 0.0,
) -> Outcome:
    """Whether a setting's mean accuracy at some depths is above that at another.

    Args:
      store: all runs.
      setting: the setting; in one precision at all depths.
      high: depths claimed to be above.
      low: depth claimed to be below, where two runs have to have learned.
      enough: at how many of `high` two runs have to have learned.
      margin: what does not count as below, in percent.

    Returns:
      The outcome, decided by the interval: above ``-margin`` it holds, below 0 it does not.
    """
    depths = sorted({*high, low})
    precision = store.precision([setting], depths)
    runs = {depth: store.at(setting, depth, precision) for depth in depths}
    used = [depth for depth in high if len(runs[depth].accuracies) > 1]
    complete = len(used) >= enough and len(runs[low].accuracies) > 1
    used = used if complete else [depth for depth in high if runs[depth].accuracies]
    count = f"{enough} of " if len(high) > 1 else ""
    needed = f"at p = {low} and at {count}p = {depths_text(high)}"
    mean = None
    if used and runs[low].accuracies:
        terms = [(1 / len(used), runs[depth]) for depth in used]
        mean = contrast(store, [*terms, (-1.0, runs[low])])
    names = f"p = {depths_text(used if mean else high)} minus p = {low}"
    figures = f"{names}: {mean or 'nothing to compare'}"
    known = [setting.published(depth) for depth in depths]
    rows = [
        (str(depth), precision, str(runs[depth]), "–" if value is None else f"{value:.2f}")
        for depth, value in zip(depths, known, strict=True)
    ]
    table = Table(("p", "precision", setting.label, "study"), tuple(rows))
    return _decided(mean, figures, table, runs.values(), None if complete else needed, margin)


def _decided(
    mean: Estimate | None,
    figures: str,
    table: Table,
    runs: Iterable[Runs],
    needed: str | None,
    margin: float = 0.0,
) -> Outcome:
    lacking = missing(runs)
    if mean is None or needed:
        return Outcome("undecided", figures, (table,), f"needs two runs {needed}", lacking)
    if mean.above(-margin):
        return Outcome("holds", figures, (table,), missing=lacking)
    if mean.below():
        return Outcome("does not hold", figures, (table,), missing=lacking)
    return Outcome("undecided", figures, (table,), "the interval does not decide it", lacking)
