"""What the scripts that train cells share: checks, the list of a dry run, and the run."""

import argparse
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from enorm_jax import cli, data, networks
from enorm_jax.cell import Cell, without_done_seeds
from enorm_jax.compilation import keep_compiled
from enorm_jax.cost import cell_memory, cell_rate, epoch_work
from enorm_jax.devices import leave_memory, memory_size
from enorm_jax.display import Display, title
from enorm_jax.distributed import from_first, join, leads
from enorm_jax.executors import Executor
from enorm_jax.jobs import Job, load_once
from enorm_jax.layers import PRECISIONS, Precision
from enorm_jax.methods import make_method
from enorm_jax.program import fits
from enorm_jax.results import read_results
from enorm_jax.storage import Folder, check_writable
from enorm_jax.sweep import progress
from enorm_jax.timing import fastest_precision
from enorm_jax.workers import default_workers


def train(
    args: Any,
    cells: Callable[[Any], list[Cell]],
    console: Console,
    *,
    one_image: bool = False,
    fastest: Callable[[], Precision] = fastest_precision,
) -> list[Cell]:
    """What a script that trains cells does with its arguments; a dry run lists them instead.

    Args:
      args: of `run_arguments`, and what `cells` takes.
      cells: function from the arguments to the cells.
      console: where to write.
      one_image: whether batch normalization may train on batches of one image, of whose
        positions it then takes the statistics.
      fastest: what `--precision auto` stands for on this device.

    Returns:
      The cells asked for, trained unless `args.dry_run`.
    """
    engine, address = args.executor
    if engine != "local" or (args.workers or 1) > 1:
        leave_memory()
    if args.distributed:  # before JAX looks for devices
        join(args.distributed)
        args.data_parallel = True
        console.quiet = not leads()
    keep_compiled(args.compilation_cache)
    dataset = load_once(args.dataset, args.data_dir)
    if args.data_parallel and (engine != "local" or args.workers not in (None, 1)):
        raise cli.InputError(
            "--data-parallel and --distributed train one cell at a time, on all devices: leave out "
            "--executor and --workers"
        )
    default = 1 if args.data_parallel else default_workers() if engine == "local" else None
    executor = Executor(
        engine,
        address,
        workers=args.workers or default,
        cpus=args.cpus_per_cell,
        gpus=args.gpus_per_cell,
        options=dict(args.slurm),
    )
    names = PRECISIONS if args.precision == "auto" else [args.precision]
    choices = {
        name: cells(argparse.Namespace(**vars(args) | {"precision": name})) for name in names
    }
    wanted = choices[names[0]]
    check(args, wanted, dataset, one_image=one_image)
    if args.precision == "auto":
        here = fastest if engine == "local" else None
        precision, why = from_first(lambda: choose_precision(choices, args.out, here))
        console.print(f"products in {precision}, {why}", highlight=False)
        wanted = choices[precision]
    if args.dry_run and leads():
        dry_run(wanted, dataset, args.out, executor.workers or 1, console)
    elif not args.dry_run:
        run(args, wanted, dataset, executor, console)
    if not leads():
        raise SystemExit(0)  # the first process reports
    return wanted


def choose_precision(
    choices: Mapping[Precision, list[Cell]],
    out: Folder,
    fastest: Callable[[], Precision] | None,
) -> tuple[Precision, str]:
    """What `--precision auto` stands for, and why.

    A sweep that goes on elsewhere, or beside other work, would start again in the other precision
    if the device at hand decided it anew.

    Args:
      choices: the cells asked for, in each precision.
      out: their folder; what was begun there, in the precision of most of it, decides first.
      fastest: then the precision in which this device is faster; None if others train.

    Returns:
      The precision, and the reason in words.
    """
    one = choices["float32"][0]
    done = [
        result["precision"]
        for result in read_results(out)
        if (result["experiment"], result["dataset"], result.get("network", "fc"))
        == (one.experiment, one.dataset, one.network)
    ]
    counts = {
        name: done.count(name)
        + sum(cell.lock_path(out).exists() or cell.checkpoint_path(out).exists() for cell in cells)
        for name, cells in choices.items()
    }
    if counts["float32"] != counts["bfloat16"]:
        most = max(PRECISIONS, key=lambda name: counts[name])
        return most, f"as most of what {os.fspath(out)} holds"
    if fastest is None:
        return "float32", "since other machines train: give --precision for theirs"
    return fastest(), "which is faster here"


