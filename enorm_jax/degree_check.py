"""Whether an optimizer's state follows a rescaling as the table of `opt_state` says."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from enorm_jax.opt_state import Degrees, walk_state
from enorm_jax.state_rescaling import fast_params

Fields = list[tuple[str, int, list[np.ndarray]]]


def check_degrees(optimizer: Any, params: Any, degrees: Degrees | None = None) -> None:
    """Measures how an optimizer's state scales with the gradients, and compares.

    Two steps on stand-ins of one number per parameter, once with gradients half as large: a field
    that `rescale_state` takes for a power k of the gradients must become 2^-k times as large. An
    optimizer that needs more than gradients and parameters is not measured. Takes about a second
    for a hundred parameters, whatever their size; works under `jit`.

    Args:
      optimizer: optax transform, or `optax.MultiSteps`.
      params: the parameters that it will be initialized with.
      degrees: as in `rescale_state`.

    Raises:
      ValueError: if a state of unknown class holds arrays that may have to be rescaled, or a
        known field scales otherwise.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from enorm_jax import check_degrees
      >>> params = {"w": jnp.ones(3)}
      >>> check_degrees(optax.adamw(1e-3), params)
      >>> try:
      ...     check_degrees(optax.adamax(1e-3), params)
      ... except ValueError as error:
      ...     print(str(error).partition(":")[0])
      ScaleByAdamState.nu of this optimizer does not scale as the gradient to the power 2
    """
    shapes = jax.eval_shape(optimizer.init, params)
    walk_state(shapes, params, lambda tree, *_: tree, degrees)
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.inner_opt
    with jax.ensure_compile_time_eval(), jax.numpy_dtype_promotion("standard"):
        # A clipping threshold only shows in large gradients, an initial value only in small ones;
        # a threshold may be a share of the parameters' norm.
        for size, weight in ((1.0, 0.0), (1e3, 0.0), (1e-3, 0.0), (1e-3, 1.0)):
            if not (fault := _fault(optimizer, params, degrees, size, weight)):
                return
        field, power = fault.split()
        name, _, attribute = field.partition(".")
        raise ValueError(
            f"{field} of this optimizer does not scale as the gradient to the power {power}: pass "
            f"degrees={{{name}: {{{attribute!r}: power, ...}}}} with the powers of the weight that "
            "its fields follow"
        )


def _fault(optimizer: Any, params: Any, degrees: Degrees | None, size: float, weight: float) -> str:
    """The first field that scales otherwise and its power, or an empty text."""
    try:
        whole, half = (
            _fields(optimizer, params, degrees, size * factor, weight) for factor in (1, 0.5)
        )
    except Exception:  # it needs other arguments or shapes: nothing is known about it
        return ""
    for (place, exponent, before), (_, _, after) in zip(whole, half, strict=True):
        for a, b in zip(before, after, strict=True):
            if exponent <= 0 and not np.allclose(b, a * 0.5**-exponent, rtol=1e-2, atol=0):
                return f"{place} {-exponent}"
    return ""


def _fields(
    optimizer: Any, params: Any, degrees: Degrees | None, size: float, weight: float
) -> Fields:
    """The fields that may scale, after two steps with gradients of a size, at a weight."""

    def stand_in(leaf: Any, value: float) -> jax.Array:
        return jnp.full((1,) * leaf.ndim, value, leaf.dtype)

    standing = jax.tree.map(lambda leaf: stand_in(leaf, weight), params)
    fast = fast_params(standing)
    state = optimizer.init(standing)
    for value in (1.0, 0.7):
        grads = jax.tree.map(lambda leaf, value=value: stand_in(leaf, size * value), fast)
        _, state = optimizer.update(grads, state, standing)
    fields: Fields = []

    def visit(tree: Any, exponent: int, place: str) -> Any:
        leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
        fields.append((place, exponent, leaves))
        return tree

    walk_state(state, fast, visit, degrees)
    return fields
