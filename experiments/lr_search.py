"""Learning rates by validation: which of a grid is best for each method and depth.

    python experiments/lr_search.py --method gn,ws+gn --depths 1,7,13,19

trains every rate of the grid for a few epochs on four fifths of CIFAR-10's training images and
compares accuracies on the fifth that is held out; the test images are never looked at. All rates
and seeds of a method and depth are one program. The winners go to experiments/learning_rates.json,
where fc_sweep.py finds them: it takes the nearest depth's. A rate that is best over a few epochs
may be too high for 60. With --check 7,19 these depths are searched at full length too; how far the
two orders of the rates agree is reported and kept. The longest search of a depth counts, and a
method whose short search chose a rate that loses more than 1 % at full length keeps its full
searches only. A method takes some 15 minutes on 2 cores at the default depths where bfloat16 is
faster, else 30, and six times that at full length (--epochs 60).
"""

import itertools
import json
import math
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.table import Table

from enorm_jax import cli, parse, published
from enorm_jax.cell import Cell, same_setting
from enorm_jax.display import title
from enorm_jax.errors import InputError
from enorm_jax.methods import make_method
from enorm_jax.rates import SETTING, read_winners, winner
from enorm_jax.results import read_json, read_results, write_json
from enorm_jax.storage import Folder
from fc_cells import RATES, bias_handling, network_arguments, of_method, run_arguments
from train_cells import train

GRID = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1)
FOLDS = 5
LOSS = 1.0  # % of accuracy that a short search's rate may lose at full length

Search = dict[str, Any]
Check = dict[str, Any]


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    network_arguments(p, depths="1,7,13,19")
    p.add_argument("--grid", type=parse.floats, default=GRID, help="learning rates to compare")
    p.add_argument("--seeds", type=parse.seeds, default="1", help="3 (0, 1, 2), 1000-1002 or 5,7")
    p.add_argument(
        "--folds",
        type=parse.positive_int,
        default=1,
        help=f"how many of the {FOLDS} parts of the training images are held out in turn",
    )
    p.add_argument(
        "--epochs", type=parse.positive_int, default=10, help="epochs, over which the rate decays"
    )
    p.add_argument(
        "--check",
        type=parse.depths,
        default=(),
        metavar="DEPTHS",
        help="depths to search at full length too",
    )
    p.add_argument("--full", type=parse.positive_int, default=60, help="epochs of full length")
    p.add_argument(
        "--write",
        type=parse.new_file,
        default=RATES,
        metavar="FILE",
        help="where the winners are kept",
    )
    run_arguments(p, out="runs/lr_search")
    p.set_defaults(save_params=False, train_images=None)
    return p


def cells(args: Any) -> list[Cell]:
    """All rates of a method, depth and fold in one cell each, shallow networks first."""
    lengths = {depth: [args.epochs] for depth in args.depths}
    for depth in args.check:
        lengths[depth] = list(dict.fromkeys([args.epochs, args.full]))
    return [
        Cell(
            experiment="lr_search",
            dataset=args.dataset,
            method=method,
            depth=depth,
            width=args.width,
            bias=args.bias is not None,
            epochs=epochs,
            learning_rate=args.grid[0],
            rates=args.grid,
            batch_size=args.batch_size,
            weight_decay=args.weight_decay,
            precision=args.precision,
            restarts=0,
            seeds=args.seeds,
            bias_handling=bias_handling(its, args.bias),
            fold=f"{fold}/{FOLDS}",
            **of_method(its, args),
        )
        for depth in sorted(lengths)
        for epochs in lengths[depth]
        for method in args.method
        for its in [make_method(method)]
        for fold in range(args.folds)
    ]


