"""What each normalization costs: time and memory of a training step, dense and convolutional.

    python experiments/step_cost.py --data-dir DIR --out experiments/results/step-cost.json

trains three networks on CIFAR-10 under each method for some steps, method after method, round
after round and each round in another order, so that a machine that drifts, or is slow after one of
them, drifts for all: the study's at p = 9 (batches of 256),
that of ENorm's authors at a quarter of its channels with a normalization after every convolution
but the last, and the residual network of 8 layers that micro_batch.py trains (both with batches of
64 and momentum 0.9). What counts is the ratio to the baseline within a round. Memory is what XLA
plans for a step, or for the study's network an epoch, of these images. Some 10 minutes on 2 cores;
nothing else should run meanwhile. A file that is there keeps its other networks. `figures/cost.py`
draws it.
"""

import dataclasses
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

import conv_sweep
import fc_cells
import micro_batch
from enorm_jax import cli, data, parse
from enorm_jax.cell import Cell
from enorm_jax.compilation import keep_compiled
from enorm_jax.data import Dataset
from enorm_jax.fit import fit
from enorm_jax.methods import make_method
from enorm_jax.program import Program, compile_program
from enorm_jax.recipe import hyperparameters
from enorm_jax.results import provenance, read_measured
from enorm_jax.summary import format_interval
from enorm_jax.sweep import recipe_of
from enorm_jax.timing import in_rounds, matmul_rate, within_rounds

METHODS = "bn,gn,ln,bcn,wn,wn+bn,ws+gn,ws+bcn,path-sgd,enorm,enorm+bn"
LABELS = {
    "fc": "fully connected, p = 9, 500 units, batches of 256",
    "conv": "ENorm's convolutional network, 32 to 80 channels, batches of 64",
    "resnet": "ResNet of 8 layers, 16 to 64 channels, batches of 64",
}
STEPS = {"fc": 10, "conv": 2, "resnet": 4}
BATCH = {"fc": 256, "conv": 64, "resnet": 64}


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument(
        "--networks", nargs="+", choices=list(LABELS), default=list(LABELS), help="which of them"
    )
    p.add_argument(
        "--method", type=parse.methods, nargs="+", action=cli.Joined, default=METHODS,
        help="beside the baseline",
    )  # fmt: skip
    p.add_argument("--rounds", type=parse.positive_int, default=9, help="epochs that are timed")
    p.add_argument("--dataset", choices=["cifar10", "digits"], default="cifar10")
    p.add_argument("--data-dir", help="where TFDS prepared CIFAR-10; default: TFDS_DATA_DIR")
    p.add_argument("--out", type=parse.new_file, help="JSON file to write")
    return p


def cells(network: str, methods: tuple[str, ...], dataset: str) -> list[Cell]:
    """A network under each method, the baseline first."""
    names = dict.fromkeys(("baseline", *methods))
    if network != "fc":  # it is for chains of dense layers
        names.pop("path-sgd", None)
    common = ["--dataset", dataset, "--method", ",".join(names)]
    common += ["--batch-size" + "s" * (network == "resnet"), str(BATCH[network])]
    common += ["--train-images", str(STEPS[network] * BATCH[network])]
    if network == "fc":
        own = ["--depths", "9", "--lr", "0.01", "--precision", "float32"]
        return fc_cells.cells(fc_cells.parser(None).parse_args([*common, *own]))
    if network == "conv":
        wide = ["--width", "0.25", "--norm-after", "all"]
        return conv_sweep.cells(conv_sweep.parser().parse_args([*common, *wide]))
    once = ["--seeds", "1"]
    return micro_batch.cells(micro_batch.parser().parse_args([*common, *once]))


def compiled(cell: Cell, dataset: Dataset) -> Program:
    """A cell's program, on as many images as it trains on."""
    return compile_program(recipe_of(cell, dataset), dataset, 1)


def seconds(cell: Cell, program: Program, rounds: int) -> Any:
    """Durations of a step, one a round; the first warms up."""
    hyper = hyperparameters(1, learning_rate=1e-3, c=cell.c or 1.0, weight_decay=cell.weight_decay)
    for epoch in fit(program, (0,), hyper, rounds + 1):
        yield epoch.seconds / STEPS[cell.network]


def measure(wanted: list[Cell], dataset: Dataset, rounds: int) -> dict[str, Any]:
    """Times a network under all methods, in turn."""
    programs = {cell.method: compiled(cell, dataset) for cell in wanted}
    running = {cell.method: seconds(cell, programs[cell.method], rounds) for cell in wanted}
    rate = matmul_rate()
    found = list(in_rounds({method: its.__next__ for method, its in running.items()}, rounds))
    return {
        "matmul_flops": rate,
        "rounds": rounds,
        "methods": {
            method: {
                "seconds": [of[method] for of in found],
                "memory_mb": programs[method].memory / 1e6,
            }
            for method in running
        },
    }


def table(network: str, measured: dict[str, Any]) -> Table:
    """What was measured of one network, for people."""
    shown = Table("method", "ms a step", "over baseline", "memory (MB)", title=LABELS[network])
    base = measured["methods"]["baseline"]
    for method, entry in measured["methods"].items():
        over = within_rounds(entry["seconds"], base["seconds"])
        shown.add_row(
            make_method(method).label,
            f"{1e3 * statistics.median(entry['seconds']):.1f}",
            format_interval(over),
            f"{entry['memory_mb']:.0f}",
        )
    return shown


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    keep_compiled(True)
    dataset = data.load(args.dataset, args.data_dir)
    found: dict[str, Any] = {"experiment": "step_cost", "networks": {}}
    if args.out and args.out.exists():  # networks that were measured before stay
        found = read_measured(args.out, "step_cost")
    for network in args.networks:
        wanted = cells(network, args.method, args.dataset)
        few = dataclasses.replace(
            dataset,
            train_images=dataset.train_images[: wanted[0].train_images],
            train_labels=dataset.train_labels[: wanted[0].train_images],
            test_images=dataset.test_images[: BATCH[network]],
            test_labels=dataset.test_labels[: BATCH[network]],
        )
        measured = measure(wanted, few, args.rounds)
        found["networks"][network] = {"dataset": args.dataset, **provenance(), **measured}
        console.print(table(network, measured))
        cli.save(args.out, found, console)


if __name__ == "__main__":
    cli.run(main, again="finished networks are kept: run it with --networks for the others")
