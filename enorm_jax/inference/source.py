"""Names an operation as users know it, and where it is."""

from collections.abc import Sequence
from pathlib import PurePath

from jax.extend import source_info_util
from jax.extend.core import JaxprEqn


def describe(places: Sequence[JaxprEqn], detail: str = "") -> str:
    """The innermost of nested operations: ``gelu (tanh) in Block_0/Dense_1``.

    Args:
      places: nested equations, outermost first.
      detail: what the operation does, where its primitive's name does not say.

    Returns:
      One line.
    """
    primitive = detail or places[-1].primitive.name
    name = _activation(places[-1]) or _call(places[:-1])
    operation = f"{name} ({primitive})" if name and name != primitive else primitive
    scope = "/".join(
        str(p.source_info.name_stack) for p in places if p.source_info.name_stack.stack
    )
    if scope:
        return f"{operation} in {scope}"
    line = source_info_util.summarize(places[-1].source_info).split(" ")[0]
    return f"{operation} at {PurePath(line).name}" if ":" in line else operation


def _activation(equation: JaxprEqn) -> str | None:
    """The function of `jax.nn` that the operation is part of."""
    traceback = equation.source_info.traceback
    if traceback is None:
        return None
    for frame in reversed(traceback.frames):
        file = PurePath(frame.file_name).as_posix()
        name = frame.function_name.rsplit(".", 1)[-1]
        if file.endswith("jax/_src/nn/functions.py") and not name.startswith(("_", "<")):
            return name
    return None


def _call(places: Sequence[JaxprEqn]) -> str | None:
    """The innermost named call around the operation."""
    for place in reversed(places):
        name = str(place.params.get("name", "_"))
        if not name.startswith(("_", "<")):
            return name
    return None
