"""One network over the devices of several processes, on one host or many.

All processes run the same program. The first one claims cells, reads and writes their files, and
tells the others what to start from; the others write nothing that stays.
"""

import json
import logging
import re
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from enorm_jax.cell import Cell
from enorm_jax.data import Dataset
from enorm_jax.errors import InputError
from enorm_jax.fit import Epoch
from enorm_jax.storage import Folder, write_whole
from enorm_jax.sweep import run_cell

logger = logging.getLogger(__name__)

JOIN_SECONDS = 120


def join(where: str) -> None:
    """Joins the processes that train together, before JAX is used for anything else.

    Args:
      where: ``auto`` under Slurm, Open MPI, Kubernetes or on a TPU pod, which tell JAX the rest;
        else ``HOST:PORT,PROCESSES,RANK``, the first process's address, how many there are, and
        which of them this is, from 0.

    Raises:
      InputError: if the text is neither, or the processes do not find each other.
    """
    parts = where.split(",")
    if where != "auto" and not re.fullmatch(r"[^,]+:\d+,\d+,\d+", where):
        raise InputError(
            f"--distributed {where}: write auto, or HOST:PORT,PROCESSES,RANK such as "
            "10.0.0.1:1234,2,0"
        )
    address: dict[str, Any] = {}
    if where != "auto":
        logger.info("joining %s processes at %s", parts[1], parts[0])
        address["coordinator_address"] = parts[0]
        address["num_processes"], address["process_id"] = map(int, parts[1:])
    faults: list[Exception] = []

    def initialize() -> None:
        try:
            # Where its own time runs out JAX ends the process: it gets more than is waited here.
            jax.distributed.initialize(**address, initialization_timeout=2 * JOIN_SECONDS)
        except (RuntimeError, ValueError) as error:
            faults.append(error)

    joining = threading.Thread(target=initialize, daemon=True)
    joining.start()
    joining.join(JOIN_SECONDS)
    if joining.is_alive():
        reason = f"not all were there within {JOIN_SECONDS} s"
    elif faults:
        reason = str(faults[0]).strip().splitlines()[0]
    else:
        return
    raise InputError(
        f"--distributed {where}: the processes do not find each other ({reason}); start "
        "all with one HOST:PORT,PROCESSES that each of them reaches, and each with its own RANK"
    )


def leads() -> bool:
    """Whether this process is the first, which reads, writes and reports."""
    return jax.process_index() == 0


def from_first(make: Callable[[], Any]) -> Any:
    """What the first process makes, on all of them.

    Args:
      make: called in the first process alone; returns what JSON can hold.

    Returns:
      What it returned.

    Raises:
      InputError: on all of them, if it raised one or an OSError; no process waits for what never
        comes.

    Example:
      >>> from enorm_jax.distributed import from_first
      >>> from_first(lambda: [1, 2])
      [1, 2]
    """

    def outcome() -> dict[str, Any]:
        try:
            return {"made": make()}
        except (InputError, OSError) as error:
            return {"fault": str(error)}

    found = json.loads(_bytes_from_first(json.dumps(outcome()).encode() if leads() else b""))
    if "fault" in found:
        raise InputError(found["fault"])
    return found["made"]


def run_cell_together(
    cell: Cell,
    dataset: Dataset,
    folder: Folder,
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    **options: Any,
) -> dict[str, Any] | None:
    """`run_cell` by all processes, each batch shared out among all devices.

    Args:
      cell: the cell.
      dataset: its data, whole in every process.
      folder: where the first process writes.
      on_epoch: called after each epoch, for display, in every process.
      **options: as for `run_cell`.

    Returns:
      The content of the cell's file; None in the other processes if the first has not trained.

    Raises:
      TakenError: in the first process, if another sweep is training the cell.
      OSError, InputError: as `run_cell`.
    """
    if leads():
        told = False

        def tell() -> None:
            nonlocal told
            path = cell.checkpoint_path(folder)
            checkpoint = path.read_bytes() if path.exists() else b""
            told = True
            _bytes_from_first(b"train" + checkpoint)

        try:
            return run_cell(
                cell, dataset, folder, on_epoch=on_epoch, on_claim=tell, together=True, **options
            )
        finally:
            if not told:  # taken, done, or a fault
                _bytes_from_first(b"leave")
    word = _bytes_from_first(b"")
    if word == b"leave":
        return None
    with tempfile.TemporaryDirectory() as own:
        if checkpoint := word.removeprefix(b"train"):
            write_whole(cell.checkpoint_path(Path(own)), checkpoint)
        return run_cell(cell, dataset, Path(own), on_epoch=on_epoch, together=True, **options)


def _bytes_from_first(content: bytes) -> bytes:
    """The first process's bytes, on all processes."""
    if jax.process_count() == 1:
        return content
    # In bytes too, since JAX's integers have 32 bits.
    size = int.from_bytes(_broadcast(len(content).to_bytes(8, "little"), 8), "little")
    return _broadcast(content, size)


def _broadcast(content: bytes, size: int) -> bytes:
    """The first process's bytes, on all processes, which know their number."""
    buffer = np.zeros(size, np.uint8)
    if leads():
        buffer[:] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer)).astype(np.uint8).tobytes()
