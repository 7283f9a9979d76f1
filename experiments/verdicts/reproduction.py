"""Claims on published numbers: whether ours are the same, and what explains one."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from enorm_jax import published
from verdicts.intervals import Estimate, prediction, signed
from verdicts.outcome import Outcome, State, Table, Verdict, decide, missing, reason
from verdicts.runs import Runs, Setting
from verdicts.store import Store

WIDEST = 1.5  # percent


@dataclasses.dataclass(frozen=True)
class Point:
    """Our runs beside a published point.

    Attributes:
      runs: ours.
      away: our mean minus the published value, with the half-width of the prediction interval
        for as many runs as were published; None if none of ours learned.
    """

    runs: Runs
    away: Estimate | None

    @property
    def state(self) -> State:
        """For the claim if the published value lies in a narrow interval, against it if outside."""
        if self.away is None:
            return "against" if self.runs.all_failed else "missing"
        if self.away.half is None:
            return "one run"
        if abs(self.away.value) > self.away.half:
            return "against"
        # A point within an interval that would hold any says nothing.
        return "for" if self.away.half <= WIDEST else "open"

    def __str__(self) -> str:
        """As in ``+0.35 ± 0.80 (2)``, with the number of our runs."""
        if self.away is None:
            return str(self.runs)
        failed = f", {self.runs.failed} failed" if self.runs.failed else ""
        rounded = ", bfloat16" if self.runs.precision == "bfloat16" else ""
        outside = ", outside" if self.state == "against" else ""
        return f"{self.away} ({len(self.runs.accuracies)}{failed}{rounded}{outside})"


def beside_published(store: Store, setting: Setting, depth: int) -> Point:
    """Our runs at a setting beside the study's point for its method and bias."""
    runs = store.at(setting, depth, store.precision([setting], [depth]))
    known = setting.published(depth)
    if known is None or not runs.accuracies:
        return Point(runs, None)
    ours = prediction(store, runs, published.runs("study", setting.method, setting.bias))
    return Point(runs, Estimate(ours.value - known, ours.half))


def reproduced(store: Store, parts: Mapping[Setting, Sequence[int]], share: float) -> Outcome:
    """Whether published points lie where further runs of ours would.

    Args:
      store: all runs.
      parts: depths by setting.
      share: of a setting's points, has to lie in our 95 % prediction intervals.

    Returns:
      The outcome: it holds if it does for every setting, and not if it does not for one.
    """
    depths = sorted({depth for own in parts.values() for depth in own})
    points = {s: {p: beside_published(store, s, p) for p in own} for s, own in parts.items()}
    of = [_verdict(own, share) for own in points.values()]
    verdict: Verdict = "undecided"
    if "does not hold" in of:
        verdict = "does not hold"
    elif set(of) == {"holds"}:
        verdict = "holds"
    rows = [_summary(s, own, v) for (s, own), v in zip(points.items(), of, strict=True)]
    summary = Table(
        ("method", "depths with runs", "mean absolute difference", "mean difference", "inside",
         "verdict"),
        tuple(rows),
    )  # fmt: skip
    detail = Table(
        ("p", *(f"{setting.label}: ours − study" for setting in points)),
        tuple(
            (str(depth), *(str(own.get(depth, "–")) for own in points.values()))
            for depth in depths
            if any(depth in own and own[depth].runs.runs for own in points.values())
        ),
    )
    shares = [f"{row[0]} {row[2]} ({row[1]} depths)" for row in rows if row[2] != "–"]
    undecided = [row[0] for row, v in zip(rows, of, strict=True) if v == "undecided"]
    return Outcome(
        verdict,
        f"mean absolute difference {', '.join(shares)}" if shares else "no runs",
        (summary, detail) if detail.rows else (summary,),
        f"{', '.join(undecided)}: too few runs" if verdict == "undecided" else "",
        missing(point.runs for own in points.values() for point in own.values()),
    )


def _verdict(points: Mapping[int, Point], share: float) -> Verdict:
    needed = round(share * len(points))
    states = {depth: point.state for depth, point in points.items()}
    return decide(states, needed, refuting=len(points) - needed + 1)


def _summary(setting: Setting, points: Mapping[int, Point], verdict: Verdict) -> tuple[str, ...]:
    """A setting's line: how far ours are from the study's, and how many of those lie inside."""
    states = {depth: point.state for depth, point in points.items()}
    away = [point.away.value for point in points.values() if point.away]
    of = list(states.values())
    why = f": {reason(states)}" if verdict == "undecided" else ""
    return (
        setting.label,
        f"{len(away)} of {len(points)}",
        f"{statistics.fmean(map(abs, away)):.2f}" if away else "–",
        signed(statistics.fmean(away)) if away else "–",
        f"{of.count('for')} of {of.count('for') + of.count('against')}",
        verdict + why,
    )


def explained(
    store: Store, usual: Setting, other: Setting, depth: int, shown: Sequence[int]
) -> Outcome:
    """Whether another setting than the one described explains a published point.

    Args:
      store: all runs.
      usual: as described.
      other: the one that may explain it.
      depth: of the published point.
      shown: depths to show.

    Returns:
      The outcome: it holds if the point lies in the prediction interval of the other setting
      and outside that of the usual one; it does not if it lies outside that of the other.
    """
    points = {p: [beside_published(store, setting, p) for setting in (usual, other)] for p in shown}
    states = [point.state for point in points[depth]]
    verdict: Verdict = "undecided"
    why = "both explain it" if states == ["for", "for"] else ""
    if states[1] == "against":
        verdict = "does not hold"
    elif states == ["against", "for"]:
        verdict = "holds"
    elif {"missing", "one run"} & {*states}:
        why = f"two runs of both are needed at p = {depth}"
    elif not why:
        why = f"an interval at p = {depth} is too wide"
    header = ("p", "study", f"{usual.label}: ours − study", f"{other.label}: ours − study")
    rows = tuple((str(p), f"{usual.published(p):.2f}", *map(str, own)) for p, own in points.items())
    texts = [
        f"{setting.label} {point}"
        for setting, point in zip((usual, other), points[depth], strict=True)
        if point.runs.runs
    ]
    figures = f"at p = {depth} ours − study: {', '.join(texts)}" if texts else "no runs"
    lacking = missing(point.runs for point in points[depth])
    return Outcome(verdict, figures, (Table(header, rows),), why, lacking)
