"""The chain of dense layers that a network's names spell out."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import jax


def chain(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the layers that have a kernel, in order, after checking that they chain.

    Args:
      params: mapping from layer names to layers.

    Returns:
      The layers' names, first to last.

    Raises:
      ValueError: if there is no kernel, a kernel is not a matrix, two neighbours do not chain, a
        bias is not one number a unit, a kernel lies deeper than in its layer, or the names'
        alphabetical order, in which pytrees keep them, is not that of their numbers.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.chain import chain
      >>> chain({"layer_01": {"kernel": jnp.ones((3, 2))}, "layer_00": {"kernel": jnp.ones((4, 3))},
      ...        "norm_00": {"scale": jnp.ones(3)}})
      ('layer_00', 'layer_01')
    """
    if not isinstance(params, Mapping) or not all(isinstance(name, str) for name in params):
        raise ValueError(
            "params must map names to layers, {'layer_00': {'kernel': ...}, ...}, "
            f"got {jax.tree.structure(params)}"
        )
    if "params" in params and "kernel" not in params["params"]:
        raise ValueError("these are a module's variables: pass variables['params']")
    for name, layer in params.items():
        if isinstance(layer, Mapping) and (inner := _inner_kernel(layer)):
            raise ValueError(
                f"{name}: its kernel lies deeper, in {inner!r}: pass a chain of layers that each "
                "hold their own kernel"
            )
    names = sorted(
        name for name, layer in params.items() if isinstance(layer, Mapping) and "kernel" in layer
    )
    if not names:
        raise ValueError(f"no layer with a 'kernel' among {sorted(params)}")
    _check_order(names)
    for name in names:
        if params[name]["kernel"].ndim != 2:
            raise ValueError(
                f"{name}: kernel of shape {params[name]['kernel'].shape} is not (in, out); "
                "use jax.vmap for a leading axis of seeds, and the groups of infer_groups for "
                "convolutions"
            )
        units, bias = params[name]["kernel"].shape[1], params[name].get("bias")
        if hasattr(bias, "shape") and bias.shape != (units,):
            raise ValueError(
                f"{name}: bias of shape {bias.shape} of {units} units is not ({units},)"
            )
    for before, after in itertools.pairwise(names):
        shapes = params[before]["kernel"].shape, params[after]["kernel"].shape
        if shapes[0][1] != shapes[1][0]:
            raise ValueError(
                f"{before} {shapes[0]} and {after} {shapes[1]} do not chain: "
                f"{shapes[0][1]} units out, {shapes[1][0]} in"
            )
    return tuple(names)


def _inner_kernel(layer: Mapping[str, Any]) -> str | None:
    """The name of an entry of a layer with a kernel somewhere inside."""
    for name, entry in layer.items():
        if isinstance(entry, Mapping) and ("kernel" in entry or _inner_kernel(entry)):
            return name
    return None


def _check_order(names: list[str]) -> None:
    """Raises unless all names are one prefix and a number, and sort as strings as they count."""
    if len(names) < 2:
        return
    parts = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
    unnumbered = [name for name, part in zip(names, parts, strict=True) if part is None]
    if unnumbered:
        raise ValueError(
            f"cannot tell the place of layer {unnumbered[0]!r} among {names}: "
            "name layers of a dense chain by zero-padded numbers, layer_00, layer_01, ...; of any "
            "other network, give the groups that infer_groups finds"
        )
    prefixes = {part[1] for part in parts if part}
    numbers = [int(part[2]) for part in parts if part]
    if len(prefixes) > 1 or numbers != sorted(set(numbers)):
        raise ValueError(
            f"layer names {names} are not in order as strings: "
            "use one prefix and zero-padded numbers, layer_00, layer_01, ..."
        )
