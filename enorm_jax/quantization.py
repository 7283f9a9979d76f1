"""Post-training quantization of weights, and the folding of batch norm before it."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

Granularity = Literal["tensor", "channel"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)


def quantize_weights(params: Any, bits: int, granularity: Granularity = "tensor") -> Any:
    r"""Rounds every matrix to a symmetric grid of equal steps; vectors stay as they are.

    .. math::
        s = \max |W| / (2^{b-1} - 1), \quad W \leftarrow s \, \mathrm{round}(W / s)

    Args:
      params: pytree of parameters; kernels are (..., out).
      bits: bits b of a weight, 2 to 32.
      granularity: one step s for the whole tensor, or one for each output channel.

    Returns:
      Parameters of the same structure, shapes and dtypes, on the grid.

    Raises:
      ValueError: if bits are none of 2 to 32, or there is no such granularity.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.quantization import quantize_weights
      >>> quantize_weights({"kernel": jnp.array([[3.0, 1.2, -0.4]])}, bits=3)["kernel"].tolist()
      [[3.0, 1.0, -0.0]]
    """
    if not (isinstance(bits, (int, np.integer)) and 2 <= bits <= 32):
        raise ValueError(
            f"bits must be a whole number from 2, of which one is the sign, to 32, got {bits!r}"
        )
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity must be one of {GRANULARITIES}, got {granularity!r}")
    levels = 2 ** (bits - 1) - 1

    def quantized(leaf: jax.Array) -> jax.Array:
        if leaf.ndim < 2:
            return leaf
        axes = None if granularity == "tensor" else tuple(range(leaf.ndim - 1))
        largest = jnp.max(jnp.abs(leaf), axis=axes, keepdims=True)
        step = jnp.where(largest > 0, largest, 1) / levels
        return jnp.round(leaf / step) * step

    return jax.tree.map(quantized, params)


def fold_batch_norm(
    params: Mapping[str, Any], batch_stats: Mapping[str, Any], epsilon: float = 1e-5
) -> dict[str, Any]:
    r"""Turns layers followed by batch norm into layers with a bias that compute the same.

    .. math::
        g = \gamma / \sqrt{\sigma^2 + \epsilon}, \quad
        W[:, j] \leftarrow g_j W[:, j], \quad b_j \leftarrow g_j (b_j - \mu_j) + \beta_j

    Args:
      params: parameters of a `FullyConnected`: ``layer_00``, ``norm_00``, ``layer_01``, ...
      batch_stats: running statistics, ``{"norm_00": {"mean": (units,), "var": (units,)}, ...}``;
        empty for a network without batch norm.
      epsilon: as in the normalization layers.

    Returns:
      Parameters of a `FullyConnected` with bias and without normalization.

    Raises:
      ValueError: if a layer's normalization keeps no running statistics, as GN's, or is more than
        batch normalization, or a layer has more than kernel and bias, as weight normalization's
        gain.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.quantization import fold_batch_norm
      >>> ones = jnp.ones(1)
      >>> params = {"layer_00": {"kernel": jnp.ones((1, 1))},
      ...           "norm_00": {"scale": 2 * ones, "bias": ones}}
      >>> folded = fold_batch_norm(params, {"norm_00": {"mean": ones, "var": ones}}, epsilon=0.0)
      >>> folded["layer_00"]["kernel"].tolist(), folded["layer_00"]["bias"].tolist()
      ([[2.0]], [-1.0])
    """
    folded = {}
    for name, layer in params.items():
        if "kernel" not in layer:
            continue
        if more := sorted(layer.keys() - {"kernel", "bias"}):
            raise ValueError(f"{name} has {', '.join(more)}: only plain layers can be folded")
        kernel = layer["kernel"]
        bias = layer.get("bias", jnp.zeros(kernel.shape[-1], kernel.dtype))
        norm = name.replace("layer", "norm")
        if norm in params and "var" not in batch_stats.get(norm, {}):
            raise ValueError(
                f"{norm} has no running statistics: pass the batch_stats of its batch "
                "normalization; no other can be folded"
            )
        if norm in batch_stats:
            learned = params.get(norm, {})
            gain = learned.get("scale", 1.0) * jax.lax.rsqrt(batch_stats[norm]["var"] + epsilon)
            kernel = kernel * gain[None, :]
            bias = gain * (bias - batch_stats[norm]["mean"]) + learned.get("bias", 0.0)
        folded[name] = {"kernel": kernel, "bias": bias}
    return folded
