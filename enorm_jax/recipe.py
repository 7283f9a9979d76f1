"""What a training program is made from: its static part, its traced part and its state.

Shapes: R runs (seeds, and learning rates if several) in parallel on a leading axis, B images
in a batch. Images are (height, width, channels) uint8.
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
from enorm_jax.bias_gauge import initial_gauge
from enorm_jax.devices import by_image
from enorm_jax.inputs import Standardize
from enorm_jax.methods import ENorm
from enorm_jax.optimizer import Optimizer, Schedule, schedule, sgd
from enorm_jax.scaling import Scales
from enorm_jax.state_rescaling import StateBias


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

    def transformation(self, hyper: "Hyperparameters") -> optax.GradientTransformation:
        """The optimizer at these hyperparameters."""
        rate = schedule(self.schedule, hyper.learning_rate, self.epochs, self.steps_per_epoch)
        return self.optimizer(rate, hyper.weight_decay)

    def losses(self, outputs: jax.Array, labels: jax.Array) -> jax.Array:
        """Cross-entropy (nats) of each image."""
        logits = jax.nn.softmax(outputs) if self.softmax else outputs
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def share_out(self, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A batch, shared out among the devices of `mesh`."""
        if self.mesh is None:
            return images, labels
        return jax.lax.with_sharding_constraint((images, labels), by_image(self.mesh))


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
      >>> from enorm_jax.recipe import hyperparameters
      >>> hyperparameters(2, learning_rate=[0.1, 0.01], c=1.2, weight_decay=0.0).c.shape
      (2,)
    """

    def spread(value: float | Sequence[float]) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (runs,))

    return Hyperparameters(spread(learning_rate), spread(c), spread(weight_decay))


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
        opt_state=recipe.transformation(hyper).init(variables["params"]),
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
