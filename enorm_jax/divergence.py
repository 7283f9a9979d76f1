"""Which runs fail and when, how sure a share of them is, and where failure begins.

A run fails if its loss stops being finite, or if it ends no better than guessing: steps that are
too large also kill units until the outputs no longer depend on the image.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from enorm_jax.errors import InputError

COMMON = ("dataset", "width", "epochs", "batch_size", "train_images", "precision")
# Of a constant output, log 10 but for chance; networks that learn are below it.
GUESSING = math.log(10) - 0.005


@dataclasses.dataclass(frozen=True)
class Run:
    """What became of one seed.

    Attributes:
      seed: as asked for, whatever seeds it was restarted with.
      first: (epoch, step) at which its first attempt diverged, counted from 0, or None.
      restarts: how often it was started again.
      diverged: whether its last attempt diverged.
      guessing: whether its last attempt ended with a test loss no better than guessing.
      accuracy: test accuracy (%) of its last attempt; None if it diverged.
    """

    seed: int
    first: tuple[int, int] | None
    restarts: int
    diverged: bool
    guessing: bool
    accuracy: float | None

    @property
    def failed(self) -> bool:
        """Whether the last attempt diverged or ended no better than guessing."""
        return self.diverged or self.guessing


def runs_of(result: dict[str, Any]) -> list[Run]:
    """The runs of a cell of ten classes.

    Args:
      result: content of the cell's file.

    Returns:
      One `Run` per seed, in their order.
    """
    runs = []
    for index, seed in enumerate(result["seeds"]):
        again, lost = result["restarted"][index], result["diverged"][index]
        first = again[0] if again else lost
        loss = result["test_loss"][index]
        runs.append(
            Run(
                seed=seed,
                first=first and (first["epoch"], first["step"]),
                restarts=len(again),
                diverged=lost is not None,
                guessing=lost is None and (loss is None or loss >= GUESSING),
                accuracy=result["test_accuracy"][index],
            )
        )
    return runs


def common_setting(cells: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """What all cells of a figure have in common.

    Args:
      cells: their contents, at least one.
      folder: where they lie, for the message.

    Returns:
      Data set, width, epochs, batch size, training images and precision.

    Raises:
      InputError: if they differ.
    """
    settings = {tuple(cell[key] for key in COMMON) for cell in cells}
    if len(settings) > 1:
        raise InputError(f"{folder} holds points of several settings: a folder for each")
    return dict(zip(COMMON, settings.pop(), strict=True))


def boundary(values: Sequence[float], failed: Sequence[bool]) -> tuple[float, int]:
    """The value above which runs fail: what puts fewest runs on the wrong side.

    Args:
      values: of each run, positive and finite.
      failed: whether it failed.

    Returns:
      The boundary, the geometric middle between its two neighbours, of several the one between
      the most distant ones; and how many runs lie on the right side. Infinite if no run failed
      above any value, 0 if none trained below.

    Raises:
      ValueError: if there are no runs.

    Example:
      >>> from enorm_jax.divergence import boundary
      >>> boundary([1.0, 10.0, 40.0, 90.0], [False, False, True, True])
      (20.0, 4)
    """
    if not len(values):
        raise ValueError("cannot find a boundary between no runs")
    order = np.argsort(values, kind="stable")
    known, lost = np.asarray(values, float)[order], np.asarray(failed, bool)[order]
    # right[i]: if the i smallest are taken to train and the others to fail
    right = np.append(0, np.cumsum(~lost)) + lost.sum() - np.append(0, np.cumsum(lost))
    edges = np.concatenate([[0.0], known, [np.inf]])
    right = np.where(edges[1:] > edges[:-1], right, -1)  # equal values cannot be told apart
    best = np.flatnonzero(right == right.max())
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = np.where(np.isin(best, (0, len(known))), 0, edges[best + 1] / edges[best])
    chosen = int(best[np.argmax(gaps)])
    if chosen in (0, len(known)):
        return float(edges[0 if chosen == 0 else -1]), int(right[chosen])
    return float(np.sqrt(edges[chosen] * edges[chosen + 1])), int(right[chosen])


def share(count: int, total: int) -> tuple[float, float, float]:
    """A share and its 95 % interval, by Wilson's score, which is right for 0 of n too.

    Args:
      count: how many of them.
      total: of how many, at least 1.

    Returns:
      Share, lower and upper end, from 0 to 1.

    Example:
      >>> from enorm_jax.divergence import share
      >>> [round(x, 3) for x in share(0, 20)]
      [0.0, 0.0, 0.161]
    """
    import scipy.stats  # takes most of a second

    ends = scipy.stats.binomtest(count, total).proportion_ci(method="wilson")
    return count / total, float(ends.low), float(ends.high)
