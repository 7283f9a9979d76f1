"""conv_sweep.py and micro_batch.py on the embedded digits, in this process to save its start."""

import dataclasses
import json
import re

import pytest

import conv_sweep
import micro_batch
from enorm_jax import conv_plots, networks
from enorm_jax.conv_plots import accuracy_over_batch
from enorm_jax.results import interval, write_json

SMALL = ["--dataset", "digits", "--width", "0.0625", "--workers", "1"]
TINY = ["--dataset", "digits", "--width", "4", "--workers", "1"]


@pytest.fixture
def run(run_script, monkeypatch, tmp_path):
    """Runs a script into a folder of its own; gives its exit status and what it printed."""
    monkeypatch.setattr("enorm_jax.stepwise.EVALUATION_BATCH", 360)  # one program for them all
    return lambda script, *arguments: run_script(
        f"experiments/{script}", *arguments, "--out", tmp_path
    )


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("conv_sweep.py", ["--batch-size", "1", *SMALL], "a batch of one image"),
        ("conv_sweep.py", ["--batch-size", "359", *SMALL], "a batch of one image"),
        ("conv_sweep.py", [*SMALL, "--groups", "3"], "the 8 and 16 channels of a layer: choose 2"),
        ("conv_sweep.py", ["--train-images", "1438", *SMALL], "more than the 1437 of digits"),
        ("conv_sweep.py", ["--method", "ws+gn", *SMALL], "add --norm-after all"),
        ("conv_sweep.py", ["--method", "path-sgd", *SMALL], "a chain of dense layers"),
        ("conv_sweep.py", ["--method", "enorm", "--of-norms", *SMALL], "add enorm+bn"),
        ("conv_sweep.py", ["--method", "bn", "--order", "simultaneous", *SMALL], "add enorm"),
        ("conv_sweep.py", ["--network", "resnet", "--leave-last", *SMALL], "--skip learned"),
        ("conv_sweep.py", ["--skip", "learned", *SMALL], "choose --network resnet"),
        ("conv_sweep.py", ["--network", "resnet", "--norm-after", "all", *SMALL], "leave it out"),
        ("conv_sweep.py", ["--dataset", "digits", "--width", "0.001"], "leaves no channel"),
        ("conv_sweep.py", ["--epoch", "3"], "did you mean --epochs?"),
        ("conv_sweep.py", ["--network", "resnet", "--depth", "9", *SMALL], "8, 14, 20"),
        ("micro_batch.py", ["--train-images", "2000", *TINY], "more than the 1437 of digits"),
        ("micro_batch.py", ["--train-images", "32", *TINY], "--batch-sizes 64 is more than the 32"),
        ("micro_batch.py", ["--train-images", "64", *TINY, "--groups", "8"], "choose 4"),
        ("micro_batch.py", ["--train-images", "64", *TINY, "--depth", "9"], "8, 14, 20"),
        ("mechanisms.py", ["elimination", *SMALL[:-2], "--train-images", "32"], "more than the 32"),
        ("mechanisms.py", ["standardization", "--method", "bn", *SMALL[:-2]], "leave it out"),
        ("micro_batch.py", ["--batch-sizes", "1,0"], "'0' is not a whole number of at least 1"),
    ],
    ids=str,
)
def test_wrong_input_gets_one_line_and_status_2(run, script, arguments, message):
    status, out, err = run(script, *arguments)
    assert status == 2
    assert message in err
    assert err.strip().count("\n") == 0, err
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_a_conv_sweep_leaves_cells_a_table_and_a_figure_and_is_then_done(run, tmp_path):
    short = ["--train-images", "128", "--batch-size", "64", "--epochs", "1", *SMALL]
    _, listed, _ = run(
        "conv_sweep.py", "--method", "enorm", "--precision", "auto", *short, "--dry-run"
    )
    assert "to do" in listed
    assert "which is faster here" in listed
    assert "floating-point operations, about" in listed
    assert list(tmp_path.iterdir()) == []
    status, out, err = run("conv_sweep.py", "--method", "enorm", *short)
    assert status == 0, err
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    named = {name: result[name] for name in ("network", "momentum", "c", "augment", "width")}
    assert named == {"network": "conv", "momentum": 0.9, "c": 1.1, "augment": True, "width": 8}
    assert "conv09_digits.png" in out
    assert (tmp_path / "conv09_digits.png").stat().st_size > 1000
    assert "1 of 1 cells done before" in run("conv_sweep.py", "--method", "enorm", *short)[1]


