"""What a training step costs under each normalization: time and memory over the baseline's.

    python figures/cost.py

draws what `experiments/step_cost.py --out` measured, beside this script, in a few seconds.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from enorm_jax import cli
from enorm_jax.methods import make_method
from enorm_jax.plotting import OTHER, STYLES, save
from enorm_jax.results import interval, read_measured
from enorm_jax.timing import within_rounds
from places import HERE, RESULTS

MEASURED = RESULTS / "step-cost.json"
TITLES = {"fc": "fully connected, p = 9", "conv": "convolutional", "resnet": "ResNet of 8 layers"}


def panel(axis: Axes, network: str, found: dict[str, Any]) -> None:
    """Draws one network: time with 95 % intervals over rounds, filled; memory, hollow."""
    entries = {name: entry for name, entry in found["methods"].items() if name != "baseline"}
    base = found["methods"]["baseline"]
    for row, (method, entry) in enumerate(entries.items()):
        over = within_rounds(entry["seconds"], base["seconds"])
        mean, half = interval(over)
        look = STYLES.get(method, OTHER)
        look = {"color": look["color"], "marker": look["marker"], "linestyle": "none"}
        axis.errorbar([mean], [row], xerr=None if half is None else [half], capsize=3, **look)
        memory = entry["memory_mb"] / base["memory_mb"]
        axis.plot([memory], [row + 0.25], markerfacecolor="none", **look)
    axis.axvline(1.0, color="#888888", linewidth=1)
    axis.set_yticks(range(len(entries)), [make_method(method).label for method in entries])
    axis.set_ylim(len(entries) - 0.5, -0.5)
    axis.set_xlabel("over baseline")
    axis.set_title(TITLES[network], fontsize=10)
    axis.grid(axis="x", alpha=0.25)


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("result", type=Path, nargs="?", default=MEASURED, help="JSON file")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the drawings")
    args = parser.parse_args()
    found = read_measured(args.result, "step_cost")
    networks = found["networks"]
    figure, axes = plt.subplots(
        1, len(networks), figsize=(1 + 4 * len(networks), 4.6), squeeze=False, layout="constrained"
    )
    for axis, (network, measured) in zip(axes[0], networks.items(), strict=True):
        panel(axis, network, measured)
    figure.suptitle(
        "A training step: time, filled, with the 95 % interval over rounds; memory, hollow",
        fontsize=10,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    for path in save(figure, args.out / "cost"):
        print(path)


if __name__ == "__main__":
    cli.run(main)
