import json
from pathlib import Path

import pytest

from enorm_jax.errors import InputError
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


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the script on the folder; what it wrote."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import compare_precision

    out = tmp_path / "out" / "precision.json"
    out.parent.mkdir()

    def run():
        monkeypatch.setattr("sys.argv", ["compare_precision.py", str(tmp_path), "--out", str(out)])
        compare_precision.main()
        return json.loads(out.read_text())

    return run


@pytest.mark.parametrize(("shift", "spread", "verdict"), [
    (0.1, 0.01, "equivalent"),
    (-0.6, 0.01, "different"),
    (-0.5, 0.3, "undecided: interval too wide"),
])  # fmt: skip
def test_pairs_decide_as_stated(tmp_path, run, shift, spread, verdict):
    for method in METHODS:
        for depth in (1, 9, 19):
            for seed in range(3):
                write(tmp_path, "float32", method, depth, seed, 50.0 + seed)
                there = 50.0 + seed + shift + spread * (seed - 1)
                write(tmp_path, "bfloat16", method, depth, seed, there)
    found = run()
    assert found["verdict"] == verdict
    assert found["n"] == 36
    assert abs(found["mean"] - shift) < 1e-9


def test_only_equal_settings_and_seeds_are_paired_and_missing_runs_decide_nothing(tmp_path, run):
    with pytest.raises(InputError, match="no cell in both precisions"):
        run()
    write(tmp_path, "float32", "bn", 9, 0, 50.0)
    write(tmp_path, "bfloat16", "bn", 9, 0, 50.5)
    write(tmp_path, "bfloat16", "bn", 9, 1, 90.0)
    write(tmp_path, "float32", "bn", 9, 1, 10.0, epochs=30)
    write(tmp_path, "float32", "bn", 9, 1, None, learning_rate=0.05)
    found = run()
    assert found["pairs"] == [
        {"method": "bn", "depth": 9, "differences": [0.5], "mean": 0.5, "half": None}
    ]
    assert found["verdict"].startswith("undecided")
