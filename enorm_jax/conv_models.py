"""The convolutional networks of the papers; convolution and normalization are values."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from enorm_jax.models import KernelInit, Norm, initializer
from enorm_jax.pooling import max_pool

Conv = Norm  # called as `nn.Conv` is
Skip = Literal["identity", "projection", "learned"]
SKIPS: tuple[Skip, ...] = get_args(Skip)
NormAfter = Literal["published", "all"]
NORMALIZED: dict[NormAfter, tuple[int, ...]] = {"published": (2, 5), "all": tuple(range(8))}


class FullyConvolutional(nn.Module):
    """The network that ENorm's authors train on CIFAR-10, of convolutions alone.

    3 x 3 convolutions to 128, 128, 128 channels, max-pooling; to 256, 256, 256, max-pooling; to
    320, then 1 x 1 to 320 and to the classes, each followed by ReLU, and the mean over positions.
    The authors pad the last convolution by 1 and average a corner of 5 x 5 positions; here it is
    not padded, and all positions count. No biases.

    Attributes:
      width: multiplies the numbers of channels.
      classes: outputs.
      norm: value ``norm(train=..., name=...)`` that makes a normalization layer, or None.
      norm_after: ``"published"`` puts it after the third and the sixth convolution only, as the
        authors do with BN; ``"all"`` after all but the last.
      conv: kind of the convolutions, called as `nn.Conv` is; the last is plain. Weight
        standardization wants a normalization after ``"all"``.
      kernel_init: distribution of the kernels, ``"he_uniform"``, ``"he_normal"`` or one of Flax's.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import FullyConvolutional
      >>> model = FullyConvolutional(width=0.125)
      >>> x = jnp.ones((2, 28, 28, 3))
      >>> logits, variables = model.init_with_output(jax.random.key(0), x, train=False)
      >>> logits.shape, variables["params"]["conv_08"]["kernel"].shape
      ((2, 10), (1, 1, 40, 10))

    Reference:
      Stock et al., `Equi-normalization of Neural Networks
      <https://arxiv.org/abs/1902.10416>`_, ICLR 2019.
    """

    width: float = 1.0
    classes: int = 10
    norm: Norm | None = None
    norm_after: NormAfter = "published"
    conv: Conv = nn.Conv
    kernel_init: KernelInit = "he_uniform"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Computes the logits.

        Args:
          x: standardized images of shape (batch, height, width, channels).
          train: whether normalization uses the batch's statistics.

        Returns:
          Logits of shape (batch, classes), not negative: the last layer has a ReLU too.

        Raises:
          ValueError: if the width leaves no channel, or there is no such `norm_after`.
        """
        channels = [round(n * self.width) for n in (128, 128, 128, 256, 256, 256, 320, 320)]
        if min(channels) < 1:
            raise ValueError(f"width {self.width} leaves no channel: at least 1/128")
        if self.norm_after not in NORMALIZED:
            raise ValueError(
                f"norm_after must be one of {tuple(NORMALIZED)}, got {self.norm_after!r}"
            )
        for k, features in enumerate([*channels, self.classes]):
            layer = self.conv if k < 8 else nn.Conv
            size = (3, 3) if k < 7 else (1, 1)
            init = initializer(self.kernel_init)
            x = layer(features, size, use_bias=False, kernel_init=init, name=f"conv_{k:02d}")(x)
            if self.norm is not None and k in NORMALIZED[self.norm_after]:
                x = self.norm(train=train, name=f"norm_{k:02d}")(x)
            x = nn.relu(x)
            if k in (2, 5):
                x = max_pool(x)
        return x.mean((1, 2))