@pytest.mark.parametrize(
    ("arguments", "size", "width"),
    [
        ([], "conv09", 128),
        (["--network", "resnet"], "resnet20", 16),
        (["--network", "imagenet-resnet", "--width", "0.5"], "imagenet-resnet50", 32),
        (["--network", "imagenet-resnet", "--depth", "18"], "imagenet-resnet18", 64),
    ],
    ids=str,
)
def test_networks_have_the_published_size_unless_told(arguments, size, width):
    arguments = [*arguments, "--method", "bn"]
    (cell,) = conv_sweep.cells(conv_sweep.parser().parse_args(arguments))
    assert (cell.size, cell.width) == (size, width)


def test_the_authors_cycle_leaves_the_last_hidden_layer_and_takes_all_norms_at_once():
    def cells(methods, *flags):
        arguments = ["--method", methods, "--width", "0.0625", *flags]
        return conv_sweep.cells(conv_sweep.parser().parse_args(arguments))

    enorm, bn = cells("enorm,bn", "--order", "simultaneous", "--leave-last")
    assert enorm.variants[:2] == ["simultaneous", "last_left_out"]
    assert [bn] == cells("bn")
    its = networks.equalizer(enorm, (32, 32, 3), 10)
    assert (its.order, its.balance_last) == ("simultaneous", False)
    *_, last = its.inferred
    assert [slot.name for slot in last.consumers] == ["conv_08/kernel"]


def test_figures_have_room_for_intervals_but_those_of_two_runs():
    (cell,) = conv_sweep.cells(conv_sweep.parser().parse_args(["--method", "bn", "--seeds", "3"]))

    def bounds(*accuracies):
        seeds = [*range(len(accuracies))]
        result = cell.settings() | {"seeds": seeds, "test_accuracy": accuracies}
        return conv_plots._bounds([dataclasses.replace(cell, seeds=tuple(seeds))], [result])

    mean, half = interval([40.0, 50.0, 60.0])
    low, high = bounds(40.0, 50.0, 60.0)
    assert mean - half - 5 < low < mean - half
    assert mean + half < high < mean + half + 5
    low, high = bounds(40.0, 60.0)
    assert 35 < low < 40
    assert 60 < high < 65


def test_rates_of_micro_batches_are_proportional_and_bcn_goes_by_estimates():
    args = micro_batch.parser().parse_args(["--lr", "0.64", "--method", "bn,ws+bcn"])
    found = [(c.batch_size, c.method, c.learning_rate) for c in micro_batch.cells(args)]
    assert [(size, method) for size, method, _ in found] == [
        *((size, name) for size in (1, 2, 4, 8) for name in ("bn", "ws+bcn-micro")),
        *((64, name) for name in ("bn", "ws+bcn")),
    ]
    assert all(rate == pytest.approx(size / 100) for size, _, rate in found)


def test_bcn_is_one_curve_over_batch_sizes_unless_both_kinds_are_trained_at_one(tmp_path):
    def labels(methods):
        flags = ["--method", methods, "--batch-sizes", "8,64"]
        cells = micro_batch.cells(micro_batch.parser().parse_args(flags))
        done = [cell.settings() | {"test_accuracy": [50.0] * 3} for cell in cells]
        drawing, _ = accuracy_over_batch(cells, done, tmp_path / "drawing")
        return re.findall(r"BCN[^,<]*, n = 3", drawing.read_text())

    assert labels("bcn") == ["BCN, n = 3"]
    assert labels("bcn,bcn-micro") == ["BCN (estimates), n = 3", "BCN, n = 3"]


