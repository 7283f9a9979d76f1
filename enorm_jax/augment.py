"""Random crops and flips of images on the device, pure and seeded."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crops of padded images and random flips for training, centre crops for testing.

    Attributes:
      pad: black pixels added at each side before the random crop.
      crop: height and width of a crop, in training and in testing; None for those of the image.
      flip: whether half of the training images are mirrored.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax.augment import Augmentation
      >>> nv = Augmentation(pad=2, crop=28)  # as ENorm's authors train on CIFAR-10
      >>> images = jnp.zeros((5, 32, 32, 3), jnp.uint8)
      >>> nv(jax.random.key(0), images).shape, nv.centre(images).shape
      ((5, 28, 28, 3), (5, 28, 28, 3))
    """

    pad: int = 4
    crop: int | None = None
    flip: bool = True

    def __call__(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Crops each image at a place of its own and flips half of them.

        Args:
          key: random key of the batch.
          images: (B, height, width, channels), of any dtype.

        Returns:
          (B, crop, crop, channels), of the same dtype.

        Raises:
          ValueError: if the crop is larger than the padded image.
        """
        batch, height, width, _ = images.shape
        size = self._size(height, width)
        padded = jnp.pad(images, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        places = [n + 2 * self.pad - s for n, s in zip((height, width), size, strict=True)]
        if min(places) < 0:
            raise ValueError(
                f"crops of {size} do not fit into images of {(height, width)} padded by {self.pad}"
            )
        of_rows, of_columns, of_flips = jax.random.split(key, 3)
        top = jax.random.randint(of_rows, (batch,), 0, places[0] + 1)
        left = jax.random.randint(of_columns, (batch,), 0, places[1] + 1)
        columns = jnp.arange(size[1])
        mirrored = jax.random.bernoulli(of_flips, 0.5, (batch,)) & self.flip
        # A flip reads the same columns backwards, so that one gather does both.
        order = jnp.where(mirrored[:, None], columns[None, ::-1], columns[None, :])

        def cut(image: jax.Array, top: jax.Array, columns: jax.Array) -> jax.Array:
            rows = jax.lax.dynamic_slice_in_dim(image, top, size[0], axis=0)
            return jnp.take(rows, columns, axis=1)

        return jax.vmap(cut)(padded, top, left[:, None] + order)

    def centre(self, images: jax.Array) -> jax.Array:
        """The middle of each image, of the crop's size.

        Args:
          images: (B, height, width, channels).

        Returns:
          (B, crop, crop, channels).

        Raises:
          ValueError: if the crop is larger than the image.
        """
        _, height, width, _ = images.shape
        size = self._size(height, width)
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        if min(top, left) < 0:
            raise ValueError(f"centre crops of {size} do not fit into images of {(height, width)}")
        return images[:, top : top + size[0], left : left + size[1]]

    def _size(self, height: int, width: int) -> tuple[int, int]:
        return (height, width) if self.crop is None else (self.crop, self.crop)
