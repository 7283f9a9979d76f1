"""Normalization layers, as values that a model takes: ``norm(train=..., name=...)``."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from enorm_jax.scaling import wide

AxisName = str | tuple[str, ...] | None


class RunningNorm(nn.Module):
    """What normalizations with running estimates share; `BatchNorm` tells the attributes."""

    train: bool
    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: AxisName = None
    use_scale: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: jax.typing.DTypeLike | None = None

    def _affine(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """γ and β, parameters or constants of the input's dtype."""
        units = x.shape[-1:]
        scale = jnp.ones(units, x.dtype)
        bias = jnp.zeros(units, x.dtype)
        if self.use_scale:
            scale = self.param("scale", self.scale_init, units)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, units)
        return scale, bias

    def _estimates(self, x: jax.Array) -> tuple[nn.Variable, nn.Variable]:
        """Running mean and variance."""
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
        return mean, self.variable("batch_stats", "var", jnp.ones, x.shape[-1:])

    def _out(self, y: jax.Array, *inputs: jax.Array) -> jax.Array:
        """The result in its dtype."""
        return y.astype(jnp.result_type(*inputs) if self.dtype is None else self.dtype)


class BatchNorm(RunningNorm):
    r"""Batch normalization with torch's semantics.

    .. math::
        y = \gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta

    In training, mean and (biased) variance are the batch's, and the running estimates move
    by ``momentum`` towards the batch's mean and *unbiased* variance. Otherwise the running
    estimates normalize. Flax's own BatchNorm keeps the biased variance, and its momentum is
    one minus torch's. Of a batch that is sharded under `jax.jit`, statistics are those of the
    whole; inside `jax.shard_map` and `jax.pmap`, of each device's share, unless `axis_name` says
    along which axis the shares lie.

    Attributes:
      train: whether to use the batch's statistics and update the running ones.
      momentum: weight of the new batch in the running estimates.
      epsilon: added to the variance.
      axis_name: of the axis, or axes, of `jax.shard_map`, `jax.pmap` or `jax.vmap` along which the
        batch is shared out, all shares of one size: statistics are then those of the whole.
      use_scale: whether to multiply with γ.
      use_bias: whether to add β.
      scale_init: initializer of γ.
      bias_init: initializer of β.
      dtype: of the result; None for what input and parameters promote to. Statistics and
        parameters are in float32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax.norms import BatchNorm
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = BatchNorm(train=False).init(jax.random.key(0), x)
      >>> _, new = BatchNorm(train=True).apply(variables, x, mutable=["batch_stats"])
      >>> [round(float(new["batch_stats"][name][0]), 3) for name in ("mean", "var")]
      [0.2, 1.1]

    Reference:
      Ioffe and Szegedy, `Batch Normalization <https://arxiv.org/abs/1502.03167>`_, ICML 2015.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes each unit.

        Args:
          x: activations of shape (..., units); all axes but the last are averaged over.

        Returns:
          Array of the same shape.

        Raises:
          ValueError: if there is one example only to train on; its variance is undefined.
        """
        scale, bias = self._affine(x)
        running_mean, running_var = self._estimates(x)
        if self.train:
            axis_name = None if self.is_initializing() else self.axis_name
            flat = wide(x.reshape(-1, x.shape[-1]))
            y, mean, var = normalize(flat, scale, bias, self.epsilon, axis_name)
            if not self.is_initializing():
                shares = jax.lax.psum(1, axis_name) if axis_name else 1
                running_mean.value = moved(running_mean.value, mean, self.momentum)
                var = var * unbiased(shares * len(flat))
                running_var.value = moved(running_var.value, var, self.momentum)
            return self._out(y.reshape(x.shape), x, scale, bias)
        gain = jax.lax.rsqrt(running_var.value + self.epsilon) * wide(scale)
        vectors = running_mean.value, gain, wide(bias)
        mean, gain, shift = (jnp.expand_dims(v, range(x.ndim - 1)) for v in vectors)
        return self._out((wide(x) - mean) * gain + shift, x, scale, bias)


def moved(estimate: jax.Array, new: jax.Array, momentum: float) -> jax.Array:
    r"""A running estimate, moved towards a batch's.

    .. math:: (1 - r) \hat s + r s

    Args:
      estimate: ŝ, (units,).
      new: s, (units,).
      momentum: r.

    Returns:
      Array of the same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.norms import moved
      >>> moved(jnp.array([0.0]), jnp.array([2.0]), 0.25).tolist()
      [0.5]
    """
    return (1 - momentum) * estimate + momentum * new


def normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    axis_name: AxisName = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Normalizes each unit by the batch's own mean and variance.

    .. math::
        y = \gamma \hat x + \beta, \quad \hat x = (x - \mu) / \sqrt{\sigma^2 + \epsilon}, \quad
        \bar x = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (\bar y - \tfrac1n \sum \bar y
        - \hat x \, \tfrac1n \sum \hat x \bar y)

    The derivative is written down so that the gradient takes two sums over the batch, those of
    scale and shift; derived step by step it takes five. Derivatives of higher order follow from it.
    Mean and variance are given for running estimates and have no derivative. They are computed in
    float32 at least: squares of float16 soon overflow, and bfloat16 has three digits.

    Args:
      x: (batch, units).
      scale: γ, (units,).
      bias: β, (units,).
      epsilon: added to the variance.
      axis_name: as in `BatchNorm`.

    Returns:
      y of x's shape, and the batch's mean and (biased) variance, (units,), in float32 at least.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.norms import normalize
      >>> y, mean, var = normalize(jnp.array([[1.0], [3.0]]), jnp.ones(1), jnp.zeros(1), 0.0)
      >>> y[:, 0].tolist(), float(mean[0]), float(var[0])
      ([-1.0, 1.0], 2.0, 1.0)

    Reference:
      Ioffe and Szegedy, `Batch Normalization <https://arxiv.org/abs/1502.03167>`_, ICML 2015.
    """
    y, mean, var = _normalize(wide(x), wide(scale), wide(bias), epsilon, axis_name)
    return y.astype(jnp.result_type(x, scale, bias)), mean, var


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: AxisName
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _normalized(x, scale, bias, epsilon, axis_name)


def _normalized(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: AxisName
) -> tuple[jax.Array, jax.Array, jax.Array]:
    mean = batch_mean(x, axis_name)
    centred = x - mean[None, :]
    var = batch_mean(centred * centred, axis_name)
    gain = jax.lax.rsqrt(var + epsilon) * scale
    return centred * gain[None, :] + bias[None, :], mean, var


def batch_mean(x: jax.Array, axis_name: AxisName) -> jax.Array:
    r"""The mean of a batch, of which each device may hold a share.

    .. math:: \frac1n \sum_i x_i

    Args:
      x: (batch, ...), or an equal share of it.
      axis_name: as in `BatchNorm`.

    Returns:
      Array without x's first axis.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax.norms import batch_mean
      >>> shares = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> jax.vmap(lambda x: batch_mean(x, "device"), axis_name="device")(shares).tolist()
      [2.5, 2.5]
    """
    mean = jnp.mean(x, axis=0)
    return jax.lax.pmean(mean, axis_name) if axis_name else mean


@_normalize.defjvp
def _normalize_jvp(epsilon: float, axis_name: AxisName, primals: Any, tangents: Any) -> Any:
    x, scale, bias = primals
    dx, dscale, dbias = tangents
    # Not `_normalize`, whose mean and variance would have no derivative in this one's derivative.
    y, mean, var = _normalized(x, scale, bias, epsilon, axis_name)
    inverse = jax.lax.rsqrt(var + epsilon)
    gain = inverse * scale
    normal = (x - mean[None, :]) * inverse[None, :]
    # Transposed, each of the two broadcasts is the one sum of its kind.
    shift = dbias - gain * batch_mean(dx, axis_name)
    slope = dscale - gain * batch_mean(normal * dx, axis_name)
    dy = gain[None, :] * dx + shift[None, :] + normal * slope[None, :]
    return (y, mean, var), (dy, jnp.zeros_like(mean), jnp.zeros_like(var))


def unbiased(n: int) -> float:
    """Bessel's correction n / (n - 1): from the biased to the unbiased variance of n numbers.

    Args:
      n: how many numbers the variance is of.

    Returns:
      The factor.

    Raises:
      ValueError: if n < 2.

    Example:
      >>> from enorm_jax.norms import unbiased
      >>> unbiased(4)
      1.3333333333333333
    """
    if n < 2:
        raise ValueError(
            f"batch normalization cannot train on a batch of {n}: its variance is undefined; "
            "use a batch of at least 2"
        )
    return n / (n - 1)
