"""ImageNet, resized to 16, 32 or 64 pixels, as uint8 arrays, from where TFDS prepared it.

TFDS has it as ``imagenet_resized``. At 32 pixels it is 3.9 GB, at 64 pixels 15.7 GB, which a GPU's
memory holds. Images are decoded once, into files that are mapped into memory afterwards, under
``$XDG_CACHE_HOME/enorm_jax``.
"""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
from filelock import FileLock

from enorm_jax.compilation import cache_folder
from enorm_jax.prepared import DataNotFoundError, examples, find_prepared, fingerprint

SIZES = (16, 32, 64)
CLASSES = 1000
SPLITS = {"train": "train", "validation": "test"}  # TFDS's, and ours

logger = logging.getLogger(__name__)


def read_imagenet(size: int, data_dir: Path | None) -> dict[str, np.ndarray]:
    """Finds resized ImageNet and decodes it, or maps what an earlier run decoded.

    Args:
      size: pixels along a side, of `SIZES`.
      data_dir: where TFDS prepared it; None to look around.

    Returns:
      ``train_images`` (1281167, size, size, 3) uint8, ``train_labels`` (1281167,) int32, and
      ``test_images``, ``test_labels``: the 50,000 of the validation set.

    Raises:
      DataNotFoundError: if it is nowhere.
      OSError: if the cache cannot be written.
    """
    name = f"imagenet_resized/{size}x{size}"
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
            _decode(prepared, size, folder)
    return {
        f"{ours}_{what}": np.load(folder / f"{ours}_{what}.npy", mmap_mode="r")
        for ours in SPLITS.values()
        for what in ("images", "labels")
    }


def _decode(prepared: Path, size: int, folder: Path) -> None:
    """Writes a folder of arrays, which appears when it is whole."""
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    logger.info("decoding ImageNet at %d pixels once, some minutes, into %s", size, folder)
    try:
        for split, ours in SPLITS.items():
            count, decoded = examples(prepared, split)
            images = np.lib.format.open_memmap(
                unfinished / f"{ours}_images.npy", "w+", np.uint8, (count, size, size, 3)
            )
            labels = np.empty(count, np.int32)
            for index, example in enumerate(decoded):
                images[index], labels[index] = example["image"], example["label"]
            images.flush()
            np.save(unfinished / f"{ours}_labels.npy", labels)
        os.rename(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
