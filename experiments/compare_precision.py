"""Whether bfloat16 products train as accurate networks as float32 ones.

    python experiments/compare_precision.py

pairs the committed cells that differ in precision only, seed by seed, and writes the differences
in test accuracy with 95 % intervals, in a second. Stated beforehand: the precisions count as
equivalent if there are at least three pairs for each of the four methods at p = 1, 9 and 19, and
the interval of the mean difference over all pairs lies within ± 0.5 percent; as different if it
lies outside.
"""

import collections
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from enorm_jax import cli, parse
from enorm_jax.cell import LATER
from enorm_jax.errors import InputError
from enorm_jax.methods import STUDY, make_method
from enorm_jax.results import interval, read_results
from enorm_jax.summary import format_interval

RESULTS = Path(__file__).parent / "results"
DEPTHS, PAIRS, MARGIN = (1, 9, 19), 3, 0.5
SETTINGS = (
    "dataset", "method", "depth", "width", "bias", "epochs", "learning_rate", "c", "batch_size",
    "weight_decay", *LATER,
)  # fmt: skip
Setting = tuple[Any, ...]


def differences(results: Iterable[dict[str, Any]]) -> dict[tuple[str, int], list[float]]:
    """Test accuracy in bfloat16 minus float32, percent, by method and depth.

    Args:
      results: cells, from `read_results`; runs that diverged have no accuracy and are left out.

    Returns:
      Lists with one difference per setting and seed that was run in both precisions.
    """
    accuracies: dict[Setting, dict[str, float]] = collections.defaultdict(dict)
    for result in results:
        result = LATER | result
        if result["rates"]:  # a search: several runs a seed
            continue
        setting = tuple(result[key] for key in SETTINGS)
        for seed, accuracy in zip(result["seeds"], result["test_accuracy"], strict=True):
            if accuracy is not None:
                accuracies[*setting, seed][result["precision"]] = accuracy
    found = collections.defaultdict(list)
    for setting, of in sorted(accuracies.items(), key=lambda item: str(item[0])):
        if {"float32", "bfloat16"} <= of.keys():
            found[setting[1], setting[2]].append(of["bfloat16"] - of["float32"])
    return dict(found)


def equivalence(found: Mapping[tuple[str, int], list[float]]) -> tuple[float, float | None, str]:
    """The verdict on differences, by the rule above.

    Args:
      found: differences by method and depth, at least one.

    Returns:
      Their mean, the half-width of its interval or None, and the verdict.
    """
    mean, half = interval([value for values in found.values() for value in values])
    complete = all(len(found.get((m, p), [])) >= PAIRS for m in STUDY for p in DEPTHS)
    if not complete or half is None:
        return mean, half, "undecided: runs missing"
    if abs(mean) + half < MARGIN:
        return mean, half, "equivalent"
    return mean, half, "different" if abs(mean) - half > MARGIN else "undecided: interval too wide"


def main() -> None:
    """Runs the command."""
    parser = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS, help="folder of cells")
    parser.add_argument(
        "--out", type=parse.new_file, help="JSON to write; default: precision.json in the folder"
    )
    args = parser.parse_args()
    found = differences(r for r in read_results(args.results) if r["experiment"] == "fc")
    if not found:
        raise InputError(
            f"{args.results} holds no cell in both precisions: run fc_sweep.py with --precision "
            "float32 and with bfloat16"
        )
    table = Table("method", "p", "difference (%)", "n", title="bfloat16 minus float32")
    rows = []
    for (method, depth), values in sorted(found.items()):
        mean, half = interval(values)
        rows.append(
            {"method": method, "depth": depth, "differences": values, "mean": mean, "half": half}
        )
        table.add_row(
            make_method(method).label, str(depth), format_interval(values), str(len(values))
        )
    every = [value for values in found.values() for value in values]
    mean, half, verdict = equivalence(found)
    console = Console()
    console.print(table)
    console.print(f"all: {format_interval(every)} %, n = {len(every)}: {verdict}", highlight=False)
    content = {
        "experiment": "precision", "margin": MARGIN, "pairs": rows, "mean": mean, "half": half,
        "n": len(every), "verdict": verdict,
    }  # fmt: skip
    cli.save(args.out or args.results / "precision.json", content, console)


if __name__ == "__main__":
    cli.run(main)
