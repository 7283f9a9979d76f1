"""Arrays of a pytree in one safetensors file, written whole or not at all."""

import io
import json
import os
from typing import Any, BinaryIO

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from enorm_jax.errors import InputError
from enorm_jax.storage import Folder, as_folder, write_whole


def save_arrays(path: Folder, tree: Any, metadata: dict[str, Any]) -> None:
    """Writes the arrays of a pytree and JSON metadata to one file, atomically.

    Arrays are named by their place in the tree, such as ``layer_00.kernel``.

    Args:
      path: file to write; replaced if there.
      tree: pytree of arrays.
      metadata: what JSON can hold.

    Raises:
      OSError: if the folder cannot be written.
    """
    host = jax.device_get(tree)
    arrays = {_name(keys): np.asarray(leaf, order="C") for keys, leaf in _leaves(host)}
    write_whole(path, save(arrays, metadata={"json": json.dumps(metadata)}))


def load_arrays(path: Folder, like: Any) -> tuple[Any, dict[str, Any]]:
    """Reads what `save_arrays` wrote into a pytree of known structure.

    Args:
      path: file to read.
      like: pytree of arrays or of `jax.ShapeDtypeStruct` with the structure to fill.

    Returns:
      The pytree with the file's arrays, and the metadata.

    Raises:
      OSError: if the file cannot be read.
      InputError: if it is damaged or holds other arrays.
    """
    arrays, metadata = _read(path)
    leaves = _leaves(like)
    wanted = {_name(keys): (tuple(leaf.shape), np.dtype(leaf.dtype)) for keys, leaf in leaves}
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if wanted != found:
        raise InputError(
            f"{path} holds other arrays than this run's: delete it to start that cell again"
        )
    values = [arrays[_name(keys)] for keys, _ in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), values), metadata


def load_variables(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the trained networks that a sweep kept with ``--save-params``.

    Args:
      path: a cell's ``.safetensors`` file.

    Returns:
      Flax variables as nested dictionaries, ``{"params": {"layer_00": {"kernel": (R, in, out)},
      ...}, "batch_stats": ...}`` with a leading axis of R runs, one per seed, for one rate after
      the other if there are several, and the cell's settings. `Cell.of` makes a cell of them,
      and `enorm_jax.networks.build` its network.

    Raises:
      OSError: if the file cannot be read.
      InputError: if it is damaged or is another file.
    """
    path = as_folder(path)
    remedy = "give the .safetensors file of a finished cell that was trained with --save-params"
    if path.is_dir():
        raise InputError(f"{os.fspath(path)} is a folder: {remedy}")
    try:
        arrays, settings = _read(path)
    except InputError:
        raise InputError(f"{os.fspath(path)} is damaged or holds no parameters: {remedy}") from None
    if "attempts" in settings:
        raise InputError(f"{os.fspath(path)} is of a cell in progress: {remedy}")
    variables: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, leaf = name.split(".")
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return variables, settings


def read_metadata(path: Folder) -> dict[str, Any]:
    """Reads the metadata of a file that `save_arrays` wrote, and no array.

    Args:
      path: file to read.

    Returns:
      The metadata.

    Raises:
      OSError: if the file cannot be read.
      InputError: if it is damaged.
    """
    with path.open("rb") as file:
        return _metadata(path, file)


def _read(path: Folder) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    content = path.read_bytes()
    metadata = _metadata(path, io.BytesIO(content))
    try:
        return load(content), metadata
    except SafetensorError as error:
        raise _damaged(path) from error


def _metadata(path: Folder, file: BinaryIO) -> dict[str, Any]:
    """The JSON in the header, whose length a safetensors file's first 8 bytes tell."""
    try:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return json.loads(header["__metadata__"]["json"])
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise _damaged(path) from error


def _damaged(path: Folder) -> InputError:
    return InputError(f"{os.fspath(path)} is damaged: delete it to start that cell again")


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_leaves_with_path(tree)


def _name(keys: Any) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator=".")
