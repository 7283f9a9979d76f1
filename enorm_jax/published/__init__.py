"""The published figures and learning rates, as numbers.

``fc_accuracy.csv`` holds test accuracies (%) read off the published figures, to about ±0.05:
source ``original`` is Stock et al.'s figure (mean of 5 runs, trained on 40,960 images, learning
rate by cross-validation), ``study`` the reproducibility study's figures 2 and 3 (50,000 images).
An accuracy of nan means that the loss was NaN after one epoch. ``learning_rates.csv`` is the
study's table 1.
"""

import csv
import math
from importlib import resources


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


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


def learning_rate(method: str, depth: int) -> float:
    """The study's initial learning rate; at depths between the published ones, the next lower's.

    Args:
      method: name of the method.
      depth: number of hidden-to-hidden layers p.

    Returns:
      The rate.

    Raises:
      ValueError: if the study has no rate for the method.

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
        raise ValueError(f"no published learning rate for {method!r}: give --lr")
    return rates[max((d for d in rates if d <= depth), default=min(rates))]


def accuracy(method: str, depth: int, bias: bool = False) -> float | None:
    """The study's test accuracy (%), or None where it published none or its run diverged.

    Args:
      method: name of the method.
      depth: number of hidden-to-hidden layers p.
      bias: whether the network has biases.

    Returns:
      Accuracy in percent, or None.

    Example:
      >>> from enorm_jax import published
      >>> published.accuracy("enorm", 9), published.accuracy("enorm", 11, bias=True)
      (55.34, None)
    """
    value = accuracies("study", method, bias).get(depth, math.nan)
    return None if math.isnan(value) else value
