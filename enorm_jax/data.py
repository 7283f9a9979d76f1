"""Data sets as uint8 arrays: CIFAR-10, scikit-learn's digits, and ImageNet."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from enorm_jax import imagenet
from enorm_jax.cifar10 import ARRAY_NAMES, read_cifar10
from enorm_jax.inputs import INPUTS, Inputs, PerImage, Standardization, Standardize


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of a data set, on the host; compared and hashed by identity.

    Attributes:
      name: as given to `load`.
      train_images: (N, height, width, channels), uint8.
      train_labels: (N,), int32.
      test_images: (M, height, width, channels), uint8.
      test_labels: (M,), int32.
      classes: number of classes.
      standardization: how pixels become inputs.
      validation_images: (V, height, width, channels), uint8, neither trained nor tested on; None
        for none.
      validation_labels: (V,), int32, or None.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    standardization: Standardize
    validation_images: np.ndarray | None = None
    validation_labels: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        arrays = (getattr(self, field.name) for field in dataclasses.fields(self))
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


DATASETS = ("cifar10", "digits", *(f"imagenet{size}" for size in imagenet.SIZES))

# The published deviations are means of per-image deviations; the pixels' own deviations are
# (0.2470, 0.2435, 0.2616). The published ones are what the study trained with.
CIFAR10_STANDARDIZATION = Standardization(
    255.0, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
)
# Of the full-size images, as everybody uses them.
IMAGENET_STANDARDIZATION = Standardization(
    255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
# Mean and deviation of the training pixels, over 16.
DIGITS_STANDARDIZATION = Standardization(16.0, mean=(0.305,), std=(0.376,))


def with_inputs(dataset: Dataset, inputs: Inputs) -> Dataset:
    """The data set with another way from pixels to inputs.

    Args:
      dataset: a data set as `load` gives it.
      inputs: ``"published"`` deviations, which `load` gives; the pixels' ``"true"`` mean and
        deviation over the training images; or each ``"image"``'s own.

    Returns:
      A data set that shares its arrays.

    Raises:
      ValueError: if there are no such inputs.
    """
    if inputs not in INPUTS:
        raise ValueError(f"inputs must be one of {INPUTS}, got {inputs!r}")
    if inputs == "published":
        return dataset
    scale = dataset.standardization.scale
    standardize: Standardize = PerImage(scale)
    if inputs == "true":
        mean, std = (moment / scale for moment in _moments(dataset.train_images))
        standardize = Standardization(scale, tuple(mean.tolist()), tuple(std.tolist()))
    return dataclasses.replace(dataset, standardization=standardize)


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel's pixels."""
    channels = images.shape[-1]
    count = np.zeros((channels, 256))
    for first in range(0, len(images), 10_000):  # ImageNet's do not fit into memory as floats
        block = images[first : first + 10_000].reshape(-1, channels)
        count += [np.bincount(block[:, channel], minlength=256) for channel in range(channels)]
    share, value = count / count.sum(axis=1, keepdims=True), np.arange(256.0)
    mean = share @ value
    return mean, np.sqrt((share * (value - mean[:, None]) ** 2).sum(axis=1))


def held_out(dataset: Dataset, fold: str, *, keep_test: bool = False) -> Dataset:
    """A data set to choose on: part of the training images are held out to validate.

    Args:
      dataset: a data set as `load` gives it.
      fold: ``"0/5"`` to ``"4/5"``: which of the five parts is held out. Image i belongs to part
        i modulo 5, so that parts do not depend on an order by class.
      keep_test: whether the test images stay, and the held-out ones become validation images.

    Returns:
      A data set of the other parts, tested on this one; unless they are kept, the test images are
      not in it.

    Raises:
      ValueError: if there is no such fold.

    Example:
      >>> from enorm_jax.data import held_out, load
      >>> parts = held_out(load("digits"), "0/5")
      >>> len(parts.train_labels), len(parts.test_labels)
      (1149, 288)
    """
    out = _in_fold(fold, len(dataset.train_labels))
    images, labels = dataset.train_images, dataset.train_labels
    rest = dataclasses.replace(dataset, train_images=images[~out], train_labels=labels[~out])
    if keep_test:
        return dataclasses.replace(
            rest, validation_images=images[out], validation_labels=labels[out]
        )
    return dataclasses.replace(rest, test_images=images[out], test_labels=labels[out])


def kept(images: int, fold: str) -> int:
    """How many training images are left when part of them is held out.

    Args:
      images: number of training images.
      fold: as for `held_out`.

    Returns:
      Their number.

    Raises:
      ValueError: if there is no such fold.

    Example:
      >>> from enorm_jax.data import kept
      >>> kept(1437, "0/5")
      1149
    """
    return images - int(_in_fold(fold, images).sum())


def _in_fold(fold: str, images: int) -> np.ndarray:
    """Which of the images are held out, (images,), bool."""
    part, _, parts = fold.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts) and int(parts) > 1):
        raise ValueError(f"fold must be '0/5' to '4/5' or alike, got {fold!r}")
    return np.arange(images) % int(parts) == int(part)


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads a data set.

    Args:
      name: ``"cifar10"`` (50,000 and 10,000 images, 32 x 32 x 3), ``"digits"`` (scikit-learn's
        1,797 images, 8 x 8 x 1, of which every fifth is for testing), ``"imagenet64"``,
        ``"imagenet32"``, ``"imagenet16"`` (1,281,167 and 50,000 images of so many pixels), or
        ``"imagenet224"`` (the same of 256 pixels, for crops of 224).
      data_dir: directory in which TFDS prepared the data set, or that holds CIFAR-10's official
        archive ``cifar-10-binary.tar.gz``; by default ``$TFDS_DATA_DIR``, then TFDS's own.

    Returns:
      A `Dataset` of host arrays; ImageNet's are mapped from files.

    Raises:
      ValueError: if the name is unknown.
      DataNotFoundError: if ImageNet is not prepared, or CIFAR-10 is nowhere and cannot be
        downloaded.

    Example:
      >>> from enorm_jax.data import load
      >>> digits = load("digits")
      >>> digits.train_images.shape, digits.test_images.shape
      ((1437, 8, 8, 1), (360, 8, 8, 1))

    Reference:
      Krizhevsky, Learning multiple layers of features from tiny images, 2009. Chrabaszcz,
      Loshchilov and Hutter, `A downsampled variant of ImageNet
      <https://arxiv.org/abs/1707.08819>`_, 2017. `TensorFlow Datasets <https://www.tensorflow.org/datasets>`_.
    """
    if name == "digits":
        return _digits()
    if name == "cifar10":
        arrays = read_cifar10(Path(data_dir).expanduser() if data_dir else None)
        return Dataset(
            name=name,
            **dict(zip(ARRAY_NAMES, arrays, strict=True)),
            classes=10,
            standardization=CIFAR10_STANDARDIZATION,
        )
    if name in DATASETS:
        size = int(name.removeprefix("imagenet"))
        return Dataset(
            name=name,
            **imagenet.read_imagenet(size, Path(data_dir).expanduser() if data_dir else None),
            classes=imagenet.CLASSES,
            standardization=IMAGENET_STANDARDIZATION,
        )
    raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")


def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    test = np.arange(len(labels)) % 5 == 0
    return Dataset(
        "digits",
        images[~test],
        labels[~test],
        images[test],
        labels[test],
        classes=10,
        standardization=DIGITS_STANDARDIZATION,
    )
