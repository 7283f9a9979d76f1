"""The study's optimizer: SGD without momentum, weight decay, linear decay per epoch."""

import jax
import jax.numpy as jnp
import optax


def linear_decay(
    learning_rate: jax.typing.ArrayLike, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    r"""A learning rate that is constant within an epoch and falls linearly over epochs.

    .. math:: \eta_t = \eta_0 (1 - \lfloor t / s \rfloor / E)

    Args:
      learning_rate: initial rate, a scalar; may be traced.
      epochs: number of epochs E.
      steps_per_epoch: number of steps s in an epoch.

    Returns:
      Function from the step (int32 scalar) to the rate (float32 scalar).

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.optimizer import linear_decay
      >>> schedule = linear_decay(0.1, epochs=4, steps_per_epoch=10)
      >>> [round(float(schedule(jnp.int32(step))), 3) for step in (0, 9, 10, 39)]
      [0.1, 0.1, 0.075, 0.025]
    """

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        epoch = jnp.asarray(step, jnp.int32) // steps_per_epoch
        remaining = 1 - epoch.astype(jnp.float32) / epochs
        return jnp.asarray(learning_rate, jnp.float32) * remaining

    return schedule


def sgd(
    learning_rate: jax.typing.ArrayLike | optax.Schedule, weight_decay: jax.typing.ArrayLike
) -> optax.GradientTransformation:
    r"""SGD as torch's: weight decay on all parameters, added to the gradient.

    .. math:: \theta \leftarrow \theta - \eta_t (g + \lambda \theta)

    Args:
      learning_rate: rate or schedule.
      weight_decay: λ, applied to kernels, biases and normalization parameters alike.

    Returns:
      An optax transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from enorm_jax.optimizer import sgd
      >>> optimizer = sgd(0.5, weight_decay=0.1)
      >>> w = jnp.array(2.0)
      >>> updates, _ = optimizer.update(jnp.array(1.0), optimizer.init(w), w)
      >>> round(float(optax.apply_updates(w, updates)), 3)
      1.4
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.scale_by_learning_rate(learning_rate)
    )
