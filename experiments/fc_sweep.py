"""Test accuracy over depth of the study's fully connected networks.

    python experiments/fc_sweep.py --method enorm --depths 1-19

trains 3072 -> 500 -> (p times 500) -> 10 on CIFAR-10 for p = 1, 3, ..., 19 at the published
settings: some 80 minutes a method and seed on 2 cores. Stopped at any moment, the same command
goes on. Every cell leaves a JSON file in --out; a table and a figure beside the published
results close the run.
"""

import dataclasses
import functools
import itertools
import math
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from enorm_jax import cli, data, published
from enorm_jax.cell import Cell, same_setting, without_done_seeds
from enorm_jax.display import Display, title
from enorm_jax.layers import PRECISIONS
from enorm_jax.methods import METHODS
from enorm_jax.plotting import accuracy_over_depth, pooled
from enorm_jax.results import interval, read_results
from enorm_jax.sweep import progress, run_cell
from enorm_jax.timing import epoch_flops, fastest_precision, matmul_rate, parameter_count

HERE = Path(__file__).parent


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument(
        "--method",
        type=cli.choices(list(METHODS)),
        nargs="+",
        required=True,
        help=f"one or several of {', '.join(METHODS)}, or all",
    )
    p.add_argument(
        "--depths",
        type=cli.depths,
        default="1-19",
        help="1-19 (1, 3, ..., 19), 1-19:1 (every one) or 1,9,19",
    )
    p.add_argument("--bias", action="store_true", help="give every layer a bias")
    p.add_argument("--seeds", type=cli.seeds, default="1", help="3 (0, 1, 2), 1000-1002 or 5,7")
    p.add_argument(
        "--epochs", type=cli.positive_int, default=60, help="epochs, over which the rate decays"
    )
    p.add_argument(
        "--lr",
        type=cli.floats,
        help="initial learning rate, one or several; default: the published one",
    )
    p.add_argument(
        "--c",
        type=cli.positive_float,
        default=1.2,
        help="ratio of outgoing to incoming norms that ENorm aims at",
    )
    p.add_argument("--batch-size", type=cli.positive_int, default=256, help="images in a step")
    p.add_argument(
        "--weight-decay", type=cli.non_negative_float, default=1e-3, help="on all parameters"
    )
    p.add_argument(
        "--precision",
        choices=[*PRECISIONS, "auto"],
        default="float32",
        help="of the matrix products' operands; auto takes what this device is faster at",
    )
    p.add_argument("--width", type=cli.positive_int, default=500, help="units of a hidden layer")
    p.add_argument(
        "--dataset", choices=["cifar10", "digits"], default="cifar10", help="digits is embedded"
    )
    p.add_argument("--data-dir", help="where TFDS prepared CIFAR-10; default: TFDS_DATA_DIR")
    p.add_argument(
        "--out", type=Path, default=HERE / "runs", metavar="DIR", help="folder for cells and figure"
    )
    p.add_argument(
        "--restarts",
        type=cli.count,
        default=0,
        metavar="N",
        help="start a diverged seed again with another, up to N times",
    )
    p.add_argument(
        "--save-params",
        action="store_true",
        help="keep the parameters after the last epoch, as safetensors",
    )
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="list the cells, their state and an estimate of the time",
    )
    return p


def cells(args: Any) -> list[Cell]:
    """The cells asked for, shallow networks first."""
    return [
        Cell(
            experiment="fc",
            dataset=args.dataset,
            method=method,
            depth=depth,
            width=args.width,
            bias=args.bias,
            epochs=args.epochs,
            learning_rate=rate,
            c=args.c if METHODS[method].equalize else None,
            batch_size=args.batch_size,
            weight_decay=args.weight_decay,
            precision=args.precision,
            restarts=args.restarts,
            seeds=args.seeds,
        )
        for depth in args.depths
        for method in dict.fromkeys(itertools.chain(*args.method))
        for rate in args.lr or (published.learning_rate(method, depth),)
    ]


def work(cell: Cell, dataset: data.Dataset) -> float:
    """Floating-point operations of one epoch of a cell."""
    pixels = dataset.train_images[0].size
    parameters = parameter_count(cell.depth, cell.width, pixels, dataset.classes)
    return len(cell.seeds) * epoch_flops(parameters, len(dataset.train_labels))


def check(args: Any, wanted: list[Cell], dataset: data.Dataset) -> None:
    """Refuses what no network could train on."""
    size = len(dataset.train_labels)
    if args.batch_size > size:
        raise cli.InputError(
            f"--batch-size {args.batch_size} is more than the {size} training images of "
            f"{dataset.name}: choose a smaller one"
        )
    normalized = any(METHODS[cell.method].norm for cell in wanted)
    if 1 in (args.batch_size, size % args.batch_size) and normalized:
        raise cli.InputError(
            f"--batch-size {args.batch_size} makes a batch of one image, which batch "
            "normalization cannot train on: choose another"
        )
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.out).close()
    except OSError as error:
        raise cli.InputError(
            f"cannot write to --out {args.out} ({error.strerror}): choose another folder"
        ) from None


