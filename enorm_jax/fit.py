"""The loop around epochs: R runs, compiled once, trained in parallel."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from enorm_jax.program import Program
from enorm_jax.recipe import Hyperparameters, TrainState


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch of R runs leaves behind, on the host but for the states.

    Attributes:
      index: number of the epoch, from 0.
      states: training states after it; None where an epoch is only shown.
      losses: cross-entropy of each step, (R, steps).
      test_loss: (R,).
      test_accuracy: percent, (R,).
      validation_accuracy: percent, (R,); None without validation images.
      kernel_norms: (R, layers).
      seconds: duration of the training part.
    """

    index: int
    states: TrainState | None
    losses: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    validation_accuracy: np.ndarray | None
    kernel_norms: np.ndarray
    seconds: float


def fit(
    program: Program,
    seeds: Sequence[int],
    hyper: Hyperparameters,
    epochs: int,
    *,
    resume: tuple[int, TrainState] | None = None,
) -> Iterator[Epoch]:
    """Trains R runs epoch by epoch; the caller records, saves, and stops when it has enough.

    Args:
      program: compiled for R runs.
      seeds: one seed per run, non-negative; it decides initial weights and order of images.
      hyper: hyperparameters of shape (R,).
      epochs: number of epochs to end at.
      resume: number of epochs done and the states after them, to go on from.

    Yields:
      An `Epoch` after each. Its states are given up when the next epoch starts.
    """
    keys = jnp.asarray(seeds, jnp.uint32)
    first, states = resume if resume is not None else (0, program.init(keys, hyper))
    for index in range(first, epochs):
        start = time.perf_counter()
        states, losses = jax.block_until_ready(program.train(states, keys, jnp.int32(index)))
        seconds = time.perf_counter() - start
        test_loss, test_accuracy, norms = jax.device_get(program.test(states))
        validation = None
        if program.validate is not None:
            validation = 100 * jax.device_get(program.validate(states)[1])
        yield Epoch(
            index=index,
            states=states,
            losses=np.asarray(losses),
            test_loss=test_loss,
            test_accuracy=100 * test_accuracy,
            validation_accuracy=validation,
            kernel_norms=norms,
            seconds=seconds,
        )


def first_divergence(epoch: Epoch) -> list[int | None]:
    """The step of this epoch at which each run's loss stopped being finite.

    A run whose losses are all finite, but whose loss on the test set is not, diverged at its
    last step.

    Args:
      epoch: an epoch of R runs.

    Returns:
      For each run the step, counted from 0 in the epoch, or None.
    """
    found: list[int | None] = []
    for losses, test_loss in zip(epoch.losses, epoch.test_loss, strict=True):
        bad = np.flatnonzero(~np.isfinite(losses))
        last = None if np.isfinite(test_loss) else len(losses) - 1
        found.append(int(bad[0]) if bad.size else last)
    return found
