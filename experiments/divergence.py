"""When training diverges: over depth, c and rate with biases, over seeds without.

    python experiments/divergence.py bias
    python experiments/divergence.py seeds softmax

trains every point of a grid for one epoch at its first rate, which is how the study's runs of 60
epochs start. `bias`: ENorm with biases, one seed, 140 points, some 40 minutes on one core.
`seeds`: no bias, 20 seeds, ENorm at p = 13, 15, 17, 19 and the baseline at 13 and 19, three rates,
each diverged seed started again once; 18 points of ten to fifteen minutes on one core. `softmax`:
with a softmax before the loss, 20 seeds at p = 19 and rate 0.1, without bias and with; three such
points. Stopped at any moment, the same command goes on. Every point leaves a JSON file in --out;
`figures/divergence_boundary.py` and `figures/divergence_seeds.py` draw them.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from enorm_jax import cli, parse
from enorm_jax.cell import Cell, same_setting
from enorm_jax.display import title
from enorm_jax.divergence import Run, runs_of
from enorm_jax.methods import METHODS
from enorm_jax.results import most_restarted_last, read_results
from enorm_jax.storage import Folder
from fc_cells import precision_argument, run_arguments
from train_cells import train


@dataclasses.dataclass(frozen=True)
class Grid:
    """Points to train: all combinations of what is given.

    Attributes:
      depths: for each method its depths p.
      rates: learning rates.
      cs: ratios of norms that ENorm aims at.
      seeds: of each point.
      bias: with biases or without, or both.
      softmax: whether a softmax precedes the loss.
      restarts: how often a diverged seed starts again.
    """

    depths: dict[str, tuple[int, ...]]
    rates: tuple[float, ...]
    cs: tuple[float, ...] = (1.2,)
    seeds: tuple[int, ...] = tuple(range(20))
    bias: bool = False
    softmax: bool = False
    restarts: int = 0


# The baseline at the ends of the depths, and the softmax at one point, so that two hours do.
GRIDS: dict[str, tuple[Grid, ...]] = {
    "bias": (
        Grid({"enorm": (5, 7, 9, 11, 13, 15, 19)}, (0.005, 0.01, 0.05, 0.1),
             (1.0, 1.05, 1.1, 1.2, 1.4), seeds=(0,), bias=True),
    ),
    "seeds": (
        Grid({"baseline": (13, 19), "enorm": (13, 15, 17, 19)}, (0.01, 0.05, 0.1), restarts=1),
    ),
    "softmax": (
        Grid({"baseline": (19,), "enorm": (19,)}, rates=(0.1,), softmax=True),
        Grid({"enorm": (19,)}, rates=(0.1,), bias=True, softmax=True),
    ),
}  # fmt: skip


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument("grid", choices=list(GRIDS), nargs="+", help="which points to train")
    p.add_argument("--depths", type=parse.depths, help="instead of the grid's: 5-9 or 5,19")
    p.add_argument("--c", type=parse.floats, help="instead of the grid's, one or several")
    p.add_argument("--lr", type=parse.floats, help="rates instead of the grid's")
    p.add_argument("--seeds", type=parse.seeds, help="instead of the grid's: 3, 20-39 or 5,7")
    p.add_argument("--epochs", type=parse.positive_int, default=1, help="epochs, at constant rate")
    p.add_argument("--batch-size", type=parse.positive_int, default=256, help="images in a step")
    p.add_argument("--width", type=parse.positive_int, default=500, help="units of a hidden layer")
    precision_argument(p)
    p.add_argument(
        "--train-images", type=parse.positive_int, metavar="N", help="train on the first N images"
    )
    run_arguments(p, out="runs/divergence")
    p.set_defaults(save_params=False)
    return p


def cells(args: Any) -> list[Cell]:
    """The points asked for; neighbours differ in rate or c alone and so share a program."""
    return [
        Cell(
            experiment="divergence",
            dataset=args.dataset,
            method=method,
            depth=depth,
            width=args.width,
            bias=grid.bias,
            epochs=args.epochs,
            learning_rate=rate,
            c=c,
            batch_size=args.batch_size,
            weight_decay=1e-3,
            precision=args.precision,
            restarts=grid.restarts,
            seeds=args.seeds or grid.seeds,
            schedule="constant",  # else a second epoch would be at half the rate
            train_images=args.train_images,
            softmax=grid.softmax,
        )
        for grid in itertools.chain(*(GRIDS[name] for name in dict.fromkeys(args.grid)))
        for method, own in grid.depths.items()
        for depth in args.depths or own
        for c in ((args.c or grid.cs) if METHODS[method].equalize else (None,))
        for rate in args.lr or grid.rates
    ]


def report(wanted: Sequence[Cell], out: Folder) -> Table:
    """What became of the points."""
    table = Table("point", "diverged", "at step", "restarted", "loss of guessing", "accuracy (%)")
    results = read_results(out)
    for cell in wanted:
        same = most_restarted_last(result for result in results if same_setting(cell, result))
        found = {run.seed: run for result in same for run in runs_of(result)}
        runs = [found[seed] for seed in cell.seeds if seed in found]
        first = sorted(run.first for run in runs if run.first is not None)
        accuracies = [f"{run.accuracy:.1f}" for run in runs if run.accuracy is not None]
        table.add_row(
            title(dataclasses.replace(cell, schedule="linear")),  # what all have in common
            f"{len(first)} of {len(runs)}",
            span([step_name(step) for step in first]),
            restarted([run for run in runs if run.restarts]),
            str(sum(run.guessing for run in runs)),
            span(sorted(accuracies, key=float)),
        )
    return table


def span(texts: Sequence[str]) -> str:
    """The first and the last of sorted values."""
    return "–".join(dict.fromkeys((texts[0], texts[-1]))) if texts else ""


def step_name(first: tuple[int, int]) -> str:
    """A step as text, with its epoch if it is not the first; both counted from 0."""
    epoch, step = first
    return f"{epoch}:{step}" if epoch else str(step)


def restarted(runs: Sequence[Run]) -> str:
    """How many of the restarted runs did not diverge again."""
    return f"{sum(not run.diverged for run in runs)} of {len(runs)} cured" if runs else ""


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    wanted = train(args, cells, console)
    if args.dry_run:
        return
    console.print(report(wanted, args.out))


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
