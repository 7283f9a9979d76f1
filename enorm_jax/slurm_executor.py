"""Cells as the tasks of a Slurm array job, through submitit.

Tasks and this process share the output folder, and no other connection: how far a cell is, is
read from its checkpoint. A cell whose task is preempted, runs out of time or dies is given out
again and goes on from its last epoch.
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from enorm_jax.cell import Cell
from enorm_jax.checkpoint import read_metadata
from enorm_jax.compilation import keep_compiled
from enorm_jax.cores import available_cores
from enorm_jax.errors import InputError
from enorm_jax.fit import Epoch
from enorm_jax.jobs import Deaths, Job, Observer, Patience
from enorm_jax.storage import Folder, is_bucket
from enorm_jax.sweep import progress

POLL_SECONDS = 2.0
# A day; --slurm time=... asks for another limit.
MINUTES = 24 * 60


def run_on_slurm(
    cells: Sequence[Cell],
    job: Job,
    observer: Observer,
    *,
    cluster: str | None = None,
    cpus: int = 1,
    gpus: int = 0,
    at_once: int | None = None,
    options: Mapping[str, str] = {},
) -> None:
    """Trains cells as the tasks of an array job.

    Args:
      cells: cells to train.
      job: what they have in common.
      observer: who is told, in this process.
      cluster: None for Slurm; ``"local"`` or ``"debug"`` for submitit's stand-ins for it:
        processes of this machine, or this process.
      cpus: cores that a cell takes.
      gpus: GPUs that a cell takes.
      at_once: how many tasks run at once at most; None for as many as fit.
      options: of ``sbatch``, such as ``{"partition": "gpu"}``.

    Raises:
      InputError: if submitit is missing, there is no Slurm, it refuses the options, a cell's
        task died three times, or as `Job.run`.
      OSError: as `Job.run`.
    """
    if is_bucket(job.out):
        raise InputError(
            f"--out {os.fspath(job.out)}: --executor slurm wants a folder that all nodes share"
        )
    submitit, executor = _executor(cluster, job.out, cpus, gpus, at_once, options)
    deaths = Deaths()
    followed = {cell: _Follower(cell, job.out, observer) for cell in cells}
    waiting, running = list(cells), dict[Any, Cell]()
    patience = Patience()
    task = _Task(dataclasses.replace(job, inherits=False))
    # Slurm lets tasks wait; its stand-ins start all that they are given.
    at_most = len(cells) if cluster is None else at_once or max(1, len(available_cores()))
    try:
        while waiting or running:
            now = waiting[: at_most - len(running)]
            if now:
                del waiting[: len(now)]
                running |= zip(_submitted(submitit, executor, task, now), now, strict=True)
            for own, cell in list(running.items()):
                followed[cell].look()
                if not own.done():
                    continue
                del running[own]
                outcome = _outcome(submitit, own)
                if outcome is None and cell in deaths and patience.waits(cell):
                    waiting.append(cell)
                elif not followed[cell].take(outcome):
                    deaths.count(cell, f"its logs lie in {executor.folder}")
                    followed[cell].died()
                    waiting.insert(0, cell)
            if running:
                time.sleep(POLL_SECONDS)
    finally:
        for own in running:
            own.cancel(check=False)


class _Task:
    """What a task runs; submitit calls `checkpoint` before Slurm ends it early."""

    def __init__(self, job: Job):
        self.job = job

    def __call__(self, cell: Cell) -> dict[str, Any] | Exception | None:
        """Trains a cell; returns its result, a fault, or None if another process trains it."""
        keep_compiled(self.job.compilation_cache)
        last = _Last()
        try:
            self.job.run(cell, last)
        except (InputError, OSError) as error:
            return error
        return last.result

    def checkpoint(self, cell: Cell) -> Any:
        """The same again: it goes on from its last epoch."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, cell)


class _Last:
    """An observer that keeps the result."""

    result: dict[str, Any] | None = None

    def start(self, cell: Cell, done: int) -> None:
        pass

    def epoch(self, cell: Cell, epoch: Epoch) -> None:
        pass

    def done(self, cell: Cell, result: dict[str, Any]) -> None:
        self.result = result

    def taken(self, cell: Cell) -> None:
        pass

    def died(self, cell: Cell) -> None:
        pass


