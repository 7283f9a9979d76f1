"""One network over several devices, and over several processes: the loss of one."""

import dataclasses
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
from sweeps import CELL, Log, job

import micro_batch
from enorm_jax.distributed import from_first, join
from enorm_jax.errors import InputError
from enorm_jax.results import read_results

pytestmark = pytest.mark.xdist_group("distributed")  # one worker trains alone for them all

ROOT = pathlib.Path(__file__).parents[1]
# 1,437 images: a last batch of 157, which neither two nor four devices share evenly.
DENSE = dataclasses.replace(CELL, epochs=3)
# Batches of 479, and of 90 to evaluate, are all uneven, and one program each to compile.
RESNET = dataclasses.replace(
    CELL, method="bn", network="resnet", depth=8, width=4, epochs=1, momentum=0.9, c=None,
    batch_size=479,
)  # fmt: skip
EVALUATION_BATCH = 90


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one device makes of the cells."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("enorm_jax.stepwise.EVALUATION_BATCH", EVALUATION_BATCH)
        for cell in (DENSE, RESNET):
            job(folder).run(cell, Log())
    return {result["network"]: result for result in read_results(folder)}


def unused_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def same(result, expected):
    for name, tolerance in (("train_loss", 1e-4), ("kernel_norms", 1e-4), ("test_loss", 1e-3)):
        np.testing.assert_allclose(
            result["curves"][name], expected["curves"][name], rtol=tolerance, err_msg=name
        )


FOUR_DEVICES = """
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from enorm_jax import program, stepwise
from enorm_jax.data import load
from enorm_jax.program import train_runs
from enorm_jax.sweep import recipe_of
from enorm_jax.recipe import hyperparameters, init_states
from sweeps import Log, job
from test_distributed import DENSE, EVALUATION_BATCH, RESNET
stepwise.EVALUATION_BATCH = EVALUATION_BATCH
assert jax.device_count() == 4
for cell in (DENSE, RESNET):
    job(Path(sys.argv[1]), together=True).run(cell, Log())
program.memory_size = lambda: 0  # batches then come from the host, by and by to each device its own
job(Path(sys.argv[2]), together=True).run(DENSE, Log())

# Each device has seen a fourth of a batch, and gradients were added up.
digits = load("digits")
own = recipe_of(DENSE, digits, together=True)
seeds = jnp.zeros(1, jnp.uint32)
hyper = hyperparameters(1, learning_rate=0.1, c=1.2, weight_decay=0.0)
states = init_states(own, seeds, hyper, digits.train_images[:1])
epoch = jax.jit(train_runs, static_argnums=0)
data = digits.train_images, digits.train_labels
text = epoch.lower(own, states, seeds, jnp.int32(0), *data).compile().as_text()
assert "all-reduce" in text
assert "f32[64,64]" in text
assert "f32[256,64]" not in text
"""


@pytest.mark.slow
def test_four_devices_that_share_each_batch_train_as_one(tmp_path, alone):
    paths = os.pathsep.join(str(ROOT / name) for name in ("tests", "experiments"))
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-c", FOUR_DEVICES, str(tmp_path / "there"), str(tmp_path / "streamed")],
        capture_output=True, text=True, env=os.environ | flags | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [*read_results(tmp_path / "there"), *read_results(tmp_path / "streamed")]
    assert len(results) == 3
    for result in results:
        assert result["device"]["count"] == 4
        same(result, alone[result["network"]])


class Stopped(Exception):
    """What ends a process."""


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped_and_train_a_resnet_as_one(tmp_path):
    def stop(cell):
        raise Stopped

    alone, out, elsewhere = (tmp_path / name for name in ("alone", "out", "elsewhere"))
    arguments = [
        "--dataset", "digits", "--method", "enorm+bn", "--width", "4", "--batch-sizes", "161",
        "--train-images", "161", "--epochs", "2", "--seeds", "1",
    ]  # fmt: skip
    (cell,) = micro_batch.cells(micro_batch.parser().parse_args(arguments))
    job(alone).run(cell, Log())
    with pytest.raises(Stopped):
        job(out).run(cell, Log(stop))
    address = unused_address()
    command = [sys.executable, micro_batch.__file__, *arguments, "--no-compilation-cache"]
    processes = [
        subprocess.Popen(
            [*command, "--out", str(folder), "--distributed", f"{address},2,{rank}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank, folder in enumerate((out, elsewhere))
    ]  # fmt: skip
    texts = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert "going on after epoch 1" in texts[0]
    assert "accuracy" not in texts[1]  # one of them reports
    assert not elsewhere.exists()  # and writes
    (result,), (expected,) = read_results(out), read_results(alone)
    assert result["device"]["count"] == 2
    same(result, expected)


def test_a_fault_of_the_first_process_reaches_all():
    for fault in (InputError("no such cell"), PermissionError(13, "Permission denied", "results")):

        def fail(fault=fault):
            raise fault

        with pytest.raises(InputError, match=re.escape(str(fault))):
            from_first(fail)


def test_processes_that_cannot_join_are_one_line():
    for where in ("here", "10.0.0.1:1234", "10.0.0.1:1234,2", "a,b,c"):
        with pytest.raises(InputError, match="write auto, or HOST:PORT,PROCESSES,RANK"):
            join(where)
    script = ROOT / "experiments" / "fc_sweep.py"
    command = [sys.executable, script, "--dataset", "digits", "--method", "bn", "--distributed"]
    done = subprocess.run([*command, "auto"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "the processes do not find each other" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.slow
def test_processes_that_do_not_come_are_waited_for_and_then_told_of(rank):
    """JAX itself ends the process with an abort and a stack of C++."""
    where = f"{unused_address()},2,{rank}"
    code = (
        "from enorm_jax import cli, distributed\n"
        "distributed.JOIN_SECONDS = 3\n"
        f"cli.run(lambda: distributed.join({where!r}), again='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "not all were there within 3 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_parallel_run_trains_one_cell_at_a_time(run_script, tmp_path):
    status, _, err = run_script(
        "experiments/fc_sweep.py", "--dataset", "digits", "--method", "bn", "--data-parallel",
        "--workers", "2", "--out", tmp_path,
    )  # fmt: skip
    assert status == 2
    assert "leave out --executor and --workers" in err
