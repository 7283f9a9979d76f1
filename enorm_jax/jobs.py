"""What every process that trains cells does, whoever started it, and whom it tells."""

import collections
import dataclasses
import functools
import time
import uuid
from typing import Any, Protocol

import jax

from enorm_jax import data
from enorm_jax.cell import Cell
from enorm_jax.distributed import leads, run_cell_together
from enorm_jax.errors import InputError
from enorm_jax.fit import Epoch
from enorm_jax.locking import TakenError
from enorm_jax.storage import Folder, as_folder, bucket_errors
from enorm_jax.sweep import progress, run_cell

# How often a cell may lose its process before it is given up.
ATTEMPTS = 3


class Observer(Protocol):
    """Who is told of what happens to cells."""

    def start(self, cell: Cell, done: int) -> None:
        """A cell starts, after the epochs that an earlier run has done."""

    def epoch(self, cell: Cell, epoch: Epoch) -> None:
        """An epoch is over; its states are left out."""

    def done(self, cell: Cell, result: dict[str, Any]) -> None:
        """A cell is finished."""

    def taken(self, cell: Cell) -> None:
        """A cell is left to another process that trains it now."""

    def died(self, cell: Cell) -> None:
        """A cell's worker died; the cell starts again from its last epoch."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What every cell of a sweep has in common.

    Attributes:
      dataset: name, as for `enorm_jax.data.load`.
      data_dir: where to look for it, or None.
      out: folder for the cells' files, or a place in a bucket.
      save_params: whether to keep the parameters after the last epoch.
      compilation_cache: whether compiled programs are kept between processes.
      sweep: a name that no other sweep has.
      together: whether the devices of all processes share each batch of a cell; then all of them
        run the job.
      inherits: whether a process of the sweep is dead for sure when its cell goes to another,
        which then takes over its claim on a bucket at once.
    """

    dataset: str
    data_dir: str | None
    out: Folder
    save_params: bool = False
    compilation_cache: bool = True
    sweep: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    together: bool = False
    inherits: bool = True

    def run(self, cell: Cell, observer: Observer) -> None:
        """Trains a cell in this process, or goes on where it was stopped.

        Args:
          cell: the cell.
          observer: who is told.

        Raises:
          InputError: if the data set or a checkpoint cannot be read, or memory runs out.
          OSError: if the folder or bucket cannot be written.
        """
        dataset = load_once(self.dataset, self.data_dir)
        out = as_folder(self.out)  # in this process
        try:
            with bucket_errors(out):
                self._run(cell, dataset, out, observer)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            raise InputError(
                f"memory ran out with {cell.stem}: give fewer --seeds or --workers, or a smaller "
                "--batch-size"
            ) from error

    def _run(self, cell: Cell, dataset: data.Dataset, out: Folder, observer: Observer) -> None:
        observer.start(cell, progress(cell, out) if leads() else 0)

        def on_epoch(epoch: Epoch) -> None:
            observer.epoch(cell, dataclasses.replace(epoch, states=None))

        try:
            result = (run_cell_together if self.together else run_cell)(
                cell,
                dataset,
                out,
                save_params=self.save_params,
                on_epoch=on_epoch,
                owner=self.sweep,
                inherits=self.inherits,
            )
        except TakenError:
            observer.taken(cell)
        else:
            if result is not None:
                observer.done(cell, result)


def _out_of_memory(error: Exception) -> bool:
    """Whether an array found no room, on the device or beside it."""
    told = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in told or "exhausted" in told


class Deaths:
    """How often the processes that train each cell died."""

    def __init__(self) -> None:
        self._times: collections.Counter[Cell] = collections.Counter()

    def __contains__(self, cell: Cell) -> bool:
        return cell in self._times

    def count(self, cell: Cell, advice: str) -> None:
        """Counts a death.

        Args:
          cell: what the process trained.
          advice: ends the fault's message.

        Raises:
          InputError: if it is not worth another attempt.
        """
        self._times[cell] += 1
        if self._times[cell] == ATTEMPTS:
            raise InputError(f"the process that trains {cell.stem} died {ATTEMPTS} times: {advice}")


class Patience:
    """How long a cell is offered again whose old process may live on, as that of a lost node."""

    SECONDS = 120.0

    def __init__(self) -> None:
        self._since: dict[Cell, float] = {}

    def waits(self, cell: Cell) -> bool:
        """Whether to offer a cell again that was taken; pauses a second if so.

        Args:
          cell: the cell.

        Returns:
          True for two minutes from the first time.
        """
        if time.monotonic() - self._since.setdefault(cell, time.monotonic()) > self.SECONDS:
            return False
        time.sleep(1.0)
        return True


# A process that trains cells itself has loaded the data to plan them.
load_once = functools.cache(data.load)
