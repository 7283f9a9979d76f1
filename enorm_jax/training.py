"""Training as pure functions: a step, an epoch, an evaluation, and the loop around epochs.

Shapes: R runs (seeds, and learning rates if several) in parallel on a leading axis, B images
in a batch, N images in the training set. Images are (height, width, channels) uint8.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from enorm_jax.data import Dataset, Standardization
from enorm_jax.enorm import chain
from enorm_jax.methods import Equalize
from enorm_jax.optimizer import linear_decay, sgd

EVALUATION_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What shapes the program: everything that is static under `jit`.

    Attributes:
      model: a Flax module called as ``model(images, train=...)``.
      equalize: pure function (params, c) -> params applied after each step, or None.
      standardization: how pixels become inputs.
      batch_size: images in a step; a smaller last batch is kept.
      epochs: length of the linear decay of the learning rate.
      train_size: images in an epoch.
    """

    model: nn.Module
    equalize: Equalize | None
    standardization: Standardization
    batch_size: int
    epochs: int
    train_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch, the smaller last batch included."""
        return -(-self.train_size // self.batch_size)


@struct.dataclass
class Hyperparameters:
    """What only scales the program: traced, one value per run.

    Attributes:
      learning_rate: initial learning rate, float32.
      c: ratio of outgoing to incoming norms that ENorm aims at, float32.
      weight_decay: λ on all parameters, float32.
    """

    learning_rate: jax.Array
    c: jax.Array
    weight_decay: jax.Array


@struct.dataclass
class TrainState:
    """All that a step reads and writes.

    Attributes:
      params: the model's parameters.
      batch_stats: running statistics of its normalization layers, or an empty dict.
      opt_state: the optimizer's state.
      hyper: hyperparameters, constant during a run.
    """

    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    hyper: Hyperparameters


def init_state(recipe: Recipe, key: jax.Array, hyper: Hyperparameters, example: jax.Array) -> TrainState:
    """Initializes one run.

    Args:
      recipe: static part of the program.
      key: random key of the run.
      hyper: hyperparameters, scalars.
      example: images of shape (B, height, width, channels), uint8; only the shape matters.

    Returns:
      A `TrainState`.
    """
    variables = recipe.model.init(
        jax.random.fold_in(key, 0), recipe.standardization(example), train=False
    )
    return TrainState(
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=_optimizer(recipe, hyper).init(variables["params"]),
        hyper=hyper,
    )


def init_states(
    recipe: Recipe, seeds: jax.Array, hyper: Hyperparameters, example: jax.Array
) -> TrainState:
    """Initializes R runs.

    Args:
      recipe: static part of the program.
      seeds: (R,), uint32.
      hyper: hyperparameters of shape (R,).
      example: images of shape (B, height, width, channels), uint8; only the shape matters.

    Returns:
      A `TrainState` whose arrays have a leading axis of R.
    """

    def one(seed: jax.Array, hyper: Hyperparameters) -> TrainState:
        return init_state(recipe, jax.random.key(seed), hyper, example)

    return jax.vmap(one)(seeds, hyper)


def train_step(
    recipe: Recipe, state: TrainState, images: jax.Array, labels: jax.Array
) -> tuple[TrainState, jax.Array]:
    """One step: loss, gradient, optimizer, ENorm.

    Args:
      recipe: static part of the program.
      state: state before the step.
      images: (B, height, width, channels), uint8.
      labels: (B,), integers.

    Returns:
      The state after the step, and the batch's mean cross-entropy (nats) before it.
    """
    inputs = recipe.standardization(images)

    def loss_fn(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, new = recipe.model.apply(variables, inputs, train=True, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, new.get("batch_stats", {})

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = _optimizer(recipe, state.hyper).update(
        grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    if recipe.equalize is not None:
        params = recipe.equalize(params, state.hyper.c)
    return state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state), loss


def train_epoch(
    recipe: Recipe,
    state: TrainState,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """One pass over the training set in a new order, the smaller last batch included.

    Args:
      recipe: static part of the program.
      state: state before the epoch.
      key: random key of this run and epoch.
      images: (N, height, width, channels), uint8, on the device.
      labels: (N,), integers, on the device.

    Returns:
      The state after the epoch and the losses of its steps, (steps_per_epoch,).
    """
    order = jax.random.permutation(key, recipe.train_size)
    full = recipe.train_size // recipe.batch_size
    batches, rest = jnp.split(order, [full * recipe.batch_size])

    def step(state: TrainState, index: jax.Array) -> tuple[TrainState, jax.Array]:
        return train_step(recipe, state, images[index], labels[index])

    state, losses = jax.lax.scan(step, state, batches.reshape(full, recipe.batch_size))
    if rest.size:
        state, loss = step(state, rest)
        losses = jnp.append(losses, loss)
    return state, losses


def evaluate(
    recipe: Recipe, state: TrainState, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Loss and accuracy over a data set, with running statistics.

    Args:
      recipe: static part of the program.
      state: state to evaluate.
      images: (N, height, width, channels), uint8.
      labels: (N,), integers.

    Returns:
      Mean cross-entropy (nats) and accuracy (fraction), scalars.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}

    def totals(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs = recipe.standardization(images[index])
        logits = recipe.model.apply(variables, inputs, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[index])
        return losses.sum(), jnp.sum(jnp.argmax(logits, axis=-1) == labels[index])

    size, batch = len(labels), min(EVALUATION_BATCH, len(labels))
    full, rest = jnp.split(jnp.arange(size), [size // batch * batch])
    losses, hits = jax.lax.map(totals, full.reshape(-1, batch))
    loss, hit = losses.sum(), hits.sum()
    if rest.size:
        loss, hit = jax.tree.map(jnp.add, (loss, hit), totals(rest))
    return loss / size, hit.astype(jnp.float32) / size


def kernel_norms(params: Any) -> jax.Array:
    """Frobenius norms of the kernels, in the order of the layers, (layers,)."""
    return jnp.stack([jnp.linalg.norm(params[name]["kernel"]) for name in chain(params)])


@dataclasses.dataclass(frozen=True)
class Program:
    """A recipe compiled for R parallel runs on one data set that lies on the device.

    Attributes:
      init: (seeds, hyper) -> states.
      train: (states, seeds, epoch) -> (states, losses of shape (R, steps)).
      test: states -> (loss, accuracy, kernel norms), each with a leading R.
      compile_seconds: time that tracing and compiling took.
    """

    init: Callable[[jax.Array, Hyperparameters], TrainState]
    train: Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, jax.Array]]
    test: Callable[[TrainState], tuple[jax.Array, jax.Array, jax.Array]]
    compile_seconds: float


def compile_program(recipe: Recipe, dataset: Dataset, runs: int) -> Program:
    """Compiles initialization, an epoch and an evaluation, each under `vmap` over runs.

    The arrays of the data set go to the device here, once, as uint8. Learning rate, c and
    weight decay are traced: one program serves all their values.

    Args:
      recipe: static part of the program.
      dataset: the data.
      runs: number R of parallel runs.

    Returns:
      A `Program`.
    """
    start = time.perf_counter()
    train_images, train_labels, test_images, test_labels = jax.device_put(
        (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    )

    example = (1, *train_images.shape[1:])

    def init(seeds, hyper):
        return init_states(recipe, seeds, hyper, jnp.zeros_like(train_images, shape=example))

    def train(states, seeds, epoch, images, labels):
        def one(state, seed):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)
            return train_epoch(recipe, state, key, images, labels)

        return jax.vmap(one)(states, seeds)

    def test(states, images, labels):
        def one(state):
            return *evaluate(recipe, state, images, labels), kernel_norms(state.params)

        return jax.vmap(one)(states)

    seeds = jnp.zeros(runs, jnp.uint32)
    hyper = hyperparameters(runs, learning_rate=0.0, c=1.0, weight_decay=0.0)
    init_compiled = jax.jit(init).lower(seeds, hyper).compile()
    states = jax.eval_shape(init, seeds, hyper)
    train_compiled = (
        jax.jit(train, donate_argnums=0)
        .lower(states, seeds, jnp.int32(0), train_images, train_labels)
        .compile()
    )
    test_compiled = jax.jit(test).lower(states, test_images, test_labels).compile()
    return Program(
        init=init_compiled,
        train=lambda states, seeds, epoch: train_compiled(
            states, seeds, epoch, train_images, train_labels
        ),
        test=lambda states: test_compiled(states, test_images, test_labels),
        compile_seconds=time.perf_counter() - start,
    )


def hyperparameters(
    runs: int,
    *,
    learning_rate: float | Sequence[float],
    c: float | Sequence[float],
    weight_decay: float | Sequence[float],
) -> Hyperparameters:
    """Hyperparameters of R runs, each given once for all or one by one.

    Args:
      runs: number R of runs.
      learning_rate: initial rate, a number or R of them.
      c: ratio of norms that ENorm aims at, likewise.
      weight_decay: λ, likewise.

    Returns:
      `Hyperparameters` of arrays of shape (R,).

    Example:
      >>> from enorm_jax.training import hyperparameters
      >>> hyperparameters(2, learning_rate=[0.1, 0.01], c=1.2, weight_decay=0.0).c.shape
      (2,)
    """

    def spread(value: float | Sequence[float]) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (runs,))

    return Hyperparameters(spread(learning_rate), spread(c), spread(weight_decay))


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch of R runs leaves behind, on the host but for the states.

    Attributes:
      index: number of the epoch, from 0.
      states: training states after it.
      losses: cross-entropy of each step, (R, steps).
      test_loss: (R,).
      test_accuracy: percent, (R,).
      kernel_norms: (R, layers).
      seconds: duration of the training part.
    """

    index: int
    states: TrainState
    losses: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
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
        yield Epoch(
            index, states, np.asarray(losses), test_loss, 100 * test_accuracy, norms, seconds
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


def _optimizer(recipe: Recipe, hyper: Hyperparameters) -> optax.GradientTransformation:
    schedule = linear_decay(hyper.learning_rate, recipe.epochs, recipe.steps_per_epoch)
    return sgd(schedule, hyper.weight_decay)
