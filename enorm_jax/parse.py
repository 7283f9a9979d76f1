"""Values that a user writes on a command line: each function is the type of an argument."""

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from enorm_jax.cell import SEED_LIMIT
from enorm_jax.errors import InputError
from enorm_jax.executors import ENGINES
from enorm_jax.methods import METHODS, ORIGINAL, STUDY, make_method
from enorm_jax.storage import Folder, as_folder


def depths(text: str) -> tuple[int, ...]:
    """Parses depths: ``1-19`` is 1, 3, ..., 19 as in the study, ``1-19:1`` every one, ``1,9`` two.

    Args:
      text: comma-separated numbers and ranges.

    Returns:
      Depths, each once, in order.

    Raises:
      argparse.ArgumentTypeError: if the text is no such list.

    Example:
      >>> from enorm_jax.parse import depths
      >>> depths("1-7"), depths("1-3:1"), depths("9,1")
      ((1, 3, 5, 7), (1, 2, 3), (1, 9))
    """
    return tuple(sorted(set(_numbers(text, step=2, example="1-19, 1-19:1 or 1,9,19"))))


def seeds(text: str) -> tuple[int, ...]:
    """Parses seeds: ``3`` is 0, 1, 2; ``1000-1002`` and ``5,7`` name them.

    Args:
      text: a count, or comma-separated numbers and ranges.

    Returns:
      Seeds, each once, in order.

    Raises:
      argparse.ArgumentTypeError: if the text is no such list.

    Example:
      >>> from enorm_jax.parse import seeds
      >>> seeds("3"), seeds("1000-1002"), seeds("5,7")
      ((0, 1, 2), (1000, 1001, 1002), (5, 7))
    """
    if text.isdecimal():
        if not 1 <= int(text) <= SEED_LIMIT:
            raise argparse.ArgumentTypeError(f"give 1 to {SEED_LIMIT} seeds, not {text}")
        return tuple(range(int(text)))
    if any(int(number) >= SEED_LIMIT for number in re.findall(r"\d+", text)):
        raise argparse.ArgumentTypeError(f"seeds in {text!r} must be below {SEED_LIMIT}")
    return tuple(sorted(set(_numbers(text, step=1, example="3, 1000-1002 or 5,7"))))


def _numbers(text: str, step: int, example: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+)(?::(\d+))?)?\s*", part)
        stop = int(match[2] or match[1]) if match else 0
        stride = int(match[3] or step) if match else 0
        if not match or stride == 0 or stop < int(match[1]):
            raise argparse.ArgumentTypeError(f"cannot read {text!r}: write {example}")
        numbers.extend(range(int(match[1]), stop + 1, stride))
    return numbers


def positive_int(text: str) -> int:
    """Parses an integer of at least 1.

    Args:
      text: what the user wrote.

    Returns:
      The number.

    Raises:
      argparse.ArgumentTypeError: if the text is none.

    Example:
      >>> from enorm_jax.parse import positive_int
      >>> positive_int("60")
      60
    """
    return int(_number(text, int, lambda n: n >= 1, "a whole number of at least 1"))


def count(text: str) -> int:
    """Parses an integer of at least 0.

    Args:
      text: what the user wrote.

    Returns:
      The number.

    Raises:
      argparse.ArgumentTypeError: if the text is none.

    Example:
      >>> from enorm_jax.parse import count
      >>> count("0")
      0
    """
    return int(_number(text, int, lambda n: n >= 0, "a whole number of at least 0"))


def positive_float(text: str) -> float:
    """Parses a finite number above 0.

    Args:
      text: what the user wrote.

    Returns:
      The number.

    Raises:
      argparse.ArgumentTypeError: if the text is none.

    Example:
      >>> from enorm_jax.parse import positive_float
      >>> positive_float("1.2")
      1.2
    """
    return _number(text, float, lambda x: 0 < x < math.inf, "a number above 0")


def non_negative_float(text: str) -> float:
    """Parses a finite number of at least 0.

    Args:
      text: what the user wrote.

    Returns:
      The number.

    Raises:
      argparse.ArgumentTypeError: if the text is none.

    Example:
      >>> from enorm_jax.parse import non_negative_float
      >>> non_negative_float("0")
      0.0
    """
    return _number(text, float, lambda x: 0 <= x < math.inf, "a number of at least 0")


