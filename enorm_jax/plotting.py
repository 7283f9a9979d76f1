"""Figures from cells: ours filled, published hollow, readable without colour."""

import collections
import io
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from enorm_jax import published
from enorm_jax.cell import LATER
from enorm_jax.methods import in_order, make_method
from enorm_jax.results import intervals, pooled
from enorm_jax.storage import Folder, write_whole

# One marker and one pair of colour and line per method in all figures; the colours of the first
# are Okabe and Ito's, which colour-blind readers can tell apart.
STYLES: dict[str, dict[str, Any]] = {
    "baseline": {"color": "#000000", "marker": "o", "linestyle": "-"},
    "bn": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "enorm": {"color": "#D55E00", "marker": "^", "linestyle": "-."},
    "enorm+bn": {"color": "#009E73", "marker": "D", "linestyle": ":"},
    "gn": {"color": "#CC79A7", "marker": "v", "linestyle": "-"},
    "ln": {"color": "#882255", "marker": "<", "linestyle": "--"},
    "wn": {"color": "#56B4E9", "marker": "p", "linestyle": "-"},
    "wn+bn": {"color": "#56B4E9", "marker": "P", "linestyle": "--"},
    "path-sgd": {"color": "#7F7F7F", "marker": "X", "linestyle": "-."},
    "ws+gn": {"color": "#E69F00", "marker": ">", "linestyle": "-"},
    "bcn": {"color": "#8C564B", "marker": "h", "linestyle": "--"},
    "ws+bcn": {"color": "#332288", "marker": "*", "linestyle": "-."},
    "enorm+gn": {"color": "#D55E00", "marker": "8", "linestyle": "--"},
    "enorm+ln": {"color": "#D55E00", "marker": "d", "linestyle": ":"},
    "enorm+bcn": {"color": "#009E73", "marker": "H", "linestyle": "-"},
}
# Of combinations that no figure is about.
OTHER: dict[str, Any] = {"color": "#BBBBBB", "marker": ".", "linestyle": "-"}
SETTINGS = ("width", "epochs", "c", "batch_size", "weight_decay", "precision", *LATER)
WORDS = {"bias_handling": "bias"}  # as the flag is called

Result = dict[str, Any]
Note = tuple[int, str, str]  # depth, method, and what became of its runs


def accuracy_over_depth(
    results: Sequence[Result], stem: Folder, sources: Sequence[str] = ("study",)
) -> list[Folder]:
    """Draws test accuracy over depth, with 95 % intervals, beside the published points.

    The scatter of a line's runs is taken from all its depths, see `intervals`. One panel without
    and one with bias, if there are both. Results of the same setting and different seeds are
    pooled; results at other settings become a series of their own, named by what differs. Runs
    that ended at less than half of the best accuracy would leave no room for the others: they are
    noted at the foot, as are those that diverged, and have no part in means.

    Args:
      results: cells of one data set, from `read_results`.
      stem: path of the drawings without suffix.
      sources: whose published points to draw, of ``"study"`` and ``"original"``.

    Returns:
      Paths of the SVG and the PNG.

    Raises:
      ValueError: if there are no results, or of several data sets.
    """
    datasets = {result["dataset"] for result in results}
    if len(datasets) != 1:
        raise ValueError(
            f"cannot draw one figure of {'no results' if not datasets else sorted(datasets)}: "
            "give a folder with finished cells of one data set"
        )
    panels = sorted({result["bias"] for result in results})
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(7.0 * len(panels), 5.6),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    low, high, cut = _limits(results, sources)
    for axis, bias in zip(axes[0], panels, strict=True):
        _panel(axis, [result for result in results if result["bias"] == bias], bias, sources, cut)
    notes = [len(text.get_text()) for axis in axes[0] for text in axis.texts]
    if notes:  # room under the points, of a panel's some 80 letters
        share = min(max(notes) / 80, 0.8)
        low -= (high - low) * share / (1 - share)
    axes[0][0].set_ylim(low, high)
    axes[0][0].set_ylabel(f"test accuracy on {datasets.pop()} (%)")
    return save(figure, stem)


