"""What a cell's runs leave behind, epoch by epoch, and the content of its file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from enorm_jax.cell import Cell
from enorm_jax.fit import Epoch, first_divergence
from enorm_jax.results import rounded

CURVES = ("train_loss", "test_loss", "test_accuracy", "kernel_norms")

History = dict[str, Any]


def new_history(seeds: Sequence[int]) -> History:
    """An empty history of an attempt, as JSON; it travels in the checkpoint's metadata.

    Args:
      seeds: one per run.

    Returns:
      Per run its curves and where it diverged.
    """
    return {
        "seeds": list(seeds),
        "diverged": [None] * len(seeds),
        "curves": {name: [[] for _ in seeds] for name in CURVES},
        "seconds": [],
        "compile_seconds": 0.0,
    }


def record(history: History, epoch: Epoch) -> None:
    """Adds an epoch.

    Args:
      history: of the attempt, changed in place.
      epoch: an epoch of its runs.
    """
    history["seconds"].append(round(epoch.seconds, 4))
    values = {
        "train_loss": epoch.losses.mean(axis=1),
        "test_loss": epoch.test_loss,
        "test_accuracy": epoch.test_accuracy,
        "kernel_norms": epoch.kernel_norms,
    }
    if epoch.validation_accuracy is not None:
        values["validation_accuracy"] = epoch.validation_accuracy
        history["curves"].setdefault("validation_accuracy", [[] for _ in history["seeds"]])
    for run, step in enumerate(first_divergence(epoch)):
        if step is not None and history["diverged"][run] is None:
            history["diverged"][run] = {"epoch": epoch.index, "step": step}
        lost = history["diverged"][run] is not None
        for name, value in values.items():
            # argmax over NaN would count as an accuracy of 10 %
            history["curves"][name][run].append(
                None if lost and name.endswith("accuracy") else rounded(value[run])
            )


def final(cell: Cell, attempts: Sequence[History]) -> dict[str, Any]:
    """The content of a cell's file: each run's last attempt, and where earlier ones diverged.

    Args:
      cell: the cell.
      attempts: first of all its runs, then of those that diverged, and so on.

    Returns:
      Settings and results; one entry per run, of all seeds at the first learning rate, then of
      all at the next.
    """
    last: dict[int, tuple[History, int]] = {}
    restarted: list[list[dict[str, int]]] = [[] for _ in range(cell.runs)]
    lost = list(range(cell.runs))
    for history in attempts:
        for row, run in enumerate(lost):
            if run in last:
                before, old = last[run]
                restarted[run].append({"seed": before["seeds"][old], **before["diverged"][old]})
            last[run] = (history, row)
        lost = [run for row, run in enumerate(lost) if history["diverged"][row]]
    runs = [last[run] for run in range(cell.runs)]
    diverged = [history["diverged"][row] for history, row in runs]
    names = (*CURVES, *["validation_accuracy"] * (cell.select == "best"))
    curves = {name: [history["curves"][name][row] for history, row in runs] for name in names}
    # The epoch whose network counts: the last, or the first of the best on the validation images.
    counts = [-1] * cell.runs
    if cell.select == "best":
        counts = [
            max(range(len(curve)), key=lambda epoch: (curve[epoch] or 0, -epoch))
            for curve in curves["validation_accuracy"]
        ]

    def ends(name: str) -> list[float | None]:
        # A run has no accuracy from where it diverged on.
        runs = zip(curves[name], curves["test_accuracy"], counts, strict=True)
        return [None if of[epoch] is None else curve[epoch] for curve, of, epoch in runs]

    seconds = [second for history in attempts for second in history["seconds"]]
    return {
        **cell.settings(),
        **{name: ends(name) for name in ("test_accuracy", "test_loss", "train_loss")},
        **({"best_epoch": counts} if cell.select == "best" else {}),
        "diverged": diverged,
        "restarted": restarted,
        "curves": curves,
        "seconds_per_epoch": round(float(np.median(seconds)), 4),
        "compile_seconds": round(sum(history["compile_seconds"] for history in attempts), 2),
    }
