"""The benchmark as a picture: seconds per epoch and network, and the roofline.

    python figures/speed.py [FILE]

draws the committed benchmark, in a second; benchmark-amx.json gives speed-amx.png.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from enorm_jax import cli
from enorm_jax.methods import METHODS
from enorm_jax.plotting import STYLES, save
from enorm_jax.results import read_measured
from enorm_jax.timing import epoch_bytes
from places import HERE, RESULTS

BATCH, IMAGES, PIXELS, WIDTH = 256, 50_000, 3072, 500


def bars(axes: Axes, depth: dict[str, Any]) -> None:
    """Seconds per epoch and network, float32 open and bfloat16 filled."""
    entries = depth["contenders"]
    names = list(entries)[::-1]
    values = [entries[name]["seconds_per_epoch"] / entries[name]["seeds"] for name in names]
    tests = [entries[name]["test_pass_seconds"] / entries[name]["seeds"] for name in names]
    filled = ["#0072B2" if "bfloat16" in name else "white" for name in names]
    axes.barh(names, values, color=filled, edgecolor="#0072B2")
    axes.barh(names, tests, left=values, color="white", edgecolor="#0072B2", hatch="////")
    for row, (value, test) in enumerate(zip(values, tests, strict=True)):
        axes.annotate(f" {value:.1f}", (value + test, row), va="center", fontsize=8)
    axes.set_xlabel("seconds per epoch and network (hatched: test pass)")
    axes.set_title(f"p = {depth['depth']}: float32 open, bfloat16 filled")
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.12)


def roofline(axes: Axes, found: dict[str, Any]) -> None:
    """Rate over operations per byte, below the rate of one large product."""
    for depth in found["depths"]:
        p = depth["depth"]
        layers = [PIXELS, *[WIDTH] * (p + 1), 10]
        for name, entry in depth["contenders"].items():
            method, _, precision = name.partition(" ")
            if method not in METHODS or precision not in depth["matmul_flops"]:
                continue
            operand = 2 if precision == "bfloat16" else 4
            moved = epoch_bytes(layers, IMAGES, BATCH, operand)
            intensity = entry["flops"] * entry["seconds_per_epoch"] / moved
            style = STYLES[method]
            face = style["color"] if operand == 2 else "white"
            axes.plot(
                intensity, entry["flops"] / 1e9, marker=style["marker"], color=style["color"],
                markerfacecolor=face, linestyle="none",
            )  # fmt: skip
            axes.annotate(
                f"{p}", (intensity, entry["flops"] / 1e9), xytext=(4, 3),
                textcoords="offset points", fontsize=7,
            )  # fmt: skip
    rates = found["depths"][0]["matmul_flops"]
    for precision, line in zip(rates, ("--", "-"), strict=True):
        peak = np.median([depth["matmul_flops"][precision] for depth in found["depths"]]) / 1e9
        axes.axhline(peak, color="grey", linestyle=line, linewidth=1)
        axes.annotate(
            f"one large product, {precision}", (0.02, peak), xytext=(0, 3), fontsize=8,
            xycoords=("axes fraction", "data"), textcoords="offset points",
        )  # fmt: skip
    drawn = {name.partition(" ")[0] for depth in found["depths"] for name in depth["contenders"]}
    for method, style in STYLES.items():
        if method not in drawn:
            continue
        axes.plot(
            [], [], marker=style["marker"], color=style["color"], linestyle="none",
            label=METHODS[method].label,
        )  # fmt: skip
    axes.legend(loc="lower right", fontsize=8, title="number: depth p", title_fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("operations per byte of operands, results and update")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("Rate of whole epochs against one large matrix product")


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    default = RESULTS / "benchmark.json"
    parser.add_argument("file", type=Path, nargs="?", default=default, help="of benchmark.py --out")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the drawings")
    args = parser.parse_args()
    found = read_measured(args.file, "benchmark")
    closely = max(found["depths"], key=lambda depth: len(depth["contenders"]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 6), layout="constrained")
    bars(left, closely)
    roofline(right, found)
    args.out.mkdir(parents=True, exist_ok=True)
    for path in save(figure, args.out / args.file.stem.replace("benchmark", "speed")):
        print(path)


if __name__ == "__main__":
    cli.run(main)
