"""Cells: their files, their resumption, restarts, and what is left to run."""

import dataclasses
import hashlib
import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from enorm_jax import history, sweep
from enorm_jax.cell import LATER, SEED_LIMIT, Cell, same_setting, without_done_seeds
from enorm_jax.checkpoint import load_arrays, load_variables, save_arrays
from enorm_jax.errors import InputError
from enorm_jax.program import compile_program
from enorm_jax.results import interval, intervals, read_results, rounded, write_json
from enorm_jax.sweep import progress, run_cell
from train_cells import left_of

CELL = Cell(
    experiment="fc", dataset="blobs", method="enorm", depth=1, width=6, bias=False, epochs=4,
    learning_rate=0.05, c=1.2, batch_size=8, weight_decay=1e-3, precision="float32", restarts=0,
    seeds=(0, 1),
)  # fmt: skip
RESULTS = Path(__file__).parents[1] / "experiments" / "results"
TIMED = ("seconds_per_epoch", "compile_seconds", "date", "resumed_from")


def untimed(result):
    return {key: value for key, value in result.items() if key not in TIMED}


def test_a_cell_s_file_holds_what_it_promises(blobs, tmp_path):
    result = run_cell(CELL, blobs, tmp_path)
    assert read_results(tmp_path) == [result]
    promised = (
        "experiment dataset method depth bias epochs learning_rate c batch_size weight_decay "
        "precision seeds test_accuracy test_loss train_loss diverged curves seconds_per_epoch "
        "compile_seconds versions device commit date"
    )
    assert set(promised.split()) <= set(result)
    assert result["seeds"] == [0, 1]
    assert result["diverged"] == [None, None]
    for name in ("test_accuracy", "test_loss", "train_loss"):
        curves = result["curves"][name]
        assert np.shape(curves) == (2, 4)
        assert result[name] == [curve[-1] for curve in curves]
    assert np.shape(result["curves"]["kernel_norms"]) == (2, 4, 3)
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


CONV = dataclasses.replace(
    CELL, experiment="conv", depth=9, width=2, epochs=2, batch_size=23, seeds=(0,), network="conv",
    momentum=0.9, augment=True,
)  # fmt: skip


