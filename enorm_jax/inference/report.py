"""Groups as a table for people."""

import itertools
import textwrap
from collections.abc import Sequence

from enorm_jax.groups import Groups, Slot, readable, require_groups

# Of the tensors that one cause leaves alone: two of a transformer's paths.
_NAMES_WIDTH = 80


def explain(groups: Groups) -> str:
    """A table of the groups, and of what is left alone because of which operation.

    A number in brackets is the axis whose indices are the group's units, with the first and last
    of them where the tensor has others besides: ``qkv/kernel[1 at 0-5]``. Of a kernel that is
    computed with before it is multiplied by, such as a standardized one, each element counts as a
    unit that is left alone.

    Args:
      groups: from `infer_groups`.

    Returns:
      Several lines of plain text.

    Raises:
      ValueError: if these are no groups.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax import explain, infer_groups
      >>> params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 4)), "c": jnp.ones((4, 1))}
      >>> def apply(params, x):
      ...     with jax.named_scope("net"):
      ...         return jnp.tanh(jax.nn.relu(x @ params["a"]) @ params["b"]) @ params["c"]
      >>> print(explain(infer_groups(apply, params, jnp.ones((1, 2)), check=False)))
      group  units  producers  consumers  vectors
      0      3      a[1]       b[0]
      <BLANKLINE>
      left alone  units  because of
      b           4      tanh in net
      c           1      output of the network
    """
    require_groups(groups)
    rows: list[tuple[str, ...]] = [("group", "units", "producers", "consumers", "vectors")]
    for number, group in enumerate(groups):
        sides = (group.producers, group.consumers, group.vectors)
        names = [[_label(slot) for slot in side] for side in sides]
        head = (str(number), str(group.size))
        for line in itertools.zip_longest(*names, fillvalue=""):
            rows.append((*head, *line))
            head = ("", "")
    tables = [_table(rows)] if len(rows) > 1 else ["no unit is balanced"]
    if groups.left_alone:
        causes: list[tuple[str, ...]] = [("left alone", "units", "because of")]
        tensors: dict[tuple[int, str], list[str]] = {}
        for left in groups.left_alone:
            tensors.setdefault((left.units, left.reason), []).append(readable(left.path))
        for (units, reason), names_of in tensors.items():
            first, *more = _lines(names_of)
            causes.append((first, str(units or ""), reason))
            causes += [(line, "", "") for line in more]
        tables.append(_table(causes))
    return "\n\n".join(tables)


def _label(slot: Slot) -> str:
    axes = ", ".join(_axis(slot, axis) for axis in slot.axes)
    return f"{slot.name}[{axes}]" if axes else slot.name


def _axis(slot: Slot, axis: int) -> str:
    """An axis, and where along it the units lie if not from its first index to its last."""
    first, end = slot.box[axis].start, slot.box[axis].stop
    if (first, end) == (0, slot.shape[axis]):
        return str(axis)
    return f"{axis} at {first}" + (f"-{end - 1}" if end - first > 1 else "")


def _lines(names: Sequence[str]) -> list[str]:
    return textwrap.wrap(
        ", ".join(names), _NAMES_WIDTH, break_long_words=False, break_on_hyphens=False
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)
