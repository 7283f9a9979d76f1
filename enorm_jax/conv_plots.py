"""Figures of convolutional networks: accuracy over epochs by method, and over batch size."""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from enorm_jax.cell import Cell, same_setting
from enorm_jax.curves import curves
from enorm_jax.methods import make_method
from enorm_jax.plotting import OTHER, STYLES, save
from enorm_jax.results import interval
from enorm_jax.summary import accuracies_of

Result = dict[str, Any]


def accuracy_over_epochs(
    wanted: Sequence[Cell], results: Sequence[Result], stem: Path
) -> list[Path]:
    """Draws test accuracy over epochs, and after the last with 95 % intervals, by method.

    Args:
      wanted: cells that differ in method, or learning rate, alone.
      results: finished cells, from `read_results`.
      stem: path of the drawings without suffix.

    Returns:
      Paths of the SVG and the PNG.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10.5, 4.6), width_ratios=(1.5, 1), layout="constrained"
    )
    rates = len({cell.learning_rate for cell in wanted}) > 1
    names: list[str] = []
    number: collections.Counter[str] = collections.Counter()
    for place, cell in enumerate(wanted):
        # Further rates of a method are fainter.
        style = STYLES.get(cell.method, OTHER) | {"alpha": 0.6 ** number[cell.method]}
        number[cell.method] += 1
        own = [result for result in results if same_setting(cell, result)]
        names.append(make_method(cell.method).label)
        names[-1] += f", rate {cell.learning_rate:g}" if rates else ""
        accuracies, lost = accuracies_of(cell, own)
        counted = f"{names[-1]}, n = {len(accuracies)}" + (f", {lost} diverged" if lost else "")
        if own:
            _draw_curve(left, style, counted, curves(own, "test_accuracy"), place)
        if accuracies:
            _draw_last(right, style, accuracies, place)
        if lost:
            right.annotate(f"{lost} diverged", (0.02, place), xycoords=("axes fraction", "data"),
                           va="center", fontsize=8)  # fmt: skip
    left.set_xlabel("epoch")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel(f"test accuracy on {wanted[0].dataset} (%)")
    left.legend(fontsize=8)
    right.set_yticks(range(len(names)), names)
    right.set_ylim(len(names) - 0.5, -0.5)
    right.set_xlabel("after the last epoch (%)")
    right.set_xlim(*_bounds(wanted, results))
    figure.suptitle(setting(wanted[0]), fontsize=10)
    for axis in (left, right):
        axis.grid(alpha=0.25)
    return save(figure, stem)


def accuracy_over_batch(
    wanted: Sequence[Cell], results: Sequence[Result], stem: Path
) -> list[Path]:
    """Draws test accuracy over batch size, with 95 % intervals, by method.

    BCN by estimates and by the batch's statistics are one curve, unless at the same size.

    Args:
      wanted: cells that differ in method, batch size and learning rate.
      results: finished cells, from `read_results`.
      stem: path of the drawings without suffix.

    Returns:
      Paths of the SVG and the PNG.
    """
    figure, axis = plt.subplots(figsize=(7.2, 5.0), layout="constrained")
    sizes = sorted({cell.batch_size for cell in wanted})
    names = _curve_names(wanted)
    methods = list(dict.fromkeys(names.values()))
    for place, method in enumerate(methods):
        own = [cell for cell in wanted if names[cell.method] == method]
        found = {cell.batch_size: accuracies_of(cell, results) for cell in own}
        trained = {size: values for size, (values, _) in sorted(found.items()) if values}
        summary = [interval(values) for values in trained.values()]
        counts = sorted({len(values) for values in trained.values()}) or [0]
        runs = f"n = {counts[0]}" + (f"–{counts[-1]}" if len(counts) > 1 else "")
        # Side by side, so that intervals do not hide one another.
        shift = 2 ** (0.07 * (place - (len(methods) - 1) / 2))
        axis.errorbar(
            [size * shift for size in trained],
            [mean for mean, _ in summary],
            yerr=[np.nan if half is None else half for _, half in summary],
            capsize=2.5,
            markersize=6,
            linewidth=1.3,
            label=f"{make_method(method).label}, {runs}",
            **STYLES.get(method, OTHER),
        )
        for size, (_, lost) in found.items():
            if lost:
                axis.annotate(f"{make_method(method).label}: {lost} diverged",
                              (size * shift, 0.02), xycoords=("data", "axes fraction"),
                              rotation=90, fontsize=7, ha="center", va="bottom",
                              color=STYLES.get(method, OTHER)["color"])  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("images in a batch")
    axis.set_ylim(*_bounds(wanted, results))
    axis.set_ylabel(f"test accuracy on {wanted[0].dataset} (%)")
    axis.set_title(setting(wanted[0]), fontsize=10)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
    return save(figure, stem)


def setting(cell: Cell) -> str:
    """What the cells of a figure have in common, as its title.

    Args:
      cell: one of them.

    Returns:
      Network, images and epochs in words.
    """
    layers = f"{'convolutional' if cell.network == 'conv' else 'residual'} network of {cell.depth}"
    images = f"{cell.train_images:,} images" if cell.train_images else "all images"
    return f"{layers} layers, {cell.width} channels first; {images}, {cell.epochs} epochs"


def _bounds(wanted: Sequence[Cell], results: Sequence[Result]) -> tuple[float, float]:
    """Bounds around all runs and their intervals; those of two runs, which are wide, may leave."""
    found = [accuracies_of(cell, results)[0] for cell in wanted]
    ends = [
        min(max(mean + sign * (half or 0.0), 0.0), 100.0)
        for mean, half in (interval(values) for values in found if len(values) > 2)
        for sign in (-1, 1)
    ]
    values = [*(value for of_cell in found for value in of_cell), *ends]
    if not values:
        return 0.0, 100.0
    margin = 0.5 + 0.05 * (max(values) - min(values))
    return min(values) - margin, max(values) + margin


def _curve_names(wanted: Sequence[Cell]) -> dict[str, str]:
    """The curve that each method is part of: BCN by estimates that of BCN, unless they meet."""
    sizes: dict[str, set[int]] = {}
    for cell in wanted:
        sizes.setdefault(cell.method, set()).add(cell.batch_size)

    def name(method: str) -> str:
        family = method.removesuffix("-micro")
        meet = family != method and sizes.get(family, set()) & sizes[method]
        return method if meet else family

    return {method: name(method) for method in sizes}


def _draw_curve(
    axis: Axes, style: dict[str, Any], label: str, every: np.ndarray, place: int
) -> None:
    """The mean of the runs that finished, and the band from the lowest to the highest."""
    finished = every[~np.isnan(every).any(axis=1)]
    if not len(finished):
        axis.plot([], [], label=label, **style)
        return
    epochs = np.arange(1, finished.shape[1] + 1)
    step = max(1, len(epochs) // 6)
    axis.plot(epochs, finished.mean(axis=0), label=label, linewidth=1.4, markersize=5,
              markevery=(place % step, step), **style)  # fmt: skip
    if len(finished) > 1:
        low, high = finished.min(axis=0), finished.max(axis=0)
        axis.fill_between(epochs, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _draw_last(axis: Axes, style: dict[str, Any], values: Sequence[float], place: int) -> None:
    """Every run as a small dot, their mean with its interval."""
    mean, half = interval(values)
    axis.plot(values, [place + 0.2] * len(values), ".", color=style["color"], markersize=4)
    axis.errorbar([mean], [place], xerr=[np.nan if half is None else half], capsize=3,
                  markersize=7, **style)  # fmt: skip
