"""Which cores a process computes on."""

import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

_held: dict[int, FileLock] = {}


def split_cores(workers: int) -> list[list[int]]:
    """Shares this process's cores out among workers, evenly.

    Args:
      workers: number of workers.

    Returns:
      For each worker its cores; empty where there are fewer cores than workers, or where the
      system cannot bind a process to cores.
    """
    cores = available_cores()
    share = len(cores) // workers
    return [cores[i * share : (i + 1) * share] for i in range(workers)]


def available_cores() -> list[int]:
    """The cores that this process may use; empty where the system cannot tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def claim_cores(count: int) -> list[int]:
    """Binds this process to cores that no other process has claimed, until it ends.

    For processes that know nothing of each other; to be called before JAX starts its threads. If
    fewer cores are free, the process stays where it is. What it claimed before, it keeps.

    Args:
      count: how many.

    Returns:
      The cores, or nothing.
    """
    if _held:
        return list(_held)
    folder = Path(tempfile.gettempdir()) / "enorm_jax-cores"
    folder.mkdir(mode=0o777, exist_ok=True)
    taken: dict[int, FileLock] = {}
    for core in available_cores():
        if len(taken) == count:
            break
        lock = FileLock(folder / f"{core}.lock", blocking=False, mode=0o666)
        try:
            lock.acquire()
        except (Timeout, OSError):
            continue
        taken[core] = lock
    if len(taken) < count:
        for lock in taken.values():
            lock.release()
        return []
    os.sched_setaffinity(0, taken)
    _held.update(taken)  # else they would be freed with their objects
    return list(taken)
