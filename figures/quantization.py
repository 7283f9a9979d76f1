"""Test accuracy over the bits of a weight, before and after cross-layer equalization.

    python figures/quantization.py

draws what `experiments/quantize.py --out` measured, beside this script, in a few seconds.
"""

import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from enorm_jax import cli
from enorm_jax.methods import make_method
from enorm_jax.plotting import STYLES, save
from enorm_jax.results import read_measured
from places import HERE, RESULTS

STUDY = RESULTS / "quantize-cifar10.json"
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "per_tensor": ("one step per kernel", {"markerfacecolor": "none", "linestyle": "--"}),
    "per_tensor_equalized": ("the same, equalized", {"linestyle": "-"}),
    "per_channel": ("one step per channel", {"linestyle": ":", "marker": ".", "alpha": 0.6}),
}


def panel(axis: Axes, networks: list[dict[str, Any]], bits: list[int]) -> None:
    """Draws one kind of network: the mean over its seeds, and each seed as a faint point."""
    method, depth = networks[0]["method"], networks[0]["depth"]
    exact = statistics.mean(network["float"] for network in networks)
    axis.axhline(exact, color="#888888", linewidth=1, label="float32")
    for row, (label, style) in ROWS.items():
        seeds = [network[row] for network in networks]
        means = [statistics.mean(values) for values in zip(*seeds, strict=True)]
        look = {"color": STYLES[method]["color"], "marker": STYLES[method]["marker"]} | style
        axis.plot(bits, means, label=label, **look)
        if len(seeds) > 1:
            for values in seeds:
                axis.plot(
                    bits, values, color=look["color"], marker="_", linestyle="none", alpha=0.4
                )
    axis.set_title(f"{make_method(method).label}, p = {depth}, n = {len(networks)}")
    axis.set_xticks(bits)
    axis.invert_xaxis()
    axis.set_xlabel("bits of a weight")
    axis.grid(alpha=0.25)


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("result", type=Path, nargs="?", default=STUDY, help="JSON file")
    parser.add_argument("--out", type=Path, help="folder; default: that of the result")
    args = parser.parse_args()
    found = read_measured(args.result, "quantize")
    kinds: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for network in found["networks"]:
        kinds.setdefault((network["depth"], network["method"]), []).append(network)
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(3.6 * len(kinds), 3.8), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for axis, (_, networks) in zip(axes[0], sorted(kinds.items()), strict=True):
        panel(axis, networks, found["bits"])
    axes[0][0].set_ylabel(f"test accuracy on {found['dataset']} (%)")
    axes[0][0].legend(fontsize=8, loc="lower left")
    out = args.out or (args.result.parent if args.result != STUDY else HERE)
    out.mkdir(parents=True, exist_ok=True)
    for path in save(figure, out / f"quantization_{found['dataset']}"):
        print(path)


if __name__ == "__main__":
    cli.run(main)
