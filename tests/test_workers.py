"""Cells side by side: the same results, nothing lost, nothing trained twice."""

import collections
import dataclasses
import multiprocessing

import pytest
from filelock import FileLock

from enorm_jax.cell import Cell
from enorm_jax.errors import InputError
from enorm_jax.results import read_results
from enorm_jax.workers import ATTEMPTS, Job, run_cells, split_cores

VARYING = {"date", "seconds_per_epoch", "compile_seconds", "resumed_from", "device"}
CELL = Cell(
    experiment="fc", dataset="digits", method="enorm+bn", depth=1, width=8, bias=False, epochs=12,
    learning_rate=0.05, c=1.2, batch_size=256, weight_decay=1e-3, precision="float32",
    restarts=0, seeds=(0,),
)  # fmt: skip
CELLS = [CELL, dataclasses.replace(CELL, depth=2)]


class Log:
    """Remembers what it is told, and kills all workers at the first `kills` epochs of a cell."""

    def __init__(self, kills=0):
        self.told, self.kills = collections.Counter(), kills

    def __getattr__(self, name):
        def tell(cell, *arguments):
            self.told[name] += 1
            if name == "epoch" and self.kills:
                self.kills -= 1
                for process in multiprocessing.active_children():
                    process.kill()

        return tell


def content(folder):
    results = read_results(folder)
    return [{k: v for k, v in result.items() if k not in VARYING} for result in results]


@pytest.fixture(autouse=True)
def _same_compilation(monkeypatch):
    """Workers compile as conftest.py has this process do."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the cells."""
    folder = tmp_path_factory.mktemp("alone")
    log = Log()
    run_cells(CELLS, Job("digits", None, folder, compilation_cache=False), log)
    assert log.told == {"start": 2, "epoch": 24, "done": 2}
    return content(folder)


def test_killed_workers_lose_nothing_and_the_bits_are_those_of_one_process(tmp_path, alone):
    log = Log(kills=1)
    run_cells(CELLS, Job("digits", None, tmp_path, compilation_cache=False), log, workers=2)
    assert log.told["died"] >= 1
    assert log.told["done"] == 2
    assert content(tmp_path) == alone
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_a_cell_whose_workers_always_die_is_given_up_with_one_line(tmp_path):
    with pytest.raises(InputError, match=f"died {ATTEMPTS} times .*fewer --workers"):
        run_cells(
            CELLS[:1],
            Job("digits", None, tmp_path, compilation_cache=False),
            Log(kills=99),
            workers=2,
        )
    assert not multiprocessing.active_children()
    assert list(tmp_path.glob("*.checkpoint.safetensors"))


def test_a_cell_that_another_process_trains_is_left_to_it(tmp_path):
    log = Log()
    with FileLock(CELL.lock_path(tmp_path)):
        run_cells([CELL], Job("digits", None, tmp_path, compilation_cache=False), log)
    assert log.told == {"start": 1, "taken": 1}
    assert not read_results(tmp_path)


def test_a_fault_of_a_worker_reaches_the_user(tmp_path):
    CELL.checkpoint_path(tmp_path).write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is damaged: delete it"):
        run_cells(CELLS, Job("digits", None, tmp_path, compilation_cache=False), Log(), workers=2)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("cores", "workers", "expected"), [
    ([0, 1], 2, [[0], [1]]), ([0, 1, 2, 5, 7], 2, [[0, 1], [2, 5]]), ([3], 2, [[], []]),
])  # fmt: skip
def test_workers_share_no_core(monkeypatch, cores, workers, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(cores), raising=False)
    assert split_cores(workers) == expected
