"""Seconds per epoch of each method, side by side in one run.

    python experiments/benchmark.py --data-dir DIR --depths 9

times epochs of the study's networks on CIFAR-10 in turn, method after method, round after round,
and a large matrix product in every round, so that a machine that drifts drifts for all. Five
rounds at depth 9 take about five minutes on 2 cores. Nothing else should run meanwhile.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from enorm_jax import FullyConnected, cli, data, published
from enorm_jax.fit import compile_program, fit
from enorm_jax.methods import METHODS
from enorm_jax.results import provenance, write_json
from enorm_jax.timing import epoch_flops, matmul_rate, parameter_count
from enorm_jax.training import Recipe, hyperparameters


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument("--depths", type=cli.depths, default="9", help="1-19, 1-19:1 or 1,9,19")
    p.add_argument("--seeds", type=cli.positive_int, default=1, help="runs in parallel")
    p.add_argument("--rounds", type=cli.positive_int, default=5)
    p.add_argument("--dataset", choices=["cifar10", "digits"], default="cifar10")
    p.add_argument("--data-dir", help="where TFDS prepared CIFAR-10; default: TFDS_DATA_DIR")
    p.add_argument("--out", type=Path, help="JSON file to write")
    return p


def epochs_of(method: str, depth: int, seeds: int, rounds: int, dataset: data.Dataset) -> Any:
    """Compiles a method and returns the iterator over its epochs."""
    recipe = Recipe(
        model=FullyConnected(depth=depth, classes=dataset.classes, norm=METHODS[method].norm),
        equalize=METHODS[method].equalize,
        standardization=dataset.standardization,
        batch_size=256,
        epochs=60,
        train_size=len(dataset.train_labels),
    )
    program = compile_program(recipe, dataset, seeds)
    rate = published.learning_rate(method, depth)
    hyper = hyperparameters(seeds, learning_rate=rate, c=1.2, weight_decay=1e-3)
    return program.compile_seconds, fit(program, range(seeds), hyper, epochs=rounds + 1)


def measure(depth: int, args: Any, dataset: data.Dataset) -> dict[str, Any]:
    """Times all methods at one depth, in turn."""
    compiled = {m: epochs_of(m, depth, args.seeds, args.rounds, dataset) for m in METHODS}
    train: dict[str, list[float]] = {m: [] for m in METHODS}
    test: dict[str, list[float]] = {m: [] for m in METHODS}
    rates = []
    for turn in range(args.rounds + 1):
        rates.append(matmul_rate())
        for method, (_, epochs) in compiled.items():
            start = time.perf_counter()
            epoch = next(epochs)
            if turn > 0:  # the first warms up
                train[method].append(epoch.seconds)
                test[method].append(time.perf_counter() - start - epoch.seconds)
    pixels = dataset.train_images[0].size
    work = args.seeds * epoch_flops(
        parameter_count(depth, 500, pixels, dataset.classes), len(dataset.train_labels)
    )
    # The first layer's input has no gradient: what is really done is a little less.
    skipped = args.seeds * 2.0 * pixels * 500 * len(dataset.train_labels)
    rate = statistics.median(rates)

    def summary(method: str) -> dict[str, Any]:
        seconds = statistics.median(train[method])
        pairs = zip(train[method], train["baseline"], strict=True)
        return {
            "seconds_per_epoch": seconds,
            "all_seconds": train[method],
            "over_baseline": statistics.median(own / base for own, base in pairs),
            "test_pass_seconds": statistics.median(test[method]),
            "compile_seconds": compiled[method][0],
            "share_of_matmul_rate": work / seconds / rate,
            "share_of_matmul_rate_without_skipped": (work - skipped) / seconds / rate,
        }

    return {
        "depth": depth,
        "matmul_flops": rate,
        "methods": {method: summary(method) for method in METHODS},
    }


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    dataset = data.load(args.dataset, args.data_dir)
    found = {"experiment": "benchmark", "seeds": args.seeds, **provenance(), "depths": []}
    table = Table(
        "depth", "method", "s/epoch", "over baseline", "test pass (s)", "compile (s)",
        "share of peak", "really done",
        title=f"{args.seeds} seed(s) on {jax.devices()[0].platform}, medians of {args.rounds}",
    )  # fmt: skip
    for depth in args.depths:
        result = measure(depth, args, dataset)
        found["depths"].append(result)
        for method, entry in result["methods"].items():
            table.add_row(
                str(depth),
                METHODS[method].label,
                f"{entry['seconds_per_epoch']:.2f}",
                f"{entry['over_baseline']:.3f}",
                f"{entry['test_pass_seconds']:.2f}",
                f"{entry['compile_seconds']:.1f}",
                f"{entry['share_of_matmul_rate']:.2f}",
                f"{entry['share_of_matmul_rate_without_skipped']:.2f}",
            )
    console.print(table)
    console.print(
        "share of peak: 6 operations per weight and image, over the rate of one large matrix\n"
        "product; really done: without the first layer's input gradient, which nobody needs"
    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, found)
        console.print(f"written: {args.out}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    cli.run(main, again="run the command again")
