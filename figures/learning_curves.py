"""Test accuracy and training loss over epochs: the mean over seeds, from the least to the most.

    python figures/learning_curves.py --depths 1,9,19

draws the study's committed cells, beside this script, in a few seconds. Another folder that a
sweep wrote can be named; its figures lie in it then.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from enorm_jax import cli, parse
from enorm_jax.curves import comparable, curves
from enorm_jax.errors import InputError
from enorm_jax.methods import make_method
from enorm_jax.plotting import OTHER, STYLES, save
from enorm_jax.results import read_results
from enorm_jax.storage import Folder
from places import RESULTS, add_folders, drawings

ROWS = {"test_accuracy": "test accuracy on {} (%)", "train_loss": "training loss"}


def draw(axis: Axes, cells: dict[str, list[dict[str, Any]]], name: str) -> None:
    """Draws one curve of each method over epochs."""
    for place, (method, results) in enumerate(cells.items()):
        every = curves(results, name)
        finished = every[~np.isnan(every).any(axis=1)]
        lost = len(every) - len(finished)
        label = f"{make_method(method).label}, n = {len(finished)}"
        label += f", {lost} diverged" if lost else ""
        if not len(finished):
            axis.plot([], [], label=label, **STYLES.get(method, OTHER))
            continue
        epochs = np.arange(1, finished.shape[1] + 1)
        step = max(1, len(epochs) // 6)
        axis.plot(
            epochs,
            finished.mean(axis=0),
            label=label,
            linewidth=1.4,
            markersize=5,
            markerfacecolor="white",
            markevery=(step * place // len(cells), step),  # apart, where curves lie together
            **STYLES.get(method, OTHER),
        )
        if len(finished) > 1:
            low, high = finished.min(axis=0), finished.max(axis=0)
            color = STYLES.get(method, OTHER)["color"]
            axis.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
    axis.grid(alpha=0.25)


def _limits(axes: Sequence[Axes]) -> tuple[float, float]:
    """Bounds of most points: the first epochs, and dips of a single one, may leave them."""
    lines = [line for axis in axes for line in axis.get_lines()]
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines])
    low, high = (np.percentile(values, 5), values.max()) if len(values) else (0.0, 100.0)
    return low - 0.02 * (high - low), high + 0.08 * (high - low)


def panels(
    results: list[dict[str, Any]], depths: list[int], bias: bool, stem: Folder
) -> list[Folder]:
    """Draws two panels for each depth, one above the other."""
    dataset = results[0]["dataset"]
    figure, axes = plt.subplots(
        2, len(depths), figsize=(1.2 + 3.9 * len(depths), 7.0), squeeze=False, sharex="col",
        sharey="row", layout="constrained",
    )  # fmt: skip
    for column, depth in zip(axes.T, depths, strict=True):
        cells = comparable(results, depth, bias)
        for axis, name in zip(column, ROWS, strict=True):
            draw(axis, cells, name)
        first = next(iter(cells.values()))[0]
        column[0].set_title(f"p = {depth}, {first['precision']}", fontsize=11)
        column[1].set_yscale("log")
        column[1].set_xlabel("epoch")
        column[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9)
        column[0].set_xlim(0, first["epochs"] + 1)
    axes[0][0].set_ylim(*_limits(axes[0]))
    figure.align_ylabels()
    for axis, label in zip(axes[:, 0], ROWS.values(), strict=True):
        axis.set_ylabel(label.format(dataset))
    kind = "with bias" if bias else "without bias"
    figure.suptitle(f"{kind}: mean over seeds, bands from lowest to highest run", fontsize=11)
    return save(figure, stem)


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    add_folders(parser, RESULTS)
    parser.add_argument("--depths", type=parse.depths, default="1,9,19", help="as for fc_sweep.py")
    parser.add_argument("--bias", action="store_true", help="networks with bias")
    parser.add_argument(
        "--method", type=parse.methods, default="study", help="methods: study, all or their names"
    )
    args = parser.parse_args()
    cells = [cell for cell in read_results(args.results) if cell.get("experiment") == "fc"]
    cells = [cell for cell in cells if cell["method"] in args.method]
    drawn = False
    for dataset in sorted({cell["dataset"] for cell in cells}):
        own = [cell for cell in cells if cell["dataset"] == dataset]
        depths = [depth for depth in args.depths if comparable(own, depth, args.bias)]
        if depths:
            name = f"learning_curves_{dataset}{'_bias' if args.bias else ''}"
            for path in panels(own, depths, args.bias, drawings(args, RESULTS) / name):
                print(path)
            drawn = True
    if not drawn:
        raise InputError(
            f"{args.results} holds no finished cell at these depths: give --depths or a folder"
        )


if __name__ == "__main__":
    cli.run(main)
