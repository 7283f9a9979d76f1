"""Training as pure functions: a step, an epoch.

Shapes: B images in a batch, N images in the data set. Images are (height, width, channels) uint8.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from enorm_jax.bias_gauge import advance_gauge, gauge_gradients
from enorm_jax.recipe import Recipe, TrainState
from enorm_jax.scaling import Bias, Scales
from enorm_jax.state_rescaling import rescale_state


def train_step(
    recipe: Recipe, state: TrainState, images: jax.Array, labels: jax.Array
) -> tuple[TrainState, jax.Array]:
    r"""One step: loss, gradient, optimizer, ENorm; images are taken as they are, not augmented.

    .. math::
        u, s \leftarrow \text{optimizer}(\nabla L(\theta), s, \theta), \quad
        (\theta, s) \leftarrow d \cdot (\theta + u, s), \quad
        d = \text{scales}(\theta + u)

    Args:
      recipe: static part of the program.
      state: state before the step.
      images: (B, height, width, channels), uint8.
      labels: (B,), integers.

    Returns:
      The state after the step, and the batch's mean cross-entropy (nats) before it.
    """
    state, loss = _descend(recipe, state, *recipe.share_out(images, labels))
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
        return step_of_epoch(recipe, carry, key, index[0], images[index], labels[index])

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
    first: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[Carry, jax.Array]:
    """One step of an epoch: the rescaling of the step before, crops, gradient, new scales.

    Args:
      recipe: static part of the program.
      carry: what the step before left.
      key: random key of this run and epoch.
      first: number of the batch's first image in the data set; no other batch of an epoch has it.
      images: (B, height, width, channels), uint8.
      labels: (B,), integers.

    Returns:
      What is left to the next step, and the batch's mean loss.
    """
    before = _rescaled(recipe, *carry)
    batch, targets = recipe.share_out(images, labels)
    if recipe.augmentation is not None:
        batch = recipe.augmentation(jax.random.fold_in(key, 1 + first), batch)
    state, loss = _descend(recipe, before, batch, targets)
    return (state, _scales(recipe, state)), loss


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
    return recipe.losses(logits, labels).mean(), new.get("batch_stats", {})


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
    with jax.named_scope("optimizer"):
        updates, opt_state = recipe.transformation(state.hyper).update(
            grads, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
    return state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state), loss


@jax.named_scope("enorm")
def _scales(recipe: Recipe, state: TrainState) -> Scales | None:
    """By what ENorm multiplies the hidden units; None without ENorm."""
    if recipe.equalize is None:
        return None
    # Else XLA computes the optimizer's update again in every norm.
    params = jax.lax.optimization_barrier(state.params)
    return jax.lax.optimization_barrier(recipe.equalize.scales(params, state.hyper.c))


@jax.named_scope("enorm")
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
