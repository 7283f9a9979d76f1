"""How often training diverges over many seeds, and what a softmax before the loss does.

    python figures/divergence_seeds.py

draws what `experiments/divergence.py seeds softmax` left, beside this script, in a few seconds:
above the share of seeds that diverged with its 95 % interval (Wilson), below what the runs reach.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from enorm_jax import cli
from enorm_jax.cell import LATER
from enorm_jax.divergence import Run, common_setting, runs_of, share
from enorm_jax.errors import InputError
from enorm_jax.methods import METHODS
from enorm_jax.plotting import STYLES, save
from enorm_jax.results import most_restarted_last, read_results
from enorm_jax.storage import Folder
from places import RESULTS, add_folders, drawings

STUDY = RESULTS / "divergence"
PLOTTED_C = (None, 1.2)
Kind = tuple[str, bool, bool]  # method, bias, softmax


def kinds_of(cells: Sequence[dict[str, Any]]) -> dict[Kind, list[dict[str, Any]]]:
    """The cells to draw, by method, bias and softmax.

    With biases, only points that have a softmax and their counterparts without are drawn.
    """
    twins = {(c["depth"], c["learning_rate"]) for c in cells if c["bias"] and c["softmax"]}
    kinds: dict[Kind, list[dict[str, Any]]] = {}
    for cell in cells:
        counterpart = (cell["depth"], cell["learning_rate"]) in twins
        if cell["c"] in PLOTTED_C and (not cell["bias"] or counterpart):
            key = cell["method"], cell["bias"], cell["softmax"]
            kinds.setdefault(key, []).append(cell)
    return dict(sorted(kinds.items(), key=lambda item: (item[0][1:], item[0][0])))


def by_depth(cells: Sequence[dict[str, Any]], rate: float) -> dict[int, list[Run]]:
    """The runs at one rate, each seed once."""
    found: dict[int, dict[int, Run]] = {}
    for cell in most_restarted_last(cells):
        if cell["learning_rate"] == rate:
            found.setdefault(cell["depth"], {}).update({run.seed: run for run in runs_of(cell)})
    return {depth: list(runs.values()) for depth, runs in sorted(found.items())}


def name(kind: Kind) -> str:
    """A kind in words."""
    method, bias, softmax = kind
    return METHODS[method].label + ", bias" * bias + ", softmax" * softmax


def look(kind: Kind) -> dict[str, Any]:
    """Marker of a kind: the method's, hollow with a softmax, half filled with biases."""
    method, bias, softmax = kind
    style = {key: STYLES[method][key] for key in ("color", "marker")}
    fill = "none" if softmax else "bottom" if bias else "full"
    if bias and softmax:
        style |= {"marker": "v"}
    return style | {"linestyle": "none", "fillstyle": fill, "markersize": 6}


def shares(axis: Axes, runs: dict[int, list[Run]], kind: Kind, places: Sequence[float]) -> None:
    """Share of seeds whose first attempt diverged, and what became of the second."""
    for place, own in zip(places, runs.values(), strict=True):
        lost = [run for run in own if run.first is not None]
        value, low, high = (100 * x for x in share(len(lost), len(own)))
        error = [[value - low], [high - value]]
        axis.errorbar(place, value, yerr=error, capsize=2, elinewidth=1, **look(kind))
        again = [run for run in lost if run.restarts]
        cured = sum(not run.diverged for run in again)
        text = f"{len(lost)}/{len(own)}" + (f", {cured}/{len(again)} cured" if again else "")
        axis.annotate(
            text, (place, high), xytext=(0, 3), textcoords="offset points", rotation=90,
            fontsize=6.5, ha="center", va="bottom",
        )  # fmt: skip


def accuracies(axis: Axes, runs: dict[int, list[Run]], kind: Kind, places: Sequence[float]) -> None:
    """Test accuracy of every run whose last attempt did not diverge."""
    for place, own in zip(places, runs.values(), strict=True):
        values = [run.accuracy for run in own if run.accuracy is not None]
        axis.plot([place] * len(values), values, alpha=0.55, **(look(kind) | {"markersize": 4.5}))


def draw(cells: list[dict[str, Any]], common: dict[str, Any], stem: Folder) -> list[Folder]:
    """Draws a column for each rate."""
    kinds = kinds_of(cells)
    drawn = [cell for own in kinds.values() for cell in own]
    rates = sorted({cell["learning_rate"] for cell in drawn})
    depths = sorted({cell["depth"] for cell in drawn})
    figure, axes = plt.subplots(
        2, len(rates), figsize=(2 + 3.6 * len(rates), 7.4), squeeze=False, sharey="row",
        sharex=True, layout="constrained",
    )  # fmt: skip
    present = {d: [k for k, own in kinds.items() if any(c["depth"] == d for c in own)]
               for d in depths}  # fmt: skip
    step = 0.8 / len(kinds)
    for column, rate in zip(axes.T, rates, strict=True):
        for kind, own in kinds.items():
            runs = by_depth(own, rate)
            places = [
                depths.index(d) + (present[d].index(kind) - (len(present[d]) - 1) / 2) * step
                for d in runs
            ]
            shares(column[0], runs, kind, places)
            accuracies(column[1], runs, kind, places)
        column[0].set_title(f"learning rate {rate:g}", fontsize=10)
        column[1].axhline(10, color="#888888", linewidth=1, linestyle="--")
        column[1].annotate("guessing", (0.01, 10), xycoords=("axes fraction", "data"), va="bottom",
                           fontsize=7, color="#555555")  # fmt: skip
        column[1].set_xticks(range(len(depths)), [f"{depth}" for depth in depths])
        column[1].set_xlabel("depth p")
        for axis in column:
            axis.set_xlim(-0.5, len(depths) - 0.5)
            axis.grid(axis="y", alpha=0.25)
    axes[0][0].set_ylim(-4, 150)  # room for the counts
    axes[0][0].set_yticks(range(0, 101, 20))
    axes[0][0].set_ylabel("seeds that diverged (%)")
    axes[1][0].set_ylabel("test accuracy, restarted or not (%)")
    handles = [plt.Line2D([], [], label=name(kind), **look(kind)) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(
        f"Divergence over seeds on {common['dataset']}, width {common['width']}, epochs: "
        f"{common['epochs']}, {common['precision']}; bars: 95 % intervals (Wilson)",
        fontsize=10,
    )
    return save(figure, stem)


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    add_folders(parser, STUDY, "points")
    args = parser.parse_args()
    found = read_results(args.results)
    cells = [LATER | cell for cell in found if cell["experiment"] == "divergence"]
    if not kinds_of(cells):
        raise InputError(f"{args.results} holds no point of experiments/divergence.py seeds")
    common = common_setting(cells, args.results)
    out = drawings(args, STUDY)
    for path in draw(cells, common, out / f"divergence_seeds_{common['dataset']}"):
        print(path)


if __name__ == "__main__":
    cli.run(main)
