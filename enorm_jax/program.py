"""A recipe compiled: initialization, an epoch and an evaluation of R runs in parallel."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from enorm_jax.compilation import compiled
from enorm_jax.data import Dataset
from enorm_jax.devices import by_run, everywhere, memory_size, over_devices, replicated, runs_mesh
from enorm_jax.evaluation import evaluate, kernel_norms
from enorm_jax.recipe import Hyperparameters, Recipe, TrainState, hyperparameters, init_states
from enorm_jax.stepwise import compile_evaluation, compile_training
from enorm_jax.training import epoch_key, train_epoch


@dataclasses.dataclass(frozen=True)
class Program:
    """A recipe compiled for R parallel runs on one data set.

    Attributes:
      init: (seeds, hyper) -> states.
      train: (states, seeds, epoch) -> (states, losses of shape (R, steps)).
      test: states -> (loss, accuracy, kernel norms), each with a leading R.
      validate: likewise on the validation images; None if there are none.
      compile_seconds: time that tracing and compiling took.
      memory: bytes that an epoch holds on each device, data that lies there included, as XLA
        plans it.
    """

    init: Callable[[jax.Array, Hyperparameters], TrainState]
    train: Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, jax.Array | np.ndarray]]
    test: Callable[[TrainState], tuple[jax.Array, jax.Array, jax.Array]]
    validate: Callable[[TrainState], tuple[jax.Array, jax.Array, jax.Array]] | None
    compile_seconds: float
    memory: float


def compile_program(
    recipe: Recipe, dataset: Dataset, runs: int, *, stream: bool | None = None
) -> Program:
    """Compiles initialization, an epoch and an evaluation, each under `vmap` over runs.

    The arrays of the data set go to the device here, once, as uint8; or they stay on the host and
    go there batch by batch: then one run is trained after another, on one device unless the
    recipe has a mesh. Else, with several devices, runs are shared out among them, or each batch
    with the recipe's mesh. Learning rate, c and weight decay are traced: one program serves all
    their values.

    Args:
      recipe: static part of the program.
      dataset: the data.
      runs: number R of parallel runs.
      stream: whether the data stays on the host; None if it would take more than half of a
        device's memory.

    Returns:
      A `Program`.
    """
    start = time.perf_counter()
    if stream is None:
        stream = not fits(dataset)
        if recipe.mesh is not None:  # processes must agree, whatever their memory
            stream = bool(multihost_utils.broadcast_one_to_all(np.bool_(stream)))
    by_steps = stream or (recipe.convolutional and jax.default_backend() == "cpu")
    mesh = recipe.mesh or runs_mesh(1 if by_steps else runs)

    def placed(*arrays: Any) -> Any:
        return arrays if stream else jax.device_put(arrays, everywhere(mesh))

    data = placed(dataset.train_images, dataset.train_labels)
    example, epoch = jax.device_put((dataset.train_images[:1], jnp.int32(0)), everywhere(mesh))
    hyper = hyperparameters(runs, learning_rate=0.0, c=1.0, weight_decay=0.0)
    seeds, hyper = jax.device_put((jnp.zeros(runs, jnp.uint32), hyper), by_run(mesh))

    over_mesh = functools.partial(_over_mesh, recipe, mesh)
    init = over_mesh(init_states, seeds, hyper, example, of_runs=2)
    states = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_run(mesh)),
        init.out_info,
    )
    platform = mesh.devices.flat[0].platform
    if by_steps:
        train, plan = compile_training(recipe, states, seeds, epoch, *data)
    else:
        of_platform = functools.partial(train_runs, platform=platform)
        train = over_mesh(of_platform, states, seeds, epoch, *data, of_runs=2, donate=(0,))
        plan = train.memory_analysis()
    held = plan.temp_size_in_bytes + plan.argument_size_in_bytes
    if by_steps and not stream:  # a step is given a batch, but all of them lie there
        held += sum(array.nbytes for array in data)

    def compiled_test(*arrays: Any) -> Callable[[TrainState], Any]:
        arrays = placed(*arrays)
        if by_steps:
            test = compile_evaluation(recipe, states, *arrays)
        else:
            of_platform = functools.partial(evaluate_runs, platform=platform)
            test = over_mesh(of_platform, states, *arrays, of_runs=1)
        return lambda states: test(states, *arrays)

    test, validate = compiled_test(dataset.test_images, dataset.test_labels), None
    if dataset.validation_labels is not None:
        validate = compiled_test(dataset.validation_images, dataset.validation_labels)

    def by_runs(values: Any) -> Any:
        return jax.device_put(values, by_run(mesh))

    return Program(
        init=lambda seeds, hyper: init(*by_runs((seeds, hyper)), example),
        train=lambda states, seeds, epoch: train(
            *by_runs((states, seeds)), jax.device_put(epoch, everywhere(mesh)), *data
        ),
        test=test,
        validate=validate,
        compile_seconds=time.perf_counter() - start,
        memory=held,
    )


def fits(dataset: Dataset) -> bool:
    """Whether a data set leaves half of a device's memory to the rest.

    Args:
      dataset: the data set.

    Returns:
      False if its images had better stay on the host.
    """
    return dataset.nbytes <= memory_size() / 2


def _over_mesh(
    recipe: Recipe,
    mesh: Mesh,
    fn: Any,
    *arguments: Any,
    of_runs: int,
    donate: tuple[int, ...] = (),
) -> Any:
    """A function of the recipe and of R runs, compiled for all devices of a mesh."""
    shared = functools.partial(fn, recipe)
    if recipe.mesh is None:
        shared = over_devices(shared, mesh, len(arguments), of_runs)
    return compiled(shared, *arguments, outputs=replicated(recipe.mesh), donate=donate)


def train_runs(
    recipe: Recipe,
    states: TrainState,
    seeds: jax.Array,
    epoch: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    platform: str | None = None,
) -> tuple[TrainState, jax.Array]:
    """`train_epoch` for R runs, each with its own order of the images.

    Args:
      recipe: static part of the program.
      states: states with a leading axis of R.
      seeds: (R,), uint32.
      epoch: number of the epoch, int32.
      images: (N, height, width, channels), uint8.
      labels: (N,), integers.
      platform: for which it is traced, such as ``"cuda"``; None for that of this process.

    Returns:
      The states after the epoch and the losses, (R, steps_per_epoch).
    """

    def one(state: TrainState, seed: jax.Array) -> tuple[TrainState, jax.Array]:
        return train_epoch(recipe, state, epoch_key(seed, epoch), images, labels)

    return _over_runs(recipe, one, platform)(states, seeds)


def evaluate_runs(
    recipe: Recipe,
    states: TrainState,
    images: jax.Array,
    labels: jax.Array,
    platform: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`evaluate` for R runs, and the Frobenius norms of their kernels.

    Args:
      recipe: static part of the program.
      states: states with a leading axis of R.
      images: (M, height, width, channels), uint8.
      labels: (M,), integers.
      platform: as for `train_runs`.

    Returns:
      Loss and accuracy, (R,), and norms, (R, layers).
    """

    def one(state: TrainState) -> tuple[jax.Array, jax.Array, jax.Array]:
        return *evaluate(recipe, state, images, labels), kernel_norms(state.params)

    return _over_runs(recipe, one, platform)(states)


def _over_runs(recipe: Recipe, one: Callable[..., Any], platform: str | None) -> Callable[..., Any]:
    """`vmap` over runs; on a CPU one run after another, whose weights then stay in its caches.

    Convolutions of several runs at once would be grouped ones, which are slow everywhere.
    """
    # Not by `platform_dependent`, which would trace both: seconds, in deep networks.
    if recipe.convolutional or (platform or jax.default_backend()) == "cpu":
        return lambda *args: jax.lax.map(lambda arguments: one(*arguments), args)
    return jax.vmap(one)