@pytest.mark.parametrize(("cell", "epochs_before"), [
    (CELL, 1), (CELL, 3), pytest.param(CONV, 1, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_stopped_cell_goes_on_and_ends_with_the_same_bits(blobs, tmp_path, cell, epochs_before):
    whole = run_cell(cell, blobs, tmp_path / "whole", save_params=True)

    def stop(epoch):
        if epoch.index + 1 == epochs_before:
            raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, blobs, folder, save_params=True, on_epoch=stop)
    assert read_results(folder) == []
    assert progress(cell, folder) == epochs_before
    seen = []
    result = run_cell(
        cell, blobs, folder, save_params=True, on_epoch=lambda e: seen.append(e.index)
    )
    assert seen == list(range(epochs_before, cell.epochs))
    (earlier,) = result["resumed_from"]
    assert earlier["commit"] == result["commit"]
    assert untimed(result) == untimed(whole)
    saved = [cell.params_path(f).read_bytes() for f in (folder, tmp_path / "whole")]
    assert saved[0] == saved[1]
    assert progress(cell, folder) == 0


def test_saving_takes_a_tenth_of_the_time(monkeypatch):
    clock, saved = [0.0], []

    def save(epoch):
        saved.append(epoch)
        clock[0] += 0.5

    monkeypatch.setattr(sweep.time, "perf_counter", lambda: clock[0])
    saver = sweep._Saver(save)
    for epoch in range(100):
        clock[0] += 0.125
        assert saver.offer(epoch, now=epoch == 99) == (saved[-1:] == [epoch])
    assert saved == [0, 40, 80, 99]  # 5 seconds of training apart


def test_what_was_not_saved_is_trained_again_and_an_interruption_loses_nothing(
    blobs, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweep, "SAVING", 0.0)  # the first epoch and the last
    whole = run_cell(CELL, blobs, tmp_path / "whole")

    def stop(epoch):
        if epoch.index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(CELL, blobs, tmp_path / "interrupted", on_epoch=stop)
    assert progress(CELL, tmp_path / "interrupted") == 3

    def killed(*args, **kwargs):
        for epoch in real_fit(*args, **kwargs):
            yield epoch
            if epoch.index == 2:
                raise RuntimeError("while the fourth epoch trains")

    real_fit = sweep.fit
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "fit", killed)
        with pytest.raises(RuntimeError):
            run_cell(CELL, blobs, tmp_path / "killed")
    assert progress(CELL, tmp_path / "killed") == 1
    for folder in ("interrupted", "killed"):
        assert untimed(run_cell(CELL, blobs, tmp_path / folder)) == untimed(whole)


def test_a_cell_whose_seeds_all_diverged_stops_early(blobs, tmp_path):
    lost = dataclasses.replace(CELL, method="baseline", c=None, learning_rate=1e30)
    seen = []
    result = run_cell(lost, blobs, tmp_path, on_epoch=lambda e: seen.append(e.index))
    assert seen == [0]
    assert all(d["epoch"] == 0 and 0 <= d["step"] < 6 for d in result["diverged"])
    assert result["test_accuracy"] == [None, None]
    assert result["curves"]["test_accuracy"] == [[None], [None]]
    json.dumps(result, allow_nan=False)


def pretend_lost(monkeypatch, *lost_seeds):
    """Makes the runs of these seeds count as diverged in the second epoch."""
    current, real_fit = [], sweep.fit

    def fit(program, seeds, *args, **kwargs):
        current[:] = seeds
        return real_fit(program, seeds, *args, **kwargs)

    def first_divergence(epoch):
        return [2 if s in lost_seeds and epoch.index == 1 else None for s in current]

    monkeypatch.setattr(sweep, "fit", fit)
    monkeypatch.setattr(history, "first_divergence", first_divergence)


def test_a_diverged_seed_starts_again_with_another(blobs, tmp_path, monkeypatch):
    again = 1 + SEED_LIMIT
    plain = run_cell(dataclasses.replace(CELL, seeds=(0, again)), blobs, tmp_path / "plain")
    pretend_lost(monkeypatch, 1)
    cell = dataclasses.replace(CELL, restarts=2)
    result = run_cell(cell, blobs, tmp_path, save_params=True)
    assert result["seeds"] == [0, 1]
    assert result["diverged"] == [None, None]
    assert result["restarted"] == [[], [{"seed": 1, "epoch": 1, "step": 2}]]
    np.testing.assert_allclose(result["test_loss"], plain["test_loss"], rtol=1e-3)
    variables, settings = load_variables(cell.params_path(tmp_path))
    params = variables["params"]
    assert settings == cell.settings()
    chex.assert_shape(params["layer_00"]["kernel"], (2, 12, 6))
    norms = np.linalg.norm(params["layer_00"]["kernel"], axis=(1, 2))
    np.testing.assert_allclose(
        norms, [c[-1][0] for c in result["curves"]["kernel_norms"]], rtol=1e-4
    )


def test_restarts_end(blobs, tmp_path, monkeypatch):
    pretend_lost(monkeypatch, 1, 1 + SEED_LIMIT)
    result = run_cell(dataclasses.replace(CELL, restarts=1), blobs, tmp_path)
    assert result["diverged"] == [None, {"epoch": 1, "step": 2}]
    assert [entry["seed"] for entry in result["restarted"][1]] == [1]
    assert result["test_accuracy"][1] is None
    assert result["curves"]["test_accuracy"][1][1:] == [None]


def test_asking_for_restarts_runs_only_what_diverged(blobs):
    result = CELL.settings() | {"diverged": [None, {"epoch": 0, "step": 3}]}
    again = dataclasses.replace(CELL, restarts=1)
    assert without_done_seeds(CELL, [result]) is None
    assert without_done_seeds(again, [result]) == dataclasses.replace(again, seeds=(1,))
    assert without_done_seeds(again, [result | {"restarts": 1}]) is None


@pytest.mark.slow
def test_a_stopped_restart_goes_on(blobs, tmp_path, monkeypatch):
    pretend_lost(monkeypatch, 1)
    cell = dataclasses.replace(CELL, restarts=1)
    whole = run_cell(cell, blobs, tmp_path / "whole", save_params=True)
    epochs = []

    def stop(epoch):
        epochs.append(epoch.index)
        if len(epochs) == 6:  # four of the first attempt, two of the second
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, blobs, tmp_path, save_params=False, on_epoch=stop)
    result = run_cell(cell, blobs, tmp_path, save_params=True)
    assert untimed(result) == untimed(whole)
    saved = [cell.params_path(f).read_bytes() for f in (tmp_path, tmp_path / "whole")]
    assert saved[0] == saved[1]


