"""Data sets that TensorFlow Datasets prepared, found and read without TensorFlow."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class DataNotFoundError(FileNotFoundError):
    """A data set is neither prepared nor cached, and cannot be downloaded."""


def find_prepared(name: str, data_dir: Path | None) -> Path | None:
    """Looks for the newest version of a data set in a format that TFDS reads without TensorFlow.

    Args:
      name: the data set's, as TFDS names its folder, with the configuration if it has some:
        ``"cifar10"``, ``"imagenet_resized/64x64"``.
      data_dir: where TFDS prepared it; None for ``$TFDS_DATA_DIR``, then
        ``~/tensorflow_datasets``.

    Returns:
      The version's folder, or None.
    """
    usual = (os.environ.get("TFDS_DATA_DIR", ""), "~/tensorflow_datasets")
    folders = [data_dir] if data_dir else [Path(folder) for folder in usual if folder]
    for folder in folders:
        versions = sorted((folder.expanduser() / name).glob("*/dataset_info.json"), key=_version)
        readable = [info.parent for info in versions if any(info.parent.glob("*.array_record*"))]
        if readable:
            return readable[-1]
    return None


def _version(info: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", info.parent.name)))


def fingerprint(prepared: Path) -> str:
    """Twelve digits that tell a prepared folder from others, by its files' names and sizes.

    Args:
      prepared: from `find_prepared`.

    Returns:
      Hexadecimal digits.
    """
    files = sorted((path.name, path.stat().st_size) for path in prepared.iterdir())
    return hashlib.sha256(repr(files).encode()).hexdigest()[:12]


def examples(prepared: Path, split: str, encoded: Sequence[str] = ()) -> Sequence[dict[str, Any]]:
    """The examples of a split, decoded when they are asked for, in the order of the files.

    Args:
      prepared: from `find_prepared`.
      split: its name, or a part of it as TFDS writes it: ``"train[100:200]"``.
      encoded: features that are left as the bytes of their files.

    Returns:
      The examples, which keep the files open that were read.

    Raises:
      DataNotFoundError: if there is no such split.
    """
    import tensorflow_datasets as tfds  # takes a second to import

    builder = tfds.builder_from_directory(prepared)
    name = split.partition("[")[0]
    if name not in builder.info.splits:
        raise DataNotFoundError(f"{prepared} has no split {name!r}: let TFDS prepare all of it")
    decoders = {feature: tfds.decode.SkipDecoding() for feature in encoded} or None
    return builder.as_data_source(split=split, decoders=decoders)
