"""Training as pure functions: a step, an epoch, an evaluation.

Shapes: R runs (seeds, and learning rates if several) in parallel on a leading axis, B images
in a batch, N images in the data set. Images are (height, width, channels) uint8.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from enorm_jax.augment import Augmentation
from enorm_jax.bias_gauge import advance_gauge, gauge_gradients, initial_gauge
from enorm_jax.devices import by_image
from enorm_jax.inputs import Standardize
from enorm_jax.methods import ENorm
from enorm_jax.optimizer import Optimizer, Schedule, schedule, sgd
from enorm_jax.scaling import Bias, Scales
from enorm_jax.state_rescaling import StateBias, rescale_state

EVALUATION_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What shapes the program: everything that is static under `jit`.

    Attributes:
      model: a Flax module called as ``model(images, train=...)``.
      equalize: what rescales the hidden units after each step, or None.
      standardization: how pixels become inputs.
      batch_size: images in a step; a smaller last batch is kept.
      epochs: length of the linear decay of the learning rate.
      train_size: images in an epoch.
      bias: what ENorm does with biases, as in `equi_normalize`: ``"scale"`` multiplies them with
        their units, ``"keep"`` leaves them, ``"gauge"`` scales them and lets them train as in
        the network that was never rescaled.
      schedule: of the learning rate, as `enorm_jax.optimizer.schedule` names it.
      optimizer: function from learning rate and weight decay to an optax transformation.
      softmax: whether the loss, which takes a softmax, is given probabilities instead of logits.
      augmentation: of training images, and the crop of test images; None for neither.
      convolutional: whether the model has convolutions, which want one run after another, and on
        a CPU one step after another, each a program of its own (`enorm_jax.stepwise`).
      mesh: devices that share each batch, as of `enorm_jax.devices.batch_mesh`; parameters are
        the same on all, statistics over a batch are over all of it. None for one device a run.
    """

    model: nn.Module
    equalize: ENorm | None
    standardization: Standardize
    batch_size: int
    epochs: int
    train_size: int
    bias: StateBias = "scale"
    schedule: Schedule = "linear"
    optimizer: Optimizer = sgd
    softmax: bool = False
    augmentation: Augmentation | None = None
    convolutional: bool = False
    mesh: Mesh | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch, the smaller last batch included."""
        return -(-self.train_size // self.batch_size)


class Hyperparameters(struct.PyTreeNode):
    """What only scales the program: traced, one value per run.

    Attributes:
      learning_rate: initial learning rate, float32.
      c: ratio of outgoing to incoming norms that ENorm aims at, float32.
      weight_decay: λ on all parameters, float32.
    """

    learning_rate: jax.Array
    c: jax.Array
    weight_decay: jax.Array


class TrainState(struct.PyTreeNode):
    """All that a step reads and writes.

    Attributes:
      params: the model's parameters.
      batch_stats: running statistics of its normalization layers, or an empty dict.
      opt_state: the optimizer's state.
      hyper: hyperparameters, constant during a run.
      gauge: product of each unit's scales since the start with ``bias="gauge"``, else empty.
    """

    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    hyper: Hyperparameters
    gauge: Scales = ()


def init_state(
    recipe: Recipe, key: jax.Array, hyper: Hyperparameters, example: jax.Array
) -> TrainState:
    """Initializes one run.

    Args:
      recipe: static part of the program.
      key: random key of the run.
      hyper: hyperparameters, scalars.
      example: images of shape (B, height, width, channels), uint8; only the shape matters.

    Returns:
      A `TrainState`.
    """
    if recipe.augmentation is not None:
        example = recipe.augmentation.centre(example)
    variables = recipe.model.init(
        jax.random.fold_in(key, 0), recipe.standardization(example), train=False
    )
    gauge: Scales = ()
    if recipe.equalize is not None and recipe.bias == "gauge":
        gauge = initial_gauge(variables["params"], recipe.equalize.groups(variables["params"]))
    return TrainState(
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=_optimizer(recipe, hyper).init(variables["params"]),
        hyper=hyper,
        gauge=gauge,
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
    """One step: loss, gradient, optimizer, ENorm; images are taken as they are, not augmented.

    Args:
      recipe: static part of the program.
      state: state before the step.
      images: (B, height, width, channels), uint8.
      labels: (B,), integers.

    Returns:
      The state after the step, and the batch's mean cross-entropy (nats) before it.
    """
    state, loss = _descend(recipe, state, *_shared(recipe, images, labels))
    return _rescaled(recipe, state, _scales(recipe, state)), loss


def train_epoch(
    recipe: Recipe,
    state: TrainState,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """One pass over the training set in a new order, the smaller last batch included.

    Each step's rescaling is done at the start of the next, where the products and the update
    read the weights anyway: ENorm then costs the passes that its norms take, and no other.

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

    def step(carry: Carry, index: jax.Array) -> tuple[Carry, jax.Array]:
        return step_of_epoch(recipe, carry, key, index, images, labels)

    carry, losses = jax.lax.scan(
        step, first_carry(recipe, state), batches.reshape(full, recipe.batch_size)
    )
    if rest.size:
        carry, loss = step(carry, rest)
        losses = jnp.append(losses, loss)
    return last_state(recipe, carry), losses


def epoch_key(seed: jax.Array, epoch: jax.Array) -> jax.Array:
    """The random key of a run's epoch, from the run's seed and the epoch's number."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)


# A state, and the scales by which its weights are yet to be multiplied.
Carry = tuple[TrainState, Scales | None]


def first_carry(recipe: Recipe, state: TrainState) -> Carry:
    """What an epoch's first step starts from: nothing is left to rescale."""
    return state, jax.tree.map(jnp.ones_like, jax.eval_shape(lambda: _scales(recipe, state)))


