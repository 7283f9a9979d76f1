"""The networks of the papers."""

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

from enorm_jax.layers import PRECISIONS, Precision, dot_general_bfloat16

Norm = Callable[..., nn.Module]
Dense = Callable[..., nn.Module]
Initializer = Literal["he_uniform", "he_normal"]
KernelInit = Initializer | nn.initializers.Initializer
INITIALIZERS = {
    "he_uniform": nn.initializers.he_uniform(),
    # A normal distribution that is not cut off, as torch's.
    "he_normal": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
}


def initializer(kernel_init: KernelInit) -> Any:
    """The initializer of a name, or one of Flax's as it is.

    Args:
      kernel_init: ``"he_uniform"``, ``"he_normal"``, or a function of key, shape and dtype.

    Returns:
      A function of key, shape and dtype.

    Raises:
      ValueError: if there is no such name.

    Example:
      >>> import jax
      >>> from enorm_jax.models import initializer
      >>> initializer("he_uniform")(jax.random.key(0), (3, 4)).shape
      (3, 4)
    """
    if callable(kernel_init):
        return kernel_init
    if kernel_init not in INITIALIZERS:
        raise ValueError(
            f"kernel_init must be one of {tuple(INITIALIZERS)} or a function, got {kernel_init!r}"
        )
    return INITIALIZERS[kernel_init]


class FullyConnected(nn.Module):
    """The study's network: input -> width, `depth` layers width -> width, width -> classes.

    ReLU after each layer but the last; `norm`, if any, between layer and ReLU. Kernels start
    He uniform, U(±√(6/fan_in)), biases at zero. Layers are named ``layer_00``, ``layer_01``,
    ..., zero-padded, so that they sort in order.

    Attributes:
      depth: number of width x width layers (p in the papers); the network has depth + 2.
      width: hidden units per layer.
      classes: outputs.
      use_bias: whether layers have a bias.
      norm: value ``norm(train=..., name=...)`` that makes a normalization layer, or None.
      dense: kind of the hidden layers, called as `nn.Dense` is.
      output: kind of the last layer, likewise.
      precision: of the matrix products' operands, ``"float32"`` or ``"bfloat16"``; parameters,
        sums and everything else stay float32.
      kernel_init: distribution of the kernels, ``"he_uniform"``, ``"he_normal"`` or one of Flax's.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import FullyConnected
      >>> from enorm_jax.norms import BatchNorm
      >>> model = FullyConnected(depth=1, width=4, norm=BatchNorm)
      >>> variables = model.init(jax.random.key(0), jnp.ones((2, 8, 8, 3)), train=False)
      >>> {name: layer["kernel"].shape for name, layer in variables["params"].items()
      ...  if "kernel" in layer}
      {'layer_00': (192, 4), 'layer_01': (4, 4), 'layer_02': (4, 10)}

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019, and its reproducibility study.
    """

    depth: int
    width: int = 500
    classes: int = 10
    use_bias: bool = False
    norm: Norm | None = None
    dense: Dense = nn.Dense
    output: Dense = nn.Dense
    precision: Precision = "float32"
    kernel_init: KernelInit = "he_uniform"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Computes the logits.

        Args:
          x: standardized inputs of shape (batch, ...), flattened here.
          train: whether normalization uses the batch's statistics.

        Returns:
          Logits of shape (batch, classes).

        Raises:
          ValueError: if the depth is negative, or there is no such precision.
        """
        if self.depth < 0:
            raise ValueError(f"depth must be at least 0, got {self.depth}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {PRECISIONS}, got {self.precision!r}")
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        digits = max(2, len(str(self.depth + 1)))
        for k in range(self.depth + 1):
            x = self._layer(self.dense, self.width, f"layer_{k:0{digits}d}")(x)
            if self.norm is not None:
                x = self.norm(train=train, name=f"norm_{k:0{digits}d}")(x)
            x = nn.relu(x)
        return self._layer(self.output, self.classes, f"layer_{self.depth + 1:0{digits}d}")(x)

    def _layer(self, dense: Dense, units: int, name: str) -> nn.Module:
        return dense(
            units,
            use_bias=self.use_bias,
            kernel_init=initializer(self.kernel_init),
            dot_general=dot_general_bfloat16 if self.precision == "bfloat16" else None,
            name=name,
        )