class _Follower:
    """Tells an observer what a cell's checkpoint and task show."""

    def __init__(self, cell: Cell, out: Folder, observer: Observer):
        self.cell, self.out, self.observer = cell, out, observer
        self.before = self.seen = progress(cell, out)
        self.attempt = 0
        self.started = False

    def look(self) -> None:
        """Looks for new epochs."""
        path = self.cell.checkpoint_path(self.out)
        try:
            attempts = read_metadata(path)["attempts"]
        except OSError:  # not begun, just done, or replaced while it was opened
            return
        if len(attempts) - 1 != self.attempt:  # started again with other seeds
            self.attempt, self.seen = len(attempts) - 1, 0
        for index in range(self.seen, len(attempts[-1]["seconds"])):
            self._start()
            self.observer.epoch(self.cell, _epoch(attempts[-1], index))
            self.seen = index + 1

    def take(self, outcome: Any) -> bool:
        """Tells of the end; False if the task died."""
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is False:
            return False
        self._start()
        if outcome is None:
            self.observer.taken(self.cell)
        else:
            self.observer.done(self.cell, outcome)
        return True

    def died(self) -> None:
        """Tells of the task's death."""
        self._start()
        self.observer.died(self.cell)

    def _start(self) -> None:
        if not self.started:
            self.observer.start(self.cell, self.before)
        self.started = True


def _epoch(history: dict[str, Any], index: int) -> Epoch:
    """An epoch from a checkpoint's history; a number that is not finite is NaN."""
    curves = {
        name: np.array([run[index] for run in runs], float)
        for name, runs in history["curves"].items()
        if name != "kernel_norms"
    }
    return Epoch(
        index=index,
        states=None,
        losses=curves["train_loss"][:, None],
        test_loss=curves["test_loss"],
        test_accuracy=curves["test_accuracy"],
        validation_accuracy=curves.get("validation_accuracy"),
        kernel_norms=np.array([run[index] for run in history["curves"]["kernel_norms"]], float),
        seconds=history["seconds"][index],
    )


def _executor(
    cluster: str | None,
    out: Folder,
    cpus: int,
    gpus: int,
    at_once: int | None,
    options: Mapping[str, str],
) -> tuple[Any, Any]:
    """The module submitit, and its executor."""
    try:
        import submitit
    except ImportError:
        raise InputError(
            "--executor slurm needs submitit: pip install 'enorm_jax[slurm]'"
        ) from None
    if cluster not in (None, "local", "debug"):
        raise InputError(
            f"no stand-in for Slurm is called {cluster}: write slurm, slurm:local or slurm:debug"
        )
    try:
        executor = submitit.AutoExecutor(folder=out / "slurm", cluster=cluster or "slurm")
        executor.update_parameters(
            name="enorm_jax",
            timeout_min=MINUTES,
            cpus_per_task=cpus,
            gpus_per_node=gpus,
            **_options(options, at_once),
        )
    except RuntimeError:
        raise InputError(
            "there is no Slurm on this machine: run this where sbatch is, or try "
            "--executor slurm:local, which takes processes of this machine for its tasks"
        ) from None
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise InputError(f"--slurm: {str(error).splitlines()[0]}") from None
    return submitit, executor


def _options(options: Mapping[str, str], at_once: int | None) -> dict[str, Any]:
    """Options of sbatch as submitit takes them: numbers, and a list of commands."""
    own: dict[str, Any] = {
        f"slurm_{key}": [value] if key == "setup" else int(value) if value.isdecimal() else value
        for key, value in options.items()
    }
    return own | ({"slurm_array_parallelism": at_once} if at_once else {})


def _submitted(submitit: Any, executor: Any, task: _Task, cells: Sequence[Cell]) -> list[Any]:
    try:
        return executor.map_array(task, cells)
    except submitit.core.utils.FailedSubmissionError as error:
        last = str(error).strip().splitlines()[-1]
        raise InputError(f"Slurm refuses the job ({last}): look at --slurm") from None


def _outcome(submitit: Any, own: Any) -> Any:
    """What a task returned; False if it died."""
    try:
        return own.result()
    except submitit.core.utils.FailedJobError as error:
        if "not requeued" in str(error):  # Slurm's limit of time came once too often
            return False
        last = str(error).strip().splitlines()[-1]
        raise InputError(f"a task failed ({last}): its log lies in {own.paths.folder}") from None
    except submitit.core.utils.UncompletedJobError:
        return False
