"""How smooth a loss is where an optimizer goes: along its gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Smoothness(NamedTuple):
    """Estimates from below of two Lipschitz constants, along one line.

    Attributes:
      loss: largest change of the loss over the distance, between neighbours on the line.
      gradient: largest change of the gradient, in norm, over the distance, likewise.
    """

    loss: jax.Array
    gradient: jax.Array


def along_gradient(loss: Callable[[Any], jax.Array], params: Any, steps: jax.Array) -> Smoothness:
    r"""Lipschitz constants of a loss and its gradient, as steps of gradient descent see them.

    .. math::
        \theta_k = \theta - \eta_k \nabla L(\theta), \quad
        \max_{k} \frac{|L(\theta_k) - L(\theta_{k-1})|}{\|\theta_k - \theta_{k-1}\|}, \quad
        \max_{k} \frac{\|\nabla L(\theta_k) - \nabla L(\theta_{k-1})\|}
                      {\|\theta_k - \theta_{k-1}\|}

    with η_0 = 0. No point off the line is looked at, so that the constants over all parameters may
    be larger.

    Args:
      loss: function from parameters to a scalar.
      params: θ, a pytree.
      steps: 0 < η_1 < η_2 < ..., (K,), at least one.

    Returns:
      A `Smoothness` of scalars.

    Raises:
      ValueError: if there are no steps.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.smoothness import along_gradient
      >>> found = along_gradient(lambda x: 3 * x**2, jnp.array(1.0), jnp.array([0.01, 0.02]))
      >>> round(float(found.gradient), 3)  # its second derivative
      6.0

    Reference:
      Santurkar et al., `How Does Batch Normalization Help Optimization?
      <https://arxiv.org/abs/1805.11604>`_, NeurIPS 2018; for weight standardization Qiao et al.,
      `Micro-Batch Training <https://arxiv.org/abs/1903.10520>`_, 2019.
    """
    if not len(steps):
        raise ValueError("no steps to look along: give at least one")
    of = jax.value_and_grad(loss)
    value, gradient = of(params)
    length = optax.tree.norm(gradient)
    before, slope, last = value, gradient, jnp.zeros((), steps.dtype)
    losses, gradients = [], []
    for step in steps:
        there = jax.tree.map(lambda w, g, step=step: w - step.astype(w.dtype) * g, params, gradient)
        value, new = of(there)
        distance = (step - last) * length
        losses.append(jnp.abs(value - before) / distance)
        gradients.append(optax.tree.norm(jax.tree.map(jnp.subtract, new, slope)) / distance)
        before, slope, last = value, new, step
    return Smoothness(jnp.max(jnp.stack(losses)), jnp.max(jnp.stack(gradients)))
