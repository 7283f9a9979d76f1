"""Test accuracy over depth, beside the published points.

    python figures/fc_depth.py

draws the study's committed cells, beside this script, in a few seconds. Another folder that a
sweep wrote can be named; its figures lie in it then.
"""

import collections
from typing import Any

from enorm_jax import cli, parse
from enorm_jax.cell import LATER
from enorm_jax.errors import InputError
from enorm_jax.layers import PRECISIONS
from enorm_jax.methods import METHODS, ORIGINAL, STUDY, in_order
from enorm_jax.plotting import accuracy_over_depth
from enorm_jax.rates import known_rate, read_winners
from enorm_jax.results import read_results
from places import RESULTS, add_folders, drawings

EXPERIMENTS = RESULTS.parent


def most_runs(name: str, cells: list[dict[str, Any]]) -> Any:
    """The value of a setting with which most runs were made; None without cells."""
    runs = collections.Counter[Any]()
    for cell in cells:
        runs[cell[name]] += len(cell["seeds"])
    return next((value for value, _ in runs.most_common(1)), None)


def of_precision(cells: list[dict[str, Any]], precision: str | None) -> list[dict[str, Any]]:
    """The cells of one precision; if none is named, in each panel of that with the most runs."""
    chosen = []
    for bias in (False, True):
        own = [cell for cell in cells if cell["bias"] == bias]
        most = precision or most_runs("precision", own)
        chosen += [cell for cell in own if cell["precision"] == most]
    if not chosen:
        raise InputError(f"no cell in {precision}: choose another --precision")
    return chosen


def at_default_rates(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells at the published rates, or for a method without, at those that were searched."""
    winners = read_winners(EXPERIMENTS / "learning_rates.json")
    return [cell for cell in cells if cell["learning_rate"] == known_rate(LATER | cell, winners)]


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    add_folders(parser, RESULTS)
    parser.add_argument(
        "--published", choices=["study", "original", "both"], default="study",
        help="whose points to draw beside",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=[*PRECISIONS, "all"],
        help="of the cells to draw; default: the one with the most runs",
    )  # fmt: skip
    parser.add_argument(
        "--method", type=parse.methods, nargs="+", action=cli.Joined, default="study",
        help="study, original (seven), all, or their names; others than the study's go to a figure "
        "of their own",
    )  # fmt: skip
    parser.add_argument(
        "--default-rates", action="store_true",
        help="leave out cells at other learning rates than fc_sweep.py takes without --lr",
    )  # fmt: skip
    parser.add_argument("--without-bias", action="store_true", help="draw no networks with bias")
    args = parser.parse_args()
    sources = ("study", "original") if args.published == "both" else (args.published,)
    cells = [cell for cell in read_results(args.results) if cell.get("experiment") == "fc"]
    if not cells:
        raise InputError(f"{args.results} holds no finished cell of fc_sweep.py: give another")
    out = drawings(args, RESULTS)
    cells = [cell for cell in cells if cell["method"] in args.method]
    if not cells:
        raise InputError(f"{args.results} holds no cell of {', '.join(args.method)}: give others")
    if args.without_bias:
        cells = [cell for cell in cells if not cell["bias"]]
    if args.default_rates:
        cells = at_default_rates(cells)
    if not cells:
        flags = ["--without-bias"] * args.without_bias + ["--default-rates"] * args.default_rates
        raise InputError(f"{args.results}: no cell passes {' and '.join(flags)}: leave it out")
    short = {STUDY: "", tuple(in_order(ORIGINAL)): "_seven", tuple(METHODS): "_all"}
    ordered = in_order(args.method)
    names = short.get(tuple(ordered), "_" + "_".join(ordered))
    names += "" if args.published == "study" else f"_{args.published}"
    for dataset in sorted({cell["dataset"] for cell in cells}):
        every = [cell for cell in cells if cell["dataset"] == dataset]
        epochs = most_runs("epochs", every)
        own = [cell for cell in every if cell["epochs"] == epochs]
        if len(own) < len(every):
            print(f"cells of {dataset} that are left out, not of {epochs} epochs: "
                  f"{len(every) - len(own)}")  # fmt: skip
        if args.precision != "all":
            own = of_precision(own, args.precision)
        for path in accuracy_over_depth(own, out / f"fc_depth_{dataset}{names}", sources):
            print(path)


if __name__ == "__main__":
    cli.run(main)