def _limits(results: Sequence[Result], sources: Sequence[str]) -> tuple[float, float, float]:
    """Bounds around runs and published points from half of the best on, and this half.

    An interval of two runs may leave them.
    """
    values = [value for result in results for value in result["test_accuracy"] if value is not None]
    if results[0]["dataset"] == "cifar10":
        for method, bias in {(result["method"], result["bias"]) for result in results}:
            for source in sources:
                known = published.accuracies(source, method, bias).values()
                values.extend(value for value in known if not math.isnan(value))
    if not values:
        return 0.0, 100.0, 0.0
    cut = max(values) / 2
    values = [value for value in values if value >= cut]
    margin = 0.2 + 0.08 * (max(values) - min(values))
    return min(values) - margin, max(values) + margin, cut


def save(figure: Figure, stem: Folder) -> list[Folder]:
    """Writes a figure as SVG and PNG; the same figure gives the same files.

    Args:
      figure: the figure; closed afterwards.
      stem: path without suffix.

    Returns:
      Paths of the SVG and the PNG.
    """
    svg, png = (stem.with_name(stem.name + suffix) for suffix in (".svg", ".png"))
    with plt.rc_context({"svg.hashsalt": "enorm_jax"}):
        write_whole(svg, _drawn(figure, format="svg", metadata={"Date": None}))
    write_whole(png, _drawn(figure, format="png", dpi=150))
    plt.close(figure)
    return [svg, png]