def searches(wanted: list[Cell], out: Folder) -> list[Search]:
    """What finished cells found: per method, depth and length the accuracies at each rate."""
    results = read_results(out)
    found = []
    key = operator.attrgetter("method", "depth", "epochs")
    for (method, depth, epochs), group in itertools.groupby(sorted(wanted, key=key), key=key):
        folds = list(group)
        rates = folds[0].rates or ()
        of_folds = [accuracies(cell, results) for cell in folds]
        runs = [[value for fold in of_folds for value in fold[k]] for k in range(len(rates))]
        settings = folds[0].settings()
        found.append(
            {"method": method, "depth": depth, "epochs": epochs}
            | {"learning_rate": winner(rates, runs), "rates": list(rates)}
            | {"validation_accuracy": runs, "folds": f"{len(folds)} of {FOLDS}"}
            | {name: settings[name] for name in (*SETTING, "precision", "seeds")}
        )
    return found


def accuracies(cell: Cell, results: list[dict[str, Any]]) -> list[list[float | None]]:
    """A cell's accuracies, seeds within rates, from however many files hold its seeds."""
    runs: dict[int, list[float | None]] = {}
    for result in results:
        if same_setting(cell, result):
            seeds = result["seeds"]
            for k, seed in enumerate(seeds):
                runs[seed] = result["test_accuracy"][k :: len(seeds)]
    if not runs.keys() >= set(cell.seeds):
        raise InputError(
            f"{title(cell)} is still being trained by another process: run the same command when "
            "it is done"
        )
    return [[runs[seed][rate] for seed in cell.seeds] for rate in range(len(cell.rates or ()))]


def means(search: Search) -> list[float]:
    """Mean accuracy at each rate; 0 at one that diverges, which is worse than any other."""
    runs = search["validation_accuracy"]
    return [0.0 if None in values else sum(values) / len(values) for values in runs]


def agreement(short: Search, full: Search) -> Check:
    """How far a short search orders the rates as a full one, and what its choice loses there."""
    import scipy.stats  # takes most of a second, and most runs need it not

    # nan where all means are equal, as of one rate
    tau = scipy.stats.kendalltau(means(short), means(full)).statistic
    chosen, at_full = short["learning_rate"], means(full)
    lost = None if chosen is None else max(at_full) - at_full[short["rates"].index(chosen)]
    return {
        **{name: short[name] for name in (*SETTING, "depth")},
        "epochs": [short["epochs"], full["epochs"]],
        "learning_rates": [chosen, full["learning_rate"]],
        "kendall_tau": round(float(tau), 3) if math.isfinite(tau) else None,
        "loss": None if lost is None else round(lost, 2),
    }


def setting(entry: dict[str, Any]) -> str:
    """What a search, or a check, was made at, but for its depth and length."""
    return json.dumps([entry[name] for name in SETTING])


def place(entry: dict[str, Any]) -> tuple[str, int]:
    """What a search, or a check, is of."""
    return setting(entry), entry["depth"]


def failed(checks: Sequence[Check]) -> list[Check]:
    """The checks in which a short search's rate loses too much at full length."""
    return [check for check in checks if (check["loss"] or 0.0) > LOSS]


def trusted(found: Sequence[Search], checks: Sequence[Check]) -> list[Search]:
    """The searches whose winners are kept: the longest of each method, setting and depth.

    Args:
      found: searches; of equal ones the last counts.
      checks: short searches beside full ones.

    Returns:
      The longest ones, but none as short as one of the same method that failed its check, at
      whatever depth.
    """
    too_short: dict[str, int] = {}
    for check in failed(checks):
        at = setting(check)
        too_short[at] = max(too_short.get(at, 0), check["epochs"][0])
    longest: dict[tuple[str, int], Search] = {}
    for search in found:
        before = longest.get(place(search), search)
        if too_short.get(setting(search), 0) < search["epochs"] >= before["epochs"]:
            longest[place(search)] = search
    return sorted(longest.values(), key=place)


