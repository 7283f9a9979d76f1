"""Cells side by side: worker processes, each with cores of its own, and GPUs if there are several.

On a CPU two processes of one core each get through more cells than one process of two: a second
core makes an epoch 1.7 to 1.8 times as fast, not twice. A worker that dies loses the epoch in
progress: its cell goes to a new one.
"""

import collections
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import jax

from enorm_jax.cell import Cell
from enorm_jax.compilation import keep_compiled
from enorm_jax.cores import available_cores, split_cores
from enorm_jax.devices import split_gpus, take_gpus
from enorm_jax.errors import InputError
from enorm_jax.jobs import Deaths, Job, Observer


def run_cells(cells: Sequence[Cell], job: Job, observer: Observer, workers: int = 1) -> None:
    """Trains cells, side by side with more than one worker.

    Args:
      cells: cells to train, in the order in which workers take them.
      job: what they have in common.
      observer: who is told, in this process.
      workers: number of processes; with one, all is done in this process.

    Raises:
      InputError: as `Job.run`, or if a cell's worker died three times.
      OSError: as `Job.run`.
    """
    if workers == 1:
        for cell in cells:
            job.run(cell, observer)
        return
    waiting = collections.deque(cells)
    deaths = Deaths()
    shares = zip(split_cores(workers), split_gpus(workers), strict=True)
    crew = [_Worker(job, cores, gpus) for cores, gpus in shares]
    try:
        for worker in crew:
            worker.take(waiting)
        while busy := {worker.pipe: worker for worker in crew if worker.cell is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                if not worker.report(observer):
                    waiting.appendleft(_count_death(worker, deaths, observer))
                    worker.restart()
                if worker.cell is None:
                    worker.take(waiting)
    finally:
        for worker in crew:
            worker.stop()


def default_workers() -> int:
    """As many workers as cores on a CPU; one on a device that runs a cell's seeds at once.

    Returns:
      Number of workers.
    """
    if jax.default_backend() != "cpu":
        return 1
    return max(1, len(available_cores()))


class _Worker:
    """A process that trains one cell after another."""

    def __init__(self, job: Job, cores: list[int], gpus: str | None):
        self.job, self.cores, self.gpus = job, cores, gpus
        self.cell: Cell | None = None
        self._open()

    def _open(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(self.job, self.cores, self.gpus, theirs), daemon=True
        )
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def take(self, waiting: collections.deque[Cell]) -> None:
        """Gives the worker the next cell, if there is one."""
        self.cell = waiting.popleft() if waiting else None
        if self.cell is not None:
            self.pipe.send(self.cell)

    def report(self, observer: Observer) -> bool:
        """Passes one message on; False if the process has died."""
        try:
            name, *arguments = self.pipe.recv()
        except (EOFError, ConnectionError):
            return False
        if name == "free":
            self.cell = None
        elif name == "failed":
            raise arguments[0]
        else:
            getattr(observer, name)(self.cell, *arguments)
        return True

    def restart(self) -> None:
        """Puts a new process in the dead one's place."""
        self.stop()
        self.cell = None
        self._open()

    def stop(self) -> None:
        """Ends the process; the epoch in progress is lost."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _count_death(worker: _Worker, deaths: Deaths, observer: Observer) -> Cell:
    cell = worker.cell
    assert cell is not None
    worker.process.join()
    status = worker.process.exitcode
    deaths.count(cell, f"exit status {status}; if memory ran out, give fewer --workers")
    observer.died(cell)
    return cell


def _work(job: Job, cores: list[int], gpus: str | None, pipe: Connection) -> None:
    """A worker process: trains the cells that come through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_follow_parent, daemon=True).start()
    if cores:
        os.sched_setaffinity(0, cores)
    if gpus is not None:
        take_gpus(gpus)
    keep_compiled(job.compilation_cache)
    observer: Any = _Remote(pipe)
    try:
        while True:
            try:
                job.run(pipe.recv(), observer)
            except BrokenPipeError:
                raise
            except (InputError, OSError) as error:
                pipe.send(("failed", error))
            pipe.send(("free",))
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone


def _follow_parent() -> None:
    """Ends this process with its parent, which a signal may kill: cells' claims are free then."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Remote:
    """Sends what an observer is told through a pipe; the cell is known at the other end."""

    def __init__(self, pipe: Connection):
        self.pipe = pipe

    def __getattr__(self, name: str) -> Any:
        return lambda cell, *arguments: self.pipe.send((name, *arguments))
