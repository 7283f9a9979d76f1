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
        refusal = ""
        for size, weight in ((1.0, 0.0), (1e3, 0.0), (1e-3, 0.0), (1e-3, 1.0)):
            if not (refusal := _refusal(optimizer, params, degrees, size, weight)):
                return
        raise ValueError(refusal)


def _refusal(
    optimizer: Any, params: Any, degrees: Degrees | None, size: float, weight: float
) -> str:
    """What to tell of the first field that scales otherwise, or an empty text."""
    try:
        whole, half = (
            _fields(optimizer, params, degrees, size * factor, weight) for factor in (1, 0.5)
        )
    except Exception:  # it needs other arguments or shapes: nothing is known about it
        return ""
    fields = [(*field, after) for field, (_, _, after) in zip(whole, half, strict=True)]
    for place, exponent, before, after in fields:
        if exponent > 0 or _follows(before, after, exponent):
            continue
        name, _, attribute = place.partition(".")
        powers, source = f"{{{attribute!r}: power, ...}}", ""
        if measured := _measured(name, fields):
            powers, source = str(measured), " in a test with gradients of two sizes"
        return (
            f"{place} of this optimizer does not scale as the gradient to the power {-exponent}: "
            f"pass degrees={{{name}: {powers}}}, the powers of the weight that its fields "
            f"follow{source}"
        )
    return ""


def _follows(before: list[np.ndarray], after: list[np.ndarray], exponent: int) -> bool:
    """Whether a field follows a power of the weight, where gradients are half as large after."""
    pairs = zip(before, after, strict=True)
    return all(np.allclose(b, a * 0.5**-exponent, rtol=1e-2, atol=0) for a, b in pairs)


def _measured(name: str, fields: list[Any]) -> dict[str, int]:
    """The powers of the weight that the fields of a class follow; empty where one follows none."""
    of_class: dict[str, list[Any]] = {}
    for place, *pair in fields:
        of, _, field = place.partition(".")
        if of == name:
            of_class.setdefault(field, []).append(pair)
    powers = {}
    for field, states in of_class.items():
        for power in (states[0][0], 0, -1, -2):
            if power > 0 or all(_follows(before, after, power) for _, before, after in states):
                powers[field] = power
                break
        else:
            return {}
    # All 0 where gradients were clipped or normalized as a whole: their norm follows no weight.
    return powers if any(powers.values()) else {}


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