def check(args: Any, wanted: list[Cell], dataset: data.Dataset, *, one_image: bool = False) -> None:
    """Refuses what no network could train on, and what none has a use for."""
    refuse_unused(args, list(dict.fromkeys(cell.method for cell in wanted)))
    images: dict[str | None, int] = {None: len(dataset.train_labels)}
    for fold in {cell.fold for cell in wanted if cell.fold}:
        images[fold] = data.kept(len(dataset.train_labels), fold)
        if not fits(dataset):
            raise cli.InputError(
                f"holding images of {dataset.name} out would copy the others, more than memory "
                "holds: choose smaller ones"
            )
    batch_flag = "--batch-sizes" if hasattr(args, "batch_sizes") else "--batch-size"
    for cell in wanted:
        check_size(cell, images[cell.fold], one_image, batch_flag)
        check_groups(cell, dataset)
    if args.save_params and any(cell.select == "best" for cell in wanted):
        raise cli.InputError("--save-params keeps the last epoch's network: not with --select best")
    from_first(lambda: check_writable(args.out))


def refuse_unused(args: Any, methods: Sequence[str]) -> None:
    """Refuses flags that change a part which no method has."""
    every, names = [make_method(method) for method in methods], ", ".join(methods)
    if not any(method.equalize for method in every):
        refused = sorted(args.given & {"--c", "--order", "--leave-last"})
        if getattr(args, "bias", None) in ("keep", "gauge"):
            refused.append(f"--bias {args.bias}")
        for flag in refused:
            raise cli.InputError(f"{flag}: no ENorm among {names}: add enorm, or leave it out")
    if "--groups" in args.given and not any(method.grouped for method in every):
        raise cli.InputError(f"--groups: no GN or BCN among {names}: add gn, or leave it out")


def check_size(cell: Cell, images: int, one_image: bool, batch_flag: str) -> None:
    """Refuses numbers of images that do not fit a training set of so many."""
    size = cell.train_images or images
    held = " that are left, a fifth being held out," if cell.fold else ""
    if size > images:
        raise cli.InputError(
            f"--train-images {size} is more than the {images}{held} of {cell.dataset}: choose fewer"
        )
    if cell.batch_size > size:
        raise cli.InputError(
            f"{batch_flag} {cell.batch_size} is more than the {size} training images of "
            f"{cell.dataset}: choose a smaller one"
        )
    alone = 1 in (cell.batch_size, size % cell.batch_size)
    if alone and make_method(cell.method).whole_batch and not one_image:
        raise cli.InputError(
            f"{batch_flag} {cell.batch_size} makes a batch of one image, which batch "
            "normalization cannot train on: choose another"
        )


def check_groups(cell: Cell, dataset: data.Dataset) -> None:
    """Refuses networks that do not exist, and groups that do not divide a layer's units."""
    units, what = [cell.width], "units"
    if cell.network != "fc":
        image = dataset.train_images.shape[1:]
        units, what = networks.normalized_channels(cell, image, dataset.classes), "channels"
    if make_method(cell.method).grouped and any(n % cell.groups for n in units):
        near = near_divisors(math.gcd(*units), cell.groups)
        raise cli.InputError(
            f"--groups {cell.groups} does not divide the {listed(units)} {what} "
            f"of a layer: choose {' or '.join(map(str, near))}"
        )


def listed(numbers: Sequence[int]) -> str:
    """Numbers in words: ``4, 8 and 16``."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def near_divisors(units: int, groups: int) -> list[int]:
    """The divisors of a number of units next to a number of groups, below and above."""
    divisors = [n for n in range(1, units + 1) if units % n == 0]
    return [*[n for n in divisors if n < groups][-1:], *[n for n in divisors if n > groups][:1]]


def dry_run(
    wanted: list[Cell], dataset: data.Dataset, out: Folder, workers: int, console: Console
) -> None:
    """Lists the cells, their state and estimates of memory and of the time left."""
    results = read_results(out)
    rates: dict[tuple[Any, ...], float] = {}
    table = Table("cell", "seeds", "precision", "state", "memory (MB)", "TFLOP", "minutes left",
                  title=str(out))  # fmt: skip
    total = operations = 0.0
    for cell in wanted:
        left = left_of(cell, out, results)
        epochs = progress(left, out) if left else 0
        state = f"epoch {epochs} of {cell.epochs}" if epochs else "to do" if left else "done"
        kind = (cell.network, cell.width, cell.batch_size, cell.precision)
        if kind not in rates:
            rates[kind] = cell_rate(cell)
        flops = (cell.epochs - epochs) * epoch_work(left, dataset) if left else 0.0
        minutes = flops / rates[kind] / 60
        total, operations = total + minutes, operations + flops
        table.add_row(
            title(cell),
            seed_names(cell),
            cell.precision,
            state,
            f"{sum(cell_memory(cell, dataset, cell.runs)) / 1e6:.0f}",
            f"{flops / 1e12:.4g}",
            f"{minutes:.1f}",
        )
    console.print(table)
    console.print(
        f"{operations:.3g} floating-point operations, about {total / 60:.1f} hours left on all "
        "cores, if they stay as fast as just now",
        highlight=False,
    )
    console.print(room(wanted, dataset, workers), highlight=False)


def room(wanted: list[Cell], dataset: data.Dataset, workers: int) -> str:
    """How many seeds of the largest cell fit into the device's memory."""
    total = memory_size()
    largest = max(wanted, key=lambda cell: sum(cell_memory(cell, dataset, 1)))
    (images, one), (_, two) = (cell_memory(largest, dataset, runs) for runs in (1, 2))
    seeds = 1 + math.floor((total / workers - images - one) / (two - one))
    return (
        f"{total / 1e9:.0f} GB of memory hold about {max(seeds, 0)} seeds of {title(largest)} "
        f"at once, with {workers} workers"
    )


