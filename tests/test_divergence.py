"""Which runs fail, where failure begins, and the scripts that ask for it and draw it."""

import dataclasses
import importlib
import itertools
import json
import runpy
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax import cli
from enorm_jax.display import title
from enorm_jax.divergence import Run, boundary, runs_of, share
from enorm_jax.optimizer import schedule
from enorm_jax.sweep import recipe_of

ROOT = Path(__file__).parents[1]
TINY = ["--dataset", "digits", "--width", "8", "--batch-size", "256", "--workers", "1",
        "--no-compilation-cache"]  # fmt: skip


@pytest.fixture
def script(monkeypatch):
    """The experiment's module."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module("divergence")


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])
    cli.run(main)


def draw(monkeypatch, name, *arguments):
    main = runpy.run_path(str(ROOT / "figures" / f"{name}.py"))["main"]
    run(monkeypatch, main, *arguments)


def test_a_run_is_what_its_attempts_came_to():
    lost = {"epoch": 1, "step": 7}
    result = {
        "seeds": [0, 1, 2, 3, 4],
        "restarted": [[], [{"seed": 1, "epoch": 0, "step": 5}], [], [], [{"seed": 4, **lost}]],
        "diverged": [None, None, lost, None, lost],
        "test_loss": [1.0, 2.0, None, 2.3026, None],
        "test_accuracy": [50.0, 20.0, None, 10.0, None],
    }
    assert runs_of(result) == [
        Run(0, None, 0, diverged=False, guessing=False, accuracy=50.0),
        Run(1, (0, 5), 1, diverged=False, guessing=False, accuracy=20.0),
        Run(2, (1, 7), 0, diverged=True, guessing=False, accuracy=None),
        Run(3, None, 0, diverged=False, guessing=True, accuracy=10.0),
        Run(4, (1, 7), 1, diverged=True, guessing=False, accuracy=None),
    ]
    assert [run.failed for run in runs_of(result)] == [False, False, True, True, True]


def test_no_other_boundary_is_right_more_often(rng):
    for _ in range(30):
        values = np.exp(rng.integers(0, 6, 9))
        failed = rng.random(9) < values / (values + 20)
        limit, right = boundary(values, failed)
        tried = [0.0, *np.exp(np.arange(6) + 0.5)]
        assert right == max(((values > t) == failed).sum() for t in tried)
        assert ((values > limit) == failed).sum() == right
    assert boundary([1.0, 2.0], [False, False]) == (np.inf, 2)
    assert boundary([1.0, 2.0], [True, True]) == (0.0, 2)
    with pytest.raises(ValueError, match="no runs"):
        boundary([], [])


@pytest.mark.parametrize("count", [0, 3, 20])
def test_the_interval_is_wilsons(count):
    n, z, p = 20, 1.959964, count / 20
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(share(count, n), (p, middle - half, middle + half), atol=1e-7)


def test_the_grids_hold_every_point_once_and_change_programs_rarely(script):
    args = script.parser().parse_args(["bias", "seeds", "softmax", "seeds"])
    cells = script.cells(args)
    assert len(cells) == 7 * 5 * 4 + 3 * (2 + 4) + 3
    assert len({cell.stem for cell in cells}) == len(cells)
    shapes = [(c.method, c.depth, c.bias, c.softmax, len(c.seeds)) for c in cells]
    changes = sum(a != b for a, b in itertools.pairwise(shapes))
    assert changes + 1 == len(set(shapes))
    assert {cell.c for cell in cells if cell.method == "baseline"} == {None}
    assert "c=1.4" in title(cells[19])


def test_a_point_is_the_first_epoch_of_the_study_s_sixty(script, blobs):
    point = script.cells(script.parser().parse_args(["bias"]))[0]
    sixty = dataclasses.replace(point, epochs=60, schedule="linear")
    own, study = recipe_of(point, blobs), recipe_of(sixty, blobs)
    assert dataclasses.replace(own, epochs=60, schedule="linear") == study
    rates = [[schedule(r.schedule, 0.05, r.epochs, 196)(jnp.int32(step)) for step in (0, 195)]
             for r in (own, study)]  # fmt: skip
    np.testing.assert_array_equal(rates, np.float32(0.05))


@pytest.mark.slow
def test_points_are_trained_once_and_their_boundary_drawn(script, monkeypatch, tmp_path, capsys):
    bias = ["bias", "--depths", "0", "--c", "1.2", "--lr", "0.1,1e30", "--out", tmp_path, *TINY]
    run(monkeypatch, script.main, *bias)
    assert "1 of 1" in capsys.readouterr().out
    run(monkeypatch, script.main, *bias)
    assert "2 of 2 cells done before" in capsys.readouterr().out
    draw(monkeypatch, "divergence_boundary", tmp_path, "--out", tmp_path / "figures")
    assert (tmp_path / "figures" / "divergence_boundary_digits.png").stat().st_size > 1000


def test_seeds_that_diverged_are_counted_and_drawn(script, monkeypatch, tmp_path):
    args = script.parser().parse_args(["seeds", "softmax", "--depths", "3", "--seeds", "2"])
    lost = {"epoch": 0, "step": 5}
    for cell in script.cells(args):
        result = cell.settings() | {
            "restarted": [[], [{"seed": 1, **lost}] * cell.restarts],
            "diverged": [None, lost], "test_loss": [2.0, None], "test_accuracy": [20.0, None],
        }  # fmt: skip
        cell.result_path(tmp_path).write_text(json.dumps(result))
    table = script.report(script.cells(args), tmp_path)
    assert set(table.columns[1].cells) == {"1 of 2"}
    assert set(table.columns[3].cells) == {"0 of 1 cured", ""}
    draw(monkeypatch, "divergence_seeds", tmp_path)
    names = {"divergence_seeds_cifar10.png", "divergence_seeds_cifar10.svg"}
    assert names == {path.name for path in tmp_path.iterdir() if path.suffix != ".json"}


@pytest.mark.parametrize(("arguments", "message"), [
    (["tilt"], "invalid choice: 'tilt'"),
    (["bias", "--sede", "3"], "did you mean --seeds?"),
    (["bias", "--c", "0"], "'0' is not a number above 0"),
    (["bias", "--dataset", "digits", "--batch-size", "4000"], "1437 training images"),
], ids=str)  # fmt: skip
def test_wrong_input_gets_one_line_and_status_2(script, monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, script.main, "--no-compilation-cache", *arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["divergence_boundary", "divergence_seeds"])
def test_a_folder_without_points_is_named(monkeypatch, tmp_path, capsys, name):
    with pytest.raises(SystemExit) as stopped:
        draw(monkeypatch, name, tmp_path)
    assert stopped.value.code == 2
    assert "holds no point of experiments/divergence.py" in capsys.readouterr().err
