"""From pixels to a network's inputs."""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp

Inputs = Literal["published", "true", "image"]
INPUTS: tuple[Inputs, ...] = get_args(Inputs)


@dataclasses.dataclass(frozen=True)
class Standardization:
    """From pixels to inputs: ``(pixel / scale - mean) / std``, per channel.

    Attributes:
      scale: largest pixel value.
      mean: mean of ``pixel / scale`` per channel.
      std: deviation of ``pixel / scale`` per channel.

    Example:
      >>> import numpy as np
      >>> from enorm_jax.inputs import Standardization
      >>> standardize = Standardization(255.0, mean=(0.5,), std=(0.25,))
      >>> [float(x) for x in standardize(np.array([0, 255], np.uint8)[:, None])[:, 0]]
      [-2.0, 2.0]
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.typing.ArrayLike) -> jax.Array:
        """Standardizes images.

        Args:
          images: (..., channels), uint8.

        Returns:
          Inputs of the same shape, float32.
        """
        gain = jnp.asarray([1 / (self.scale * s) for s in self.std], jnp.float32)
        shift = jnp.asarray([-m / s for m, s in zip(self.mean, self.std, strict=True)], jnp.float32)
        x = jnp.asarray(images).astype(jnp.float32)
        return x * jnp.broadcast_to(gain, x.shape) + jnp.broadcast_to(shift, x.shape)


@dataclasses.dataclass(frozen=True)
class PerImage:
    """From pixels to inputs by each image's own mean and deviation, per channel.

    Attributes:
      scale: largest pixel value.
      epsilon: added to the deviation of ``pixel / scale``, which in a blank image is 0, or by
        rounding so small that its inputs may come near 1.

    Example:
      >>> import numpy as np
      >>> from enorm_jax.inputs import PerImage
      >>> image = np.array([0, 255], np.uint8).reshape(1, 2, 1, 1)
      >>> [round(float(x), 3) for x in PerImage(255.0)(image).ravel()]
      [-1.0, 1.0]
    """

    scale: float
    epsilon: float = 1e-6

    def __call__(self, images: jax.typing.ArrayLike) -> jax.Array:
        """Standardizes images.

        Args:
          images: (..., height, width, channels), uint8.

        Returns:
          Inputs of the same shape, float32.
        """
        x = jnp.asarray(images).astype(jnp.float32) / self.scale
        mean = jnp.mean(x, axis=(-3, -2), keepdims=True)
        std = jnp.std(x, axis=(-3, -2), keepdims=True)
        return (x - mean) / (std + self.epsilon)


Standardize = Standardization | PerImage
