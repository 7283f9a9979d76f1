"""How fast training is, everything side by side in one run.

    python experiments/benchmark.py --data-dir DIR --out experiments/results/benchmark.json

times whole epochs of the study's networks on CIFAR-10, round after round, each in a new order and
with a large matrix product, so that a machine that drifts drifts for all: every method in both
precisions at depths 1, 9 and 19; at depth 9 also 2 and 4 seeds, two worker processes, and PyTorch
where it is installed (extra ``bench``). Then start-up. Some 45 minutes on 2 cores, 30 with --rounds
3; nothing else should run meanwhile. Ratios are medians over rounds of ratios within one.
"""

import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from comparisons import ratios, table
from enorm_jax import cli, data, parse
from enorm_jax.fit import fit
from enorm_jax.layers import PRECISIONS, Precision
from enorm_jax.methods import STUDY, make_method
from enorm_jax.program import Program, compile_program
from enorm_jax.recipe import Recipe, hyperparameters
from enorm_jax.results import provenance
from enorm_jax.timing import epoch_flops, in_rounds, matmul_rate, parameter_count
from enorm_jax.workers import default_workers, split_cores

HERE = Path(__file__).parent
Epochs = Iterator[tuple[float, float]]  # seconds of training, and of the test pass


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument("--depths", type=parse.depths, default="1,9,19", help="1-19, 1-19:1 or 1,9,19")
    p.add_argument(
        "--closely", type=parse.positive_int, default=9, metavar="P",
        help="depth at which seeds, workers and PyTorch are timed too",
    )  # fmt: skip
    p.add_argument(
        "--methods",
        type=parse.methods,
        default=STUDY,
        help="comma-separated names, study, original or all",
    )
    p.add_argument("--rounds", type=parse.positive_int, default=5)
    p.add_argument("--dataset", choices=["cifar10", "digits"], default="cifar10")
    p.add_argument("--data-dir", help="where TFDS prepared CIFAR-10; default: TFDS_DATA_DIR")
    p.add_argument("--out", type=parse.new_file, help="JSON file to write")
    return p


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to train.

    Attributes:
      name: as in tables, unique at a depth.
      epochs: iterator over epochs.
      seeds: networks trained in an epoch.
      facts: what else is known of it.
    """

    name: str
    epochs: Epochs
    seeds: int = 1
    facts: dict[str, float] = dataclasses.field(default_factory=dict)


def program(
    method: str, depth: int, precision: Precision, seeds: int, dataset: data.Dataset
) -> Program:
    """Compiles a method at the published settings."""
    its = make_method(method)
    recipe = Recipe(
        model=its.network(depth, classes=dataset.classes, precision=precision),
        equalize=its.equalize,
        optimizer=its.optimizer,
        standardization=dataset.standardization,
        batch_size=256,
        epochs=60,
        train_size=len(dataset.train_labels),
    )
    return compile_program(recipe, dataset, seeds)


def epochs_of(compiled: Program, seeds: int = 1) -> Epochs:
    """Epochs of a compiled method, without an end."""
    # One that every method trains with; the published rates are not for all of them.
    hyper = hyperparameters(seeds, learning_rate=0.01, c=1.2, weight_decay=1e-3)
    start = time.perf_counter()
    for epoch in fit(compiled, range(seeds), hyper, epochs=1_000_000):
        yield epoch.seconds, time.perf_counter() - start - epoch.seconds
        start = time.perf_counter()


def ours(
    method: str, depth: int, precision: Precision, dataset: data.Dataset, seeds: int = 1
) -> Contender:
    """A method of the library, in this process."""
    compiled = program(method, depth, precision, seeds, dataset)
    name = f"{method} {precision}" + (f" {seeds} seeds" if seeds > 1 else "")
    facts = {"compile_seconds": compiled.compile_seconds, "memory_mb": compiled.memory / 1e6}
    return Contender(name, epochs_of(compiled, seeds), seeds, facts)


def elsewhere(name: str, build: Callable[[], Epochs], cores: list[list[int]]) -> Contender:
    """Epochs in processes of their own, one for each list of cores, all at once."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for own in cores:
        pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(build, own, theirs), daemon=True).start()
        theirs.close()
        pipes.append(pipe)

    def epochs() -> Epochs:
        while True:
            start = time.perf_counter()
            for pipe in pipes:
                pipe.send("go")
            seconds = [pipe.recv() for pipe in pipes]
            test = max(test for _, test in seconds)
            yield time.perf_counter() - start - test, test

    return Contender(name, epochs(), seeds=len(cores))


def _serve(build: Callable[[], Epochs], cores: list[int], pipe: Connection) -> None:
    if cores:
        os.sched_setaffinity(0, cores)
    epochs = build()
    try:
        while pipe.recv():
            pipe.send(next(epochs))
    except (EOFError, KeyboardInterrupt):
        pass


def in_worker(
    method: str, depth: int, precision: Precision, name: str, data_dir: str | None
) -> Epochs:
    """Epochs of one method, for a worker process."""
    dataset = data.load(name, data_dir)
    return epochs_of(program(method, depth, precision, 1, dataset))


