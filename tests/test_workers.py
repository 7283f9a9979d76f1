"""Cells side by side: the same results, nothing lost, nothing trained twice."""

import multiprocessing

import pytest
from filelock import FileLock
from sweeps import CELL, CELLS, Log, content, job

from enorm_jax.errors import InputError
from enorm_jax.jobs import ATTEMPTS
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
    with pytest.raises(InputError, match=f"died {ATTEMPTS} times .*fewer --workers"):
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
