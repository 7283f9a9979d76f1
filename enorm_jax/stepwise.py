"""Convolutional networks on a CPU: one run after another, and each step a program of its own.

Inside a loop of a program, `lax.scan` or `lax.map`, XLA's CPU backend computes convolutions some
thirty times as slowly as outside (https://github.com/jax-ml/jax/issues/12868). The functions here
take the same arguments as `train_runs` and `evaluate_runs`, and do the same in loops of Python.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from enorm_jax import devices
from enorm_jax.evaluation import batch_totals, kernel_norms
from enorm_jax.recipe import Recipe, TrainState
from enorm_jax.training import Carry, epoch_key, first_carry, last_state, step_of_epoch

EVALUATION_BATCH = 250  # activations of more would leave the caches


def compile_training(
    recipe: Recipe,
    states: TrainState,
    seeds: jax.Array,
    epoch: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[Callable[..., tuple[TrainState, np.ndarray]], Any]:
    """`train_runs`, step by step.

    Args:
      recipe: static part of the program.
      states: of R runs; only shapes matter, as in all that follow.
      seeds: (R,), uint32.
      epoch: number of the epoch, int32.
      images: (N, height, width, channels), uint8.
      labels: (N,), integers.

    Returns:
      Function of states, seeds, epoch, images and labels to the states after the epoch and the
      losses, (R, steps_per_epoch), and what XLA plans of a step's memory.
    """
    full, rest = divmod(recipe.train_size, recipe.batch_size)
    sizes = [recipe.batch_size] * full + [rest] * bool(rest)

    def start(state: TrainState, seed: jax.Array, epoch: jax.Array) -> tuple[Carry, Any, Any]:
        key = epoch_key(seed, epoch)
        order = jax.random.permutation(key, recipe.train_size)
        return first_carry(recipe, state), key, order

    def step(size: int) -> Callable[..., tuple[Carry, jax.Array]]:
        def one(carry: Carry, key: Any, order: Any, first: Any, images: Any, labels: Any) -> Any:
            index = jax.lax.dynamic_slice_in_dim(order, first, size)
            return step_of_epoch(recipe, carry, key, index, images, labels)

        return one

    everywhere = _everywhere(recipe)
    shapes = everywhere((_one_of(states), seeds[0], epoch))
    begin = _compiled(recipe, start, *shapes)
    begun = everywhere(jax.eval_shape(start, *shapes))
    steps = {
        size: _compiled(
            recipe, step(size), *begun, *everywhere((jnp.int32(0), images, labels)), donate=(0,)
        )
        for size in dict.fromkeys(sizes)
    }
    end = _compiled(recipe, lambda carry: last_state(recipe, carry), begun[0])

    def train(
        states: TrainState, seeds: jax.Array, epoch: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[TrainState, np.ndarray]:
        after, losses = [], []
        for run in range(len(seeds)):
            carry, key, order = begin(_run(states, run), seeds[run], epoch)
            of_run = []
            for number, size in enumerate(sizes):
                first = np.int32(number * recipe.batch_size)
                carry, loss = steps[size](carry, key, order, first, images, labels)
                of_run.append(loss)
            after.append(end(carry))
            losses.append(jax.device_get(of_run))
        return _stacked(after), np.array(losses, np.float32)

    return train, steps[sizes[0]].memory_analysis()


def compile_evaluation(
    recipe: Recipe, states: TrainState, images: jax.Array, labels: jax.Array
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    """`evaluate_runs`, batch by batch.

    Args:
      recipe: static part of the program.
      states: of R runs; only shapes matter, as in all that follow.
      images: (M, height, width, channels), uint8.
      labels: (M,), integers.

    Returns:
      Function of states, images and labels to loss and accuracy, (R,), and norms, (R, layers).
    """
    count = len(labels)
    batch = min(EVALUATION_BATCH, count)
    firsts = range(0, count, batch)

    def part(size: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
        def totals(state: TrainState, first: Any, images: Any, labels: Any) -> Any:
            some = (jax.lax.dynamic_slice_in_dim(a, first, size) for a in (images, labels))
            return batch_totals(recipe, state, *some)

        return totals

    shapes = _everywhere(recipe)((_one_of(states), jnp.int32(0), images, labels))
    parts = {
        size: _compiled(recipe, part(size), *shapes)
        for size in {min(batch, count - first) for first in firsts}
    }
    norms = _compiled(recipe, lambda state: kernel_norms(state.params), shapes[0])

    def test(
        states: TrainState, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        found = []
        for run in range(len(states.hyper.c)):
            state = _run(states, run)
            totals = [
                parts[min(batch, count - first)](state, np.int32(first), images, labels)
                for first in firsts
            ]
            loss, hits = np.array(jax.device_get(totals), np.float64).sum(axis=0) / count
            found.append((jnp.float32(loss), jnp.float32(hits), norms(state)))
        return _stacked(found)

    return test


def _everywhere(recipe: Recipe) -> Callable[[Any], Any]:
    """Function from arrays to their shapes, on all devices that share a batch if some do."""
    sharding = None if recipe.mesh is None else devices.everywhere(recipe.mesh)

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return lambda tree: jax.tree.map(shape, tree)


def _compiled(recipe: Recipe, fn: Any, *arguments: Any, donate: tuple[int, ...] = ()) -> Any:
    outputs = None if recipe.mesh is None else devices.everywhere(recipe.mesh)
    return jax.jit(fn, donate_argnums=donate, out_shardings=outputs).lower(*arguments).compile()


def _one_of(states: TrainState) -> TrainState:
    """The shapes of one of R runs."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), states)


def _run(states: TrainState, run: int) -> TrainState:
    return jax.tree.map(lambda leaf: leaf[run], states)


def _stacked(values: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)
