"""CIFAR-10 as uint8 arrays, from where TensorFlow Datasets prepared it or from its archive.

TensorFlow is not needed. It is looked for in this order: prepared by TFDS in `data_dir`, in
``$TFDS_DATA_DIR``, in ``~/tensorflow_datasets``; in the cache of an earlier run; in the official
archive, which is downloaded once. Examples come in the order of their TFDS ids (the archive's,
where TFDS made them from it), and decoded arrays are cached as uint8 under
``$XDG_CACHE_HOME/enorm_jax``.
"""

import io
import logging
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from enorm_jax.compilation import cache_folder
from enorm_jax.prepared import DataNotFoundError, examples, find_prepared, fingerprint
from enorm_jax.storage import write_whole

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
ARRAY_NAMES = ("train_images", "train_labels", "test_images", "test_labels")

Arrays = tuple[np.ndarray, ...]  # in the order of ARRAY_NAMES

logger = logging.getLogger(__name__)


def read_cifar10(data_dir: Path | None) -> Arrays:
    """Finds CIFAR-10 and decodes it, or reads what an earlier run decoded.

    Args:
      data_dir: where TFDS prepared it, or where the official archive lies; None to look around.

    Returns:
      Training images (50000, 32, 32, 3) uint8, training labels (50000,) int32, and both for
      testing, 10,000 each.

    Raises:
      DataNotFoundError: if it is nowhere and cannot be downloaded.
    """
    if (prepared := find_prepared("cifar10", data_dir)) is not None:
        return _cached(fingerprint(prepared), lambda: _read_prepared(prepared))
    if data_dir is not None:
        if (data_dir / CIFAR10_ARCHIVE).is_file():
            return _cached("archive", lambda: _read_archive(data_dir))
        raise DataNotFoundError(
            f"{data_dir} holds neither cifar10 prepared by TFDS as array_record "
            f"(cifar10/<version>/) nor {CIFAR10_ARCHIVE}: "
            "give another --data-dir, or try --dataset digits"
        )
    earlier = sorted(cache_folder().glob("cifar10-*.npz"))
    key = earlier[0].stem.removeprefix("cifar10-") if earlier else "archive"
    return _cached(key, lambda: _read_archive(None))


def _cached(key: str, read: Callable[[], Arrays]) -> Arrays:
    """The arrays from the cache if it holds them, else read and put there."""
    path = cache_folder() / f"cifar10-{key}.npz"
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            return tuple(file[name] for name in ARRAY_NAMES)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("cannot read the cache %s (%s): decoding again", path, error)
    arrays = read()
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **dict(zip(ARRAY_NAMES, arrays, strict=True)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue())
    except OSError as error:
        logger.warning("cannot cache CIFAR-10 in %s (%s): it will be decoded again", path, error)
    return arrays


def _read_prepared(prepared: Path) -> Arrays:
    logger.info("decoding CIFAR-10 once, about half a minute")

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        # TFDS shuffles once when it prepares; its ids count the archive's order.
        found = sorted(examples(prepared, split), key=lambda example: example["id"])
        images = np.stack([example["image"] for example in found])
        return images, np.array([example["label"] for example in found], np.int32)

    return *read("train"), *read("test")


def _read_archive(folder: Path | None) -> Arrays:
    """Reads the official archive, from a folder or else downloaded, checked by TFDS's SHA-256."""
    import requests
    import tensorflow_datasets as tfds  # takes a second to import

    mismatch = tfds.download.download_manager.NonMatchingChecksumError
    with tempfile.TemporaryDirectory() as scratch:
        manager = tfds.download.DownloadManager(
            download_dir=scratch, manual_dir=folder, force_checksums_validation=True
        )
        try:
            if folder is None:  # TFDS itself retries for minutes before it gives up
                requests.head(CIFAR10_URL, timeout=10).raise_for_status()
                logger.info("downloading CIFAR-10 once, 170 MB")
            archive = manager.download(CIFAR10_URL)
        # every failure of requests is an OSError
        except (OSError, mismatch, tfds.download.DownloadError) as error:
            fault = (
                f"{folder / CIFAR10_ARCHIVE} is damaged"
                if folder
                else ("CIFAR-10 is not prepared and could not be downloaded")
            )
            raise DataNotFoundError(
                f"{fault}: give --data-dir with a directory that TFDS prepared, "
                "or try --dataset digits"
            ) from error
        return parse_archive(Path(archive))


def parse_archive(archive: Path) -> Arrays:
    """Reads CIFAR-10's official binary archive.

    Each record is one byte of label and 3 x 32 x 32 bytes of image, channels first.

    Args:
      archive: path of ``cifar-10-binary.tar.gz``.

    Returns:
      Training images (N, 32, 32, 3) uint8, training labels (N,) int32, and both for testing.
    """
    with tarfile.open(archive) as tar:

        def read(*names: str) -> tuple[np.ndarray, np.ndarray]:
            files = (tar.extractfile(f"cifar-10-batches-bin/{name}") for name in names)
            raw = b"".join(file.read() for file in files if file is not None)
            records = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            return np.ascontiguousarray(images), records[:, 0].astype(np.int32)

        train = read(*(f"data_batch_{i}.bin" for i in range(1, 6)))
        return *train, *read("test_batch.bin")
