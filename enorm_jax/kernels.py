"""Kernels computed from their parameters: weight normalization and weight standardization.

The layers are Flax's own, `nn.Dense` and `nn.Conv`, with all their arguments; only the kernel that
they multiply with is another function of the parameter of that name.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from enorm_jax.errors import InputError
from enorm_jax.norms import normalize
from enorm_jax.scaling import wide


def normalize_weights(direction: jax.Array, gain: jax.Array) -> jax.Array:
    r"""Weight normalization: a kernel as the direction and the norm of each output unit's weights.

    .. math:: W_{\cdot j} = g_j \, v_{\cdot j} / \|v_{\cdot j}\|_2

    Args:
      direction: v, (..., out); all axes but the last are a unit's fan-in.
      gain: g, (out,).

    Returns:
      Kernel of v's shape; 0 where v is.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.kernels import normalize_weights
      >>> normalize_weights(jnp.array([[3.0], [4.0]]), jnp.array([10.0])).ravel().tolist()
      [6.0, 8.0]

    Reference:
      Salimans and Kingma, `Weight Normalization <https://arxiv.org/abs/1602.07868>`_, NIPS 2016.
    """
    axes = tuple(range(direction.ndim - 1))
    squares = jnp.sum(jnp.square(wide(direction)), axes)
    # The root's derivative at 0 is not finite, and would be NaN times 0 in that of the kernel.
    factor = wide(gain) * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1))
    return (wide(direction) * jnp.expand_dims(factor, axes)).astype(direction.dtype)


def standardize_weights(
    kernel: jax.Array, *, center: bool = True, scale: bool = True, epsilon: float = 1e-5
) -> jax.Array:
    r"""Weight standardization: each output unit's weights at mean 0 and variance 1.

    .. math::
        \hat W_{\cdot j} = (W_{\cdot j} - \mu_j) / \sqrt{\sigma_j^2 + \epsilon}

    Mean and (biased) variance run over the fan-in. A kernel that starts with He's variance,
    2 / fan-in, is not far above the default ε where layers are wide: 0.0007 for 3072 inputs.

    Args:
      kernel: W, (..., out); all axes but the last are a unit's fan-in.
      center: whether to subtract the mean.
      scale: whether to divide by the deviation.
      epsilon: added to the variance, inside the root.

    Returns:
      Kernel of the same shape.

    Raises:
      InputError: if it is to be centred and each unit has a single weight, of which 0 would be
        left.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.kernels import standardize_weights
      >>> standardize_weights(jnp.array([[1.0], [3.0]]), epsilon=0.0).ravel().tolist()
      [-1.0, 1.0]

    Reference:
      Qiao et al., `Micro-Batch Training with Batch-Channel Normalization and Weight
      Standardization <https://arxiv.org/abs/1903.10520>`_, 2019.
    """
    flat = wide(kernel.reshape(-1, kernel.shape[-1]))
    if center and len(flat) == 1:
        raise InputError(
            f"a kernel of shape {kernel.shape} has one weight a unit, and centring would leave 0: "
            "choose wider layers, the plain one, or center=False"
        )
    if center and scale:  # as a batch of inputs, for the gradient that takes two sums
        units = jnp.ones_like(flat[0])
        result = normalize(flat, units, 0 * units, epsilon)[0]
    elif center:
        result = flat - jnp.mean(flat, axis=0, keepdims=True)
    elif scale:
        centred = flat - jnp.mean(flat, axis=0, keepdims=True)
        variance = jnp.mean(centred * centred, axis=0, keepdims=True)
        result = flat * jax.lax.rsqrt(variance + epsilon)
    else:
        result = flat
    return result.reshape(kernel.shape).astype(kernel.dtype)


class _WeightNormalized(nn.Module):
    """A layer whose ``kernel`` is v and whose ``gain`` starts at v's norms."""

    def param(self, name: str, init_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Declares a parameter; the kernel comes back normalized."""
        value = super().param(name, init_fn, *args, **kwargs)
        if name != "kernel":
            return value

        def norms(key: jax.Array) -> jax.Array:
            # The layer then starts as the plain one; a gain of 1 would lose He's scale.
            flat = wide(value.reshape(-1, value.shape[-1]))
            return jnp.linalg.norm(flat, axis=0).astype(value.dtype)

        return normalize_weights(value, super().param("gain", norms))


class WeightNormDense(_WeightNormalized, nn.Dense):
    r"""Dense layer with weight normalization: `nn.Dense` that multiplies with g v / ‖v‖.

    .. math:: y = x W + b, \quad W_{\cdot j} = g_j \, v_{\cdot j} / \|v_{\cdot j}\|_2

    Parameters are ``kernel`` (v, as `kernel_init` draws it), ``gain`` (g, starts at ‖v‖, so that
    the layer starts as the plain one; Flax's own WeightNorm starts at 1 and loses the scale of the
    initializer) and ``bias``. ENorm cannot balance v, whose norm means nothing: in a chain
    `enorm_step` refuses it; `infer_groups` balances g.

    Attributes:
      features: output units; and all others of `nn.Dense`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import WeightNormDense
      >>> params = WeightNormDense(4).init(jax.random.key(0), jnp.ones((2, 3)))["params"]
      >>> {name: leaf.shape for name, leaf in params.items()}
      {'kernel': (3, 4), 'gain': (4,), 'bias': (4,)}

    Reference:
      Salimans and Kingma, `Weight Normalization <https://arxiv.org/abs/1602.07868>`_, NIPS 2016.
    """


class WeightNormConv(_WeightNormalized, nn.Conv):
    """Convolution with weight normalization, one gain per output channel; see `WeightNormDense`.

    Attributes:
      features: output channels; and all others of `nn.Conv`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import WeightNormConv
      >>> conv = WeightNormConv(4, (3, 3), use_bias=False)
      >>> params = conv.init(jax.random.key(0), jnp.ones((1, 8, 8, 2)))["params"]
      >>> {name: leaf.shape for name, leaf in params.items()}
      {'kernel': (3, 3, 2, 4), 'gain': (4,)}

    Reference:
      Salimans and Kingma, `Weight Normalization <https://arxiv.org/abs/1602.07868>`_, NIPS 2016.
    """


class _WeightStandardized(nn.Module, kw_only=True):
    """A layer whose ``kernel`` is standardized before use."""

    center: bool = True
    scale: bool = True
    epsilon: float = 1e-5

    def param(self, name: str, init_fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Declares a parameter; the kernel comes back standardized."""
        value = super().param(name, init_fn, *args, **kwargs)
        if name != "kernel":
            return value
        return standardize_weights(
            value, center=self.center, scale=self.scale, epsilon=self.epsilon
        )


class WeightStandardizedDense(_WeightStandardized, nn.Dense):
    r"""Dense layer with weight standardization: `nn.Dense` that multiplies with (W - μ) / σ.

    .. math:: y = x \hat W + b, \quad \hat W_{\cdot j} = (W_{\cdot j} - \mu_j) /
        \sqrt{\sigma_j^2 + \epsilon}

    Parameters are those of the plain layer. The output is √(fan-in / 2) times as large as He's: use
    it where a normalization follows. ENorm cannot balance it: scaling a unit's weights changes
    next to nothing where their variance is far above ε, and scaling rows changes every unit's mean
    and deviation.

    Attributes:
      features: output units; and all others of `nn.Dense`.
      center: whether to subtract the mean.
      scale: whether to divide by the deviation.
      epsilon: added to the variance, inside the root.

    Raises:
      ValueError: as `standardize_weights`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import WeightStandardizedDense
      >>> layer = WeightStandardizedDense(4, use_bias=False)
      >>> y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((2, 3)))
      >>> bool(jnp.all(jnp.abs(y) < 1e-5))  # each unit's weights sum to 0
      True

    Reference:
      Qiao et al., `Micro-Batch Training with Batch-Channel Normalization and Weight
      Standardization <https://arxiv.org/abs/1903.10520>`_, 2019.
    """


class WeightStandardizedConv(_WeightStandardized, nn.Conv):
    """Convolution with weight standardization; see `WeightStandardizedDense`.

    Attributes:
      features: output channels; and all others of `nn.Conv`.
      center: whether to subtract the mean.
      scale: whether to divide by the deviation.
      epsilon: added to the variance, inside the root.

    Raises:
      ValueError: as `standardize_weights`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import WeightStandardizedConv
      >>> conv = WeightStandardizedConv(4, (3, 3), padding="VALID", use_bias=False)
      >>> y, _ = conv.init_with_output(jax.random.key(0), jnp.ones((1, 8, 8, 2)))
      >>> y.shape, bool(jnp.all(jnp.abs(y) < 1e-5))
      ((1, 6, 6, 4), True)

    Reference:
      Qiao et al., `Micro-Batch Training with Batch-Channel Normalization and Weight
      Standardization <https://arxiv.org/abs/1903.10520>`_, 2019.
    """