class ResNet(nn.Module):
    """Residual networks: those of CIFAR-10 and of ImageNet, before or after activation.

    Attributes:
      stages: blocks in each stage; the first block of all but the first halves the resolution.
      width: channels of the first stage; each next one has twice as many.
      classes: outputs.
      bottleneck: blocks of 1 x 1, 3 x 3 and 1 x 1 convolutions with four times as many channels
        out, instead of two 3 x 3.
      preactivation: normalization and ReLU before each convolution, not after.
      skip: ``"identity"`` drops pixels and adds channels of zeros where shapes change,
        ``"projection"`` puts a 1 x 1 convolution there, ``"learned"`` in every block, which lets
        ENorm balance the channels that pass.
      imagenet: 7 x 7 convolution of stride 2 and max-pooling first, instead of 3 x 3.
      norm: value ``norm(train=..., name=...)``, or None.
      conv: kind of the convolutions, called as `nn.Conv` is. Weight standardization wants a `norm`.
      kernel_init: distribution of the kernels, ``"he_uniform"``, ``"he_normal"`` or one of Flax's.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import BatchNorm
      >>> from enorm_jax.conv_models import resnet20
      >>> model = resnet20(norm=BatchNorm)
      >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
      >>> def init(x):
      ...     return model.init(jax.random.key(0), x, train=False)
      >>> params = jax.eval_shape(init, images)["params"]
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      269722

    Reference:
      He et al., `Deep Residual Learning <https://arxiv.org/abs/1512.03385>`_, CVPR 2016;
      `Identity Mappings <https://arxiv.org/abs/1603.05027>`_, ECCV 2016.
    """

    stages: tuple[int, ...]
    width: int = 16
    classes: int = 10
    bottleneck: bool = False
    preactivation: bool = False
    skip: Skip = "identity"
    imagenet: bool = False
    norm: Norm | None = None
    conv: Conv = nn.Conv
    kernel_init: KernelInit = "he_normal"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Computes the logits.

        Args:
          x: standardized images of shape (batch, height, width, channels).
          train: whether normalization uses the batch's statistics.

        Returns:
          Logits of shape (batch, classes).

        Raises:
          ValueError: if there is no such skip.
        """
        if self.skip not in SKIPS:
            raise ValueError(f"skip must be one of {SKIPS}, got {self.skip!r}")
        stem, strides = ((7, 7), (2, 2)) if self.imagenet else ((3, 3), (1, 1))
        x = self._conv(self.width, stem, strides, "stem")(x)
        if not self.preactivation:
            x = self._activated(x, train, "stem_norm")
        if self.imagenet:
            x = max_pool(x)
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                name = f"stage_{stage}_block_{block:02d}"
                x = self._block(x, self.width * 2**stage, stride, train, name)
        if self.preactivation:
            x = self._activated(x, train, "last_norm")
        return nn.Dense(self.classes, name="head")(x.mean((1, 2)))

    def _block(self, x: jax.Array, width: int, stride: int, train: bool, name: str) -> jax.Array:
        """One residual block."""
        shapes = [(width, (3, 3), stride), (width, (3, 3), 1)]
        if self.bottleneck:
            shapes = [(width, (1, 1), 1), (width, (3, 3), stride), (4 * width, (1, 1), 1)]
        y = x
        for k, (features, size, step) in enumerate(shapes):
            conv = self._conv(features, size, (step, step), f"{name}_conv_{k}")
            if self.preactivation:
                y = conv(self._activated(y, train, f"{name}_norm_{k}"))
            elif k < len(shapes) - 1:
                y = self._activated(conv(y), train, f"{name}_norm_{k}")
            else:
                y = self._normalized(conv(y), train, f"{name}_norm_{k}")
        out = y + self._skip(x, y.shape[-1], stride, train, name)
        return out if self.preactivation else nn.relu(out)

    def _skip(self, x: jax.Array, features: int, stride: int, train: bool, name: str) -> jax.Array:
        changes = stride > 1 or x.shape[-1] != features
        if self.skip == "identity" or (self.skip == "projection" and not changes):
            channels = (0, features - x.shape[-1])
            return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), channels))
        x = self._conv(features, (1, 1), (stride, stride), f"{name}_skip")(x)
        return x if self.preactivation else self._normalized(x, train, f"{name}_skip_norm")

    def _normalized(self, x: jax.Array, train: bool, name: str) -> jax.Array:
        return x if self.norm is None else self.norm(train=train, name=name)(x)

    def _activated(self, x: jax.Array, train: bool, name: str) -> jax.Array:
        return nn.relu(self._normalized(x, train, name))

    def _conv(
        self, features: int, size: tuple[int, int], strides: tuple[int, int], name: str
    ) -> nn.Module:
        # As torch pads: XLA's own "SAME" would shift windows of stride 2 by one pixel.
        padding = [((n - 1) // 2, (n - 1) // 2) for n in size]
        return self.conv(
            features,
            size,
            strides=strides,
            padding=padding,
            use_bias=False,
            kernel_init=initializer(self.kernel_init),
            name=name,
        )


def resnet20(**settings: object) -> ResNet:
    """The CIFAR-10 network of 20 layers, 0.27 million parameters.

    Args:
      **settings: as in `ResNet`.

    Returns:
      The network, without parameters.
    """
    return ResNet((3, 3, 3), **settings)  # type: ignore[arg-type]


def resnet56(**settings: object) -> ResNet:
    """The CIFAR-10 network of 56 layers, 0.85 million parameters.

    Args:
      **settings: as in `ResNet`.

    Returns:
      The network, without parameters.
    """
    return ResNet((9, 9, 9), **settings)  # type: ignore[arg-type]


IMAGENET = {"width": 64, "classes": 1000, "skip": "projection", "imagenet": True}


def resnet18(**settings: object) -> ResNet:
    """The ImageNet network of 18 layers, 11.7 million parameters.

    Args:
      **settings: as in `ResNet`.

    Returns:
      The network, without parameters.
    """
    return ResNet((2, 2, 2, 2), **(IMAGENET | settings))  # type: ignore[arg-type]


def resnet50(**settings: object) -> ResNet:
    """The ImageNet network of 50 layers, 25.6 million parameters.

    Args:
      **settings: as in `ResNet`.

    Returns:
      The network, without parameters.
    """
    return ResNet((3, 4, 6, 3), bottleneck=True, **(IMAGENET | settings))  # type: ignore[arg-type]


def resnet101(**settings: object) -> ResNet:
    """The ImageNet network of 101 layers, 44.5 million parameters.

    Args:
      **settings: as in `ResNet`.

    Returns:
      The network, without parameters.
    """
    return ResNet((3, 4, 23, 3), bottleneck=True, **(IMAGENET | settings))  # type: ignore[arg-type]
