"""Learning rates are chosen on held-out training images, and found again by the sweep."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from lr_search import advice, agreement, keep, place

from enorm_jax import published
from enorm_jax.cell import Cell
from enorm_jax.data import held_out
from enorm_jax.errors import InputError
from enorm_jax.rates import SETTING, learning_rate, read_winners, winner


def test_folds_part_the_training_images_and_leave_the_test_images_out(blobs):
    poisoned = dataclasses.replace(blobs, test_images=None, test_labels=None)
    parts = [held_out(poisoned, f"{part}/5") for part in range(5)]
    held = np.concatenate([part.test_images for part in parts])
    assert sorted(map(bytes, held)) == sorted(map(bytes, blobs.train_images))
    for part in parts:
        both = np.concatenate([part.train_images, part.test_images])
        assert sorted(map(bytes, both)) == sorted(map(bytes, blobs.train_images))
    with pytest.raises(ValueError, match="5/5"):
        held_out(blobs, "5/5")


def test_the_winner_has_the_best_mean_of_those_that_never_diverged():
    assert winner([0.1, 0.2, 0.3], [[5.0, 5.0], [1.0, 8.0], [9.0, 2.0]]) == 0.3
    assert winner([0.2, 0.1], [[5.0], [5.0]]) == 0.1
    assert winner([0.1, 0.2], [[5.0, 5.0], [9.0, None]]) == 0.1
    assert winner([0.1], [[None]]) is None


CELL = Cell(
    experiment="fc", dataset="digits", method="gn", depth=3, width=40, bias=False, epochs=4,
    learning_rate=0.0, c=None, batch_size=256, weight_decay=1e-3, precision="float32", restarts=0,
    seeds=(0,),
)  # fmt: skip


def winners(rates, **settings):
    setting = {name: CELL.settings()[name] for name in SETTING} | settings
    return [setting | {"depth": p, "epochs": 60, "learning_rate": r} for p, r in rates.items()]


def test_rates_are_the_study_s_unless_it_has_none_or_the_file_is_named():
    bn = dataclasses.replace(CELL, method="bn")
    known = winners({1: 0.5, 7: 0.4}, method="bn") + winners({7: 0.3, 9: None})
    assert learning_rate(bn, known, tuned=False) == published.learning_rate("bn", 3)
    assert learning_rate(bn, known, tuned=True) == 0.5
    between = dataclasses.replace(bn, depth=4)
    assert learning_rate(between, known, tuned=True) == 0.4  # of two as near, the deeper
    assert learning_rate(CELL, known, tuned=False) == 0.3
    with pytest.raises(InputError, match=r"all rates.*p = 9"):
        learning_rate(dataclasses.replace(CELL, depth=19), known, tuned=False)


@pytest.mark.parametrize(
    "other",
    [{"dataset": "cifar10"}, {"width": 500}, {"bias": True}, {"groups": 5}, {"batch_size": 8}],
    ids=str,
)
def test_a_rate_that_was_searched_at_another_setting_is_not_taken(other):
    with pytest.raises(InputError, match=r"'gn'.*lr_search"):
        learning_rate(CELL, winners({3: 0.1}, **other), tuned=False)


def search(method, depth, epochs, accuracies, **settings):
    """A search of the rates 0.1, 0.2, ... with one run each."""
    rates = [0.1 * (k + 1) for k in range(len(accuracies))]
    runs = [[accuracy] for accuracy in accuracies]
    own = {"method": method, "depth": depth, "epochs": epochs, "rates": rates,
           "learning_rate": winner(rates, runs), "validation_accuracy": runs}  # fmt: skip
    return {name: CELL.settings()[name] for name in SETTING} | own | settings


def lengths(found):
    return {(search["method"], search["depth"]): search["epochs"] for search in found}


def kept(path, *found):
    """What the file holds after some searches, and what is said after the last."""
    short = {place(one): one for one in found if one["epochs"] < 60}
    full = [one for one in found if one["epochs"] == 60 and place(one) in short]
    checks = [agreement(short[place(one)], one) for one in full]
    known = keep(path, list(found), checks)
    return lengths(read_winners(path)), advice(found, known, length=60)


SHORT = [48.0, 50.0, 51.0, 49.0]
AGREES = [50.0, 55.0, 54.1, 50.0]  # loses 0.9 %
FAILS = [50.0, 55.5, 54.0, 50.0]


def test_a_full_search_takes_a_short_one_s_place_and_the_others_stay_where_it_agrees(tmp_path):
    of_gn = [search("gn", 1, 10, SHORT), search("gn", 7, 10, SHORT), search("gn", 7, 60, AGREES)]
    assert kept(tmp_path / "rates.json", *of_gn) == ({("gn", 1): 10, ("gn", 7): 60}, [])


@pytest.mark.parametrize("at_its_rate", [54.0, 10.0, None], ids=["worse", "dead", "diverged"])
def test_a_rate_that_fails_at_full_length_leaves_full_searches_only(tmp_path, at_its_rate):
    short = [search(method, p, 10, SHORT) for method in ("gn", "ln") for p in (1, 7)]
    full = [search("gn", 7, 60, [50.0, 55.5, at_its_rate, 50.0]),
            search("ln", 7, 60, [50.0, 50.5, 55.0, 1.0])]  # fmt: skip
    found, (line,) = kept(tmp_path / "rates.json", *short, *full)
    assert found == {("gn", 7): 60, ("ln", 1): 10, ("ln", 7): 60}
    assert line.startswith(
        f"gn p=7: the short search's 0.3 loses {55.5 - (at_its_rate or 0):.1f} % at full length"
    )


def test_what_a_check_found_stays_when_short_searches_are_made_again(tmp_path):
    path = tmp_path / "rates.json"
    short = [search("gn", p, 10, SHORT) for p in (1, 7)]
    assert kept(path, *short)[0] == {("gn", 1): 10, ("gn", 7): 10}
    assert kept(path, short[1], search("gn", 7, 60, FAILS))[0] == {("gn", 7): 60}
    found, (line,) = kept(path, *short)
    assert found == {("gn", 7): 60}
    assert "loses 1.5 %" in line
    longer = search("gn", 1, 30, SHORT)  # was not found wanting
    other = search("gn", 1, 10, SHORT, width=50)
    assert kept(path, longer)[0] == {("gn", 1): 30, ("gn", 7): 60}
    keep(path, [other], [])
    assert sorted(entry["epochs"] for entry in read_winners(path)) == [10, 30, 60]


def test_a_short_search_without_a_check_is_kept_with_a_warning(tmp_path):
    found, (line,) = kept(tmp_path / "short.json", search("gn", 1, 10, SHORT))
    assert found == {("gn", 1): 10}
    assert "not checked at 60 epochs" in line
    assert kept(tmp_path / "full.json", search("gn", 1, 60, SHORT))[1] == []


def script(name, *arguments):
    command = [sys.executable, ROOT / "experiments" / name, *arguments]
    # Compiled as users do: without optimizations, this search's accuracies stay at chance.
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "false"}
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.mark.slow
def test_a_search_writes_what_the_sweep_reads(tmp_path):
    """A rate of 1e-9 cannot win, whatever the seeds."""
    file = tmp_path / "rates.json"
    network = ["--method", "gn", "--depths", "1", "--dataset", "digits", "--width", "40",
               "--workers", "1"]  # fmt: skip
    arguments = [*network, "--epochs", "2", "--grid", "1e-9,0.05", "--seeds", "2", "--check", "1",
                 "--full", "3", "--write", file, "--out", tmp_path / "cells"]  # fmt: skip
    done = script("lr_search.py", *arguments)
    assert done.returncode == 0, done.stderr
    kept = json.loads(file.read_text())
    (entry,), (check,) = kept["winners"], kept["checks"]
    assert entry["learning_rate"] == 0.05
    assert np.shape(entry["validation_accuracy"]) == (2, 2)
    assert check["epochs"] == [2, 3]
    assert entry["epochs"] == 3  # the full search's
    cells = [json.loads(path.read_text()) for path in (tmp_path / "cells").glob("*.json")]
    assert {cell["fold"] for cell in cells} == {"0/5"}
    for cell in cells:  # the smaller rate's runs come first
        assert max(cell["test_accuracy"][:2]) < min(cell["test_accuracy"][2:])
    third = script("lr_search.py", *arguments, "--seeds", "3")
    assert third.returncode == 0, third.stderr
    (more,) = (winner["validation_accuracy"] for winner in read_winners(file))
    assert [values[:2] for values in more] == entry["validation_accuracy"]
    assert np.shape(more) == (2, 3)
    listed = script("fc_sweep.py", *network, "--rates", file, "--dry-run", "--out", tmp_path)
    assert "gn p=1 lr=0.05" in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--folds", "6"], "there are 5"),
        (["--write", __file__], "no file of lr_search.py"),
        (["--check", "7", "--epochs", "60"], "no more than --epochs 60"),
    ],
)
def test_faults_are_one_line(tmp_path, arguments, fault):
    done = script(
        "lr_search.py", "--method", "gn", "--dataset", "digits", "--out", tmp_path, *arguments
    )
    assert done.returncode == 2
    assert fault in done.stderr
    assert len(done.stderr.splitlines()) == 1