def advice(found: Sequence[Search], checks: Sequence[Check], length: int) -> list[str]:
    """What a reader of the winners should know, a line each.

    Args:
      found: searches just made.
      checks: all that are known.
      length: epochs of full length.

    Returns:
      The lines.
    """
    lines = [
        f"{search['method']} p={search['depth']}: the best rate is at the edge of --grid; a wider "
        "one may hold a better"
        for search in trusted(found, checks)
        if len(search["rates"]) > 1
        and search["learning_rate"] in (min(search["rates"]), max(search["rates"]))
    ]
    of_found = {setting(search): search["method"] for search in found}
    lines += [
        f"{check['method']} p={check['depth']}: the short search's {check['learning_rates'][0]:g} "
        f"loses {check['loss']:.1f} % at full length; of {check['method']} only full searches are "
        f"kept: search all depths with --epochs {check['epochs'][1]}"
        for check in failed(checks)
        if setting(check) in of_found
    ]
    unchecked = {setting(search): search["method"] for search in found if search["epochs"] < length}
    for check in checks:
        unchecked.pop(setting(check), None)
    return lines + [
        f"{method}: not checked at {length} epochs, for which rates may be too high: add --check "
        "7,19"
        for method in unchecked.values()
    ]


def keep(path: Path, found: list[Search], checks: list[Check]) -> list[Check]:
    """Puts searches and checks into the file of winners, beside what it holds.

    Args:
      path: the file.
      found: searches just made.
      checks: checks just made.

    Returns:
      All checks that the file holds then.
    """
    with FileLock(f"{path}.lock"):  # another search may end at the same time
        known = read_winners(path)  # says if it is no such file
        old = read_json(path) if path.exists() else {}
        every = {place(check): check for check in [*old.get("checks", []), *checks]}
        checks = sorted(every.values(), key=place)
        winners = trusted([*known, *found], checks)
        write_json(path, {"winners": winners, "checks": checks})
    return checks


def report(found: list[Search], checks: list[dict[str, Any]]) -> list[Table]:
    """Validation accuracy at each rate, the winner beside the study's, and the checks."""
    rates = found[0]["rates"]
    table = Table("method", "p", "epochs", *(f"{rate:g}" for rate in rates), "best", "study",
                  title="mean validation accuracy (%) by learning rate; NaN: a run diverged",
                  collapse_padding=True, pad_edge=False)  # fmt: skip
    for search in found:
        method, depth = search["method"], search["depth"]
        shown = [
            "NaN" if None in values else f"{sum(values) / len(values):.1f}"
            for values in search["validation_accuracy"]
        ]
        known = published.learning_rate(method, depth) if published.has_rates(method) else None
        best = search["learning_rate"]
        table.add_row(
            make_method(method).label, str(depth), str(search["epochs"]), *shown,
            "none" if best is None else f"{best:g}", "–" if known is None else f"{known:g}",
        )  # fmt: skip
    tables = [table]
    if checks:
        table = Table("method", "p", "epochs", "best, short and full", "Kendall's tau",
                      title="does the short search order rates as a full one?")  # fmt: skip
        for check_ in checks:
            pair = " ".join("none" if r is None else f"{r:g}" for r in check_["learning_rates"])
            table.add_row(
                make_method(check_["method"]).label, str(check_["depth"]),
                " and ".join(map(str, check_["epochs"])), pair, str(check_["kendall_tau"]),
            )  # fmt: skip
        tables.append(table)
    return tables


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    if args.folds > FOLDS:
        raise InputError(f"--folds {args.folds}: there are {FOLDS}; choose at most so many")
    if args.check and args.full <= args.epochs:
        raise InputError(
            f"--check compares with --full {args.full} epochs, which are no more than --epochs "
            f"{args.epochs}: choose more, or leave it out"
        )
    read_winners(args.write)  # before hours of training
    wanted = train(args, cells, console)
    if args.dry_run:
        return
    found = searches(wanted, args.out)
    full = {place(search): search for search in found if search["epochs"] == args.full}
    checks = [
        agreement(search, full[place(search)])
        for search in found
        if search["epochs"] < args.full and place(search) in full
    ]
    known = keep(args.write, found, checks)
    for table in report(found, checks):
        console.print(table)
    for line in advice(found, known, args.full):
        console.print(line, highlight=False)
    console.print(f"winners: {args.write}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
