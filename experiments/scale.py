"""What a sweep takes on one machine and on many: measured here, and predicted for clusters.

    python experiments/scale.py measure --data-dir ...
    python experiments/scale.py

The first runs small sweeps by every engine on this machine, with nothing else running (some ten
minutes; extras cluster and slurm), and writes experiments/results/scale.json. The second predicts
from it, the benchmark and what cells took on a GPU how long the study takes on clusters
(`cluster_model.py`), and writes SCALE.md beside this script, in a second.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from enorm_jax import cli, parse
from enorm_jax.cores import available_cores
from enorm_jax.errors import InputError
from enorm_jax.results import provenance, read_measured, read_results, write_json

HERE = Path(__file__).parent
MEASURED = HERE / "results" / "scale.json"
BENCHMARK = HERE / "results" / "benchmark.json"

ENGINES = {
    "local, 1 worker": ["--workers", "1"],
    "local, 2 workers": ["--workers", "2"],
    "ray": ["--executor", "ray", "--workers", "2"],
    "slurm:local": ["--executor", "slurm:local", "--workers", "2"],
}
# Few and many cells of equal length, so that their difference is the cost of a cell.
SIZES = (4, 12)
SWEEP = (
    "--method", "baseline", "--depths", "3", "--epochs", "3", "--train-images", "5000",
    "--precision", "float32",
)  # fmt: skip


def sweep(engine: str, cells: int, data_dir: str | None) -> dict[str, Any]:
    """Runs a sweep in a new folder; seconds it took, and what of them its epochs."""
    with tempfile.TemporaryDirectory() as folder:
        # Rates tell cells apart.
        rates = ",".join(f"{0.01 * (1 + n):g}" for n in range(cells))
        command = [
            sys.executable, str(HERE / "fc_sweep.py"), *SWEEP, "--lr", rates, *ENGINES[engine],
            "--out", folder, *(["--data-dir", data_dir] if data_dir else []),
        ]  # fmt: skip
        start = time.perf_counter()
        # At this process's priority: Ray's workers would else have less.
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"RAY_worker_niceness": "0"}
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise InputError(f"{engine}: {done.stderr.strip().splitlines()[-1]}")
        results = read_results(folder)
    return {
        "seconds": seconds,
        "training_seconds": [3 * result["seconds_per_epoch"] for result in results],
        "compile_seconds": [result["compile_seconds"] for result in results],
    }


def measure(data_dir: str | None, rounds: int) -> None:
    """Runs all sweeps in turn, several times, and keeps the medians."""
    runs: dict[str, dict[int, list[dict[str, Any]]]] = {
        engine: {size: [] for size in SIZES} for engine in ENGINES
    }
    sweep("local, 1 worker", SIZES[0], data_dir)  # compiles, and reads the data
    for _ in range(rounds):
        for engine, sizes in runs.items():
            for size, of_size in sizes.items():
                of_size.append(sweep(engine, size, data_dir))
                print(f"{engine}, {size} cells: {of_size[-1]['seconds']:.1f} s", flush=True)
    write_json(
        MEASURED,
        {
            "experiment": "scale",
            "sweep": " ".join(SWEEP),
            "rounds": rounds,
            "engines": {engine: fitted(sizes) for engine, sizes in runs.items()},
            **provenance(),
        },
    )


def fitted(runs: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """An engine's cost: seconds before the first cell and after the last, and of a cell."""
    few, many = SIZES
    seconds = {size: float(np.median([run["seconds"] for run in runs[size]])) for size in SIZES}
    cell = (seconds[many] - seconds[few]) / (many - few)
    training = [value for run in runs[many] for value in run["training_seconds"]]
    compiling = [value for run in runs[many] for value in run["compile_seconds"]]
    return {
        "seconds": {str(size): round(value, 2) for size, value in seconds.items()},
        "seconds_per_cell": round(cell, 3),
        "start_seconds": round(seconds[few] - few * cell, 2),
        "cells_per_hour": round(3600 / cell),
        "training_seconds": round(float(np.median(training)), 3),
        "compile_seconds": round(float(np.mean(compiling)), 3),
    }


def main() -> None:
    """Runs the command."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument("what", choices=["measure", "predict"], nargs="?", default="predict")
    p.add_argument("--data-dir", help="where TFDS prepared CIFAR-10; default: TFDS_DATA_DIR")
    p.add_argument("--rounds", type=parse.positive_int, default=2, help="of all sweeps")
    args = p.parse_args()
    if args.what == "measure":
        if len(available_cores()) < 2:
            raise InputError("two workers want two cores: run this where there are as many")
        measure(args.data_dir, args.rounds)
    from scale_page import written

    path = HERE / "SCALE.md"
    found, benchmark = read_measured(MEASURED, "scale"), read_measured(BENCHMARK, "benchmark")
    path.write_text(written(found, benchmark, read_results(MEASURED.parent)))
    print(path)


if __name__ == "__main__":
    cli.run(main)
