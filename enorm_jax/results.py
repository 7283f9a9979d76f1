"""A cell's file: written whole or not at all, read back, with its provenance."""

import datetime
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.special

from enorm_jax.cores import available_cores
from enorm_jax.errors import InputError
from enorm_jax.storage import Folder, as_folder, is_bucket, write_whole

PACKAGES = ("enorm_jax", "jax", "jaxlib", "flax", "optax", "numpy")


def write_json(path: Folder, content: Mapping[str, Any]) -> None:
    """Writes JSON, whole or not at all.

    Args:
      path: file to write; replaced if there.
      content: what JSON can hold; NaN and infinity cannot be told apart in JSON, so they are
        refused: pass None.

    Raises:
      ValueError: if a number is not finite.
      OSError: if the folder cannot be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False)  # raises before anything is written
    write_whole(path, f"{text}\n".encode())


def read_json(path: Folder) -> Any:
    """Reads a JSON file.

    Args:
      path: the file.

    Returns:
      Its content.

    Raises:
      InputError: if it is not readable as JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not readable as JSON: delete or restore it") from error


def read_measured(path: Path, experiment: str) -> dict[str, Any]:
    """Reads the file that a script wrote with what it measured.

    Args:
      path: the file.
      experiment: the script's name, which the file holds as ``experiment``.

    Returns:
      Its content.

    Raises:
      InputError: if there is no such file, or it is not of this script.
    """
    try:
        found = read_json(path)
    except OSError as error:
        raise InputError(f"cannot read {path}, {error.strerror}: give another file") from None
    if not (isinstance(found, dict) and found.get("experiment") == experiment):
        raise InputError(f"{path} is not of experiments/{experiment}.py: give another file")
    return found


def read_results(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads all finished cells of a folder, in the order of their names.

    Args:
      folder: where a sweep wrote its cells; a folder or a bucket.

    Returns:
      One dictionary per cell.

    Raises:
      FileNotFoundError: if there is no such folder.
      InputError: if a file is not readable as JSON.
    """
    folder = as_folder(folder)
    if not is_bucket(folder) and not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give one that holds a sweep's results")
    cells = []
    for path in sorted(folder.glob("*.json")):
        cell = read_json(path)
        if isinstance(cell, dict) and "test_accuracy" in cell:
            cells.append(cell)
    return cells


def provenance() -> dict[str, Any]:
    """Where a result comes from: versions, device, commit and date.

    Returns:
      Dictionary with ``versions``, ``device``, ``commit`` (None outside a git checkout;
      ends in ``+changes`` if the package or the experiments' code differ from it), ``date``.
    """
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in PACKAGES},
        "device": {
            "platform": device.platform,
            "kind": _cpu_model() if device.platform == "cpu" else device.device_kind,
            "count": jax.device_count(),
            "cpus": len(available_cores()) or os.cpu_count(),
        },
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def rounded(values: Any) -> Any:
    """Nested lists of floats from float32 arrays, in their shortest form; None if not finite.

    Args:
      values: array of any shape.

    Returns:
      Nested lists; each number prints as float32 does.

    Example:
      >>> import numpy as np
      >>> from enorm_jax.results import rounded
      >>> rounded(np.array([0.1, np.nan], np.float32))
      [0.1, None]
    """
    if np.ndim(values):
        return [rounded(value) for value in values]
    return float(str(np.float32(values))) if np.isfinite(values) else None


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    r"""Mean and half-width of its 95 % confidence interval, by Student's t.

    .. math:: \bar x \pm t_{0.975, n-1} \, s / \sqrt{n}

    Args:
      values: n measurements, n >= 1.

    Returns:
      Mean, and half-width or None for a single measurement.

    Example:
      >>> from enorm_jax.results import interval
      >>> mean, half = interval([54.0, 55.0, 56.0])
      >>> mean, round(half, 2)
      (55.0, 2.48)
    """
    return intervals({0: values})[0]


def intervals(groups: Mapping[int, Sequence[float]]) -> dict[int, tuple[float, float | None]]:
    r"""Means of groups that scatter alike, and half-widths of their 95 % intervals.

    .. math::
        \bar x_g \pm t_{0.975, \nu} \, s / \sqrt{n_g}, \quad
        s^2 = \frac{1}{\nu} \sum_g \sum_{i=1}^{n_g} (x_{g,i} - \bar x_g)^2, \quad
        \nu = \sum_g (n_g - 1)

    Two or three runs say little about their scatter, those at ten depths together more.

    Args:
      groups: n_g measurements each, n_g >= 1.

    Returns:
      By group the mean, and the half-width or None for a single measurement.

    Example:
      >>> from enorm_jax.results import intervals
      >>> found = intervals({1: [54.0, 56.0], 3: [54.0, 55.0, 56.0]})
      >>> {depth: (mean, round(half, 2)) for depth, (mean, half) in found.items()}
      {1: (55.0, 2.6), 3: (55.0, 2.12)}
    """
    variance, freedom = scatter(groups.values())
    t = float(scipy.special.stdtrit(freedom, 0.975)) if freedom else math.nan
    return {
        name: (float(np.mean(v)), t * math.sqrt(variance / len(v)) if len(v) > 1 else None)
        for name, v in groups.items()
    }


def scatter(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    r"""The variance of groups that scatter alike, each about its own mean; see `intervals`.

    .. math::
        s^2 = \frac{1}{\nu} \sum_g \sum_{i=1}^{n_g} (x_{g,i} - \bar x_g)^2, \quad
        \nu = \sum_g (n_g - 1)

    Args:
      groups: measurements; groups of one say nothing.

    Returns:
      s², 0 where nothing is known of it, and its degrees of freedom ν.

    Example:
      >>> from enorm_jax.results import scatter
      >>> scatter([[54.0, 56.0], [54.0, 55.0, 56.0], [51.0]])
      (1.3333333333333333, 3)
    """
    several = [values for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    square = sum(float(np.var(values)) * len(values) for values in several)
    return (square / freedom if freedom else 0.0), freedom


def pooled(results: Sequence[dict[str, Any]]) -> tuple[dict[int, list[float]], dict[int, int]]:
    """Accuracies and number of diverged runs by depth, each seed once, restarted if it was.

    Args:
      results: cells of one method and setting.

    Returns:
      Mapping from depth to the accuracies (%) of the runs that did not diverge, in the order of
      their seeds, and mapping from depth to the number of those that did.
    """
    found = {
        (result["depth"], seed): value
        for result in most_restarted_last(results)
        for seed, value in zip(result["seeds"], result["test_accuracy"], strict=True)
    }
    accuracies: dict[int, list[float]] = {}
    diverged: dict[int, int] = {}
    for (depth, _), value in sorted(found.items()):
        if value is None:
            diverged[depth] = diverged.get(depth, 0) + 1
        else:
            accuracies.setdefault(depth, []).append(value)
    return accuracies, diverged


def most_restarted_last(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cells in the order in which a seed's last one is that which counts.

    Args:
      results: cells, some of which may hold the same seeds.

    Returns:
      Those that might have been restarted more often behind the others.
    """
    return sorted(results, key=lambda result: int(result["restarts"]))


def _commit() -> str | None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        code = ("enorm_jax", "experiments/*.py")
        changed = git("status", "--porcelain", "--", *code)
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "cpu"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else "cpu"
