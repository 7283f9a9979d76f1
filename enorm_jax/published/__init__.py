"""The published figures and learning rates, as numbers.

``fc_accuracy.csv`` holds test accuracies (%) read off the published figures, to about ±0.05, but
±0.15 where another marker hides ENorm's (p = 3 and 19 in the study's figure, p = 1 in the other):
source ``original`` is Stock et al.'s figure (mean of 5 runs, trained on 40,960 images, learning
rate by cross-validation), ``study`` the reproducibility study's figures 2 and 3 (50,000 images).
An accuracy of nan means that the loss was NaN after one epoch. ``learning_rates.csv`` is the
study's table 1.
"""

import csv
import functools
from importlib import resources

from enorm_jax.errors import InputError


@functools.cache
def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def runs(source: str, method: str, bias: bool = False) -> int:
    """How many runs a published point is the mean of.

    Args:
      source: ``"original"`` or ``"study"``.
      method: name of the method.
      bias: whether the network has biases.

    Returns:
      Number of runs, 0 if nothing was published.

    Example:
      >>> from enorm_jax import published
      >>> published.runs("study", "enorm"), published.runs("study", "bn")
      (2, 1)
    """
    key = (source, method, str(int(bias)))
    rows = _rows("fc_accuracy.csv")
    found = {int(row["runs"]) for row in rows if (row["source"], row["method"], row["bias"]) == key}
    return max(found, default=0)


def accuracies(source: str, method: str, bias: bool = False) -> dict[int, float]:
    """Published test accuracy (%) by depth; nan where the published run diverged.

    Args:
      source: ``"original"`` or ``"study"``.
      method: name of the method.
      bias: whether the network has biases.

    Returns:
      Mapping from depth to accuracy, empty if nothing was published.

    Example:
      >>> from enorm_jax import published
      >>> published.accuracies("study", "enorm")[9]
      55.34
    """
    return {
        int(row["depth"]): float(row["test_accuracy"])
        for row in _rows("fc_accuracy.csv")
        if (row["source"], row["method"], row["bias"]) == (source, method, str(int(bias)))
    }


def has_rates(method: str) -> bool:
    """Whether the study has learning rates for a method.

    Args:
      method: name of the method.

    Returns:
      True for the study's four.

    Example:
      >>> from enorm_jax import published
      >>> published.has_rates("bn"), published.has_rates("gn")
      (True, False)
    """
    return any(row["method"] == method for row in _rows("learning_rates.csv"))


def learning_rate(method: str, depth: int) -> float:
    """The study's initial learning rate; at depths between the published ones, the next lower's.

    Args:
      method: name of the method.
      depth: number of hidden-to-hidden layers p.

    Returns:
      The rate.

    Raises:
      InputError: if the study has no rate for the method.

    Example:
      >>> from enorm_jax import published
      >>> published.learning_rate("enorm", 17), published.learning_rate("enorm", 16)
      (0.01, 0.05)
    """
    rates = {
        int(row["depth"]): float(row["learning_rate"])
        for row in _rows("learning_rates.csv")
        if row["method"] == method
    }
    if not rates:
        raise InputError(f"no published learning rate for {method!r}: give --lr")
    return rates[max((d for d in rates if d <= depth), default=min(rates))]