def test_only_missing_seeds_are_left(blobs, tmp_path):
    run_cell(CELL, blobs, tmp_path)
    results = read_results(tmp_path)
    more = dataclasses.replace(CELL, seeds=(0, 1, 2))
    assert without_done_seeds(CELL, results) is None
    assert without_done_seeds(more, results) == dataclasses.replace(CELL, seeds=(2,))


@pytest.mark.parametrize(
    "change",
    [{"bias_handling": "gauge"}, {"c": 1.1}, {"learning_rate": 0.1}, {"depth": 2},
     {"bias": True}, {"epochs": 5},
     {"weight_decay": 0.0}, {"precision": "bfloat16"}, {"batch_size": 4}, {"dataset": "other"}],
    ids=str,
)  # fmt: skip
def test_a_cell_with_other_settings_never_reuses_a_result(change):
    other = dataclasses.replace(CELL, **change)
    result = CELL.settings() | {"diverged": [None, None]}
    assert without_done_seeds(CELL, [result]) is None
    assert without_done_seeds(other, [result]) == other
    assert other.stem != CELL.stem


def test_cells_that_differ_in_what_is_traced_share_one_program(blobs, tmp_path, monkeypatch):
    sweep._kept.clear()
    kept = []

    def compiled(*key):
        kept.append(len(sweep._kept))
        return compile_program(*key)

    monkeypatch.setattr(sweep, "compile_program", compiled)
    for changes in ({}, {"learning_rate": 0.01}, {"batch_size": 16}):
        run_cell(dataclasses.replace(CELL, **changes), blobs, tmp_path)
    assert kept == [0, 0]  # the first one's data has left the device before the second one's comes


