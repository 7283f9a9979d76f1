"""Which of the published findings hold, by tests that were stated beforehand.

    python experiments/claims.py

judges the committed cells and writes CLAIMS.md, beside this script, and the README's verdicts and
results, in a few seconds. Another folder that a sweep wrote can be named; its CLAIMS.md lies in it.
Cells of what_matters.py, conv_sweep.py, micro_batch.py, divergence.py and mechanisms.py are looked
for in its folders variants, conv, micro_batch, divergence and mechanisms.
"""

from pathlib import Path

from enorm_jax import cli
from enorm_jax.errors import InputError
from enorm_jax.results import read_json, read_results
from verdicts import readme, report
from verdicts.findings import CLAIMS
from verdicts.store import Store

HERE = Path(__file__).parent
RESULTS, README = HERE / "results", HERE.parent / "README.md"
OTHERS = ("variants", "conv", "micro_batch", "divergence")


def written(results: Path) -> dict[Path, str]:
    """The files and what they should hold.

    Args:
      results: folder of cells.

    Returns:
      Texts by path: CLAIMS.md, and the README for the committed cells.

    Raises:
      InputError: if the folder holds no cell, or the README lacks a marker.
    """
    costs = results / "step-cost.json"
    folders = [results, *(results / name for name in OTHERS if (results / name).is_dir())]
    store = Store(
        [cell for folder in folders for cell in read_results(folder)],
        read_json(costs) if costs.exists() else None,
        [read_json(path) for path in sorted((results / "mechanisms").glob("mechanisms_*.json"))],
    )
    if not store.results:
        raise InputError(f"{results} holds no finished cell of fc_sweep.py: give another")
    outcomes = [(claim, claim.judge(store)) for claim in CLAIMS]
    if results.resolve() != RESULTS.resolve():
        return {results / "CLAIMS.md": report.claims_text(store, outcomes, "this folder")}
    blocks = {"results": readme.results(store), "verdicts": readme.verdicts(outcomes)}
    return {
        HERE / "CLAIMS.md": report.claims_text(store, outcomes, "`experiments/results/`"),
        README: readme.updated(README.read_text(encoding="utf-8"), blocks),
    }


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS, help="folder of cells")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 if a file is out of date"
    )
    args = parser.parse_args()
    for path, text in written(args.results).items():
        if not args.check:
            path.write_text(text, encoding="utf-8")
            print(path)
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{path} is not what the cells say: run experiments/claims.py")
        else:
            print(f"{path} is up to date")


if __name__ == "__main__":
    cli.run(main)
