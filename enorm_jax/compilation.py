"""XLA's persistent compilation cache, on by default in every script."""

import os
from pathlib import Path

import jax


def cache_folder() -> Path:
    """Where the project keeps what can be made again: ``$XDG_CACHE_HOME/enorm_jax``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "enorm_jax"


def keep_compiled(enabled: bool = True) -> None:
    """Keeps compiled programs between processes: a deep network starts in seconds, not in ten.

    A folder that the user chose, by ``JAX_COMPILATION_CACHE_DIR``, stays. XLA never loads a
    program that another version of itself, or another device, compiled.

    Args:
      enabled: False compiles anew.
    """
    jax.config.update("jax_enable_compilation_cache", enabled)
    if enabled and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    # Below it, reading costs as much as compiling.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
