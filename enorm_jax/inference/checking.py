"""Checks by computing that rescaling a network's groups leaves its function as it is."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from enorm_jax.groups import Groups, Params, require_groups
from enorm_jax.scaling import Scales, rescale

# Of the largest output; by powers of 2 a right rescaling changes nothing but underflow.
_TOLERANCE = 1e-5


def check(
    apply_fn: Callable[..., Any], params: Params, groups: Groups, *inputs: Any, seed: int = 0
) -> Groups:
    r"""Rescales all groups at random and verifies that the function is unchanged.

    .. math:: f(\mathrm{rescale}(\theta, d), x) = f(\theta, x), \quad d_i \in \{1/8, ..., 8\}

    The scales are powers of 2, which multiply exactly, so that a right grouping changes next to
    nothing in any precision and at any depth. Parameters that are zero, as fresh biases are, and
    inputs of nothing but zeros prove nothing: random numbers replace them for the check. Where all
    outputs are 0, as behind a last ReLU that is off, it is made with absolute values instead.

    Args:
      apply_fn: function ``(params, *inputs) -> outputs``, as for `infer_groups`.
      params: pytree of parameters.
      groups: groups to verify.
      *inputs: example inputs.
      seed: of the scales.

    Returns:
      The same groups, marked as checked.

    Raises:
      ValueError: if the output changes by more than 1e-5 of its largest number, or is not
        finite; the message names the groups at fault and their tensors. Also if there are shapes
        instead of numbers, or all outputs are 0 or none is floating, which proves nothing.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import check, infer_groups
      >>> params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 1))}
      >>> def apply(params, x):
      ...     return jax.nn.relu(x @ params["a"]) @ params["b"]
      >>> groups = infer_groups(apply, params, jnp.ones((1, 2)), check=False)
      >>> check(apply, params, groups, jnp.ones((1, 2))).checked
      True
    """
    require_groups(groups)
    _require_numbers(params, *inputs)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: _without_zeros(leaf, rng), params)
    inputs = jax.tree.map(
        lambda leaf: _without_zeros(leaf, rng) if _is_array(leaf) and not _tells(leaf) else leaf,
        inputs,
    )
    groups.leaves(params)
    if not groups.groups:
        return dataclasses.replace(groups, checked=True)
    outputs = jax.jit(lambda params: apply_fn(params, *inputs))
    before = outputs(params)
    if not any(map(_tells, jax.tree.leaves(before))):
        params, inputs = jax.tree.map(_absolute, (params, inputs))
        outputs = jax.jit(lambda params: apply_fn(params, *inputs))
        before = outputs(params)
    _require_telling(before)

    def change(scales: Scales) -> float:
        return _change(before, outputs(rescale(params, scales, groups)))

    scales = tuple(_powers_of_two(rng, group.size) for group in groups)
    if change(scales) <= _TOLERANCE:
        return dataclasses.replace(groups, checked=True)
    faults = []
    for number, group in enumerate(groups):
        alone = tuple(d if k == number else jnp.ones_like(d) for k, d in enumerate(scales))
        if not (by := change(alone)) <= _TOLERANCE:
            tensors = [slot.name for slot in group.slots]
            faults.append(f"group {number} ({', '.join(tensors)}) changes it by {by:.0e}")
    raise ValueError(
        f"rescaling these groups changes the function: {'; '.join(faults) or 'all together'}; "
        "infer the groups of this very function, and report it if they were"
    )


def _require_numbers(*trees: Any) -> None:
    """Raises where there is nothing to compute with.

    Args:
      *trees: parameters and inputs.

    Raises:
      ValueError: if a leaf is a `jax.ShapeDtypeStruct`, or is being traced.
    """
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                "groups are checked by computing, but there are only shapes: pass arrays, or "
                "infer_groups(..., check=False)"
            )
        if isinstance(leaf, jax.core.Tracer):
            raise ValueError(
                "groups are checked by computing, but parameters or inputs are being traced: "
                "infer groups once, outside of jit and other transformations"
            )


def dtype_of(leaf: Any) -> Any:
    """The dtype of an array, or that which JAX gives a Python number."""
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _without_zeros(leaf: Any, rng: np.random.Generator) -> Any:
    """An array with random numbers in place of zeros, if it is floating."""
    if not jnp.issubdtype(dtype_of(leaf), jnp.floating):
        return leaf
    noise = jnp.asarray(rng.uniform(0.05, 0.15, np.shape(leaf)), dtype_of(leaf))
    zeros = jnp.asarray(leaf == 0, noise.dtype)
    return leaf + noise * zeros  # not `where`, which asks for equal shardings


def _absolute(leaf: Any) -> Any:
    floating = _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.abs(leaf) if floating else leaf


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (np.ndarray, jax.Array))


def _tells(leaf: Any) -> bool:
    """Whether an array is floating and not 0 everywhere."""
    return jnp.issubdtype(dtype_of(leaf), jnp.inexact) and bool(jnp.any(leaf))


def _powers_of_two(rng: np.random.Generator, size: int) -> jax.Array:
    return jnp.asarray(2.0 ** rng.integers(-3, 4, size), jnp.float32)


def _require_telling(outputs: Any) -> None:
    """Raises where no change of the outputs would show."""
    if not all(np.isfinite(array).all() for array in _arrays(outputs)):
        raise ValueError(
            "the function's output is not finite at these params, so that nothing can be checked: "
            "pass inputs and params at which it is"
        )
    if not any(map(_tells, jax.tree.leaves(outputs))):
        raise ValueError(
            "the function has no floating output that is not 0 at these inputs, so that nothing "
            "can be checked: return its logits, and pass inputs at which they are not 0"
        )


def _change(before: Any, after: Any) -> float:
    """The largest change of an output, relative to the largest number in its array."""
    return max(map(_relative, _arrays(before), _arrays(after)), default=0.0)


def _arrays(outputs: Any) -> Sequence[np.ndarray]:
    leaves = [leaf for leaf in jax.tree.leaves(outputs) if not _is_key(leaf)]
    return [np.asarray(jnp.asarray(leaf).astype(jnp.float32)) for leaf in leaves]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _relative(before: np.ndarray, after: np.ndarray) -> float:
    if not before.size:
        return 0.0
    change = float(np.max(np.abs(after - before)))
    scale = float(np.max(np.abs(before)))
    return 0.0 if change == 0 else change / scale if scale else np.inf
