"""Processes share no core."""

import subprocess
import sys

import pytest

from enorm_jax import cores
from enorm_jax.cores import available_cores, split_cores


@pytest.mark.parametrize(("cores", "workers", "expected"), [
    ([0, 1], 2, [[0], [1]]), ([0, 1, 2, 5, 7], 2, [[0, 1], [2, 5]]), ([3], 2, [[], []]),
])  # fmt: skip
def test_workers_share_no_core(monkeypatch, cores, workers, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(cores), raising=False)
    assert split_cores(workers) == expected


# The module by its file: importing the package takes seconds.
CLAIM = """
import runpy, sys
module = runpy.run_path(sys.argv[1])
available_cores, claim_cores = module["available_cores"], module["claim_cores"]
assert claim_cores(1) == claim_cores(1)  # what a process has claimed it keeps
print(*claim_cores(1), *(available_cores() if claim_cores(1) else ()), flush=True)
sys.stdin.read()
"""


def claiming():
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM, cores.__file__],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_processes_that_know_nothing_of_each_other_claim_different_cores(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    count = len(available_cores())
    with claiming() as first, claiming() as second:
        told = [process.stdout.readline().split() for process in (first, second)]
        claimed = {cores[0] for cores in told if cores}
        assert len(claimed) == min(count, 2)
        assert all(len(set(cores)) == 1 for cores in told if cores)  # bound to the one it claimed
        first.stdin.close()
        second.stdin.close()
    with claiming() as third:  # their ends have freed them
        assert third.stdout.readline().split()[0] in {str(core) for core in available_cores()}
        third.stdin.close()
