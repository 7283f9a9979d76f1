"""Programs compiled ahead, and XLA's cache of them, on by default in every script."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Sharding


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


def compiled(
    fn: Callable[..., Any],
    *arguments: Any,
    outputs: Sharding | None = None,
    donate: tuple[int, ...] = (),
) -> jax.stages.Compiled:
    """Compiles a function ahead, its products of float32 as such.

    Args:
      fn: the function.
      *arguments: arrays, or their shapes.
      outputs: sharding of all that it returns; None to leave it to XLA.
      donate: which arguments are given up.

    Returns:
      The compiled function.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.compilation import compiled
      >>> float(compiled(jnp.sum, jnp.ones(3))(jnp.ones(3)))
      3.0
    """
    # Else GPUs would round float32 operands to TF32.
    with jax.default_matmul_precision("float32"):
        jitted = jax.jit(fn, donate_argnums=donate, out_shardings=outputs)
        return jitted.lower(*arguments).compile()
