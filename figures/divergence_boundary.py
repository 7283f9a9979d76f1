"""Where training with biases fails: measured, and predicted from rate × amplification.

    python figures/divergence_boundary.py

draws what `experiments/divergence.py bias` left, beside this script, in some two minutes: one
panel for each c, and one for all with the step of divergence over rate × `bias_amplification`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from enorm_jax import FullyConnected, bias_amplification, cli
from enorm_jax.cell import LATER
from enorm_jax.divergence import Run, boundary, common_setting, runs_of
from enorm_jax.errors import InputError
from enorm_jax.plotting import save
from enorm_jax.results import read_results
from enorm_jax.storage import Folder
from places import RESULTS, add_folders, drawings

STUDY = RESULTS / "divergence"
DATA = {"cifar10": ((1, 32, 32, 3), 50_000), "digits": ((1, 8, 8, 1), 1437)}
OUTCOMES: dict[str, dict[str, Any]] = {
    "trained": {"marker": "o", "color": "#009E73"},
    "no better than guessing": {"marker": "s", "color": "#E69F00", "facecolor": "none"},
    "diverged, at step": {"marker": "x", "color": "#D55E00"},
}
SHAPES = "o^sDvP*X"


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of the grid, with what is predicted from."""

    depth: int
    c: float
    rate: float
    amplification: float
    step: int | None  # of divergence, from 0
    run: Run

    @property
    def value(self) -> float:
        """Rate times amplification."""
        return self.rate * self.amplification

    @property
    def outcome(self) -> str:
        """A key of OUTCOMES."""
        return list(OUTCOMES)[2 if self.run.diverged else 1 if self.run.guessing else 0]


@functools.cache
def amplifier(depth: int, width: int, shape: tuple[int, ...], cycles: int) -> Any:
    """Compiled function (seed, c) -> amplification of the study's network from its start."""
    model = FullyConnected(depth, width, use_bias=True)

    def amplification(seed: jax.Array, c: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), 0)  # as `init_state`
        params = model.init(key, jnp.zeros(shape), train=False)["params"]
        return bias_amplification(params, c, cycles=cycles)

    return jax.jit(amplification)


