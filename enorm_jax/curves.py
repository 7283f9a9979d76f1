"""Cells that can stand in one panel, and their curves as arrays."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from enorm_jax import published
from enorm_jax.cell import LATER
from enorm_jax.methods import in_order
from enorm_jax.results import most_restarted_last

Result = dict[str, Any]
OF_ENORM = ("bias_handling", "order", "balance_last", "of_norms")
SHARED = (
    "width", "epochs", "batch_size", "weight_decay", "precision",
    *(name for name in LATER if name not in (*OF_ENORM, "rates")),
)  # fmt: skip
PROTOCOL = {"width": 500, "epochs": 60, "batch_size": 256, "weight_decay": 1e-3}
OWN = ("learning_rate", "c", *OF_ENORM)


def comparable(results: Iterable[Result], depth: int, bias: bool) -> dict[str, list[Result]]:
    """Cells of each method at a depth that differ in nothing but the method and the seeds.

    Of several settings the study's comes first, then that with the most methods and runs, then
    float32. A method's learning rate and ratio of norms are its own: the study's, if there.

    Args:
      results: cells of one data set, from `read_results`.
      depth: number of hidden-to-hidden layers p.
      bias: whether layers have a bias.

    Returns:
      Cells by method, in the order of `METHODS`; empty if there are none.
    """
    groups: dict[tuple[Any, ...], list[Result]] = collections.defaultdict(list)
    for result in results:
        result = LATER | result
        searched = result["rates"]  # several runs a seed
        if result["depth"] == depth and result["bias"] == bias and not searched:
            groups[tuple(result[name] for name in SHARED)].append(result)
    if not groups:
        return {}
    together = max(groups.values(), key=_setting)
    found = {}
    for method in in_order(result["method"] for result in together):
        own: dict[tuple[Any, ...], list[Result]] = collections.defaultdict(list)
        for result in together:
            if result["method"] == method:
                own[tuple(result[name] for name in OWN)].append(result)
        found[method] = max(own.values(), key=_own)
    return found


def curves(results: Sequence[Result], name: str) -> np.ndarray:
    """A curve of every run, each seed once, restarted if it was.

    Args:
      results: cells of one method and setting.
      name: of the curve: ``"test_accuracy"``, ``"train_loss"``, ``"kernel_norms"``.

    Returns:
      Float64 array (runs, epochs, ...), nan where a run had diverged.
    """
    found = {}
    for result in most_restarted_last(results):
        for seed, rows, lost in zip(
            result["seeds"], result["curves"][name], result["diverged"], strict=True
        ):
            whole = np.array(rows, np.float64)
            last = len(whole) if lost is None else lost["epoch"]
            found[seed] = np.full((result["epochs"], *whole.shape[1:]), np.nan)
            found[seed][:last] = whole[:last]
    return np.stack([found[seed] for seed in sorted(found)])


def _setting(results: Sequence[Result]) -> tuple[bool, int, int, int, bool]:
    """How good a setting is to show: the study's, without variants, of many methods and runs."""
    first = results[0]
    variants = sum(first[name] != LATER[name] for name in SHARED if name in LATER)
    return (
        all(first[name] == value for name, value in PROTOCOL.items()),
        -variants,
        len({result["method"] for result in results}),
        sum(len(result["seeds"]) for result in results),
        first["precision"] == "float32",
    )


def _own(results: Sequence[Result]) -> tuple[int, bool, int]:
    """How good a method's own setting is to show."""
    first = results[0]
    known = published.has_rates(first["method"])
    rate = published.learning_rate(first["method"], first["depth"]) if known else None
    usual = rate in (None, first["learning_rate"]) and first["c"] in (1.2, None)
    variants = sum(first[name] != LATER[name] for name in OF_ENORM)
    return -variants, usual, sum(len(result["seeds"]) for result in results)
