"""Steps as programs of their own, in loops of Python, one run after another.

Convolutions on a CPU want it: inside a loop of a program, `lax.scan` or `lax.map`, XLA's CPU
backend computes them some thirty times as slowly as outside
(https://github.com/jax-ml/jax/issues/12868). Images that do not fit into a device's memory want
it too: they stay on the host, and each batch goes to the device while it computes the step before.
The functions here take the same arguments as `train_runs` and `evaluate_runs`, and do the same.
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

EVALUATION_BATCH = 250  # activations of more would leave a CPU's caches
AHEAD = 2  # steps that the host is ahead of the device
Images = jax.Array | np.ndarray  # on the device, or on the host


def compile_training(
    recipe: Recipe,
    states: TrainState,
    seeds: jax.Array,
    epoch: jax.Array,
    images: Images,
    labels: Images,
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

    def step(carry: Carry, key: Any, first: Any, images: Any, labels: Any) -> Any:
        return step_of_epoch(recipe, carry, key, first, images, labels)

    everywhere = _everywhere(recipe)
    shapes = everywhere((_one_of(states), seeds[0], epoch))
    begin = _compiled(recipe, start, *shapes)
    carry, key, order = everywhere(jax.eval_shape(start, *shapes))
    first = jax.ShapeDtypeStruct((), order.dtype, sharding=order.sharding)
    steps = {
        size: _compiled(
            recipe, step, carry, key, first, *_batch(everywhere, size, images, labels), donate=(0,)
        )
        for size in dict.fromkeys(sizes)
    }
    end = _compiled(recipe, lambda carry: last_state(recipe, carry), carry)
    gather = _gather(recipe, images)

    def train(
        states: TrainState, seeds: jax.Array, epoch: jax.Array, images: Images, labels: Images
    ) -> tuple[TrainState, np.ndarray]:
        after, losses = [], []
        for run in range(len(seeds)):
            carry, key, order = begin(_run(states, run), seeds[run], epoch)
            parts = np.split(jax.device_get(order), np.cumsum(sizes)[:-1])
            of_run = []
            for size, index in zip(sizes, parts, strict=True):
                carry, loss = steps[size](carry, key, index[0], *gather(index, images, labels))
                of_run.append(loss)
                if len(of_run) > AHEAD:  # else batches that wait could fill the device's memory
                    of_run[-AHEAD].block_until_ready()
            after.append(end(carry))
            losses.append(jax.device_get(of_run))
        return _stacked(after), np.array(losses, np.float32)

    return train, steps[sizes[0]].memory_analysis()


def compile_evaluation(
    recipe: Recipe, states: TrainState, images: Images, labels: Images
) -> Callable[[TrainState, Images, Images], tuple[jax.Array, jax.Array, jax.Array]]:
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
    parts = np.split(np.arange(count), range(EVALUATION_BATCH, count, EVALUATION_BATCH))

    def totals(state: TrainState, images: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
        return batch_totals(recipe, state, images, labels)

    everywhere = _everywhere(recipe)
    state = everywhere(_one_of(states))
    of_size = {
        size: _compiled(recipe, totals, state, *_batch(everywhere, size, images, labels))
        for size in {len(index) for index in parts}
    }
    norms = _compiled(recipe, lambda state: kernel_norms(state.params), state)
    gather = _gather(recipe, images)

    def test(
        states: TrainState, images: Images, labels: Images
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        found = []
        for run in range(len(states.hyper.c)):
            state = _run(states, run)
            sums = [of_size[len(part)](state, *gather(part, images, labels)) for part in parts]
            loss, hits = np.array(jax.device_get(sums), np.float64).sum(axis=0) / count
            found.append((jnp.float32(loss), jnp.float32(hits), norms(state)))
        return _stacked(found)

    return test


def _gather(recipe: Recipe, images: Images) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """What brings the images and labels of some indices together on the device."""
    sharding = None if recipe.mesh is None else devices.everywhere(recipe.mesh)

    def on_device(index: Any, images: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
        return images[index], labels[index]

    def from_host(index: Any, images: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
        return put(images[index]), put(labels[index])

    def put(array: np.ndarray) -> jax.Array:
        if sharding is None:
            return jnp.asarray(array)
        # Processes have the same array: `device_put` would send it around to make sure.
        return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

    if isinstance(images, np.ndarray):
        return from_host
    return jax.jit(on_device, out_shardings=sharding)


def _batch(everywhere: Callable[[Any], Any], size: int, *arrays: Images) -> Any:
    """The shapes of a batch."""
    return everywhere([jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype) for a in arrays])


def _everywhere(recipe: Recipe) -> Callable[[Any], Any]:
    """Function from arrays to their shapes, on all devices that share a batch if some do."""
    sharding = None if recipe.mesh is None else devices.everywhere(recipe.mesh)

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return lambda tree: jax.tree.map(shape, tree)


def _compiled(recipe: Recipe, fn: Any, *arguments: Any, donate: tuple[int, ...] = ()) -> Any:
    outputs = None if recipe.mesh is None else devices.everywhere(recipe.mesh)
    jitted = jax.jit(fn, donate_argnums=donate, out_shardings=outputs)
    with jax.default_matmul_precision("float32"):  # as `compile_program` has it
        return jitted.lower(*arguments).compile()


def _one_of(states: TrainState) -> TrainState:
    """The shapes of one of R runs."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), states)


def _run(states: TrainState, run: int) -> TrainState:
    return jax.tree.map(lambda leaf: leaf[run], states)


def _stacked(values: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)
