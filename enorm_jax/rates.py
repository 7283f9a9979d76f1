"""Which learning rate a method trains with: the study's, or one that `lr_search.py` found."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enorm_jax import published
from enorm_jax.cell import Cell
from enorm_jax.errors import InputError

# A rate is good for what it was searched at, in either precision.
SETTING = (
    "dataset", "method", "bias", "bias_handling", "width", "groups", "c", "batch_size",
    "weight_decay",
)  # fmt: skip
Winner = dict[str, Any]


def read_winners(path: Path) -> list[Winner]:
    """Reads the winners of learning-rate searches.

    Args:
      path: file of ``lr_search.py``; none is the same as one without winners.

    Returns:
      Their entries, with ``depth``, ``epochs``, ``learning_rate`` (None if all rates diverged) and
      `SETTING`.

    Raises:
      InputError: if it is no such file.
    """
    if not path.exists():
        return []
    try:
        winners = json.loads(path.read_text(encoding="utf-8"))["winners"]
        for entry in winners:
            _ = int(entry["depth"]), int(entry["epochs"])
            _ = entry["learning_rate"], [entry[name] for name in SETTING]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no file of lr_search.py: give another") from None
    return winners


def known_rate(
    setting: Mapping[str, Any], winners: Sequence[Winner], *, tuned: bool = False
) -> float | None:
    """`learning_rate`, if there is one.

    Args:
      setting: ``depth`` and `SETTING`, as a cell's settings or its result have them.
      winners: as `read_winners` gives them.
      tuned: whether to take the found rate where the study has one too.

    Returns:
      The rate; None if none is known, or all diverged at the nearest depth.

    Example:
      >>> from enorm_jax.rates import SETTING, known_rate
      >>> setting = dict.fromkeys(SETTING, "as published") | {"method": "gn", "depth": 4}
      >>> winners = [setting | {"depth": p, "learning_rate": 0.1 / p} for p in (1, 7, 13)]
      >>> round(known_rate(setting, winners), 4)  # of two as near, that of the deeper
      0.0143
    """
    if not tuned and published.has_rates(setting["method"]):
        return published.learning_rate(setting["method"], setting["depth"])
    near = _nearest(setting, winners)
    if near is None or near["learning_rate"] is None:
        return None
    return float(near["learning_rate"])


def _nearest(setting: Mapping[str, Any], winners: Sequence[Winner]) -> Winner | None:
    """The winner at the nearest depth, the deeper of two."""
    known = [w for w in winners if all(w[name] == setting[name] for name in SETTING)]
    return min(known, key=lambda w: (abs(w["depth"] - setting["depth"]), -w["depth"]), default=None)


def learning_rate(cell: Cell, winners: Sequence[Winner], *, tuned: bool) -> float:
    """The rate for a cell's method, depth and setting.

    Args:
      cell: the cell, whatever its own rate.
      winners: as `read_winners` gives them.
      tuned: whether to take the found rate where the study has one too.

    Returns:
      The study's rate, or the winner's at the nearest depth, the deeper of two.

    Raises:
      InputError: if there is neither, or all rates diverged at the nearest depth.

    Example:
      >>> from enorm_jax import published
      >>> published.learning_rate("bn", 5)  # what a cell of bn at p = 5 gets
      0.1
    """
    setting = cell.settings()
    rate = known_rate(setting, winners, tuned=tuned)
    if rate is not None:
        return rate
    near = _nearest(setting, winners)
    what = f"{cell.method!r}{' with bias' if cell.bias else ''} on {cell.dataset}"
    if near is None:
        raise InputError(
            f"no learning rate known for {what} at these settings: give --lr, or search for one "
            "with experiments/lr_search.py"
        )
    raise InputError(
        f"all rates of the search diverged for {what} at p = {near['depth']}: give --lr, or "
        "search among smaller ones"
    )


def winner(rates: Any, accuracies: Any) -> float | None:
    """The rate of the best mean accuracy among those at which no run diverged.

    Args:
      rates: K rates.
      accuracies: K lists of one validation accuracy per run; None where it diverged.

    Returns:
      The rate, the smaller of equals; None if runs diverged at all of them.

    Example:
      >>> from enorm_jax.rates import winner
      >>> winner([0.01, 0.1, 1.0], [[50.0, 52.0], [52.0, 53.0], [60.0, None]])
      0.1
    """
    sound = [
        (-sum(runs) / len(runs), rate)
        for rate, runs in zip(rates, accuracies, strict=True)
        if None not in runs
    ]
    return min(sound)[1] if sound else None
