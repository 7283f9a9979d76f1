"""Cells side by side: the same results, nothing lost, nothing trained twice."""

import multiprocessing
import time
from types import SimpleNamespace

import jax
import pytest
from filelock import FileLock, Timeout
from sweeps import CELL, CELLS, Log, LongEpoch, content, job

from enorm_jax.devices import split_gpus
from enorm_jax.errors import InputError
from enorm_jax.jobs import ATTEMPTS, Job
from enorm_jax.results import read_results
from enorm_jax.workers import run_cells


def killing(times):
    """Kills all workers at the first epochs that are told of."""
    left = [None] * times

    def kill(cell):
        if left:
            left.pop()
            for process in multiprocessing.active_children():
                process.kill()

    return kill


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the cells."""
    folder = tmp_path_factory.mktemp("alone")
    log = Log()
    run_cells(CELLS, job(folder), log)
    assert log.told == {"start": 2, "epoch": 24, "done": 2}
    return content(folder)


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_the_bits_are_those_of_one_process(tmp_path, alone):
    log = Log(killing(1))
    run_cells(CELLS, job(tmp_path), log, workers=2)
    assert log.told["died"] >= 1
    assert log.told["done"] == 2
    assert content(tmp_path) == alone
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


@pytest.mark.slow
def test_a_cell_whose_workers_always_die_is_given_up_with_one_line(tmp_path):
    with pytest.raises(InputError, match=f"died {ATTEMPTS} times: exit status .*fewer --workers"):
        run_cells(
            CELLS[:1],
            job(tmp_path),
            Log(killing(99)),
            workers=2,
        )
    assert not multiprocessing.active_children()
    assert list(tmp_path.glob("*.checkpoint.safetensors"))


def test_a_cell_that_another_process_trains_is_left_to_it(tmp_path):
    log = Log()
    with FileLock(CELL.lock_path(tmp_path)):
        run_cells([CELL], job(tmp_path), log)
    assert log.told == {"start": 1, "taken": 1}
    assert not read_results(tmp_path)


@pytest.mark.slow
def test_a_fault_of_a_worker_reaches_the_user(tmp_path):
    CELL.checkpoint_path(tmp_path).write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is damaged: delete it"):
        run_cells(CELLS, job(tmp_path), Log(), workers=2)
    assert not multiprocessing.active_children()


def is_claimed(cell, folder):
    try:
        with FileLock(cell.lock_path(folder), timeout=0):
            return False
    except Timeout:
        return True


def comes(true, seconds):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


@pytest.mark.slow
def test_workers_end_with_a_sweep_that_is_killed_and_leave_its_cells_to_the_next(tmp_path):
    sweep = multiprocessing.get_context("spawn").Process(
        target=run_cells, args=(CELLS, LongEpoch("digits", None, tmp_path), None, 2)
    )
    sweep.start()
    assert comes(lambda: all(is_claimed(cell, tmp_path) for cell in CELLS), 50)
    sweep.kill()
    sweep.join()
    assert comes(lambda: not any(is_claimed(cell, tmp_path) for cell in CELLS), 10)


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
        MemoryError(),
    ],
    ids=["device", "host"],
)
def test_memory_that_runs_out_is_one_line(tmp_path, monkeypatch, error):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(Job, "_run", fails)
    with pytest.raises(InputError, match=r"memory ran out with fc-digits-.*: give fewer --seeds"):
        job(tmp_path).run(CELL, Log())
    other = jax.errors.JaxRuntimeError("INTERNAL: no such thing")
    monkeypatch.setattr(Job, "_run", lambda *arguments: (_ for _ in ()).throw(other))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        job(tmp_path).run(CELL, Log())


@pytest.mark.parametrize(
    ("gpus", "workers", "own"),
    [
        ([0], 3, [None] * 3),
        ([0, 1, 2, 3], 2, ["0,2", "1,3"]),
        ([2, 3], 3, ["2", "3", "2"]),
        ([0, 1, 2], 3, ["0", "1", "2"]),
    ],
)
def test_workers_share_the_gpus_out(monkeypatch, gpus, workers, own):
    assert split_gpus(workers) == [None] * workers  # on a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(
        jax, "local_devices", lambda: [SimpleNamespace(local_hardware_id=n) for n in gpus]
    )
    assert split_gpus(workers) == own
