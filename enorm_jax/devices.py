"""Runs shared out among the devices of this process, and devices among processes."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

RUNS = "runs"
BATCH = "batch"


def leave_memory() -> None:
    """Leaves a GPU's memory to other processes on it, such as workers, until it is needed.

    JAX would take three quarters of it when it first looks for devices: call this before. What
    the user set by ``XLA_PYTHON_CLIENT_PREALLOCATE`` stays; child processes do the same.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def split_gpus(workers: int) -> list[str | None]:
    """Shares the GPUs of this process out among workers.

    Args:
      workers: number of workers.

    Returns:
      For each the numbers of its own, such as ``"0,2"``, or of one that several share; None for
      each if there is but one GPU, or none.
    """
    gpus = jax.local_devices() if jax.default_backend() == "gpu" else []
    if len(gpus) < 2:
        return [None] * workers
    own = [gpus[k::workers] or [gpus[k % len(gpus)]] for k in range(workers)]
    return [",".join(str(gpu.local_hardware_id) for gpu in shared) for shared in own]


def take_gpus(numbers: str) -> None:
    """Leaves the other GPUs of the machine to other processes: call it before JAX looks for any.

    Args:
      numbers: as `split_gpus` gives them.
    """
    for make in ("cuda", "rocm"):
        jax.config.update(f"jax_{make}_visible_devices", numbers)


def memory_size() -> float:
    """Bytes of a device's memory that this process may take.

    Returns:
      Of the first device of this process; of the machine where the device does not tell, as a CPU.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return float(stats["bytes_limit"])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def runs_mesh(runs: int) -> Mesh:
    """The most local devices that a number of runs can be shared out among evenly.

    Args:
      runs: number of runs.

    Returns:
      A mesh of one axis, ``"runs"``.
    """
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if runs % n == 0)
    return Mesh(np.array(devices[:count]), (RUNS,))


def batch_mesh() -> Mesh:
    """All devices of all processes, which then share each batch.

    Returns:
      A mesh of one axis, ``"batch"``.
    """
    return Mesh(np.array(jax.devices()), (BATCH,))


def by_run(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays whose leading axis is that of the runs.

    Where devices share batches instead, every device holds all runs.
    """
    return NamedSharding(mesh, P(RUNS) if RUNS in mesh.axis_names else P())


def by_image(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch among devices that share it."""
    return NamedSharding(mesh, P(BATCH))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, P())


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """`everywhere`, or nothing where no devices share a batch."""
    return None if mesh is None else everywhere(mesh)


def over_devices(fn: Callable[..., Any], mesh: Mesh, arguments: int, of_runs: int) -> Any:
    """A function of R runs that every device computes for its own share of them.

    Devices exchange nothing: a run's arithmetic is that of fewer runs on one device.

    Args:
      fn: function whose results, and first `of_runs` arguments, have a leading axis of R.
      mesh: devices.
      arguments: number of arguments.
      of_runs: how many of them are given by run; all devices get the others whole.

    Returns:
      The function over devices, to be compiled.
    """
    specs = (P(RUNS),) * of_runs + (P(),) * (arguments - of_runs)
    return jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=P(RUNS), check_vma=False)
