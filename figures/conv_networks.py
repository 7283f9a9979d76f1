"""Test accuracy of convolutional networks: over epochs by method, and over batch size.

    python figures/conv_networks.py

draws the committed cells of conv_sweep.py and micro_batch.py, beside this script, in a few
seconds, with however many seeds there are. Another folder that they wrote can be named; its
figures lie in it then.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from enorm_jax import cli, parse
from enorm_jax.cell import Cell
from enorm_jax.conv_plots import accuracy_over_batch, accuracy_over_epochs
from enorm_jax.errors import InputError
from enorm_jax.methods import in_order
from enorm_jax.results import read_results
from enorm_jax.storage import check_writable
from places import HERE, RESULTS

# What tells the points of a figure apart, by experiment.
POINT = {"conv": ("method", "learning_rate"), "micro_batch": ("method", "batch_size")}
DRAW: Mapping[str, Callable[..., list[Path]]] = {
    "conv": accuracy_over_epochs,
    "micro_batch": accuracy_over_batch,
}
# What only some methods have, or have in a way of their own.
OF_METHOD = ("c", "groups", "bias_handling", "order", "balance_last", "of_norms", "norm_after")


def seeds_by_setting(results: Iterable[dict[str, Any]]) -> dict[Cell, set[int]]:
    """The settings of finished cells, as cells without seeds, and the seeds of each."""
    found: dict[Cell, set[int]] = {}
    for result in results:
        cell = Cell.of(result | {"seeds": (), "restarts": 0})
        found.setdefault(cell, set()).update(result["seeds"])
    return found


def of_one_figure(found: Mapping[Cell, set[int]]) -> list[Cell]:
    """What one figure can show: the cells of a setting, and one a point, of the most runs."""
    point = POINT[next(iter(found)).experiment]
    own = (*point, *OF_METHOD, "learning_rate")
    fixed = [field.name for field in dataclasses.fields(Cell) if field.name not in own]

    def shared(cell: Cell) -> tuple[Any, ...]:
        # In micro_batch.py rates are proportional to the batch size.
        rate = None if "learning_rate" in point else cell.learning_rate / cell.batch_size
        return rate, *(getattr(cell, name) for name in fixed)

    counts = collections.Counter[tuple[Any, ...]]()
    for cell, seeds in found.items():
        counts[shared(cell)] += len(seeds)
    ((most, _),) = counts.most_common(1)
    fewest_first = sorted(found, key=lambda cell: len(found[cell]))
    points = {
        tuple(getattr(cell, name) for name in point): cell
        for cell in fewest_first
        if shared(cell) == most
    }
    methods = in_order(cell.method for cell in points.values())
    return sorted(
        points.values(), key=lambda c: (c.batch_size, methods.index(c.method), c.learning_rate)
    )


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("results", type=parse.folder, nargs="?", help="folder of cells")
    parser.add_argument(
        "--out", type=parse.folder, help="folder for the drawings; default: that of the cells"
    )
    args = parser.parse_args()
    folders = [args.results] if args.results else [RESULTS / name for name in POINT]
    every = [cell for folder in folders for cell in read_results(folder)]
    results = [cell for cell in every if cell.get("experiment") in POINT]
    if not results:
        raise InputError(
            f"{folders[0]} holds no finished cell of conv_sweep.py or micro_batch.py: give another"
        )
    out = args.out or args.results or HERE
    check_writable(out)
    figures: dict[str, dict[Cell, set[int]]] = {}
    for cell, seeds in seeds_by_setting(results).items():
        name = cell.size if cell.experiment == "conv" else cell.experiment
        figures.setdefault(f"{name}_{cell.dataset}", {})[cell] = seeds
    for stem, found in figures.items():
        chosen = of_one_figure(found)
        if left := len(found) - len(chosen):
            print(f"settings that are left out of {stem}, of no more runs: {left}")
        for path in DRAW[chosen[0].experiment](chosen, results, out / stem):
            print(path)


if __name__ == "__main__":
    cli.run(main)
