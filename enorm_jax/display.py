"""What a sweep shows while it runs: a bar on a terminal, lines in a log."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from enorm_jax.cell import Cell
from enorm_jax.fit import Epoch
from enorm_jax.summary import outcome


class Display:
    """Progress of a sweep, as a context manager and `enorm_jax.jobs.Observer`.

    On a terminal a bar for all cells and one for each that is being trained, with epoch, loss,
    accuracy and time left; in a log one line an epoch, at most one every `INTERVAL` seconds,
    and one a cell.

    Attributes:
      console: where to write.
      work: work of one epoch of a cell, in any unit.
    """

    INTERVAL = 5.0

    def __init__(self, console: Console, cells: Sequence[Cell], work: Callable[[Cell], float]):
        self.console, self.work = console, work
        self._last_line = -float("inf")
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        total = sum(cell.epochs * work(cell) for cell in cells)
        self._all = self._bars.add_task(f"{len(cells)} cells", total=total)
        self._tasks: dict[Cell, TaskID] = {}

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def start(self, cell: Cell, done: int) -> None:
        """Says that a cell is being compiled, and after which epoch it goes on."""
        if done:
            self._log(f"{title(cell)}  going on after epoch {done}")
        if cell not in self._tasks:  # else its worker died
            self._bars.update(self._all, advance=done * self.work(cell))
            self._tasks[cell] = self._bars.add_task(
                f"{title(cell)}  compiling", total=cell.epochs, completed=done
            )

    def epoch(self, cell: Cell, epoch: Epoch) -> None:
        """Shows an epoch."""
        alive = np.isfinite(epoch.losses).all(axis=1) & np.isfinite(epoch.test_loss)
        state = "diverged"
        if alive.any():
            loss, accuracy = epoch.losses[alive].mean(), epoch.test_accuracy[alive].mean()
            state = f"loss {loss:.3f} accuracy {accuracy:.2f} %"
        line = f"{title(cell)} {epoch.index + 1}/{cell.epochs} {state}"
        # Epochs that are trained again, after a divergence or a worker's death, count once.
        epochs = epoch.index + 1 - self._trained(cell)
        self._bars.update(self._tasks[cell], description=line, completed=epoch.index + 1)
        self._bars.update(self._all, advance=epochs * self.work(cell))
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last_line >= self.INTERVAL:
            self._last_line = now
            self._log(f"{line}  {epoch.seconds:.2f} s")

    def done(self, cell: Cell, result: dict[str, Any]) -> None:
        """Says what a finished cell found."""
        self._close(cell, f"done: {outcome(result)}")

    def taken(self, cell: Cell) -> None:
        """Says that another process trains the cell."""
        self._close(cell, "left to another process, which is training it")

    def died(self, cell: Cell) -> None:
        """Says that the cell's worker died."""
        self._log(f"{title(cell)}  its worker died: going on in a new one")

    def _close(self, cell: Cell, line: str) -> None:
        """Takes the cell's bar away and counts all its work, also if it diverged early."""
        self._log(f"{title(cell)}  {line}")
        left = cell.epochs - self._trained(cell)
        self._bars.update(self._all, advance=left * self.work(cell))
        self._bars.remove_task(self._tasks.pop(cell))

    def _trained(self, cell: Cell) -> int:
        """How many epochs the cell's bar shows."""
        return next(int(bar.completed) for bar in self._bars.tasks if bar.id == self._tasks[cell])

    def _log(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)


def title(cell: Cell) -> str:
    """A cell's name for people.

    Args:
      cell: the cell.

    Returns:
      Text such as ``enorm+bn p=9 bias lr=0.1``; c is named where it is not the papers'.
    """
    if cell.network == "fc":
        words = [cell.method, f"p={cell.depth}", *["bias"] * cell.bias, *cell.variants]
        words += [f"c={cell.c:g}"] if cell.c not in (None, 1.2) else []
    else:  # the rest is the same for all of a script's cells
        words = [cell.method, f"{cell.network}{cell.depth}", f"batch={cell.batch_size}"]
    return " ".join(words if cell.rates else [*words, f"lr={cell.learning_rate:g}"])
