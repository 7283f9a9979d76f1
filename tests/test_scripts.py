"""The scripts as a user runs them, on the embedded digits: in processes of their own to end them.

Whatever needs no process runs in this one, to save its start.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SWEEP = "experiments/fc_sweep.py"
SMALL = ["--dataset", "digits", "--width", "16", "--epochs", "2", "--workers", "1"]


def start(*arguments):
    # A child of what ignores interruptions, as in the background of a script, would do so too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, ROOT / SWEEP, *map(str, arguments)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


def results(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.mark.slow
def test_a_sweep_leaves_cells_a_table_and_a_figure_and_then_has_nothing_to_do(run_script, tmp_path):
    arguments = ["--method", "study", "--depths", "1", "--seeds", "2", "--out", tmp_path, *SMALL]
    _, listed, _ = run_script(SWEEP, *arguments, "--dry-run")
    assert listed.count("to do") == 4
    assert list(tmp_path.iterdir()) == []
    status, out, err = run_script(SWEEP, *arguments)
    assert status == 0, err
    assert len(results(tmp_path)) == 4
    for name in ("Baseline", "ENorm + BN", "n seeds", "accuracy_over_depth_digits.png"):
        assert name in out
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".svg", ".png"}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert "4 of 4 cells done before" in run_script(SWEEP, *arguments)[1]
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}

    figures = tmp_path / "figures"
    assert run_script("figures/fc_depth.py", tmp_path, "--out", figures)[0] == 0
    names = {"fc_depth_digits.svg", "fc_depth_digits.png"}
    assert {path.name for path in figures.iterdir()} == names
    draw = ["figures/fc_depth.py", tmp_path, "--out", figures, "--method"]
    assert run_script(*draw, "bn", "enorm")[0] == 0
    names |= {"fc_depth_digits_bn_enorm.svg", "fc_depth_digits_bn_enorm.png"}
    assert {path.name for path in figures.iterdir()} == names
    status, _, err = run_script(*draw, "gn")
    assert status == 2
    assert "holds no cell of gn" in err


@pytest.mark.slow
def test_one_worker_on_a_gpu_is_told_that_several_are_faster(run_script, monkeypatch, tmp_path):
    arguments = [SWEEP, "--method", "baseline", "--depths", "1,3", "--out", tmp_path, *SMALL[:-2]]
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    _, out, _ = run_script(*arguments)
    assert "one worker: with --workers 4" in out
    assert "one worker" not in run_script(*arguments)[1]  # nothing is left to do


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.slow
def test_a_sweep_goes_on_in_the_precision_that_it_began_in(run_script, tmp_path, precision):
    sweep = ["--method", "baseline", "--depths", "1", "--out", tmp_path, *SMALL]
    sweep += ["--precision", "auto"]
    assert run_script(SWEEP, *sweep, "--precision", precision)[0] == 0
    _, out, _ = run_script(SWEEP, *sweep, "--depths", "1,3", "--dry-run")
    assert f"products in {precision}, as most of what {tmp_path} holds" in out
    assert out.count("to do") == 1
    (path,) = tmp_path.glob("*.json")
    path.rename(path.with_suffix(".lock"))  # another process is in its first epoch
    assert f"products in {precision}, as most" in run_script(SWEEP, *sweep, "--dry-run")[1]
    empty = [*sweep, "--out", tmp_path / "empty", "--dry-run"]
    assert "which is faster here" in run_script(SWEEP, *empty)[1]
    elsewhere = run_script(SWEEP, *empty, "--executor", "ray")[1]
    assert "products in float32, since other machines train" in elsewhere


def test_nothing_is_held_out_of_data_that_would_be_copied_into_all_memory(
    run_script, monkeypatch, tmp_path
):
    monkeypatch.setattr("enorm_jax.program.memory_size", lambda: 1000)
    best = ["--method", "baseline", "--depths", "1", "--select", "best", "--out", tmp_path, *SMALL]
    status, _, err = run_script(SWEEP, *best, "--dry-run")
    assert status == 2
    assert "holding images of digits out would copy the others" in err


def test_divergence_ends_cleanly_with_a_table_that_says_so(run_script, tmp_path):
    lost = ["--method", "baseline", "--depths", "1", "--lr", "1e30", *SMALL]
    status, out, err = run_script(SWEEP, *lost, "--out", tmp_path)
    assert status == 0, err
    assert re.search(r"diverged at epoch 0 step \d", out)
    (result,) = results(tmp_path)
    assert result["diverged"][0]["epoch"] == 0


@pytest.mark.slow
def test_the_benchmark_times_every_contender_and_is_drawn(run_script, monkeypatch, tmp_path):
    out = tmp_path / "benchmark.json"
    arguments = ["--dataset", "digits", "--depths", "1", "--closely", "9", "--rounds", "1"]
    arguments += ["--methods", "enorm"]
    monkeypatch.setattr("jax.clear_caches", lambda: None)  # other tests' programs stay
    status, _, err = run_script("experiments/benchmark.py", *arguments, "--out", out)
    assert status == 0, err
    found = json.loads(out.read_text())
    (depth,) = found["depths"]
    assert set(depth["contenders"]) == {"enorm float32", "enorm bfloat16"}
    for entry in depth["contenders"].values():
        assert len(entry["all_seconds"]) == 1
        assert 0 < entry["flops"] < 1e15
        assert entry["memory_mb"] > 1
    assert depth["ratios"]["float32 over bfloat16, ENorm"] > 0
    assert min(found["startup"][0][f"{cache}_seconds"] for cache in ("cold", "warm")) > 0
    assert run_script("figures/speed.py", out, "--out", tmp_path)[0] == 0
    assert (tmp_path / "speed.png").stat().st_size > 1000


LONG = ["--method", "enorm+bn", "--depths", "1", "--seeds", "2", "--dataset", "digits",
        "--width", "200", "--epochs", "100", "--save-params", "--workers", "1",
        "--precision", "float32"]  # fmt: skip


def start_and_signal(folder, signal_number, *more):
    """Starts a long run and signals it once its first epochs are on disk."""
    child = start(*LONG, *more, "--out", folder)
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.checkpoint.safetensors")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal_number)
    return child, child.communicate()


def comparable(folder):
    (result,) = results(folder)
    for key in ("seconds_per_epoch", "compile_seconds", "date", "resumed_from"):
        del result[key]
    (params,) = (p for p in folder.glob("*.safetensors") if "checkpoint" not in p.name)
    return result, hashlib.sha256(params.read_bytes()).hexdigest()


def finish(*arguments):
    child = start(*arguments)
    _, err = child.communicate(timeout=200)
    assert child.returncode == 0, err


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_bits(run_script, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(*LONG, "--out", whole)
    child, _ = start_and_signal(killed, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert results(killed) == []
    _, listed, _ = run_script(SWEEP, *LONG, "--out", killed, "--dry-run")
    assert re.search(r"epoch \d+ of 100", listed)
    finish(*LONG, "--out", killed)
    assert comparable(killed) == comparable(whole)


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on(tmp_path):
    endless = "--epochs", "100000"  # however late the signal comes
    child, (_, err) = start_and_signal(tmp_path, signal.SIGINT, *endless)
    assert child.returncode == 130
    assert err.strip() == "stopped; saved epochs are kept: run the same command to go on"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "enorm", "--dept", "3", *SMALL], "did you mean --depths? see --help"),
        (["--depths", "3"], "required: --method"),
        (["--method", "bn", "--leave-last", *SMALL], "--leave-last: no ENorm among bn: add enorm"),
        (["--method", "bn", "--c=1.2", *SMALL], "--c: no ENorm among bn: add enorm, or leave it"),
        (["--method", "bn", "--groups", "5", *SMALL], "--groups: no GN or BCN among bn: add gn"),
        (["--method", "bn", "--bias", "gauge", *SMALL], "--bias gauge: no ENorm among bn"),
        (["--metod", "enorm", *SMALL], "--metod; did you mean --method? see --help"),
        (["--method", "enrom"], "unknown method 'enrom': did you mean enorm? choose baseline"),
        (["--method", "enorm", "--depths", "9-1"], "cannot read '9-1'"),
        (["--method", "bn", "--dataset", "digits", "--batch-size", "4000"], "1437 training"),
        (["--method", "bn", "--dataset", "digits", "--batch-size", "359"], "one image"),
        (["--method", "study", "--dataset", "digits", "--batch-size", "1"], "one image"),
        (["--method", "enorm", "--data-dir", "/nowhere"], "--dataset digits"),
        (["--method", "enorm"], "--data-dir"),
        (["--method", "enorm", "--out", "/proc/x", *SMALL], "cannot write to --out /proc/x"),
    ],
    ids=str,
)
def test_wrong_input_gets_one_line_and_status_2(
    arguments, message, run_script, tmp_path, monkeypatch
):
    for name, value in (("HOME", str(tmp_path)), ("XDG_CACHE_HOME", str(tmp_path)),
                        ("TFDS_DATA_DIR", ""), ("HTTPS_PROXY", "http://127.0.0.1:9")):  # fmt: skip
        monkeypatch.setenv(name, value)
    status, out, err = run_script(SWEEP, *arguments)
    assert status == 2
    assert message in err
    assert err.strip().count("\n") == 0, err
    assert out == ""


def test_a_process_given_wrong_input_ends_with_one_line_and_status_2():
    child = start("--method", "enorm", "--c", "0")
    _, err = child.communicate(timeout=200)
    assert child.returncode == 2
    assert "'0' is not a number above 0" in err
    assert err.strip().count("\n") == 0, err
