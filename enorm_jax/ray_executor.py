"""Cells over the machines of a Ray cluster: one task a cell.

A task whose process or machine dies is given out again and goes on from its last epoch, on
whatever node is free; where the output folder is not shared among machines it starts again, and
its files come back through Ray. Nothing here is needed on one machine.
"""

import collections
import contextlib
import dataclasses
import enum
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from enorm_jax.cell import Cell
from enorm_jax.compilation import keep_compiled
from enorm_jax.cores import claim_cores
from enorm_jax.errors import InputError
from enorm_jax.jobs import Deaths, Job, Observer, Patience
from enorm_jax.ray_cluster import check_room, connect
from enorm_jax.storage import Folder, as_folder, write_whole

POLL_SECONDS = 0.2
TOKEN = ".shared-{}"


def run_on_ray(
    cells: Sequence[Cell],
    job: Job,
    observer: Observer,
    *,
    address: str | None = None,
    cpus: int = 1,
    gpus: float = 0.0,
    at_once: int | None = None,
) -> None:
    """Trains cells as tasks of a Ray cluster.

    Args:
      cells: cells to train, in the order in which they are given out.
      job: what they have in common.
      observer: who is told, in this process.
      address: of the cluster, as `ray.init` takes it; None for that in ``RAY_ADDRESS``, else for
        one that runs on this machine, else for one that ends with the call.
      cpus: cores that a cell takes.
      gpus: GPUs that a cell takes; a fraction shares one.
      at_once: how many cells are trained at once at most; None for as many as fit.

    Raises:
      InputError: if Ray is missing or cannot be reached, no node is large enough, a cell's
        process died three times, or as `Job.run`.
      OSError: as `Job.run`.
    """
    ray = connect(address)
    try:
        check_room(ray, cpus, gpus)
        with _sharing_token(job) as token:
            _Driver(ray, job, observer, token, cpus, gpus).run(cells, at_once or len(cells))
    finally:
        ray.shutdown()


class End(enum.Enum):
    """How a task ended."""

    DONE = enum.auto()
    TAKEN = enum.auto()
    DIED = enum.auto()


class _Driver:
    """Gives cells out as tasks and passes on what they tell."""

    def __init__(self, ray: Any, job: Job, observer: Observer, token: str, cpus: int, gpus: float):
        self.ray, self.observer, self.token = ray, observer, token
        self.job = dataclasses.replace(job, inherits=False)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        # Beside this process, so that it lives as long.
        self.mailbox = ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self.task = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=0,  # they are counted and told here
            runtime_env={"env_vars": _environment(gpus)},
        )(_train)
        self.cpus = cpus

    def run(self, cells: Sequence[Cell], at_once: int) -> None:
        """Trains all cells."""
        ray = self.ray
        waiting = collections.deque(cells)
        running: dict[Any, Cell] = {}
        deaths = Deaths()
        patience = Patience()
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    cell = waiting.popleft()
                    task = self.task.remote(self.job, cell, self.mailbox, self.token, self.cpus)
                    running[task] = cell
                ready, _ = ray.wait(list(running), timeout=POLL_SECONDS)
                self._pass_on()
                for task in ready:
                    cell = running.pop(task)
                    end = self._end(task)
                    if end is End.DIED:
                        deaths.count(
                            cell,
                            "if memory ran out, give a cell more of a node with --cpus-per-cell",
                        )
                        self.observer.died(cell)
                        waiting.appendleft(cell)
                    elif end is End.TAKEN and cell in deaths and patience.waits(cell):
                        waiting.append(cell)
                    elif end is End.TAKEN:
                        self.observer.taken(cell)
        finally:
            for task in running:
                ray.cancel(task, force=True)
            ray.kill(self.mailbox)

    def _pass_on(self) -> None:
        """Tells the observer what has come in."""
        for name, cell, arguments in self.ray.get(self.mailbox.take.remote()):
            getattr(self.observer, name)(cell, *arguments)

    def _end(self, task: Any) -> End:
        """Takes what a task returned."""
        try:
            outcome = self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ImportError) or "failed to import" in str(cause):
                why = str(cause).strip().splitlines()[-1]
                raise InputError(
                    f"a node of the cluster cannot start a cell ({why}): install the same "
                    "enorm_jax on all nodes"
                ) from None
            raise
        except self.ray.exceptions.RayError:
            return End.DIED
        if isinstance(outcome, Exception):
            raise outcome
        self._pass_on()
        if outcome is None:
            return End.TAKEN
        for name, content in outcome.items():
            write_whole(self.job.out / name, content)
        return End.DONE


class _Mailbox:
    """What tasks tell, until the driver takes it."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def put(self, message: Any) -> None:
        self.messages.append(message)

    def take(self) -> list[Any]:
        taken, self.messages = self.messages, []
        return taken


class _Relay:
    """An observer that posts what it is told, and keeps to itself that a cell was taken."""

    def __init__(self, mailbox: Any):
        self.mailbox = mailbox
        self.was_taken = False

    def taken(self, cell: Cell) -> None:
        self.was_taken = True

    def __getattr__(self, name: str) -> Any:
        import ray

        # Waited for, so that all is there when the task is over.
        return lambda cell, *arguments: ray.get(self.mailbox.put.remote((name, cell, arguments)))


def _train(
    job: Job, cell: Cell, mailbox: Any, token: str, cpus: int
) -> dict[str, bytes] | Exception | None:
    """A task: trains a cell; returns its files if the folder is not shared, or the fault.

    None says that another process trains it.
    """
    claim_cores(cpus)
    keep_compiled(job.compilation_cache)
    relay: Any = _Relay(mailbox)
    try:
        if (as_folder(job.out) / token).exists():
            job.run(cell, relay)
            return None if relay.was_taken else {}
        with tempfile.TemporaryDirectory() as folder:
            job = dataclasses.replace(job, out=Path(folder))
            job.run(cell, relay)
            paths = (cell.result_path(job.out), cell.params_path(job.out))
            return {path.name: path.read_bytes() for path in paths if path.exists()}
    except (InputError, OSError) as error:
        return error


@contextlib.contextmanager
def _sharing_token(job: Job) -> Iterator[str]:
    """The name of a file in the output folder: a task that sees it shares the folder."""
    path: Folder = job.out / TOKEN.format(job.sweep)
    path.write_bytes(b"")
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


def _environment(gpus: float) -> dict[str, str]:
    """Environment variables of a task: this process's for JAX, and its share of a GPU."""
    passed = ("JAX_", "XLA_", "TFDS_DATA_DIR", "AWS_", "GOOGLE_", "AZURE_")
    own = {k: v for k, v in os.environ.items() if k.startswith(passed)}
    if not gpus:
        return own | {"JAX_PLATFORMS": "cpu"}
    own["JAX_PLATFORMS"] = ""  # a node's own would stay if it were left out
    if gpus < 1:  # else the first process would take three quarters of the memory for itself
        own["XLA_CLIENT_MEM_FRACTION"] = f"{0.9 * gpus:.3f}"
        own["XLA_PYTHON_CLIENT_MEM_FRACTION"] = ""  # the old name; JAX refuses both
    return own
