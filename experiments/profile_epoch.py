"""Where the time of a training epoch goes: products, rounding, optimizer, ENorm, the rest.

    python experiments/profile_epoch.py --methods baseline,enorm --depth 9 --data-dir DIR

trains the study's network on the first images of CIFAR-10 under XLA's profiler, after an epoch that
warms up, and adds up the time of its operations by what they are part of. XLA merges neighbours: a
merged operation counts as the first of these that it holds: transposes, rounding to bfloat16,
ENorm, optimizer, normalization; products are never merged. Times are of single operations and may
overlap, so that shares say more than seconds. A minute on 2 cores; nothing else should run
meanwhile.
"""

import collections
import functools
import gzip
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Column, Table

import fc_cells
from enorm_jax import cli, data, parse
from enorm_jax.cell import Cell
from enorm_jax.compilation import compiled
from enorm_jax.layers import PRECISIONS
from enorm_jax.methods import make_method
from enorm_jax.program import train_runs
from enorm_jax.recipe import init_states
from enorm_jax.results import provenance
from enorm_jax.sweep import hyper_of, recipe_of

# What an operation's name, as JAX gives it, holds of each part; the first that is found counts.
PARTS = {
    "transposes": r"/row_major_transpose/|/transpose$",
    "rounding": r"/to_bfloat16/",
    "ENorm": r"/enorm/",
    "optimizer": r"/optimizer/",
    "normalization": r"/norm_\d+",
}
PRODUCTS, REST = "products", "the rest"


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument(
        "--methods", type=parse.methods, default="study", help="comma-separated names, study or all"
    )
    p.add_argument("--depth", type=parse.positive_int, default=9, help="hidden-to-hidden layers p")
    p.add_argument(
        "--precision", choices=PRECISIONS, nargs="+", default=list(PRECISIONS), help="of products"
    )
    p.add_argument("--train-images", type=parse.positive_int, default=5120, help="in an epoch")
    p.add_argument("--dataset", choices=["cifar10", "digits"], default="cifar10")
    p.add_argument("--data-dir", help="where TFDS prepared CIFAR-10; default: TFDS_DATA_DIR")
    p.add_argument("--out", type=parse.new_file, help="JSON file to write")
    return p


def cells(args: Any) -> list[Cell]:
    """What is profiled."""
    return [
        cell
        for precision in args.precision
        for cell in fc_cells.cells(
            fc_cells.parser(None).parse_args(
                ["--dataset", args.dataset, "--method", ",".join(args.methods), "--lr", "0.01",
                 "--depths", str(args.depth), "--train-images", str(args.train_images),
                 "--precision", precision]
            )
        )
    ]  # fmt: skip


def seconds_by_operation(cell: Cell, dataset: data.Dataset) -> tuple[str, dict[str, float]]:
    """Trains an epoch under the profiler.

    Args:
      cell: what to train.
      dataset: on what.

    Returns:
      The compiled program's text, and seconds by the names of its operations.
    """
    its = recipe_of(cell, dataset)
    images, labels = jax.device_put((dataset.train_images, dataset.train_labels))
    seeds = jnp.zeros(1, jnp.uint32)
    states = jax.jit(functools.partial(init_states, its))(seeds, hyper_of(cell, 1), images[:1])
    arguments = states, seeds, jnp.int32(0), images, labels
    epoch = compiled(functools.partial(train_runs, its), *arguments)
    jax.block_until_ready(epoch(*arguments))
    found: collections.defaultdict[str, float] = collections.defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(epoch(*arguments))
        (path,) = Path(folder).rglob("*.trace.json.gz")
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
    for event in events:
        name = event.get("args", {}).get("hlo_op")
        if name and "dur" in event:
            found[name] += event["dur"] / 1e6
    text = epoch.as_text()
    assert text is not None
    return text, found


def parts_of(text: str) -> dict[str, str]:
    """What each operation of a compiled program is part of.

    Args:
      text: the program.

    Returns:
      Names of parts by the names of operations; loops and conditions, which hold others, are
      left out.
    """
    bodies: dict[str, list[str]] = {}
    own: list[str] = []
    for line in text.splitlines():
        if start := re.match(r"(?:ENTRY )?%(\S+) \(.*\{$", line):
            own = bodies.setdefault(start[1], [])
        else:
            own.append(line)
    found = {}
    for line in (line for lines in bodies.values() for line in lines):
        if not (match := re.match(r"\s*(?:ROOT )?%(\S+) = .*?\s([\w-]+)\(", line)):
            continue
        name, kind = match.groups()
        called = re.search(r"calls=%([\w.-]+)", line)
        lines = [line, *(bodies.get(called[1], []) if called else [])]
        if kind in ("while", "conditional", "call"):
            continue
        if any(re.search(r"\sdot\(", own) for own in lines):
            found[name] = PRODUCTS
            continue
        names = [scope for own in lines for scope in re.findall(r'op_name="([^"]*)"', own)]
        matching = (p for p, sign in PARTS.items() if any(re.search(sign, n) for n in names))
        found[name] = next(matching, REST)
    return found


def shares(cell: Cell, dataset: data.Dataset) -> dict[str, float]:
    """Seconds of an epoch by part, the largest first."""
    text, seconds = seconds_by_operation(cell, dataset)
    parts = parts_of(text)
    found: collections.defaultdict[str, float] = collections.defaultdict(float)
    for name, spent in seconds.items():
        if name in parts:
            found[parts[name]] += spent
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    dataset = data.load(args.dataset, args.data_dir)
    profiles = []
    heads = ["method", "precision", "busy (s)", PRODUCTS, *PARTS, REST]
    named = [Column(head, no_wrap=True) for head in heads[:3]]
    table = Table(*named, *(Column(head, overflow="fold") for head in heads[3:]), padding=0)
    for cell in cells(args):
        found = shares(cell, dataset)
        profiles.append({"settings": cell.settings(), "seconds": found})
        busy = sum(found.values())
        parts = (f"{found.get(part, 0.0) / busy:.0%}" for part in [PRODUCTS, *PARTS, REST])
        table.add_row(make_method(cell.method).label, cell.precision, f"{busy:.2f}", *parts)
    console.print(table)
    cli.save(args.out, {"experiment": "profile", **provenance(), "profiles": profiles}, console)


if __name__ == "__main__":
    cli.run(main)
