"""Test accuracy over depth, beside the published points.

    python figures/fc_depth.py

draws the study's committed cells, beside this script, in a few seconds. Another folder that a
sweep wrote can be named; its figures lie in it then.
"""

from pathlib import Path

from enorm_jax import cli
from enorm_jax.errors import InputError
from enorm_jax.plotting import accuracy_over_depth
from enorm_jax.results import read_results

HERE = Path(__file__).parent
STUDY = HERE.parent / "experiments" / "results"


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument(
        "results", type=Path, nargs="?", default=STUDY,
        help="folder of cells",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="folder for the drawings; default: that of the cells"
    )
    parser.add_argument(
        "--published", choices=["study", "original", "both"], default="study",
        help="whose points to draw beside",
    )  # fmt: skip
    args = parser.parse_args()
    sources = ("study", "original") if args.published == "both" else (args.published,)
    out = args.out or (args.results if args.results != STUDY else HERE)
    cells = [cell for cell in read_results(args.results) if cell.get("experiment") == "fc"]
    if not cells:
        raise InputError(f"{args.results} holds no finished cell of fc_sweep.py: give another")
    out.mkdir(parents=True, exist_ok=True)
    for dataset in sorted({cell["dataset"] for cell in cells}):
        own = [cell for cell in cells if cell["dataset"] == dataset]
        for path in accuracy_over_depth(own, out / f"fc_depth_{dataset}", sources):
            print(path)


if __name__ == "__main__":
    cli.run(main)
