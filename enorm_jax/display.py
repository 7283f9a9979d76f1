"""What a sweep shows while it runs: a bar on a terminal, lines in a log."""

import time
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from enorm_jax.cell import Cell
from enorm_jax.fit import Epoch


class Display:
    """Progress of a sweep, as a context manager.

    On a terminal one bar with cell, epoch, loss, accuracy and time left; in a log one line an
    epoch, at most one every `interval` seconds, and one a cell.

    Attributes:
      console: where to write.
      total: work of all cells, in any unit.
      interval: seconds between two lines of a log.
    """

    def __init__(self, console: Console, total: float, interval: float = 5.0):
        self.console = console
        self.interval = interval
        self._last_line = -float("inf")
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("compiling", total=total)

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start(self, cell: Cell) -> None:
        """Says that a cell is being compiled."""
        self._bar.update(self._task, description=f"{title(cell)}  compiling")

    def epoch(self, cell: Cell, epoch: Epoch, work: float) -> None:
        """Shows an epoch.

        Args:
          cell: the cell in progress.
          epoch: its newest epoch.
          work: the work behind it, in the unit of `total`.
        """
        alive = np.isfinite(epoch.losses).all(axis=1) & np.isfinite(epoch.test_loss)
        state = "diverged"
        if alive.any():
            loss, accuracy = epoch.losses[alive].mean(), epoch.test_accuracy[alive].mean()
            state = f"loss {loss:.3f} accuracy {accuracy:.2f} %"
        line = f"{title(cell)} {epoch.index + 1}/{cell.epochs} {state}"
        self._bar.update(self._task, description=line, advance=work)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last_line >= self.interval:
            self._last_line = now
            self.log(f"{line}  {epoch.seconds:.2f} s")

    def reach(self, work: float) -> None:
        """Counts all work up to here as done, that of an earlier run or of a stopped cell too."""
        self._bar.update(self._task, completed=work)

    def log(self, line: str) -> None:
        """Prints a line, above the bar if there is one."""
        self.console.print(line, highlight=False, soft_wrap=True)


def title(cell: Cell) -> str:
    """A cell's name for people.

    Args:
      cell: the cell.

    Returns:
      Text such as ``enorm+bn p=9 bias lr=0.1``.
    """
    return f"{cell.method} p={cell.depth}{' bias' if cell.bias else ''} lr={cell.learning_rate:g}"
