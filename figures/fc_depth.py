"""Test accuracy over depth, beside the published points.

    python figures/fc_depth.py

draws the study's committed cells in a second; any other folder that a sweep wrote can be named.
"""

from pathlib import Path

from enorm_jax import cli
from enorm_jax.plotting import accuracy_over_depth
from enorm_jax.results import read_results

HERE = Path(__file__).parent


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument(
        "results", type=Path, nargs="?", default=HERE.parent / "experiments" / "results",
        help="folder of cells",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the drawings")
    args = parser.parse_args()
    cells = [cell for cell in read_results(args.results) if cell["experiment"] == "fc"]
    args.out.mkdir(parents=True, exist_ok=True)
    for path in accuracy_over_depth(cells, args.out / "fc_depth"):
        print(path)


if __name__ == "__main__":
    cli.run(main)
