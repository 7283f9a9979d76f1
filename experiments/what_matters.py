"""What of the study's setting matters: one thing at a time is changed.

    python experiments/what_matters.py

trains every change at p = 3, 9 and 15 for 60 epochs, 3 seeds: how pixels are normalized, a
constant rate with the best epoch, initialization, ENorm's order, its last layer, its c and what it
balances around BN, fewer images; and `cures`, other ways than --bias gauge to train ENorm with
biases, at p = 1, 3, ..., 19.
Days on 2 cores: name a few, and see --dry-run. Stopped at any moment, the same command goes on.
Every cell leaves a JSON file in --out; claims.py judges the committed ones in results/variants,
beside the study's own settings, which fc_sweep.py trains.
"""

import dataclasses
from typing import Any

from rich.console import Console

from enorm_jax import cli, parse
from enorm_jax.cell import Cell
from enorm_jax.display import title
from enorm_jax.summary import accuracy_table
from fc_cells import precision_argument, run_arguments
from train_cells import train
from verdicts.runs import DEPTHS
from verdicts.variants import AT, CURES, VARIANTS

# The changed settings of each claim; those with biases alone are fc_sweep.py's.
CHANGED = {"cures": list(CURES)} | {
    one.name: [other for _, other in one.pairs()] for one in VARIANTS if one.name != "biases"
}


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument(
        "change", choices=[*CHANGED, "all"], nargs="*", default="all", help="what to change"
    )
    p.add_argument("--depths", type=parse.depths, help="other than those that claims are about")
    p.add_argument("--seeds", type=parse.seeds, default="3", help="3 (0, 1, 2), 1000-1002 or 5,7")
    p.add_argument(
        "--epochs", type=parse.positive_int, default=60, help="epochs, over which the rate decays"
    )
    p.add_argument("--width", type=parse.positive_int, default=500, help="units of a hidden layer")
    precision_argument(p)
    run_arguments(p, out="runs/variants")
    p.set_defaults(save_params=False)
    return p


def cells(args: Any) -> list[Cell]:
    """The cells asked for, each once."""
    names = list(CHANGED) if "all" in args.change else args.change
    wanted = [
        dataclasses.replace(
            setting.cell(depth, args.precision),
            dataset=args.dataset,
            seeds=args.seeds,
            epochs=args.epochs,
            width=args.width,
        )
        for name in names
        for depth in args.depths or (DEPTHS if name == "cures" else AT)
        for setting in CHANGED[name]
    ]
    return list(dict.fromkeys(wanted))


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    wanted = train(args, cells, console)
    if not args.dry_run:
        console.print(accuracy_table(wanted, args.out, {"cell": title}))


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
