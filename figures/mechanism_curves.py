"""Why normalizations work: what experiments/mechanisms.py measured.

    python figures/mechanism_curves.py

draws the committed files, beside this script, in a few seconds; others that are named, beside
themselves: units that are off, over epochs and over depth; Lipschitz estimates of loss and gradient
over epochs; accuracy with the halves of weight standardization.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from enorm_jax import cli
from enorm_jax.methods import make_method
from enorm_jax.plotting import OTHER, STYLES, save
from enorm_jax.results import read_measured
from places import HERE, RESULTS

MEASURED = RESULTS / "mechanisms"
HALVES: dict[str, dict[str, Any]] = {
    "neither": {"color": "#000000", "marker": "o", "linestyle": "-"},
    "centring": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "scaling": {"color": "#D55E00", "marker": "^", "linestyle": "-."},
    "both": {"color": "#E69F00", "marker": ">", "linestyle": "-"},
}
PANELS = {
    "elimination": (
        ("eliminated", "share of units active on < 1 % (%)", "epoch"),
        ("tenth_distance", "mean / deviation, lowest tenth of units", "epoch"),
        ("tenth_distance", "mean / deviation, lowest tenth of units", "ReLU"),
    ),
    "smoothness": (
        ("loss", "change of the loss over distance", "epoch"),
        ("gradient", "change of the gradient over distance", "epoch"),
    ),
    "standardization": (("test_accuracy", "test accuracy (%)", "epoch"),),
}

Runs = Sequence[Sequence[Mapping[str, Any]]]


def values(runs: Runs, name: str, over: str) -> np.ndarray:
    """A quantity of every run over epochs, layers averaged, or over layers after the last epoch."""
    table = np.array([[epoch[name] for epoch in run] for run in runs], np.float64)
    if name == "eliminated":
        table = 100 * table
    if table.ndim == 2:
        return table
    return table.mean(axis=2) if over == "epoch" else table[:, -1]


def panel(axis: Axes, series: Mapping[str, Any], name: str, label: str, over: str) -> None:
    """Draws one quantity: the mean over seeds, and a band from the lowest to the highest.

    Runs without the quantity, which diverged, are counted in the legend and not drawn.
    On a logarithmic axis the mean is that of the logarithms, as in the verdict on smoothness.
    """
    logarithmic = name in ("loss", "gradient")
    for key, entry in series.items():
        table = values(entry["runs"], name, over)
        every = table[np.isfinite(table).all(axis=1)]
        places = np.arange(1, table.shape[1] + 1)
        style = HALVES[key] if key in HALVES else STYLES.get(key, OTHER)
        text = f"{key if key in HALVES else make_method(key).label}, n = {len(every)}"
        lost = len(table) - len(every)
        if len(every):
            mean = np.exp(np.log(every).mean(axis=0)) if logarithmic else every.mean(axis=0)
        else:
            mean = np.full(len(places), np.nan)
        axis.plot(places, mean, label=f"{text}, {lost} diverged" if lost else text, markersize=5,
                  linewidth=1.4, **style)  # fmt: skip
        if len(every) > 1:
            low, high = every.min(axis=0), every.max(axis=0)
            axis.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if logarithmic:
        axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(over + (", after the last epoch" if over == "ReLU" else ""))
    axis.set_ylabel(label)
    axis.grid(alpha=0.25)


def draw(path: Path, out: Path) -> list[Path]:
    """Draws one file."""
    found = read_measured(path, "mechanisms")
    panels = PANELS[found["what"]]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.4 * len(panels) + 1.2, 4.4), squeeze=False, layout="constrained"
    )
    for axis, (name, label, over) in zip(axes[0], panels, strict=True):
        panel(axis, found["series"], name, label, over)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    its = next(iter(found["series"].values()))["settings"]
    figure.suptitle(
        f"{found['dataset']}, {its['train_images']:,} images, batches of {its['batch_size']}",
        fontsize=10,
    )
    out.mkdir(parents=True, exist_ok=True)
    return save(figure, out / path.stem)


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument(
        "results", type=Path, nargs="*", default=sorted(MEASURED.glob("*.json")),
        help="files of experiments/mechanisms.py",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder; default: that of each file")
    args = parser.parse_args()
    for path in args.results:
        beside = HERE if path.parent == MEASURED else path.parent
        for drawing in draw(path, args.out or beside):
            print(drawing)


if __name__ == "__main__":
    cli.run(main)