def last_state(recipe: Recipe, carry: Carry) -> TrainState:
    """The state after an epoch: the last step's rescaling is done."""
    return _rescaled(recipe, *carry)


def step_of_epoch(
    recipe: Recipe,
    carry: Carry,
    key: jax.Array,
    index: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[Carry, jax.Array]:
    """One step of an epoch: the rescaling of the step before, crops, gradient, new scales.

    Args:
      recipe: static part of the program.
      carry: what the step before left.
      key: random key of this run and epoch.
      index: (B,), which images are the batch.
      images: (N, height, width, channels), uint8.
      labels: (N,), integers.

    Returns:
      What is left to the next step, and the batch's mean loss.
    """
    before = _rescaled(recipe, *carry)
    batch, targets = _shared(recipe, images[index], labels[index])
    if recipe.augmentation is not None:
        # An image comes once an epoch, so that the first one's number tells batches apart.
        batch = recipe.augmentation(jax.random.fold_in(key, 1 + index[0]), batch)
    state, loss = _descend(recipe, before, batch, targets)
    return (state, _scales(recipe, state)), loss


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

    def totals(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        return batch_totals(recipe, state, images[index], labels[index])

    size, batch = len(labels), min(EVALUATION_BATCH, len(labels))
    full, rest = jnp.split(jnp.arange(size), [size // batch * batch])
    losses, hits = jax.lax.map(totals, full.reshape(-1, batch))
    loss, hit = losses.sum(), hits.sum()
    if rest.size:
        loss, hit = jax.tree.map(jnp.add, (loss, hit), totals(rest))
    return loss / size, hit.astype(jnp.float32) / size


def batch_totals(
    recipe: Recipe, state: TrainState, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums over a batch, with running statistics: what an evaluation adds up.

    Args:
      recipe: static part of the program.
      state: state to evaluate.
      images: (B, height, width, channels), uint8.
      labels: (B,), integers.

    Returns:
      Sum of the losses and number of images that are classified right, scalars.
    """
    images, labels = _shared(recipe, images, labels)
    if recipe.augmentation is not None:
        images = recipe.augmentation.centre(images)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits: Any = recipe.model.apply(variables, recipe.standardization(images), train=False)
    losses = _losses(recipe, logits, labels)
    return losses.sum(), jnp.sum(jnp.argmax(logits, axis=-1) == labels)


def kernel_norms(params: Any) -> jax.Array:
    """The Frobenius norms of a network's kernels.

    Args:
      params: the model's parameters.

    Returns:
      (layers,), in the order of the parameters' names.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    kernels = [leaf for path, leaf in leaves if getattr(path[-1], "key", None) == "kernel"]
    return jnp.stack([jnp.linalg.norm(kernel.reshape(-1)) for kernel in kernels])


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


def _descend(
    recipe: Recipe, state: TrainState, images: jax.Array, labels: jax.Array
) -> tuple[TrainState, jax.Array]:
    """A step without ENorm: loss, gradient, optimizer."""
    inputs = recipe.standardization(images)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        return batch_loss(recipe, params, state.batch_stats, inputs, labels)

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    if state.gauge and recipe.equalize is not None:
        grads = gauge_gradients(grads, state.gauge, recipe.equalize.groups(state.params))
    updates, opt_state = _optimizer(recipe, state.hyper).update(
        grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    return state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state), loss


def batch_loss(
    recipe: Recipe, params: Any, batch_stats: Any, inputs: jax.Array, labels: jax.Array
) -> tuple[jax.Array, Any]:
    """The loss that a training step descends.

    Args:
      recipe: static part of the program.
      params: the model's parameters.
      batch_stats: its running statistics.
      inputs: standardized images, (B, height, width, channels).
      labels: (B,), integers.

    Returns:
      Mean cross-entropy (nats), and the new running statistics.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    logits, new = recipe.model.apply(variables, inputs, train=True, mutable=["batch_stats"])
    return _losses(recipe, logits, labels).mean(), new.get("batch_stats", {})


def _shared(recipe: Recipe, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A batch, shared out among the recipe's devices."""
    if recipe.mesh is None:
        return images, labels
    return jax.lax.with_sharding_constraint((images, labels), by_image(recipe.mesh))


def _losses(recipe: Recipe, outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each image."""
    logits = jax.nn.softmax(outputs) if recipe.softmax else outputs
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _scales(recipe: Recipe, state: TrainState) -> Scales | None:
    """By what ENorm multiplies the hidden units; None without ENorm."""
    if recipe.equalize is None:
        return None
    # Else XLA computes the optimizer's update again in every norm.
    params = jax.lax.optimization_barrier(state.params)
    return jax.lax.optimization_barrier(recipe.equalize.scales(params, state.hyper.c))


def _rescaled(recipe: Recipe, state: TrainState, scales: Scales | None) -> TrainState:
    if scales is None or recipe.equalize is None:
        return state
    bias: Bias = "keep" if recipe.bias == "keep" else "scale"
    groups = recipe.equalize.groups(state.params)
    return state.replace(
        params=recipe.equalize.rescale(state.params, scales, bias),
        opt_state=rescale_state(state.opt_state, state.params, scales, groups, bias=recipe.bias),
        gauge=advance_gauge(state.gauge, scales) if state.gauge else (),
    )


def _optimizer(recipe: Recipe, hyper: Hyperparameters) -> optax.GradientTransformation:
    rate = schedule(recipe.schedule, hyper.learning_rate, recipe.epochs, recipe.steps_per_epoch)
    return recipe.optimizer(rate, hyper.weight_decay)
