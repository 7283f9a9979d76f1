"""Cross-layer equalization: ENorm after training, until it has converged."""

import math

import jax
import jax.numpy as jnp

from enorm_jax.enorm import cumulative_scales, require_count
from enorm_jax.groups import Groups, Params
from enorm_jax.scaling import Scales, rescale


def equalize(
    params: Params,
    groups: Groups | None = None,
    *,
    p: float = jnp.inf,
    c: jax.typing.ArrayLike = 1.0,
    tolerance: float = 1e-4,
    max_cycles: int = 1000,
    clamp: float | None = None,
) -> Params:
    r"""Rescales a trained network until the ranges on both sides of every unit are equal.

    .. math::
        d_i = \sqrt{ \|W_{k+1}[i, :]\|_\infty / \|W_k[:, i]\|_\infty }
        \quad \text{until} \quad \max |\log d| < \text{tolerance}

    A ReLU network computes the same function before and after, but one step size for a whole
    kernel, as in per-tensor quantization, loses less of it. Biases scale with their units. The
    absorption of high biases into the next layer, which the reference does between equalization
    and the quantization of activations, is left out.

    A normalization layer should be folded into its kernel first: before, a kernel that feeds it
    has no scale of its own.

    Args:
      params: trained parameters.
      groups: what shares a unit's scale, as `infer_groups` finds it; None for a chain.
      p: norm; `jnp.inf` is the range.
      c: ratio of outgoing to incoming norm.
      tolerance: stops once a cycle changes no scale by more than this share.
      max_cycles: stops at the latest after so many cycles.
      clamp: keeps each unit's scale within [1 / clamp, clamp], > 1; None for no bounds.

    Returns:
      Rescaled parameters, same structure, shapes and dtypes.

    Raises:
      ValueError: if an argument is out of range, or as `enorm_step`.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax import equalize
      >>> params = {"layer_00": {"kernel": jnp.array([[8.0, 1.0]])},
      ...           "layer_01": {"kernel": jnp.array([[2.0], [1.0]])}}
      >>> [layer["kernel"].ravel().tolist() for layer in equalize(params).values()]
      [[4.0, 1.0], [4.0, 1.0]]

    Reference:
      Nagel et al., `Data-Free Quantization Through Weight Equalization and Bias Correction
      <https://arxiv.org/abs/1906.04721>`_, ICCV 2019.
    """
    scales = equalizing_scales(
        params, groups, p=p, c=c, tolerance=tolerance, max_cycles=max_cycles, clamp=clamp
    )[0]
    return rescale(params, scales, groups)


def equalizing_scales(
    params: Params,
    groups: Groups | None = None,
    *,
    p: float = jnp.inf,
    c: jax.typing.ArrayLike = 1.0,
    tolerance: float = 1e-4,
    max_cycles: int = 1000,
    clamp: float | None = None,
) -> tuple[Scales, jax.Array]:
    """The scales that `equalize` applies, and the number of cycles that they took.

    Args:
      params: trained parameters.
      groups: as in `equalize`, and so are the other arguments.
      p: norm.
      c: ratio of outgoing to incoming norm.
      tolerance: bound on the change of a cycle.
      max_cycles: bound on the number of cycles.
      clamp: bound on each scale and its inverse.

    Returns:
      One vector per group, for `rescale`, and the number of cycles, int32.

    Raises:
      ValueError: as `equalize`.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.equalize import equalizing_scales
      >>> params = {"layer_00": {"kernel": jnp.array([[8.0]])},
      ...           "layer_01": {"kernel": jnp.array([[2.0]])}}
      >>> (scale,), cycles = equalizing_scales(params)
      >>> float(scale[0]), int(cycles)
      (0.5, 2)
    """
    require_count("max_cycles", max_cycles)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    if clamp is not None and not clamp > 1:
        raise ValueError(f"clamp must be above 1, got {clamp}: scales stay in [1 / clamp, clamp]")

    def cycle(state: tuple[Scales, jax.Array, jax.Array]) -> tuple[Scales, jax.Array, jax.Array]:
        total, _, number = state
        step = cumulative_scales(rescale(params, total, groups), c, groups=groups, p=p)
        new = jax.tree.map(lambda t, d: _clamped(t * d, clamp), total, step)
        change = [jnp.max(jnp.abs(jnp.log(n / t))) for n, t in zip(new, total, strict=True)]
        return new, jnp.max(jnp.stack(change)).astype(jnp.float32), number + 1

    def unsettled(state: tuple[Scales, jax.Array, jax.Array]) -> jax.Array:
        return (state[1] >= tolerance) & (state[2] < max_cycles)

    shapes = jax.eval_shape(lambda tree: cumulative_scales(tree, c, groups=groups, p=p), params)
    ones = tuple(jnp.ones(d.shape, d.dtype) for d in shapes)
    if not any(d.size for d in ones):
        return ones, jnp.zeros((), jnp.int32)
    start = ones, jnp.full((), math.inf, jnp.float32), jnp.zeros((), jnp.int32)
    scales, _, cycles = jax.lax.while_loop(unsettled, cycle, start)
    return scales, cycles


def _clamped(scale: jax.Array, clamp: float | None) -> jax.Array:
    return scale if clamp is None else jnp.clip(scale, 1 / clamp, clamp)