def in_torch(kind: str, depth: int, data_dir: str | None) -> Epochs:
    """Epochs in PyTorch, for a process of its own."""
    import torch_baseline

    dataset = data.load("cifar10", data_dir)
    if kind == "study":
        return torch_baseline.as_the_study(dataset, depth)
    method, precision = kind.split()
    return torch_baseline.in_memory(
        dataset, depth, with_enorm=method == "enorm", bfloat16=precision == "bfloat16"
    )


def contenders(depth: int, args: Any, dataset: data.Dataset) -> list[Contender]:
    """All that is timed at one depth."""
    found = [ours(m, depth, precision, dataset) for precision in PRECISIONS for m in args.methods]
    if depth != args.closely:
        return found
    for precision in PRECISIONS:
        found += [ours("enorm", depth, precision, dataset, seeds) for seeds in (2, 4)]
        workers = default_workers()
        if workers > 1:
            build = functools.partial(
                in_worker, "enorm", depth, precision, args.dataset, args.data_dir
            )
            name = f"enorm {precision} {workers} workers"
            found.append(elsewhere(name, build, split_cores(workers)))
    if importlib.util.find_spec("torch") and args.dataset == "cifar10":
        kinds = [f"{m} {precision}" for m in ("baseline", "enorm") for precision in PRECISIONS]
        for kind in [*kinds, "study"]:
            build = functools.partial(in_torch, kind, depth, args.data_dir)
            found.append(elsewhere(f"torch {kind}", build, [[]]))
    return found


def measure(depth: int, args: Any, dataset: data.Dataset, console: Console) -> dict[str, Any]:
    """Times all contenders at one depth, in turn."""
    runners = contenders(depth, args, dataset)
    seconds: dict[str, list[tuple[float, float]]] = {c.name: [] for c in runners}
    peaks: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    runs = {c.name: functools.partial(next, c.epochs) for c in runners}
    for turn, times in enumerate(in_rounds(runs, args.rounds), 1):
        for name, pair in times.items():
            seconds[name].append(pair)
        for precision in PRECISIONS:
            peaks[precision].append(matmul_rate(precision=precision))
        console.print(f"depth {depth}: round {turn} of {args.rounds}", highlight=False)
    for process in multiprocessing.active_children():
        process.kill()
    return {
        "depth": depth,
        "workers": default_workers(),
        "matmul_flops": {p: statistics.median(rates) for p, rates in peaks.items()},
        "contenders": {c.name: summary(c, depth, seconds[c.name], dataset) for c in runners},
    }


def summary(
    contender: Contender, depth: int, times: list[tuple[float, float]], dataset: data.Dataset
) -> dict[str, Any]:
    """What was measured of a contender."""
    train, test = ([pair[i] for pair in times] for i in (0, 1))
    pixels, images = dataset.train_images[0].size, len(dataset.train_labels)
    weights = parameter_count(depth, 500, pixels, dataset.classes)
    # The first layer's input has no gradient.
    work = contender.seeds * (epoch_flops(weights, images) - 2.0 * pixels * 500 * images)
    return {
        "seconds_per_epoch": statistics.median(train),
        "all_seconds": train,
        "test_pass_seconds": statistics.median(test),
        "seeds": contender.seeds,
        "flops": work / statistics.median(train),
        **contender.facts,
    }


START = """
import sys
from enorm_jax import data
from enorm_jax.compilation import keep_compiled
sys.path.insert(0, sys.argv[1])
import benchmark
keep_compiled()
dataset = data.load(sys.argv[2], sys.argv[3] or None)
benchmark.program("enorm+bn", int(sys.argv[4]), "float32", 1, dataset)
"""


def startup(depth: int, args: Any) -> dict[str, float]:
    """Seconds until a new process can train, data and imports included: cold and warm cache."""
    arguments = [str(HERE), args.dataset, args.data_dir or "", str(depth)]
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", START, *arguments], env=env, check=True)
            seconds.append(time.perf_counter() - start)
    return {"depth": depth, "cold_seconds": seconds[0], "warm_seconds": seconds[1]}


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    dataset = data.load(args.dataset, args.data_dir)
    found: dict[str, Any] = {"experiment": "benchmark", **provenance(), "depths": []}
    for depth in args.depths:
        result = measure(depth, args, dataset, console)
        result["ratios"] = ratios(result)
        found["depths"].append(result)
        console.print(table(result))
        for name, value in result["ratios"].items():
            console.print(f"  {name}: {value:.3f}", highlight=False)
        jax.clear_caches()
    found["startup"] = [startup(depth, args) for depth in args.depths]
    for entry in found["startup"]:
        console.print(
            f"start-up at depth {entry['depth']}: {entry['cold_seconds']:.1f} s cold, "
            f"{entry['warm_seconds']:.1f} s warm",
            highlight=False,
        )
    cli.save(args.out, found, console)


if __name__ == "__main__":
    cli.run(main)
