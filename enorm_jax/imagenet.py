"""ImageNet as uint8 arrays, of 16, 32 or 64 pixels or full size, from where TFDS prepared it.

TFDS has small images as ``imagenet_resized``, and ImageNet itself as ``imagenet2012``, from
archives that its authors give to who asks. Images are decoded once, into files that are mapped
into memory afterwards, under ``$XDG_CACHE_HOME/enorm_jax`` (``~/.cache/enorm_jax``): 4.1 GB at 32
pixels, 16.4 GB at 64, and 262 GB of full-size images.
"""

import io
import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from filelock import FileLock

from enorm_jax.compilation import cache_folder
from enorm_jax.cores import available_cores
from enorm_jax.prepared import DataNotFoundError, examples, find_prepared, fingerprint

FULL = 224  # as full-size images are called, by the crops that networks see of them
SIZES = (16, 32, 64, FULL)
CLASSES = 1000
SPLITS = {"train": "train", "validation": "test"}  # TFDS's, and ours
PART = 2000  # images that a thread reads: of all, a thousand files would be open at the end

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
      DataNotFoundError: if it is nowhere, or has no validation set.
      OSError: if the cache cannot be written, or an image not be decoded.
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
    counts = {split: len(examples(prepared, split)) for split in SPLITS}
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    try:
        images = {
            split: _allocated(unfinished / f"{SPLITS[split]}_images.npy", (count, side, side, 3))
            for split, count in counts.items()
        }
        size = sum(array.nbytes for array in images.values()) / 1e9
        logger.info("decoding ImageNet once, %.1f GB, into %s", size, folder)
        for split, array in images.items():
            labels = np.empty(len(array), np.int32)
            _fill(prepared, split, array, labels)
            array.flush()
            np.save(unfinished / f"{SPLITS[split]}_labels.npy", labels)
        os.rename(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _allocated(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """An array of bytes, mapped from a file that has its place on the disk."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process, hours later
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise OSError(
                f"{path.name} takes {array.nbytes / 1e9:.1f} GB in {path.parent.parent} "
                f"({error.strerror}): make room, or set XDG_CACHE_HOME to a larger disk"
            ) from error
    return array


def _fill(prepared: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Decodes a split, in several threads: Pillow leaves Python to the others meanwhile."""

    def fill(first: int) -> None:
        last = min(first + PART, len(labels))
        source = examples(prepared, f"{split}[{first}:{last}]", encoded=["image"])
        for index in range(last - first):
            example = source[index]
            try:
                images[first + index] = _square(example["image"], images.shape[1])
            except OSError as error:
                raise OSError(
                    f"image {first + index} of {split} in {prepared} cannot be decoded ({error}): "
                    "let TFDS prepare it again"
                ) from error
            labels[first + index] = example["label"]

    with ThreadPoolExecutor(len(available_cores()) or None) as pool:
        for _ in pool.map(fill, range(0, len(labels), PART)):  # a failure cancels the others
            pass


def _square(encoded: bytes, side: int) -> np.ndarray:
    """The square in the middle of an image, scaled: (side, side, 3), uint8."""
    with PIL.Image.open(io.BytesIO(encoded)) as image:
        colours = image.convert("RGB")  # some are grey
    fitted = PIL.ImageOps.fit(colours, (side, side), PIL.Image.Resampling.BICUBIC)
    return np.asarray(fitted)