def _drawn(figure: Figure, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()


def _panel(
    axis: Axes, results: list[Result], bias: bool, sources: Sequence[str], cut: float
) -> None:
    depths = {result["depth"] for result in results}
    trained = sorted(depths)
    precisions = {result["precision"] for result in results}
    mixed = {"precision"} if len(precisions) > 1 else set()
    notes: list[Note] = []
    methods = in_order(result["method"] for result in results)
    for method, shift in zip(methods, _shifts(len(methods), trained), strict=True):
        own = [result for result in results if result["method"] == method]
        places = {depth: depth + shift for depth in trained}
        for number, (suffix, series) in enumerate(_series(own, mixed)):
            notes += _draw_series(axis, method, suffix, series, places, number, cut)
        for source in sources if own[0]["dataset"] == "cifar10" else ():
            points, lost = _draw_published(axis, source, method, bias, shift)
            depths |= points
            notes += lost
    _draw_notes(axis, notes)
    axis.set_xticks(sorted(depths))
    axis.set_xlim(min(depths) - 1, max(depths) + 1)
    axis.set_xlabel("depth p (hidden layers of 500 × 500)" if _width(results) == 500 else "depth p")
    axis.set_title(
        ("with bias" if bias else "without bias") + f", {min(precisions)}" * (len(precisions) == 1)
    )
    axis.grid(alpha=0.25)
    _draw_legend(axis)


def _draw_legend(axis: Axes) -> None:
    """Ours in the first column, the published points in the second."""
    entries = zip(*axis.get_legend_handles_labels(), strict=True)
    ours_first = sorted(entries, key=lambda entry: not isinstance(entry[0], ErrorbarContainer))
    axis.legend(
        *zip(*ours_first, strict=True),
        title="mean and 95 % interval, from the scatter at all depths of a line",
        title_fontsize=8,
        fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=2,
    )


def _shifts(methods: int, depths: Sequence[int]) -> list[float]:
    """How far beside its depth each method is drawn: more than four would hide each other."""
    if methods <= 4:
        return [0.0] * methods
    room = 0.7 * min((after - p for p, after in itertools.pairwise(depths)), default=2)
    return [room * ((number + 0.5) / methods - 0.5) for number in range(methods)]


def _width(results: Sequence[Result]) -> int | None:
    widths = {result["width"] for result in results}
    return widths.pop() if len(widths) == 1 else None


def _series(
    results: Sequence[Result], named: Collection[str] = ()
) -> list[tuple[str, list[Result]]]:
    """Splits a method's results by every setting of which there are several, or that is named."""
    several = len({(r["depth"], r["learning_rate"]) for r in results}) > len(
        {r["depth"] for r in results}
    )

    def rate(result: Result) -> str:
        own = f"{result['learning_rate']:g}"
        if not published.has_rates(result["method"]):
            return own if several else "searched"
        usual = published.learning_rate(result["method"], result["depth"])
        return "published" if result["learning_rate"] == usual else own

    results = [LATER | result for result in results]
    keyed = [{key: result[key] for key in SETTINGS} | {"rate": rate(result)} for result in results]
    several_of = {key for key in keyed[0] if len({keys[key] for keys in keyed}) > 1}
    varying = [key for key in (*SETTINGS, "rate") if key in several_of or key in named]
    series: dict[str, list[Result]] = {}
    for result, keys in zip(results, keyed, strict=True):
        suffix = ", ".join(
            f"{WORDS.get(key, key).replace('_', ' ')} {keys[key]}" for key in varying
        )
        series.setdefault(suffix, []).append(result)
    return sorted(series.items())


def _draw_series(
    axis: Axes,
    method: str,
    suffix: str,
    results: Sequence[Result],
    places: Mapping[int, float],
    number: int,
    cut: float,
) -> list[Note]:
    """Draws the runs from `cut` on; returns notes of the others, and of those that diverged.

    `places` says where each depth lies. The line is broken where one lacks such runs.
    """
    accuracies, diverged = pooled(results)
    shown = {p: [value for value in accuracies[p] if value >= cut] for p in sorted(accuracies)}
    shown = {depth: values for depth, values in shown.items() if values}
    counts = {len(values) for values in shown.values()}
    runs = (
        f"n = {min(counts)}" + (f"–{max(counts)}" if len(counts) > 1 else "")
        if counts
        else "none learned"
        if accuracies
        else "all diverged"
    )
    name = ", ".join(part for part in (make_method(method).label, suffix) if part)
    found = intervals(shown)
    summary = [found.get(p, (math.nan, None)) for p in places]
    axis.errorbar(
        list(places.values()),
        [mean for mean, _ in summary],
        yerr=[math.nan if half is None else half for _, half in summary],
        capsize=3,
        markersize=6,
        label=f"{name}, {runs}",
        alpha=0.6**number,  # a method's further settings are fainter
        **STYLES.get(method, OTHER),
    )
    notes: list[Note] = []
    for depth in sorted(accuracies.keys() | diverged.keys()):
        below = [value for value in accuracies.get(depth, []) if value < cut]
        lost = [f"{len(below)} ≤ {math.ceil(round(max(below), 2))} %"] if below else []
        lost += [f"{diverged[depth]} NaN"] if depth in diverged else []
        if lost:
            notes.append((depth, method, f"{name}: {', '.join(lost)}"))
    return notes


def _draw_published(
    axis: Axes, source: str, method: str, bias: bool, shift: float
) -> tuple[set[int], list[Note]]:
    """Draws the published points of a method; returns their depths, and notes of those lost."""
    points = published.accuracies(source, method, bias)
    if not points:
        return set(), []
    style, name = STYLES[method], make_method(method).label
    who = "published" if source == "study" else "original paper"
    axis.plot(
        [depth + shift for depth in points],
        list(points.values()),
        color=style["color"],
        marker=style["marker"],
        markerfacecolor="none",
        markersize=8 if source == "study" else 5,
        linestyle="none",
        zorder=3,
        label=f"{name}, {who}, n = {published.runs(source, method, bias)}",
    )
    lost = [depth for depth, accuracy in points.items() if math.isnan(accuracy)]
    return set(points), [(depth, method, f"{name}, {who}: NaN") for depth in lost]


def _draw_notes(axis: Axes, notes: Sequence[Note]) -> None:
    """Writes notes upright at the foot, those of a depth side by side around it."""
    counts = collections.Counter(depth for depth, _, _ in notes)
    written = collections.Counter[int]()
    for depth, method, text in notes:
        axis.annotate(
            text,
            (depth, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(9 * (written[depth] - (counts[depth] - 1) / 2), 0),
            textcoords="offset points",
            rotation=90,
            fontsize=7,
            ha="center",
            va="bottom",
            color=STYLES.get(method, OTHER)["color"],
        )
        written[depth] += 1
