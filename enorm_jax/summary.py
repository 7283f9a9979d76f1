"""What a sweep found, as text and as a table beside the published results."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from enorm_jax import published
from enorm_jax.cell import LATER, Cell, same_setting
from enorm_jax.methods import make_method
from enorm_jax.results import interval, pooled, read_results
from enorm_jax.storage import Folder

TITLE = "test accuracy: mean ± half-width of the 95 % interval over n seeds"


def outcome(result: dict[str, Any]) -> str:
    """A finished cell in a few words.

    Args:
      result: content of the cell's file.

    Returns:
      Accuracy, divergence and restarts.
    """
    accuracies = [value for value in result["test_accuracy"] if value is not None]
    if result.get("rates") and accuracies:
        best = result["test_accuracy"].index(max(accuracies)) // len(result["seeds"])
        return f"best {max(accuracies):.2f} % at lr={result['rates'][best]:g}"
    text = format_interval(accuracies) + " %" if accuracies else "no accuracy"
    lost = [f"epoch {d['epoch']} step {d['step']}" for d in result["diverged"] if d]
    again = sum(map(len, result["restarted"]))
    text += f", diverged at {'; '.join(lost)} (counted from 0)" if lost else ""
    return text + (f", {again} restarts" if again else "")


def format_interval(values: Sequence[float]) -> str:
    """Mean ± half-width of its 95 % interval, as text.

    Args:
      values: at least one.

    Returns:
      The mean alone if there is one value only.

    Example:
      >>> from enorm_jax.summary import format_interval
      >>> format_interval([54.0, 55.0, 56.0])
      '55.00 ± 2.48'
    """
    mean, half = interval(values)
    return f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")


def summary(wanted: Sequence[Cell], out: Folder) -> Table:
    """What a folder holds for the cells asked for, beside the published accuracy.

    Args:
      wanted: cells, one a row.
      out: folder of their files.

    Returns:
      A table to print.
    """
    results = read_results(out)
    table = Table(
        "method", "p", "rate", "accuracy (%)", "n", "diverged", "published", "difference",
        title=TITLE,
    )  # fmt: skip
    for cell in wanted:
        same = [result for result in results if same_setting(cell, result)]
        own, lost = accuracies_of(cell, same)
        again = sum(len(entry) for result in same for entry in result["restarted"])
        known = published_accuracy(cell)
        table.add_row(
            make_method(cell.method).label,
            str(cell.depth),
            f"{cell.learning_rate:g}",
            format_interval(own) if own else "–",
            str(len(own)),
            ", ".join([str(lost)] * bool(lost) + [f"{again} restarted"] * bool(again)),
            "–" if known is None else "NaN" if math.isnan(known) else f"{known:.2f}",
            f"{interval(own)[0] - known:+.2f}" if own and known and known > 0 else "–",
        )
    return table


def accuracies_of(cell: Cell, results: Sequence[dict[str, Any]]) -> tuple[list[float], int]:
    """What became of a cell's setting, from however many files hold its seeds.

    Args:
      cell: the cell.
      results: finished cells, from `read_results`.

    Returns:
      Test accuracies (%) of the runs that did not diverge, and how many did.
    """
    accuracies, diverged = pooled([result for result in results if same_setting(cell, result)])
    return accuracies.get(cell.depth, []), diverged.get(cell.depth, 0)


def conv_summary(wanted: Sequence[Cell], out: Folder) -> Table:
    """What a folder holds for cells of convolutional networks.

    Args:
      wanted: cells, one a row.
      out: folder of their files.

    Returns:
      A table to print.
    """
    names = {
        "method": lambda cell: make_method(cell.method).label,
        "batch": lambda cell: str(cell.batch_size),
        "rate": lambda cell: f"{cell.learning_rate:g}",
    }
    return accuracy_table(wanted, out, names)


def accuracy_table(
    wanted: Sequence[Cell], out: Folder, names: Mapping[str, Callable[[Cell], str]]
) -> Table:
    """What a folder holds for cells, whatever they are.

    Args:
      wanted: cells, one a row.
      out: folder of their files.
      names: columns that tell cells apart, by their headers.

    Returns:
      A table to print.
    """
    results = read_results(out)
    table = Table(*names, "accuracy (%)", "n", "diverged", title=TITLE)
    for cell in wanted:
        own, lost = accuracies_of(cell, results)
        table.add_row(
            *(name(cell) for name in names.values()),
            format_interval(own) if own else "–",
            str(len(own)),
            str(lost or ""),
        )
    return table


def published_accuracy(cell: Cell) -> float | None:
    """The study's accuracy where the cell has its settings, whatever the precision.

    Args:
      cell: the cell.

    Returns:
      Percent, nan if it diverged there, None if the study has no such point.
    """
    known = published.accuracies("study", cell.method, cell.bias).get(cell.depth)
    if known is None:
        return None
    study = dataclasses.replace(
        cell,
        dataset="cifar10",
        width=500,
        epochs=60,
        learning_rate=published.learning_rate(cell.method, cell.depth),
        c=1.2 if make_method(cell.method).equalize else None,
        batch_size=256,
        weight_decay=1e-3,
        **LATER,
    )
    if math.isnan(known):  # after one epoch
        study = dataclasses.replace(study, epochs=cell.epochs)
    return known if cell == study else None