def dry_run(wanted: list[Cell], dataset: data.Dataset, out: Path, console: Console) -> None:
    """Lists the cells, their state and an estimate of the time left."""
    results, rate = read_results(out), matmul_rate()
    table = Table("cell", "seeds", "rate", "state", "minutes left", title=str(out))
    total = 0.0
    for cell in wanted:
        left = without_done_seeds(cell, results)
        epochs = progress(left, out) if left else 0
        state = f"epoch {epochs} of {cell.epochs}" if epochs else "to do" if left else "done"
        # An epoch reaches some 80 % of the rate of one large product.
        minutes = (cell.epochs - epochs) * work(left, dataset) / rate / 0.8 / 60 if left else 0.0
        total += minutes
        table.add_row(
            title(cell), seed_names(cell), f"{cell.learning_rate:g}", state, f"{minutes:.1f}"
        )
    console.print(table)
    console.print(f"about {total:.0f} minutes left at {rate / 1e9:.0f} GFLOP/s", highlight=False)


def seed_names(cell: Cell) -> str:
    """The seeds as text."""
    return ", ".join(map(str, cell.seeds))


def sweep(args: Any, wanted: list[Cell], dataset: data.Dataset, console: Console) -> None:
    """Runs the cells that are not done."""
    todo = remaining(args, wanted, console)
    reached = 0.0
    with Display(console, sum(cell.epochs * work(cell, dataset) for cell in todo)) as display:
        for cell in todo:
            per_epoch = work(cell, dataset)
            if cell.result_path(args.out).exists():
                display.log(f"{title(cell)}  done meanwhile by another process")
            else:
                display.start(cell)
                before = progress(cell, args.out)
                if before:
                    display.log(f"{title(cell)}  going on after epoch {before}")
                display.reach(reached + before * per_epoch)
                show = functools.partial(display.epoch, cell, work=per_epoch)
                result = run_cell(
                    cell, dataset, args.out, save_params=args.save_params, on_epoch=show
                )
                display.log(f"{title(cell)}  done: {outcome(result)}")
            reached += cell.epochs * per_epoch
            display.reach(reached)


def remaining(args: Any, wanted: list[Cell], console: Console) -> list[Cell]:
    """The cells, or seeds of cells, that are left to run; says what is done before."""
    results = read_results(args.out)
    todo = [left for cell in wanted if (left := without_done_seeds(cell, results))]
    done = [cell for cell in wanted if without_done_seeds(cell, results) is None]
    for cell in done:  # a run killed just before it could clean up
        cell.checkpoint_path(args.out).unlink(missing_ok=True)
    if done:
        console.print(f"{len(done)} of {len(wanted)} cells done before")
    if args.save_params and not all(cell.params_path(args.out).exists() for cell in done):
        console.print("parameters are kept of new cells only: give another --out to train again")
    return todo


def outcome(result: dict[str, Any]) -> str:
    """A finished cell in a few words."""
    accuracies = [value for value in result["test_accuracy"] if value is not None]
    text = format_interval(accuracies) + " %" if accuracies else "no accuracy"
    lost = [f"epoch {d['epoch']} step {d['step']}" for d in result["diverged"] if d]
    again = sum(map(len, result["restarted"]))
    text += f", diverged at {'; '.join(lost)} (counted from 0)" if lost else ""
    return text + (f", {again} restarts" if again else "")


def format_interval(values: list[float]) -> str:
    """Mean ± half-width of its 95 % interval."""
    mean, half = interval(values)
    return f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")


def summary(wanted: list[Cell], out: Path, console: Console) -> None:
    """Prints a table of what the folder holds for the cells asked for."""
    results = read_results(out)
    table = Table(
        "method", "p", "rate", "accuracy (%)", "n", "diverged", "published", "difference",
        title="test accuracy: mean ± half-width of the 95 % interval over n seeds",
    )  # fmt: skip
    for cell in wanted:
        same = [result for result in results if same_setting(cell, result)]
        accuracies, diverged = pooled(same)
        own, lost = accuracies.get(cell.depth, []), diverged.get(cell.depth, 0)
        again = sum(len(entry) for result in same for entry in result["restarted"])
        known = published_accuracy(cell)
        table.add_row(
            METHODS[cell.method].label,
            str(cell.depth),
            f"{cell.learning_rate:g}",
            format_interval(own) if own else "–",
            str(len(own)),
            ", ".join([str(lost)] * bool(lost) + [f"{again} restarted"] * bool(again)),
            "–" if known is None else "NaN" if math.isnan(known) else f"{known:.2f}",
            f"{interval(own)[0] - known:+.2f}" if own and known and known > 0 else "–",
        )
    console.print(table)


def published_accuracy(cell: Cell) -> float | None:
    """The study's accuracy (%) where the cell has its settings: nan if it diverged there."""
    study = dataclasses.replace(
        cell,
        dataset="cifar10",
        width=500,
        epochs=60,
        learning_rate=published.learning_rate(cell.method, cell.depth),
        c=1.2 if METHODS[cell.method].equalize else None,
        batch_size=256,
        weight_decay=1e-3,
    )
    known = published.accuracies("study", cell.method, cell.bias).get(cell.depth)
    if known is not None and math.isnan(known):  # after one epoch
        study = dataclasses.replace(study, epochs=cell.epochs)
    return known if cell == study else None


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    dataset = data.load(args.dataset, args.data_dir)
    if args.precision == "auto":
        args.precision = fastest_precision()
        console.print(f"matrix products in {args.precision}, which is faster here")
    wanted = cells(args)
    check(args, wanted, dataset)
    if args.dry_run:
        dry_run(wanted, dataset, args.out, console)
        return
    sweep(args, wanted, dataset, console)
    summary(wanted, args.out, console)
    shown = [
        result
        for result in read_results(args.out)
        if (result["experiment"], result["dataset"]) == ("fc", args.dataset)
    ]
    paths = accuracy_over_depth(shown, args.out / f"accuracy_over_depth_{args.dataset}")
    console.print(f"figure: {paths[1]}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(main)
