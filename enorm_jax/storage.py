"""Where a sweep's files lie: a folder, or a bucket that `etils.epath` reaches.

What is written appears whole or not at all.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import fsspec
from etils import epath

from enorm_jax.errors import InputError

Folder: TypeAlias = Path | epath.Path

# What reaches a bucket, by the first part of its address.
EXTRAS = {"gs": "gcs", "s3": "s3", "az": "azure"}
# The packages underneath, whose errors are no `OSError`.
CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google"}


def as_folder(text: str | os.PathLike[str]) -> Folder:
    """A folder's path, or a bucket's.

    Args:
      text: ``runs``, ``~/runs``, ``gs://bucket/runs``, ``s3://bucket/runs``, ``az://...``.

    Returns:
      A `pathlib.Path`, absolute, or an `etils.epath.Path`, which has the same methods.

    Raises:
      InputError: if there is no such kind of bucket, or what reaches it is not installed.

    Example:
      >>> from enorm_jax.storage import as_folder
      >>> as_folder("/tmp/runs").name
      'runs'
    """
    text = os.fspath(text)
    scheme, separator, _ = text.partition("://")
    if not separator:
        return Path(text).expanduser().absolute()
    if scheme not in EXTRAS:
        known = ", ".join(f"{name}://" for name in EXTRAS)
        raise InputError(f"{text} is neither a folder nor a bucket: write a path or one of {known}")
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        raise InputError(
            f"{text} wants a library that is not here: pip install 'enorm_jax[{EXTRAS[scheme]}]'"
        ) from None
    # Else it would not see what other machines have written since it looked first.
    fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False
    return epath.Path(text)


def is_bucket(path: Folder) -> bool:
    """Whether a path lies in a bucket, which all machines see, and no operating system locks.

    Args:
      path: a folder or file.

    Returns:
      True for a bucket.

    Example:
      >>> from pathlib import Path
      >>> from enorm_jax.storage import is_bucket
      >>> is_bucket(Path("/tmp/runs"))
      False
    """
    return "://" in os.fspath(path)


def write_whole(path: Folder, content: bytes) -> None:
    """Writes a file, or replaces it: readers see the old content or the new, and no part.

    Args:
      path: the file.
      content: what it shall hold.

    Raises:
      OSError: if it cannot be written.
    """
    if is_bucket(path):
        path.write_bytes(content)  # an object appears when its upload is complete
        return
    # A name that no other process uses, on whatever machine.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Folder, start: str) -> None:
    """Removes what a process left that was killed while it wrote; the caller holds the claim.

    Args:
      folder: where the files lie.
      start: how their names begin.
    """
    if not is_bucket(folder):  # where what is not complete never appears
        for path in folder.glob(f"{start}*.tmp"):
            path.unlink(missing_ok=True)


def check_writable(folder: Folder) -> None:
    """Makes a folder if there is none, and tries to write to it; a bucket must be there.

    Args:
      folder: a folder or a place in a bucket.

    Raises:
      InputError: if it cannot be written.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        if not is_bucket(folder):  # which need no folders, and would make a new bucket instead
            folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except Exception as error:  # every library of buckets has errors of its own
        if not isinstance(error, OSError) and not is_bucket(folder):
            raise
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(
            f"cannot write to --out {os.fspath(folder)} ({why}): choose another folder"
        ) from None


@contextlib.contextmanager
def bucket_errors(folder: Folder) -> Iterator[None]:
    """Raises an `OSError` where a bucket's client raises what only it knows.

    Args:
      folder: where the block reads and writes.

    Yields:
      Nothing.

    Raises:
      OSError: if the bucket does not answer, or refuses.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        raise OSError(
            f"{os.fspath(folder)} failed ({error}): the same command goes on from what it holds"
        ) from error