def floats(text: str) -> tuple[float, ...]:
    """Parses comma-separated finite numbers above 0, each once.

    Args:
      text: what the user wrote.

    Returns:
      The numbers.

    Raises:
      argparse.ArgumentTypeError: if the text is no such list.

    Example:
      >>> from enorm_jax.parse import floats
      >>> floats("0.1,0.01")
      (0.1, 0.01)
    """
    return tuple(dict.fromkeys(positive_float(part) for part in text.split(",")))


def positive_ints(text: str) -> tuple[int, ...]:
    """Parses comma-separated integers of at least 1, each once.

    Args:
      text: what the user wrote.

    Returns:
      The numbers, in order.

    Raises:
      argparse.ArgumentTypeError: if the text is no such list.

    Example:
      >>> from enorm_jax.parse import positive_ints
      >>> positive_ints("64,1,2")
      (1, 2, 64)
    """
    return tuple(sorted({positive_int(part) for part in text.split(",")}))


def methods(text: str) -> tuple[str, ...]:
    """Parses comma-separated names of methods, ``study``, ``original`` or ``all``.

    Args:
      text: what the user wrote; spaces in it and a comma at its end do not count.

    Returns:
      Names that `make_method` knows.

    Raises:
      argparse.ArgumentTypeError: if there is no such method, or its parts do not go together.

    Example:
      >>> from enorm_jax.parse import methods
      >>> methods("study"), methods("bn, ws + gn")
      (('baseline', 'bn', 'enorm', 'enorm+bn'), ('bn', 'ws+gn'))
    """
    several = {"study": STUDY, "original": ORIGINAL, "all": tuple(METHODS)}
    parts = text.replace(" ", "").strip(",").split(",")
    names = [name for part in parts for name in several.get(part, (part,))]
    for name in names:
        try:
            make_method(name)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return tuple(dict.fromkeys(names))


def folder(text: str) -> Folder:
    """Parses a folder's path or a bucket's address.

    Args:
      text: what the user wrote.

    Returns:
      A path, absolute.

    Raises:
      argparse.ArgumentTypeError: if there is no such kind of bucket.

    Example:
      >>> from enorm_jax.parse import folder
      >>> folder("/tmp/runs").name
      'runs'
    """
    try:
        return as_folder(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def new_file(text: str) -> Path:
    """Parses the path of a file to write, so that nobody waits for what cannot be kept.

    Args:
      text: what the user wrote.

    Returns:
      The path.

    Raises:
      argparse.ArgumentTypeError: if it is a folder, or nothing can be written there.

    Example:
      >>> from enorm_jax.parse import new_file
      >>> new_file("/tmp/benchmark.json").name
      'benchmark.json'
    """
    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file in it")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise argparse.ArgumentTypeError(f"cannot write to {above}: choose another place")
    return path


def executor(text: str) -> tuple[str, str | None]:
    """Parses an engine and where it is.

    Args:
      text: ``local``, ``ray``, ``ray:HOST:PORT``, ``slurm``, ...

    Returns:
      Engine and address, or None.

    Raises:
      argparse.ArgumentTypeError: if there is no such engine.

    Example:
      >>> from enorm_jax.parse import executor
      >>> executor("ray:10.0.0.1:6379"), executor("local")
      (('ray', '10.0.0.1:6379'), ('local', None))
    """
    engine, _, address = text.partition(":")
    if engine not in ENGINES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {', '.join(ENGINES)}: write ray:HOST:PORT, for instance"
        )
    return engine, address or None


def option(text: str) -> tuple[str, str]:
    """Parses an option with its value.

    Args:
      text: ``KEY=VALUE``.

    Returns:
      Key and value.

    Raises:
      argparse.ArgumentTypeError: if the text is none.

    Example:
      >>> from enorm_jax.parse import option
      >>> option("partition=gpu")
      ('partition', 'gpu')
    """
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE: write partition=gpu")
    return key, value


def _number(text: str, kind: Callable[[str], Any], ok: Callable[[Any], bool], wanted: str) -> Any:
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not ok(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return number
