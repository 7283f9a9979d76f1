"""The claim that products in bfloat16 train as accurate networks as in float32."""

from collections.abc import Mapping
from typing import Any

from compare_precision import DEPTHS, PAIRS, differences, equivalence
from enorm_jax.cell import same_setting
from enorm_jax.methods import STUDY, make_method
from enorm_jax.results import interval
from verdicts.intervals import Estimate
from verdicts.outcome import Outcome, Table, Verdict, depths_text
from verdicts.runs import Setting
from verdicts.store import Store


def equal(store: Store) -> Outcome:
    """Whether the precisions are equivalent by the rule of `compare_precision`.

    Args:
      store: all runs.

    Returns:
      The outcome; it does not hold if the interval lies outside the margin.
    """
    found = differences(filter(_is_of_the_study, store.results))
    rows = tuple(
        (make_method(method).label, str(depth), str(Estimate(*interval(values))), str(len(values)))
        for (method, depth), values in sorted(found.items())
    )
    lacking = "; ".join(filter(None, (_lacking(method, found) for method in STUDY)))
    lacking = lacking and f"pairs of runs: {lacking}"
    if not found:
        return Outcome("undecided", "no pairs", (), "no setting in both precisions", lacking)
    mean, half, judged = equivalence(found)
    estimate = Estimate(mean, half)
    verdict: Verdict = "undecided"
    why = "pairs are missing" if lacking else "the interval does not decide it"
    if judged == "equivalent":
        verdict, why = "holds", ""
    elif judged == "different":
        verdict, why = "does not hold", ""
    count = sum(map(len, found.values()))
    figures = f"bfloat16 − float32: {estimate} over {count} {'pair' if count == 1 else 'pairs'}"
    table = Table(("method", "p", "bfloat16 − float32", "pairs"), rows)
    return Outcome(verdict, figures, (table,), why, lacking)


def _is_of_the_study(result: dict[str, Any]) -> bool:
    if result["method"] not in STUDY:
        return False
    setting = Setting(result["method"])
    return same_setting(setting.cell(result["depth"], result["precision"]), result)


def _lacking(method: str, found: Mapping[tuple[str, int], list[float]]) -> str:
    counts = {depth: PAIRS - len(found.get((method, depth), [])) for depth in DEPTHS}
    texts = [
        f"{count} at p = {depths_text(depth for depth in DEPTHS if counts[depth] == count)}"
        for count in sorted(set(counts.values()), reverse=True)
        if count > 0
    ]
    return f"{make_method(method).label} {', '.join(texts)}" if texts else ""