def test_one_figure_shows_the_setting_of_most_runs_and_of_a_method_that_of_most(
    tmp_path, run_script
):
    def result(name, script, method, seeds, **changes):
        flags = ["--method", method, "--dataset", "digits", *changes.pop("flags", [])]
        (cell,) = script.cells(script.parser().parse_args(flags))
        cell = dataclasses.replace(cell, epochs=2, seeds=seeds, **changes)
        found = {
            "test_accuracy": [50.0] * len(seeds), "diverged": [None] * len(seeds),
            "curves": {"test_accuracy": [[40.0, 50.0]] * len(seeds)},
        }  # fmt: skip
        write_json(tmp_path / f"{name}.json", cell.settings() | found)

    script = "figures/conv_networks.py"
    status, _, err = run_script(script, tmp_path)
    assert (status, err.count("\n")) == (2, 1)
    assert "holds no finished cell of conv_sweep.py or micro_batch.py" in err
    result("a", conv_sweep, "bn", (0, 1), flags=["--norm-after", "all"])
    result("b", conv_sweep, "bn", (2,), restarts=1, flags=["--norm-after", "all"])  # the same
    result("c", conv_sweep, "enorm", (0, 1, 2, 3), c=1.3)
    result("d", conv_sweep, "enorm", (0,), c=1.1)  # fewer runs
    result("e", conv_sweep, "gn", (6,), batch_size=32)  # another setting
    for size in ("1", "8"):
        result(f"f{size}", micro_batch, "gn", (0, 1), flags=["--batch-sizes", size])
    result("g", micro_batch, "gn", (0, 1, 2), flags=["--batch-sizes", "8", "--lr", "0.7"])
    status, out, err = run_script(script, tmp_path)
    assert status == 0, err
    assert "settings that are left out of conv09_digits, of no more runs: 2" in out
    assert "settings that are left out of micro_batch_digits, of no more runs: 1" in out
    legends = [
        set(re.findall(r"<!-- (.*, n = .*) -->", (tmp_path / f"{stem}.svg").read_text()))
        for stem in ("conv09_digits", "micro_batch_digits")
    ]
    assert legends == [{"BN, n = 3", "ENorm, n = 4"}, {"GN, n = 2"}]


@pytest.mark.slow
def test_batch_normalization_trains_on_single_images_and_says_how(run, tmp_path):
    arguments = ["--train-images", "16", "--epochs", "1", "--seeds", "1", *TINY]
    status, out, err = run("micro_batch.py", *arguments, "--method", "bn", "--batch-sizes", "1")
    assert status == 0, err
    assert "BN normalizes by one image's positions" in out
    (path,) = tmp_path.glob("*.json")
    assert None not in json.loads(path.read_text())["test_accuracy"]
    assert "micro_batch_digits.png" in out


@pytest.mark.slow
def test_mechanisms_are_measured_and_drawn(run, run_script, tmp_path):
    arguments = ["--train-images", "64", "--epochs", "1", *SMALL[:-2], "--method", "baseline"]
    status, _, err = run("mechanisms.py", "elimination", "smoothness", *arguments)
    assert status == 0, err
    units, loss = sorted(tmp_path.glob("*.json"))
    ((epoch,),) = json.loads(units.read_text())["series"]["baseline"]["runs"]
    assert len(epoch["eliminated"]) == len(epoch["tenth_distance"]) == 8
    assert all(0 <= share <= 1 for share in epoch["eliminated"])
    ((epoch,),) = json.loads(loss.read_text())["series"]["baseline"]["runs"]
    assert epoch["loss"] > 0
    assert epoch["gradient"] > 0
    before = units.read_bytes()
    status, out, err = run("mechanisms.py", "elimination", "smoothness", *arguments)
    assert status == 0, err
    assert "baseline: measured before" in out
    assert units.read_bytes() == before
    status, out, err = run("mechanisms.py", "elimination", *arguments, "--seeds", "2")
    assert status == 0, err
    entry = json.loads(units.read_text())["series"]["baseline"]
    assert entry["settings"]["seeds"] == [0, 1]
    assert entry["runs"][0] == json.loads(before)["series"]["baseline"]["runs"][0]
    assert entry["runs"][1] != entry["runs"][0]
    assert [source["seeds"] for source in entry["earlier"]] == [[0]]
    status, out, err = run("mechanisms.py", "elimination", *arguments, "--lr", "0.07")
    assert status == 2
    assert "holds runs at other settings" in err
    assert run_script("figures/mechanism_curves.py", units, loss)[0] == 0
    assert units.with_suffix(".png").stat().st_size > 1000
    assert loss.with_suffix(".png").stat().st_size > 1000
