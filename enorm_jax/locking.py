"""Claims: of all processes on all machines, one at a time does what a file stands for.

In a folder a lock of the operating system does that, which its holder's death frees. Buckets have
no locks: there a claim is a small object that can be created only once, which its holder renews,
and which lapses when he has not for a while.
"""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
from filelock import FileLock, Timeout

from enorm_jax.storage import Folder, is_bucket

RENEWED_EVERY = 20.0
LAPSES_AFTER = 90.0
SETTLES_IN = 2.0


class TakenError(Exception):
    """Another process holds the claim."""


@contextlib.contextmanager
def claim(path: Folder, owner: str | None = None, *, inherits: bool = False) -> Iterator[None]:
    """Holds a claim while the block runs.

    Args:
      path: the claim's file, the same for all who want it. In a folder it stays; who has done
        what was claimed may remove it before the block ends.
      owner: who asks: a process, or the sweep that it works for; None for nobody.
      inherits: whether a claim on a bucket that the same owner left behind is taken over at
        once, its holder being dead for sure; any other lapses first.

    Yields:
      Nothing.

    Raises:
      TakenError: if another process holds it.
      OSError: if the file cannot be written.
    """
    if is_bucket(path):
        with _lease(path, owner or uuid.uuid4().hex, inherits):
            yield
        return
    lock = FileLock(os.fspath(path), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise TakenError(path.stem) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _lease(path: Folder, owner: str, inherits: bool) -> Iterator[None]:
    """A claim that lapses, as an object that only one can create."""
    system, name = fsspec.core.url_to_fs(os.fspath(path))
    token = uuid.uuid4().hex  # of this claim alone

    def content() -> bytes:
        return json.dumps({"owner": owner, "token": token, "renewed": time.time()}).encode()

    def create() -> bool:
        try:
            system.pipe_file(name, content(), mode="create")
        except FileExistsError:
            return False
        return True

    def is_ours() -> bool:
        held = _read(system, name)
        return held is not None and held["token"] == token

    if not create():
        held = _read(system, name)
        lapsed = held is None or time.time() - held["renewed"] >= LAPSES_AFTER
        if held and not lapsed and not (inherits and held["owner"] == owner):
            raise TakenError(path.stem)
        if held:
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(name)
        if not create():
            raise TakenError(path.stem)
        # Another that saw the old one too may yet remove ours, and create its own.
        time.sleep(SETTLES_IN)
        if not is_ours():
            raise TakenError(path.stem)
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEWED_EVERY):
            with contextlib.suppress(Exception):  # the next one makes up for it
                if not is_ours():  # this machine was cut off, and another took over
                    return
                system.pipe_file(name, content())

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        over.set()
        renewer.join()
        if is_ours():
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(name)


def _read(system: fsspec.AbstractFileSystem, name: str) -> dict[str, Any] | None:
    try:
        return json.loads(system.cat_file(name))
    except FileNotFoundError:  # given back this moment
        return None
