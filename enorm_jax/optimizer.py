"""The study's optimizer, SGD, with momentum, and Path-SGD: weight decay, decay per epoch."""

import functools
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from enorm_jax.path_sgd import scale_by_path


def linear_decay(
    learning_rate: jax.typing.ArrayLike, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    r"""A learning rate that is constant within an epoch and falls linearly over epochs.

    .. math:: \eta_t = \eta_0 \max(0, 1 - \lfloor t / s \rfloor / E)

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
    falling = optax.linear_schedule(learning_rate, 0.0, epochs)
    return lambda step: falling(jnp.asarray(step, jnp.int32) // steps_per_epoch)


# From learning rate and weight decay.
Optimizer = Callable[
    [jax.typing.ArrayLike | optax.Schedule, jax.typing.ArrayLike], optax.GradientTransformation
]

Schedule = Literal["linear", "constant", "notebook"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


def schedule(
    name: Schedule, learning_rate: jax.typing.ArrayLike, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    r"""A schedule of the study or of its public notebook, constant within an epoch e.

    .. math::
        \text{linear:}\; \eta_0 (1 - e / E), \quad
        \text{constant:}\; \eta_0, \quad
        \text{notebook:}\; \eta_0 - 0.1 \, e / E

    The notebook's decay starts from a rate of 0.1 whatever the rate is. With 0.05, as for
    ENorm + BN at p >= 15, it reaches 0 in mid-training and is negative from there.

    Args:
      name: ``"linear"``, ``"constant"`` or ``"notebook"``.
      learning_rate: initial rate η_0, a scalar; may be traced.
      epochs: number of epochs E.
      steps_per_epoch: number of steps in an epoch.

    Returns:
      Function from the step to the rate.

    Raises:
      ValueError: if there is no such schedule.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.optimizer import schedule
      >>> rate = schedule("notebook", 0.05, epochs=60, steps_per_epoch=1)
      >>> [round(float(rate(jnp.int32(epoch))), 4) for epoch in (0, 30, 59)]
      [0.05, 0.0, -0.0483]
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}, got {name!r}")
    if name == "linear":
        return linear_decay(learning_rate, epochs, steps_per_epoch)
    if name == "constant":
        return lambda step: jnp.asarray(learning_rate, jnp.float32)
    fall = linear_decay(0.1, epochs, steps_per_epoch)
    return lambda step: jnp.asarray(learning_rate, jnp.float32) + fall(step) - fall(0)


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


@functools.cache  # equal arguments give one value, so that programs compiled for it are shared
def momentum_sgd(momentum: float = 0.9) -> Optimizer:
    r"""SGD with momentum as torch's, as a value: weight decay is part of what accumulates.

    .. math:: m \leftarrow \beta m + g + \lambda \theta, \quad \theta \leftarrow \theta - \eta_t m

    Args:
      momentum: β.

    Returns:
      Function from learning rate and weight decay to an optax transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.optimizer import momentum_sgd
      >>> optimizer = momentum_sgd(0.5)(1.0, weight_decay=0.0)
      >>> state, g = optimizer.init(jnp.zeros(())), jnp.ones(())
      >>> for _ in range(2):
      ...     update, state = optimizer.update(g, state, jnp.zeros(()))
      >>> float(update)
      -1.5
    """

    def optimizer(
        learning_rate: jax.typing.ArrayLike | optax.Schedule, weight_decay: jax.typing.ArrayLike
    ) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.trace(momentum),
            optax.scale_by_learning_rate(learning_rate),
        )

    return optimizer


def path_sgd(
    learning_rate: jax.typing.ArrayLike | optax.Schedule, weight_decay: jax.typing.ArrayLike
) -> optax.GradientTransformation:
    r"""SGD whose gradient is divided by the paths through each weight, on a chain of dense layers.

    .. math:: \theta \leftarrow \theta - \eta_t (g \, \bar\kappa / \kappa + \lambda \theta)

    Weight decay is not divided, so that the whole step commutes with rescaling.

    Args:
      learning_rate: rate or schedule.
      weight_decay: λ, on all parameters.

    Returns:
      An optax transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from enorm_jax.optimizer import path_sgd
      >>> params = {"layer_00": {"kernel": jnp.array([[2.0]])},
      ...           "layer_01": {"kernel": jnp.array([[2.0]])}}
      >>> optimizer = path_sgd(0.5, weight_decay=0.0)
      >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
      >>> [float(layer["kernel"][0, 0]) for layer in updates.values()]
      [-1.0, -1.0]

    Reference:
      Neyshabur et al., `Path-SGD <https://arxiv.org/abs/1506.02617>`_, NIPS 2015.
    """
    return optax.chain(
        scale_by_path(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
