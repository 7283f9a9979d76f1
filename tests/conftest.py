"""Strictness for every test: no silent promotion of dtypes or ranks, warnings are errors."""

import os
import runpy
import sys
from pathlib import Path

# Tests compile hundreds of tiny programs and run each a few times; so do processes they start.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from enorm_jax.data import Dataset
from enorm_jax.inputs import Standardization

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # a plugin may have imported jax before

settings.register_profile(
    "suite", deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def on_cpu():
    """For what XLA's programs are like on a CPU, where there is a GPU too."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Runs a script as a user does, but in this process, since a new one takes seconds to start.

    Gives its exit status, and what it wrote to standard output and to standard error.
    """
    for where in ("enorm_jax.compilation", "train_cells"):  # the user's cache stays as it is
        monkeypatch.setattr(f"{where}.keep_compiled", lambda enabled=True: None)
    monkeypatch.setenv("COLUMNS", "140")

    def run(script, *arguments):
        path = str(ROOT / script)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def blobs() -> Dataset:
    """A small made-up data set: 46 training images, so that batches of 8 leave a last one of 6."""
    rng = np.random.default_rng(0)
    labels = (np.arange(66) % 3).astype(np.int32)
    images = rng.integers(0, 80, (66, 2, 2, 3)) + 80 * labels[:, None, None, None]
    images = images.astype(np.uint8)
    return Dataset(
        "blobs",
        images[:46],
        labels[:46],
        images[46:],
        labels[46:],
        classes=3,
        standardization=Standardization(255.0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
    )


@pytest.fixture(scope="session")
def cifar10_dir() -> str:
    """Where the real CIFAR-10 lies prepared; tests that need it skip where it does not."""
    for directory in (os.environ.get("TFDS_DATA_DIR"), ROOT.parent / "shared" / "tfds"):
        if directory and (Path(directory) / "cifar10").is_dir():
            return str(directory)
    pytest.skip("no CIFAR-10 prepared by TFDS: set TFDS_DATA_DIR")
