"""Norm of every layer's kernel over training, one panel for each method.

    python figures/kernel_norms.py --depth 9

draws the study's committed cells, beside this script, in a few seconds. Another folder that a
sweep wrote can be named; its figures lie in it then.
"""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, ScalarFormatter

from enorm_jax import cli, parse
from enorm_jax.curves import comparable, curves
from enorm_jax.errors import InputError
from enorm_jax.methods import make_method
from enorm_jax.plotting import save
from enorm_jax.results import read_results
from enorm_jax.storage import Folder
from places import RESULTS, add_folders, drawings

LABELS = 32  # that find room above each other


def draw(axis: Axes, results: list[dict[str, Any]]) -> None:
    """Draws one method: a line for each layer, light to dark, named at its end."""
    every = curves(results, "kernel_norms")
    finished = every[~np.isnan(every).any(axis=(1, 2))]
    lost = len(every) - len(finished)
    title = f"{make_method(results[0]['method']).label}, n = {len(finished)}"
    axis.set_title(title + (f", {lost} diverged" if lost else ""), fontsize=11)
    if not len(finished):
        return
    norms = finished.mean(axis=0)
    epochs = np.arange(1, len(norms) + 1)
    layers = norms.shape[1]
    for layer in range(layers):
        shade = plt.get_cmap("viridis_r")(0.12 + 0.88 * layer / (layers - 1))
        axis.plot(epochs, norms[:, layer], color=shade, linewidth=1.5)
    axis.set_xlim(0, len(norms) * 1.14)


def name_layers(axis: Axes) -> None:
    """Writes numbers of layers at the ends of their lines, those that would overlap in one."""
    low, high = axis.get_ylim()
    apart = (high / low) ** (1 / LABELS)
    lines = axis.get_lines()
    norms = [float(np.asarray(line.get_ydata())[-1]) for line in lines]
    groups: list[list[int]] = []
    for layer in sorted(range(len(norms)), key=norms.__getitem__):
        if groups and norms[layer] < apart * norms[groups[-1][-1]]:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    for group in groups:
        end = np.asarray(lines[0].get_xdata())[-1]
        height = math.sqrt(norms[group[0]] * norms[group[-1]])
        axis.annotate(
            _numbers(sorted(group)), (end, height), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=7.5,
        )  # fmt: skip


def _numbers(layers: list[int]) -> str:
    if len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1:
        return f"{layers[0]}–{layers[-1]}"
    return ", ".join(map(str, layers))


def panels(results: list[dict[str, Any]], depth: int, bias: bool, stem: Folder) -> list[Folder]:
    """Draws a panel for each method that there is."""
    cells = comparable(results, depth, bias)
    figure, axes = plt.subplots(
        1, len(cells), figsize=(1.0 + 2.9 * len(cells), 4.4), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axis, own in zip(axes[0], cells.values(), strict=True):
        draw(axis, own)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.minorticks_off()
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
    for axis in axes[0]:
        name_layers(axis)
    axes[0][0].set_ylabel("norm of the kernel")
    first = next(iter(cells.values()))[0]
    parts = [f"{first['dataset']}, p = {depth}", "with bias" if bias else "", first["precision"]]
    figure.suptitle(
        f"{', '.join(filter(None, parts))}: layers 0 (input, light) to {depth + 1} (output, dark)",
        fontsize=11,
    )
    return save(figure, stem)


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    add_folders(parser, RESULTS)
    parser.add_argument("--depth", type=parse.positive_int, default=9, help="depth p")
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
        if comparable(own, args.depth, args.bias):
            name = f"kernel_norms_{dataset}_p{args.depth:02d}{'_bias' if args.bias else ''}"
            for path in panels(own, args.depth, args.bias, drawings(args, RESULTS) / name):
                print(path)
            drawn = True
    if not drawn:
        raise InputError(
            f"{args.results} holds no finished cell at p = {args.depth}: give --depth or a folder"
        )


if __name__ == "__main__":
    cli.run(main)
