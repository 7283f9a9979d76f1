"""Cells as tasks of submitit, with its own stand-ins for Slurm."""

import dataclasses
import itertools
import os
import pathlib
import signal
import sys

import pytest

# Now, while the standard error is the session's: its import has all log handlers closed, and
# absl's closes with it a stream that is not the standard error of the moment.
import submitit  # noqa: F401
from filelock import FileLock
from sweeps import CELL, CELLS, Log, content, job

from enorm_jax import slurm_executor
from enorm_jax.errors import InputError
from enorm_jax.executors import Executor
from enorm_jax.results import read_results
from enorm_jax.storage import as_folder
from enorm_jax.workers import run_cells

# submitit leaves its log files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Tasks are looked at often."""
    monkeypatch.setattr(slurm_executor, "POLL_SECONDS", 0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the cells."""
    folder = tmp_path_factory.mktemp("alone")
    # Half of the longer one's are enough: what ends between two looks is not seen.
    cells = [CELLS[0], dataclasses.replace(CELLS[1], epochs=160)]
    run_cells(cells, job(folder), Log())
    return cells, content(folder)


def parents(pid):
    """A process and what it comes from, nearest first."""
    while pid > 1:
        yield pid
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
        pid = int(text.rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_a_task_that_is_killed_goes_on_in_another_and_ends_with_the_same_bits(tmp_path, alone):
    cells, expected = alone
    killed = []

    def kill(cell):
        """Kills the task with the process that watches over it, as the end of a node does."""
        if cell != cells[1] or killed:
            return
        lock = str(cell.lock_path(tmp_path))
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if any(os.readlink(link) == lock for link in (process / "fd").iterdir()):
                    ancestry = parents(int(process.name))
                    own = itertools.takewhile(lambda pid: pid != os.getpid(), ancestry)
                    killed.extend(own)
                    for pid in reversed(killed):  # the watchers first
                        os.kill(pid, signal.SIGKILL)
                    return
            except OSError:
                continue

    log = Log(kill)
    Executor("slurm", "local").run(cells, job(tmp_path), log)
    assert killed
    assert log.told["start"] == log.told["done"] == 2
    assert log.told["died"] == 1
    assert log.told["epoch"] >= 80  # seen in the checkpoints
    assert content(tmp_path) == expected
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".json"} == {"slurm"}


def test_cells_that_another_sweep_trains_are_left_to_it_and_faults_are_told(tmp_path):
    debug = Executor("slurm", "debug")
    log = Log()
    with FileLock(CELL.lock_path(tmp_path)):
        debug.run([CELL], job(tmp_path), log)
    assert log.told == {"start": 1, "taken": 1}
    CELL.checkpoint_path(tmp_path).write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is damaged: delete it"):
        debug.run([CELL], job(tmp_path), Log())


def test_stand_ins_are_given_no_more_cells_at_once_than_there_are_cores(
    run_script, tmp_path, monkeypatch
):
    given = []
    submitted = slurm_executor._submitted

    def counting(library, executor, task, cells):
        given.append(len(cells))
        return submitted(library, executor, task, cells)

    monkeypatch.setattr(slurm_executor, "_submitted", counting)
    monkeypatch.setattr(slurm_executor, "available_cores", lambda: [0, 1])
    status, out, err = run_script(
        "experiments/fc_sweep.py", "--dataset", "digits", "--method", "bn", "--depths", "1",
        "--lr", "0.01,0.02,0.03", "--width", "8", "--epochs", "1",
        "--executor", "slurm:debug", "--out", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    assert "3 cells by slurm" in out
    assert given[0] == 2
    assert sum(given) == len(read_results(tmp_path)) == 3


def test_options_are_what_submitit_calculates_with():
    given = {"time": "600", "partition": "gpu", "setup": "module load cuda"}
    assert slurm_executor._options(given, at_once=4) == {
        "slurm_time": 600,
        "slurm_partition": "gpu",
        "slurm_setup": ["module load cuda"],
        "slurm_array_parallelism": 4,
    }


def test_a_preempted_task_asks_for_itself_again(tmp_path):
    task = slurm_executor._Task(job(tmp_path))
    again = task.checkpoint(CELL)
    assert again.function is task
    assert again.args == (CELL,)


def test_what_slurm_cannot_do_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no Slurm on this machine: .*--executor slurm:local"):
        Executor("slurm").run([CELL], job(tmp_path), Log())
    misspelt = Executor("slurm", "local", options={"partitoin": "gpu"})
    with pytest.raises(InputError, match="--slurm: Unknown argument 'partitoin'"):
        misspelt.run([CELL], job(tmp_path), Log())
    with pytest.raises(InputError, match=r"no stand-in for Slurm .*: write slurm, slurm:local"):
        Executor("slurm", "lokal").run([CELL], job(tmp_path), Log())
    pytest.importorskip("s3fs")
    with pytest.raises(InputError, match="wants a folder that all nodes share"):
        Executor("slurm", "debug").run([CELL], job(as_folder("s3://runs/a")), Log())


@pytest.mark.parametrize(("module", "arguments", "extra"), [
    ("ray", ["--executor", "ray"], "cluster"),
    ("submitit", ["--executor", "slurm:local"], "slurm"),
])  # fmt: skip
def test_a_missing_extra_is_one_line(module, arguments, extra, run_script, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)  # importing it is an ImportError
    status, _, err = run_script(
        "experiments/fc_sweep.py", "--method", "bn", "--depths", "1", "--dataset", "digits",
        *arguments, "--out", tmp_path,
    )  # fmt: skip
    assert status == 2
    assert f"pip install 'enorm_jax[{extra}]'" in err
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize(("settings", "message"), [
    ({"engine": "rya"}, "no executor rya: choose one of local, ray, slurm"),
    ({"gpus": 1.0}, "the local executor takes no address and no --cpus-per-cell"),
    ({"engine": "ray", "options": {"a": "b"}}, "--slurm is for --executor slurm"),
    ({"engine": "ray", "gpus": 1.5}, "give a fraction or a whole number"),
    ({"engine": "slurm", "gpus": 0.5}, "Slurm shares no GPU"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Executor(**settings)