def points(results: Sequence[dict[str, Any]]) -> list[Point]:
    """The grid's runs, each with its network's amplification after as many cycles as steps."""
    found = []
    for cell in results:
        shape, images = DATA[cell["dataset"]]
        steps = -(-(cell["train_images"] or images) // cell["batch_size"])
        own = amplifier(cell["depth"], cell["width"], shape, cell["epochs"] * steps)
        for run in runs_of(cell):
            value = float(own(jnp.uint32(run.seed), jnp.float32(cell["c"])))
            step = run.first[0] * steps + run.first[1] if run.first and run.diverged else None
            found.append(Point(cell["depth"], cell["c"], cell["learning_rate"], value, step, run))
    return found


def predicted(found: Sequence[Point]) -> tuple[float, str]:
    """The boundary, and how well it predicts, in words.

    Depths and rates that fail at c = 1 too say nothing of biases that ENorm amplifies.
    """
    hopeless = {(p.depth, p.rate) for p in found if p.c == 1 and p.run.failed}
    left_out = sum((p.depth, p.rate) in hopeless for p in found)
    found = [p for p in found if (p.depth, p.rate) not in hopeless] or list(found)
    values, failed = [p.value for p in found], [p.run.failed for p in found]
    limit, right = boundary(values, failed)
    blind = 0
    for depth in {p.depth for p in found}:
        others = [p for p in found if p.depth != depth]
        if others:
            own, _ = boundary([p.value for p in others], [p.run.failed for p in others])
            blind += sum((p.value > own) == p.run.failed for p in found if p.depth == depth)
    lost, sure = boundary(values, [p.run.diverged for p in found])
    n = len(found)
    return limit, (
        f"Predicted to fail: rate × amplification > {limit:.3g}, the constant that is wrong least "
        f"often. Right for {right} of {n} runs; for {blind} with the constant\nof the other depths "
        f"alone. Divergence alone, without runs no better than guessing: > {lost:.3g}, right for "
        f"{sure} of {n}."
        + f"\nLeft out: {left_out} at depths and rates that fail at c = 1 too."
        * (left_out > 0)
    )


def panel(axis: Axes, found: Sequence[Point], limit: float) -> None:
    """Outcomes over depth and rate at one c, with the predicted boundary."""
    for name, style in OUTCOMES.items():
        own = [p for p in found if p.outcome == name]
        axis.scatter([p.depth for p in own], [p.rate for p in own], s=45, label=name, **style)
    for p in found:
        if p.step is not None:
            axis.annotate(
                str(p.step), (p.depth, p.rate), xytext=(0, 6), ha="center", fontsize=7,
                textcoords="offset points",
            )  # fmt: skip
    depths = sorted({p.depth for p in found})
    middle = [np.median([p.amplification for p in found if p.depth == d]) for d in depths]
    rates = sorted({p.rate for p in found})
    low, high = rates[0] / 1.8, rates[-1] * 2.2
    fine, line = boundary_line(depths, limit / np.array(middle))
    axis.plot(fine, line, color="#000000", linewidth=1.2, label="predicted boundary")
    axis.fill_between(
        fine, np.clip(line, low, high), high, color="#000000", alpha=0.07, linewidth=0
    )
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    axis.set_yticks(rates, [f"{rate:g}" for rate in rates])
    axis.minorticks_off()
    axis.set_xticks(depths)
    axis.set_xlim(depths[0] - 1, depths[-1] + 1)
    axis.set_title(f"c = {found[0].c:g}", fontsize=10)
    axis.set_xlabel("depth p")


def boundary_line(depths: Sequence[int], rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boundary's rates between depths and one beyond: their logarithms bend little."""
    x, y = np.array([depths[0] - 1, *depths, depths[-1] + 1.0]), np.log(rates)
    if len(depths) > 1:
        slopes = np.diff(y) / np.diff(depths)
        y = np.concatenate([[y[0] - slopes[0]], y, [y[-1] + slopes[-1]]])
    else:
        y = np.repeat(y, 3)
    fine = np.linspace(x[0], x[-1], 200)
    return fine, np.exp(np.interp(fine, x, y))


def line_up(axis: Axes, found: Sequence[Point], limit: float) -> None:
    """All runs on one axis: the step of divergence over rate times amplification."""
    last = max([p.step for p in found if p.step is not None], default=100)
    rows = {"no better than guessing": 1.5 * last, "trained": 2.4 * last}
    for number, c in enumerate(sorted({p.c for p in found})):
        own = [p for p in found if p.c == c]
        heights = [rows[p.outcome] if p.step is None else max(p.step, 1) for p in own]
        axis.plot(
            [p.value for p in own], heights, SHAPES[number % len(SHAPES)], label=f"c = {c:g}",
            markersize=5, markerfacecolor="none", color=plt.get_cmap("viridis")(number / 5.5),
        )  # fmt: skip
    axis.axvline(limit, color="#000000", linewidth=1.2)
    axis.set_xscale("log")
    axis.set_yscale("log")
    steps = [s for s in (10, 20, 50, 100, 200) if s <= last]
    axis.set_yticks([*steps, *rows.values()], [*map(str, steps), "guessing", "trained"])
    axis.minorticks_off()
    axis.set_xlabel("rate × amplification")
    axis.set_ylabel("step of divergence")
    axis.set_title("all of them", fontsize=10)
    axis.legend(fontsize=7)


def draw(found: list[Point], common: dict[str, Any], stem: Folder) -> list[Folder]:
    """Draws all panels."""
    cs = sorted({p.c for p in found})
    rows = -(-(len(cs) + 1) // 3)
    figure, axes = plt.subplots(
        rows, 3, figsize=(12, 3.7 * rows + 0.8), squeeze=False, layout="constrained"
    )
    limit, words = predicted(found)
    limit = float(np.clip(limit, 1e-30, 1e30))  # where nothing fails, or all
    for axis, c in zip(axes.flat, cs, strict=False):
        panel(axis, [p for p in found if p.c == c], limit)
    for row in axes:
        row[0].set_ylabel("learning rate")
    line_up(axes.flat[len(cs)], found, limit)
    for axis in axes.flat[len(cs) + 1 :]:
        axis.remove()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(
        f"ENorm with biases on {common['dataset']}, width {common['width']}, "
        f"epochs: {common['epochs']}, {common['precision']}\n{words}",
        fontsize=9.5,
    )
    return save(figure, stem)


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    add_folders(parser, STUDY, "points")
    args = parser.parse_args()
    cells = [
        LATER | cell
        for cell in read_results(args.results)
        if cell["experiment"] == "divergence" and cell["bias"] and not cell.get("softmax")
    ]
    if not cells:
        raise InputError(f"{args.results} holds no point of experiments/divergence.py bias")
    common = common_setting(cells, args.results)
    out = drawings(args, STUDY)
    for path in draw(points(cells), common, out / f"divergence_boundary_{common['dataset']}"):
        print(path)


if __name__ == "__main__":
    cli.run(main)
