import json
import subprocess
import sys
from pathlib import Path

import pytest

from enorm_jax.results import write_json

SCRIPT = Path(__file__).parents[1] / "experiments" / "compare_precision.py"
METHODS = ("baseline", "bn", "enorm", "enorm+bn")


def write(folder, precision, method, depth, seed, accuracy, **changes):
    cell = {
        "experiment": "fc", "dataset": "cifar10", "width": 500, "bias": False, "epochs": 60,
        "learning_rate": 0.05, "c": 1.2, "batch_size": 256, "weight_decay": 1e-3,
        "precision": precision, "method": method, "depth": depth, "seeds": [seed],
        "test_accuracy": [accuracy],
    } | changes  # fmt: skip
    write_json(folder / f"{len(list(folder.glob('*.json')))}.json", cell)


def run(folder):
    out = folder / "out" / "precision.json"
    out.parent.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, "--out", out], capture_output=True, text=True
    )
    return done, json.loads(out.read_text()) if out.exists() else None


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "equivalent"), (-0.6, "different")])
def test_pairs_decide_as_stated(tmp_path, shift, verdict):
    for method in METHODS:
        for depth in (1, 9, 19):
            for seed in range(3):
                write(tmp_path, "float32", method, depth, seed, 50.0 + seed)
                write(tmp_path, "bfloat16", method, depth, seed, 50.0 + seed + shift + seed / 100)
    done, found = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert found["verdict"] == verdict
    assert found["n"] == 36
    assert abs(found["mean"] - shift - 0.01) < 1e-9


def test_only_equal_settings_and_seeds_are_paired_and_missing_runs_decide_nothing(tmp_path):
    done, _ = run(tmp_path)
    assert done.returncode == 2
    assert "no cell in both precisions" in done.stderr
    write(tmp_path, "float32", "bn", 9, 0, 50.0)
    write(tmp_path, "bfloat16", "bn", 9, 0, 50.5)
    write(tmp_path, "bfloat16", "bn", 9, 1, 90.0)
    write(tmp_path, "float32", "bn", 9, 1, 10.0, epochs=30)
    write(tmp_path, "float32", "bn", 9, 1, None, learning_rate=0.05)
    done, found = run(tmp_path)
    assert found["pairs"] == [
        {"method": "bn", "depth": 9, "differences": [0.5], "mean": 0.5, "half": None}
    ]
    assert found["verdict"].startswith("undecided")
