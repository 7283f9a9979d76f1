"""Which learning rate a method trains with: the study's, or one that `lr_search.py` found."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enorm_jax import published
from enorm_jax.errors import InputError

Found = Mapping[tuple[str, bool], Mapping[int, float]]


def read_rates(path: Path) -> dict[tuple[str, bool], dict[int, float]]:
    """Reads the winners of learning-rate searches.

    Args:
      path: file of ``lr_search.py``; none is the same as one without winners.

    Returns:
      Mapping from method and whether there are biases to a mapping from depth to rate.

    Raises:
      InputError: if it is no such file.
    """
    if not path.exists():
        return {}
    found: dict[tuple[str, bool], dict[int, float]] = {}
    try:
        for entry in json.loads(path.read_text(encoding="utf-8"))["winners"]:
            if entry["learning_rate"] is not None:  # else every rate diverged
                depths = found.setdefault((entry["method"], entry["bias"]), {})
                depths[int(entry["depth"])] = float(entry["learning_rate"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no file of lr_search.py: give another --rates") from None
    return found


def learning_rate(method: str, depth: int, bias: bool, found: Found, *, tuned: bool) -> float:
    """The rate of a method at a depth.

    Args:
      method: its name.
      depth: number of hidden-to-hidden layers p.
      bias: whether layers have biases.
      found: as `read_rates` gives it.
      tuned: whether to take the found rate where the study has one too.

    Returns:
      The study's rate, or the found one at the nearest depth, the larger of two.

    Raises:
      InputError: if there is neither.

    Example:
      >>> from enorm_jax.rates import learning_rate
      >>> found = {("gn", False): {1: 0.1, 7: 0.05}}
      >>> learning_rate("gn", 5, False, found, tuned=False)
      0.05
      >>> learning_rate("bn", 5, False, found, tuned=False)
      0.1
    """
    searched = found.get((method, bias))
    if not tuned and published.has_rates(method):
        return published.learning_rate(method, depth)
    if not searched:
        raise InputError(
            f"no learning rate known for {method!r}{' with bias' if bias else ''}: give --lr, or "
            "search for one with experiments/lr_search.py"
        )
    return searched[min(searched, key=lambda other: (abs(other - depth), -other))]


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
