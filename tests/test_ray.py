"""A cluster of three nodes on this machine: nodes and processes die, and no bit changes."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal

import pytest
from filelock import FileLock
from sweeps import CELL, Log, content, job

from enorm_jax.cell import Cell
from enorm_jax.errors import InputError
from enorm_jax.executors import Executor
from enorm_jax.jobs import ATTEMPTS
from enorm_jax.results import read_results
from enorm_jax.workers import run_cells

# Ray's own code leaves sockets and processes to the garbage collector.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.xdist_group("ray"),  # one cluster for them all
]

CELLS: list[Cell] = [
    dataclasses.replace(CELL, depth=depth, epochs=80, method=method)
    for depth in (1, 2)
    for method in ("enorm+bn", "bn")
]


class Cluster:
    """Three nodes that train one cell each, and a head that trains none."""

    def __init__(self):
        from ray.cluster_utils import Cluster as RayCluster

        self.ray = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes = [self.ray.add_node(num_cpus=1) for _ in range(3)]
        self.executor = Executor("ray", self.ray.address)

    def node_of(self, pid):
        """The node whose raylet started a process."""
        parent = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        for node in self.nodes:
            if any(info.process.pid == parent for info in node.all_processes["raylet"]):
                return node
        raise AssertionError(f"process {pid} belongs to no node")

    def kill_node(self, pid):
        """Kills the node of a process, and starts another, as a cluster's owner would."""
        node = self.node_of(pid)
        self.nodes.remove(node)
        self.ray.remove_node(node, allow_graceful=False)
        self.nodes.append(self.ray.add_node(num_cpus=1))


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        # Else other work on the machine would starve them.
        patch.setenv("RAY_worker_niceness", "0")
        cluster = Cluster()
        yield cluster
        cluster.ray.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of the cells."""
    folder = tmp_path_factory.mktemp("alone")
    run_cells(CELLS, job(folder), Log())
    return content(folder)


def trainer(cell, folder):
    """The process that holds a cell's lock, or None."""
    lock = str(cell.lock_path(folder))
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(link) == lock for link in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:  # gone, or not ours
            continue
    return None


def test_when_a_node_dies_and_then_a_process_every_cell_ends_with_the_same_bits(
    cluster, tmp_path, alone
):
    killed = []

    def kill(cell):
        pid = trainer(cell, tmp_path)
        if pid and not killed:
            cluster.kill_node(pid)
        elif pid and cell not in killed and len(killed) == 1:
            os.kill(pid, signal.SIGKILL)
        else:
            return
        killed.append(cell)

    log = Log(kill)
    cluster.executor.run(CELLS, job(tmp_path), log)
    assert len(killed) == 2
    assert log.told["died"] >= 2  # more if Ray gives the dead node a cell before it notices
    assert log.told["done"] == len(CELLS)
    assert content(tmp_path) == alone
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}
    resumed = {(r["depth"], r["method"]) for r in read_results(tmp_path) if r["resumed_from"]}
    assert resumed >= {(cell.depth, cell.method) for cell in killed}  # on from their last epochs


def test_a_cell_whose_processes_always_die_is_given_up_with_one_line(cluster, tmp_path):
    def kill(cell):
        if pid := trainer(cell, tmp_path):
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(InputError, match=f"died {ATTEMPTS} times: if memory ran out"):
        cluster.executor.run(CELLS[:1], job(tmp_path), Log(kill))
    assert CELLS[0].checkpoint_path(tmp_path).exists()


def test_files_come_back_where_the_folder_is_not_shared(cluster, tmp_path, alone, monkeypatch):
    # What tells tasks that it is shared lies elsewhere.
    elsewhere = contextlib.nullcontext("not there")
    monkeypatch.setattr("enorm_jax.ray_executor._sharing_token", lambda job: elsewhere)
    log = Log()
    cluster.executor.run(CELLS[:1], job(tmp_path, save_params=True), log)
    assert log.told["done"] == 1
    assert content(tmp_path)[0] in alone
    names = {CELLS[0].result_path(tmp_path), CELLS[0].params_path(tmp_path)}
    assert set(tmp_path.iterdir()) == names


def test_cells_that_another_sweep_trains_are_left_to_it_and_faults_are_told(cluster, tmp_path):
    log = Log()
    with FileLock(CELLS[0].lock_path(tmp_path)):
        cluster.executor.run(CELLS[:1], job(tmp_path), log)
    assert log.told == {"start": 1, "taken": 1}
    CELLS[0].checkpoint_path(tmp_path).write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="is damaged: delete it"):
        cluster.executor.run(CELLS[:1], job(tmp_path), Log())
    shutil.rmtree(tmp_path)


def test_a_cell_that_fits_on_no_node_is_refused(cluster, tmp_path):
    executor = dataclasses.replace(cluster.executor, gpus=0.5)
    with pytest.raises(InputError, match=r"no node of the cluster has 1 cores and 0\.5 GPUs"):
        executor.run(CELLS, job(tmp_path), Log())


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_where_there_is_no_cluster_one_line_says_so(address, run_script, tmp_path):
    status, _, err = run_script(
        "experiments/fc_sweep.py", "--method", "bn", "--depths", "1", "--dataset", "digits",
        "--executor", f"ray:{address}", "--out", tmp_path,
    )  # fmt: skip
    assert status == 2
    assert "error: no Ray cluster at" in err
    assert len(err.strip().splitlines()) == 1, err
