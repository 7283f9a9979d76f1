"""ImageNet as uint8 arrays, of 16, 32 or 64 pixels or full size, from where TFDS prepared it.

TFDS has small images as ``imagenet_resized``, and ImageNet itself as ``imagenet2012``, from
archives that its authors give to who asks. Images are decoded once, into files that are mapped
into memory afterwards, under ``$XDG_CACHE_HOME/enorm_jax``: 3.9 GB at 32 pixels, 15.7 GB at 64,
which a GPU's memory holds, and 262 GB of full-size images, whose batches go there one by one.
"""

import io
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from filelock import FileLock

from enorm_jax.compilation import cache_folder
from enorm_jax.prepared import DataNotFoundError, examples, find_prepared, fingerprint

FULL = 224  # as full-size images are called, by the crops that networks see of them
SIZES = (16, 32, 64, FULL)
CLASSES = 1000
SPLITS = {"train": "train", "validation": "test"}  # TFDS's, and ours

logger = logging.getLogger(__name__)


def read_imagenet(size: int, data_dir: Path | None) -> dict[str, np.ndarray]:
    """Finds ImageNet and decodes it, or maps what an earlier run decoded.

    Args:
      size: pixels along a side, of `SIZES`; 224 for full-size images, of which this reads the
        square in the middle, scaled to 256 pixels, for crops of 224.
      data_dir: where TFDS prepared it; None to look around.

    Returns:
      ``train_images`` (1281167, side, side, 3) uint8, ``train_labels`` (1281167,) int32, and
      ``test_images``, ``test_labels``: the 50,000 of the validation set.

    Raises:
      DataNotFoundError: if it is nowhere.
      OSError: if the cache cannot be written.
    """
    name = "imagenet2012" if size == FULL else f"imagenet_resized/{size}x{size}"
    prepared = find_prepared(name, data_dir)
    if prepared is None:
        where = data_dir or "TFDS_DATA_DIR or ~/tensorflow_datasets"
        raise DataNotFoundError(
            f"no {name} prepared by TFDS as array_record in {where}: make it with `tfds build "
            f"{name} --file_format=array_record`, which needs TensorFlow, and name its folder with "
            "--data-dir, or try --dataset cifar10"
        )
    folder = cache_folder() / f"imagenet{size}-{fingerprint(prepared)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # other processes wait until it is decoded
        if not folder.is_dir():
            _decode(prepared, size * 8 // 7 if size == FULL else size, folder)
    return {
        f"{ours}_{what}": np.load(folder / f"{ours}_{what}.npy", mmap_mode="r")
        for ours in SPLITS.values()
        for what in ("images", "labels")
    }


def _decode(prepared: Path, side: int, folder: Path) -> None:
    """Writes a folder of arrays, which appears when it is whole."""
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    try:
        for split, ours in SPLITS.items():
            source = examples(prepared, split, encoded=["image"])
            size = len(source) * side**2 * 3 / 1e9
            logger.info("decoding ImageNet's %s images once, %.1f GB, into %s", ours, size, folder)
            images = np.lib.format.open_memmap(
                unfinished / f"{ours}_images.npy", "w+", np.uint8, (len(source), side, side, 3)
            )
            labels = np.empty(len(source), np.int32)
            _fill(source, images, labels)
            images.flush()
            np.save(unfinished / f"{ours}_labels.npy", labels)
        os.rename(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _fill(source: Sequence[dict[str, Any]], images: np.ndarray, labels: np.ndarray) -> None:
    """Decodes all examples, in several threads: Pillow leaves Python to the others meanwhile."""

    def fill(indices: range) -> None:
        for index in indices:
            example = source[index]
            images[index] = _square(example["image"], images.shape[1])
            labels[index] = example["label"]

    parts = [range(len(source))[first : first + 500] for first in range(0, len(source), 500)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(fill, parts):  # a failure here cancels the others
            pass


def _square(encoded: bytes, side: int) -> np.ndarray:
    """The square in the middle of an image, scaled: (side, side, 3), uint8."""
    with PIL.Image.open(io.BytesIO(encoded)) as image:
        colours = image.convert("RGB")  # some are grey
    fitted = PIL.ImageOps.fit(colours, (side, side), PIL.Image.Resampling.BICUBIC)
    return np.asarray(fitted)