def test_a_result_never_claims_what_was_not_run(blobs, tmp_path):
    for change in ({"precision": "float16"}, {"dataset": "cifar10"}):
        with pytest.raises(ValueError, match=r"cannot train|precision must be"):
            run_cell(dataclasses.replace(CELL, **change), blobs, tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_a_damaged_checkpoint_is_named(blobs, tmp_path):
    CELL.checkpoint_path(tmp_path).write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged: delete it"):
        run_cell(CELL, blobs, tmp_path)


def test_a_cell_that_another_sweep_finishes_meanwhile_has_no_epochs_behind_it(
    tmp_path, monkeypatch
):
    def gone(path):
        path.unlink()
        return path.open("rb")

    CELL.checkpoint_path(tmp_path).write_bytes(b"")
    monkeypatch.setattr(sweep, "read_metadata", gone)
    assert progress(CELL, tmp_path) == 0


def test_a_finished_cell_is_read_and_leaves_no_claim(blobs, tmp_path):
    write_json(CELL.result_path(tmp_path), {"made": "before"})
    assert run_cell(CELL, blobs, tmp_path) == {"made": "before"}
    assert not CELL.lock_path(tmp_path).exists()
    CELL.result_path(tmp_path).write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        run_cell(CELL, blobs, tmp_path)


def test_a_cell_in_progress_keeps_its_seeds_and_so_its_checkpoint(tmp_path):
    first = CELL.settings() | {"seeds": [0], "diverged": [None]}
    assert left_of(CELL, tmp_path, [first]) == dataclasses.replace(CELL, seeds=(1,))
    CELL.checkpoint_path(tmp_path).write_bytes(b"")
    assert left_of(CELL, tmp_path, [first]) == CELL
    assert left_of(CELL, tmp_path, [first, first | {"seeds": [1]}]) is None


def test_what_holds_no_parameters_of_a_finished_cell_is_named(blobs, tmp_path):
    run_cell(dataclasses.replace(CELL, epochs=1), blobs, tmp_path)
    (result,) = tmp_path.glob("*.json")
    checkpoint = tmp_path / "cell.checkpoint.safetensors"
    save_arrays(checkpoint, {"params": np.ones(2)}, {"attempts": []})
    for path, fault in (
        (tmp_path, "is a folder"),
        (result, "is damaged or holds no parameters"),
        (checkpoint, "is of a cell in progress"),
    ):
        with pytest.raises(InputError, match=rf"{path.name} {fault}: give the .safetensors") as e:
            load_variables(path)
        assert "delete" not in str(e.value)


def test_committed_cells_are_named_by_the_settings_in_their_files():
    folders = [RESULTS, *(path for path in RESULTS.iterdir() if path.is_dir())]
    paths = [path for folder in folders for path in folder.glob("*.json")]
    cells = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    cells = {path: cell for path, cell in cells.items() if "test_accuracy" in cell}
    assert len(cells) > 400
    for path, cell in cells.items():
        assert path.stem == Cell.of(cell).stem


def test_a_checkpoint_of_other_arrays_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"w": np.ones((3, 2), np.float32).T, "c": np.float32(1.2)}
    like = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}
    save_arrays(path, arrays, {"a": 1})
    tree, metadata = load_arrays(path, like)
    chex.assert_trees_all_equal(tree, arrays)
    assert metadata == {"a": 1}
    with pytest.raises(ValueError, match="other arrays"):
        load_arrays(path, {"w": jax.ShapeDtypeStruct((4,), np.float32)})


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "cell.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_an_unreadable_result_is_named(tmp_path):
    (tmp_path / "cell.json").write_text("{")
    with pytest.raises(ValueError, match=r"cell\.json is not readable"):
        read_results(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_results(tmp_path / "nowhere")


def test_rounded_floats_keep_their_bits(rng):
    values = rng.normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(np.float32(rounded(values)), values)
    assert rounded(np.float32("inf")) is None


def test_the_interval_covers_the_mean_95_times_in_100(rng):
    samples = rng.normal(50, 2, (4000, 3))
    covered = [abs(mean - 50) <= half for mean, half in map(interval, samples)]
    assert abs(np.mean(covered) - 0.95) < 0.015
    assert interval([51.5]) == (51.5, None)


def test_intervals_of_groups_that_scatter_alike_cover_each_mean_95_times_in_100(rng):
    truth = {1: 50.0, 3: 54.0, 5: 52.0}
    trials = [{p: rng.normal(truth[p], 2, 2) for p in truth} for _ in range(2000)]
    found = [intervals(groups) for groups in trials]
    for p in truth:
        covered = [abs(one[p][0] - truth[p]) <= one[p][1] for one in found]
        assert abs(np.mean(covered) - 0.95) < 0.02
    alone = [interval(groups[1])[1] for groups in trials]
    assert np.mean([one[1][1] for one in found]) < 0.5 * np.mean(alone)


def test_a_single_run_has_no_interval_and_says_nothing_about_scatter():
    pairs = {3: [53.0, 54.0], 5: [52.0, 54.5]}
    assert intervals({1: [51.5]} | pairs) == {1: (51.5, None)} | intervals(pairs)


def test_a_cell_made_before_a_setting_could_be_chosen_keeps_its_name_and_counts():
    old = {key: value for key, value in CELL.settings().items() if key not in LATER}
    digest = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()[:8]
    assert CELL.stem.endswith(digest)
    assert same_setting(CELL, old)
    gauge = dataclasses.replace(CELL, bias=True, bias_handling="gauge")
    assert "-bias-gauge-" in gauge.stem
    assert not same_setting(gauge, old | {"bias": True})