def seed_names(cell: Cell) -> str:
    """The seeds as text, a run of them as its ends."""
    first, last = cell.seeds[0], cell.seeds[-1]
    if len(cell.seeds) > 2 and cell.seeds == tuple(range(first, last + 1)):
        return f"{first}-{last}"
    return ", ".join(map(str, cell.seeds))


def run(
    args: Any, wanted: list[Cell], dataset: data.Dataset, executor: Executor, console: Console
) -> None:
    """Runs the cells that are not done, side by side if there are several workers."""
    todo = remaining(args, wanted, console)
    workers = min(executor.workers or len(todo), max(1, len(todo)))
    if workers > 1:  # else the longest would be left to one of them at the end
        todo.sort(key=lambda cell: -cell.epochs * epoch_work(cell, dataset))
    if executor.engine != "local":
        console.print(f"{len(todo)} cells by {executor.engine}", highlight=False)
    elif workers > 1:
        console.print(f"{workers} workers", highlight=False)
    elif (
        args.workers is None
        and not args.data_parallel
        and len(todo) > 1
        and jax.default_backend() == "gpu"
    ):
        console.print(
            "one worker: with --workers 4, cells would train on this GPU while others compile",
            highlight=False,
        )
    job = Job(
        dataset=args.dataset,
        # Elsewhere a relative path would mean another folder.
        data_dir=args.data_dir and str(Path(args.data_dir).expanduser().absolute()),
        out=args.out,
        save_params=args.save_params,
        compilation_cache=args.compilation_cache,
        together=args.data_parallel,
    )
    with Display(console, todo, lambda cell: epoch_work(cell, dataset)) as display:
        if executor.engine == "local":
            executor = dataclasses.replace(executor, workers=workers)
        executor.run(todo, job, display)


def left_of(cell: Cell, out: Folder, results: list[dict[str, Any]]) -> Cell | None:
    """What no result has yet of a cell: all of it if it has begun, whose checkpoint has its name.

    Others may have finished some of its seeds since.
    """
    left = without_done_seeds(cell, results)
    return cell if left and cell.checkpoint_path(out).exists() else left


def left_seeds(out: Folder, wanted: list[Cell]) -> list[list[int]]:
    """For each cell the seeds that no result has yet."""
    results = read_results(out)
    cells = [left_of(cell, out, results) for cell in wanted]
    return [list(cell.seeds) if cell else [] for cell in cells]


def remaining(args: Any, wanted: list[Cell], console: Console) -> list[Cell]:
    """The cells, or seeds of cells, that are left to run; says what is done before."""
    seeds = from_first(lambda: left_seeds(args.out, wanted))
    pairs = list(zip(wanted, seeds, strict=True))
    todo = [dataclasses.replace(cell, seeds=tuple(left)) for cell, left in pairs if left]
    if not leads():
        return todo
    done = [cell for cell, left in pairs if not left]
    for cell in done:  # a run killed just before it could clean up
        cell.checkpoint_path(args.out).unlink(missing_ok=True)
    if done:
        console.print(f"{len(done)} of {len(wanted)} cells done before")
    if args.save_params and not all(cell.params_path(args.out).exists() for cell in done):
        console.print("parameters are kept of new cells only: give another --out to train again")
    return todo
