"""How far hidden units are from elimination singularities: points where a unit is always off."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn, jaxpr_as_fun


class Activity(NamedTuple):
    """How the units of a layer stand to their ReLU, over samples and positions.

    Attributes:
      distance: mean over deviation of the signal before the ReLU, (units,): how many deviations
        a unit's mean lies above the ReLU's threshold; far below it, the unit is always off.
      active: fraction of samples and positions where the signal is positive, (units,); nan where
        a signal is.
    """

    distance: jax.Array
    active: jax.Array


def activity(x: jax.Array) -> Activity:
    r"""The distance of each unit from always being off.

    .. math:: \mathrm{mean}(x_j) / \mathrm{std}(x_j), \quad \mathrm{mean}(x_j > 0)

    Both stay when a unit is multiplied by d > 0, so that networks that are rescalings of one
    another get the same. Of a batch normalization with scale γ and shift β the first is β / |γ|
    on its own batch, whatever the layers before it do.

    Args:
      x: signals before a ReLU, (..., units).

    Returns:
      An `Activity`. A unit without any deviation is infinitely far, or by rounding some 10⁷
      deviations, and nan if it is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.singularities import activity
      >>> distance, active = activity(jnp.array([[-3.0, 1.0], [-1.0, 3.0]]))
      >>> distance.tolist(), active.tolist()
      ([-2.0, 2.0], [0.0, 1.0])

    Reference:
      Qiao et al., `Micro-Batch Training with Batch-Channel Normalization and Weight
      Standardization <https://arxiv.org/abs/1903.10520>`_, 2019.
    """
    flat = x.reshape(-1, x.shape[-1])
    positive = jnp.where(jnp.isnan(flat), flat, (flat > 0).astype(x.dtype))
    return Activity(flat.mean(0) / flat.std(0), positive.mean(0))


def relu_inputs(apply_fn: Callable[..., Any], *args: Any) -> list[jax.Array]:
    """The signals before each ReLU of a network, found in what its function computes.

    Args:
      apply_fn: function that calls `jax.nn.relu` (`flax.linen.relu`). Calls from within a loop,
        `jax.checkpoint` or another compiled function are passed over.
      *args: its arguments.

    Returns:
      The argument of each ReLU, in the order of computation.

    Raises:
      ValueError: if there is no ReLU.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax.singularities import relu_inputs
      >>> relu_inputs(lambda x: jax.nn.relu(2 * x).sum(), jnp.array([-1.0, 1.0]))[0].tolist()
      [-2.0, 2.0]
    """
    closed = jax.make_jaxpr(apply_fn)(*args)
    found = [eqn.invars[0] for eqn in closed.jaxpr.eqns if _is_relu(eqn)]
    if not found:
        raise ValueError("the function calls no jax.nn.relu outside of loops: pass one that does")
    unnamed = closed.jaxpr.debug_info.with_unknown_names()
    signals = closed.replace(jaxpr=closed.jaxpr.replace(outvars=found, debug_info=unnamed))
    return list(jaxpr_as_fun(signals)(*jax.tree.leaves(args)))


def _is_relu(eqn: JaxprEqn) -> bool:
    """Whether an equation is a call of `jax.nn.relu`, with its own derivative or without."""
    inner = eqn.params.get("call_jaxpr")
    calls = [eqn, *(inner.eqns if inner is not None else ())]
    return any(call.params.get("name") == "relu" for call in calls)


def eliminated(active: jax.Array, fraction: float = 0.01) -> jax.Array:
    """The share of units that are active on less than a fraction of samples and positions.

    Args:
      active: as in `Activity`, (units,).
      fraction: below which a unit counts as off.

    Returns:
      Share from 0 to 1, a scalar; nan if a unit's activity is.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.singularities import eliminated
      >>> float(eliminated(jnp.array([0.0, 0.5, 0.6, 1.0])))
      0.25
    """
    off = jnp.where(jnp.isnan(active), active, (active < fraction).astype(active.dtype))
    return off.mean()
