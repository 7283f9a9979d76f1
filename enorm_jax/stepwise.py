"""Steps as programs of their own, in loops of Python, one run after another.

Convolutions on a CPU want it: inside a loop of a program, `lax.scan` or `lax.map`, XLA's CPU
backend computes them some thirty times as slowly as outside
(https://github.com/jax-ml/jax/issues/12868). Images that do not fit into a device's memory want
it too: they stay on the host, and each batch goes to the device while it computes the step before.
The functions here do the same as `train_runs` and `evaluate_runs`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from enorm_jax import devices
from enorm_jax.compilation import compiled
from enorm_jax.evaluation import batch_totals, kernel_norms
from enorm_jax.recipe import Recipe, TrainState
from enorm_jax.training import Carry, epoch_key, first_carry, last_state, step_of_epoch

EVALUATION_BATCH = 250  # activations of more would leave a CPU's caches
AHEAD = 2  # steps that may wait for the device: more batches could fill its memory
Images = jax.Array | np.ndarray  # on the device, or on the host: the same in all calls


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
      images: (N, height, width, channels), uint8; whether they lie on the device matters too.
      labels: (N,), integers, where the images are.

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

    step = functools.partial(step_of_epoch, recipe)
    end_of_epoch = functools.partial(last_state, recipe)
    whole = functools.partial(compiled, outputs=devices.replicated(recipe.mesh))
    everywhere = _everywhere(recipe)
    shapes = everywhere((_one_of(states), seeds[0], epoch))
    begin = whole(start, *shapes)
    carry, key, order = everywhere(jax.eval_shape(start, *shapes))
    first = jax.ShapeDtypeStruct((), order.dtype, sharding=order.sharding)
    gathers = {
        size: _gather(recipe, size, order.dtype, images, labels) for size in dict.fromkeys(sizes)
    }
    steps = {
        size: whole(step, carry, key, first, *gather.shapes, donate=(0,))
        for size, gather in gathers.items()
    }
    end = whole(end_of_epoch, carry)

    def train(
        states: TrainState, seeds: jax.Array, epoch: jax.Array, images: Images, labels: Images
    ) -> tuple[TrainState, np.ndarray]:
        after, losses = [], []
        for run in range(len(seeds)):
            carry, key, order = begin(_run(states, run), seeds[run], epoch)
            parts = np.split(jax.device_get(order), np.cumsum(sizes)[:-1])
            of_run: list[jax.Array] = []
            for size, index in zip(sizes, parts, strict=True):
                batch = gathers[size].fetch(index, images, labels)
                carry, loss = steps[size](carry, key, index[0], *batch)
                _queue(of_run, loss)
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
      images: (M, height, width, channels), uint8; whether they lie on the device matters too.
      labels: (M,), integers, where the images are.

    Returns:
      Function of states, images and labels to loss and accuracy, (R,), and norms, (R, layers).
    """
    count = len(labels)
    firsts = range(EVALUATION_BATCH, count, EVALUATION_BATCH)
    parts = np.split(np.arange(count, dtype=np.int32), firsts)

    totals = functools.partial(batch_totals, recipe)
    whole = functools.partial(compiled, outputs=devices.replicated(recipe.mesh))
    state = _everywhere(recipe)(_one_of(states))
    sizes = dict.fromkeys(len(index) for index in parts)
    gathers = {size: _gather(recipe, size, parts[0].dtype, images, labels) for size in sizes}
    of_size = {size: whole(totals, state, *gather.shapes) for size, gather in gathers.items()}
    norms = whole(lambda state: kernel_norms(state.params), state)

    def test(
        states: TrainState, images: Images, labels: Images
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        found = []
        for run in range(len(states.hyper.c)):
            state = _run(states, run)
            sums: list[Any] = []
            for index in parts:
                batch = gathers[len(index)].fetch(index, images, labels)
                _queue(sums, of_size[len(index)](state, *batch))
            loss, hits = np.array(jax.device_get(sums), np.float64).sum(axis=0) / count
            found.append((jnp.float32(loss), jnp.float32(hits), norms(state)))
        return _stacked(found)

    return test


@dataclasses.dataclass(frozen=True)
class _Gather:
    """Brings the images and labels of a batch's indices together on the device.

    Attributes:
      shapes: of images and labels.
      fetch: function of indices, all images and all labels.
    """

    shapes: Any
    fetch: Callable[[Any, Images, Images], Any]


def _gather(recipe: Recipe, size: int, dtype: Any, images: Images, labels: Images) -> _Gather:
    """What gathers batches of one size, shared out among the devices of a mesh if it can be.

    The dtype is that of the indices.
    """
    mesh, sharding = recipe.mesh, None
    if mesh is not None:
        even = size % mesh.size == 0
        sharding = devices.by_image(mesh) if even else devices.everywhere(mesh)
    shapes = [
        jax.ShapeDtypeStruct((size, *array.shape[1:]), array.dtype, sharding=sharding)
        for array in (images, labels)
    ]

    def of_index(index: Any, images: Any, labels: Any) -> Any:
        return images[index], labels[index]

    def put(array: np.ndarray) -> jax.Array:
        if sharding is None:
            return jnp.asarray(array)
        # Processes have the same array: `device_put` would send it around to make sure.
        return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])

    if isinstance(images, np.ndarray):
        return _Gather(shapes, lambda *of: [put(array) for array in of_index(*of)])
    arguments = _everywhere(recipe)((jax.ShapeDtypeStruct((size,), dtype), images, labels))
    return _Gather(shapes, compiled(of_index, *arguments, outputs=sharding))


def _queue(results: list[Any], result: Any) -> None:
    """Adds a result that the device may still be computing, and waits for an older one."""
    results.append(result)
    if len(results) > AHEAD:
        jax.block_until_ready(results[-1 - AHEAD])


def _everywhere(recipe: Recipe) -> Callable[[Any], Any]:
    """Function from arrays to their shapes, on all devices that share a batch if some do."""
    sharding = devices.replicated(recipe.mesh)

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return lambda tree: jax.tree.map(shape, tree)


def _one_of(states: TrainState) -> TrainState:
    """The shapes of one of R runs."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), states)


def _run(states: TrainState, run: int) -> TrainState:
    return jax.tree.map(lambda leaf: leaf[run], states)


def _stacked(values: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)
