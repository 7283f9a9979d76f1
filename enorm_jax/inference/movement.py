"""Rules of operations that move elements: they move units and parameters alike."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn

from enorm_jax.inference import values
from enorm_jax.inference.interpret import Trace, rule, shape_of
from enorm_jax.inference.values import Fixed, Scaled, Value, View, compact

Move = Callable[[np.ndarray], np.ndarray]


def moved(value: Value, move: Move) -> Value:
    """The value whose elements a function of arrays of units moves."""
    if isinstance(value, View):
        return View(move(value.index), value.leaves, value.product)
    return Scaled(move(value.ids)) if isinstance(value, Scaled) else value


@rule("reshape")
def reshape(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """Flattening, and any other reshape, of axes that may be permuted before."""
    shape, new = shape_of(equation.invars[0]), equation.params["new_sizes"]
    order = equation.params["dimensions"] or range(len(shape))
    old = [shape[axis] for axis in order]
    return moved(x, lambda ids: values.reshape(ids.transpose(order), old, new))


@rule("squeeze")
def squeeze(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """Dropping axes of size 1."""
    return moved(x, lambda ids: ids.squeeze(equation.params["dimensions"]))


@rule("transpose")
def transpose(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """Permuting axes."""
    return moved(x, lambda ids: ids.transpose(equation.params["permutation"]))


@rule("rev")
def reverse(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """Reversing axes."""
    return moved(x, lambda ids: np.flip(ids, equation.params["dimensions"]))


@rule("broadcast_in_dim")
def broadcast(trace: Trace, equation: JaxprEqn, x: Value, *sizes: Value) -> Value:
    """Repeating along new axes: there the unit does not vary."""
    axes, rank = equation.params["broadcast_dimensions"], len(equation.params["shape"])
    return moved(x, lambda ids: values.place(ids, axes, rank))


@rule("slice")
def static_slice(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """Slicing with known bounds."""
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    slices = [slice(*bounds) for bounds in zip(starts, limits, strides, strict=True)]
    return moved(x, lambda ids: _cut(ids, slices))


@rule("split")
def split(trace: Trace, equation: JaxprEqn, x: Value) -> list[Value]:
    """Cutting along an axis."""
    axis, ends = equation.params["axis"], np.cumsum([0, *equation.params["sizes"]]).tolist()
    bounds = [[slice(None)] * axis + [slice(*pair)] for pair in itertools.pairwise(ends)]
    return [moved(x, functools.partial(_cut, slices=slices)) for slices in bounds]


@rule("unstack")
def unstack(trace: Trace, equation: JaxprEqn, x: Value) -> list[Value]:
    """Cutting along an axis into slices without it."""
    return [taken(x, k, equation.params["axis"]) for k in range(len(equation.outvars))]


def taken(x: Value, k: int, axis: int) -> Value:
    """The value at one place along an axis."""
    return moved(x, lambda ids: ids.take(min(k, ids.shape[axis] - 1), axis))


@rule("tile")
def tile(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """Repeating along axes."""
    repeats = equation.params["reps"]

    def repeated(ids: np.ndarray) -> np.ndarray:
        pairs = zip(repeats, ids.shape, strict=True)
        return np.tile(ids, [times if n > 1 else 1 for times, n in pairs])

    return moved(x, repeated)


def _cut(ids: np.ndarray, slices: Sequence[slice]) -> np.ndarray:
    """Slices, but for axes along which the unit does not vary."""
    return ids[tuple(s if n > 1 else slice(None) for s, n in zip(slices, ids.shape, strict=False))]


@rule("concatenate")
def concatenate(trace: Trace, equation: JaxprEqn, *parts: Value) -> Value:
    """Joining along an axis."""
    sizes = [shape_of(variable) for variable in equation.invars]
    return concat(trace, parts, sizes, equation.params["dimension"])


@rule("stack")
def stack(trace: Trace, equation: JaxprEqn, *parts: Value) -> Value:
    """Joining along a new axis."""
    return along_new_axis(trace, parts, shape_of(equation.outvars[0]), equation.params["axis"])


def along_new_axis(trace: Trace, parts: Sequence[Value], shape: Sequence[int], axis: int) -> Value:
    """Values of one shape joined along a new axis of an array of the given shape."""
    raised = [moved(part, lambda ids: np.expand_dims(ids, axis)) for part in parts]
    sizes = [(*shape[:axis], 1, *shape[axis + 1 :])] * len(parts)
    return concat(trace, raised, sizes, axis)


def concat(
    trace: Trace, parts: Sequence[Value], shapes: Sequence[Sequence[int]], axis: int
) -> Value:
    """Values of the given shapes joined along an axis."""
    if all(isinstance(part, Fixed) for part in parts):
        zero = all(isinstance(part, Fixed) and part.zero for part in parts)
        return Fixed(np.zeros(())) if zero else Fixed()
    views = [part for part in parts if isinstance(part, View)]
    if len(views) == len(parts):
        leaves = frozenset().union(*(view.leaves for view in views))
        index = _stacked([view.index for view in views], shapes, axis)
        return View(index, leaves, any(view.product for view in views))
    rank, pieces = len(shapes[0]), []
    for part, shape in zip(parts, shapes, strict=True):
        if isinstance(part, Fixed) and part.zero:  # zeros have any scale
            pieces.append(trace.units.fresh([n if a == axis else 1 for a, n in enumerate(shape)]))
        else:
            pieces.append(trace.units.top(trace.ids(part, rank)))
    return Scaled(compact(_stacked(pieces, shapes, axis)))


def _stacked(
    pieces: Sequence[np.ndarray], shapes: Sequence[Sequence[int]], axis: int
) -> np.ndarray:
    common = list(
        np.broadcast_shapes(*([*p.shape[:axis], 1, *p.shape[axis + 1 :]] for p in pieces))
    )
    full = []
    for piece, shape in zip(pieces, shapes, strict=True):
        common[axis] = shape[axis]
        full.append(np.broadcast_to(piece, common))
    return np.concatenate(full, axis)


@rule("pad")
def pad(trace: Trace, equation: JaxprEqn, x: Value, padding: Value) -> Value:
    """Padding: zeros have any scale, other constants fix the axis' units in the padding."""
    free = isinstance(padding, Fixed) and padding.scale_free
    if not free:
        trace.because("padding with a constant")
        trace.pin(x, padding)
        return Fixed()
    ids = trace.ids(x, len(shape_of(equation.outvars[0])))
    for axis, (low, high, interior) in enumerate(equation.params["padding_config"]):
        n = ids.shape[axis]
        if n == 1 or not (low or high or interior):
            continue
        positions = low + np.arange(n) * (interior + 1)
        size = low + high + n + max(n - 1, 0) * interior
        inside = (positions >= 0) & (positions < size)
        new = trace.units.fresh((*ids.shape[:axis], size, *ids.shape[axis + 1 :]))
        before = (slice(None),) * axis
        new[(*before, positions[inside])] = ids[(*before, inside)]
        ids = new
    return Scaled(ids)


@rule("dynamic_slice")
def dynamic_slice(trace: Trace, equation: JaxprEqn, x: Value, *starts: Value) -> Value:
    """Slicing from computed indices: not known, they may be any."""
    shape, sizes = shape_of(equation.invars[0]), equation.params["slice_sizes"]
    if (slices := known_slices(starts, shape, sizes)) is not None:
        return moved(x, lambda ids: _cut(ids, slices))
    trace.because("slice at an unknown place")
    trace.pin(*starts)
    partial = [axis for axis, n in enumerate(sizes) if n != shape[axis]]
    return Scaled(_any_of(trace, x, len(shape), partial))


def known_slices(
    starts: Sequence[Value], shape: Sequence[int], sizes: Sequence[int]
) -> tuple[slice, ...] | None:
    """The slices of given sizes from computed indices on, which stay inside; None if unknown."""
    known = [int(s.value) for s in starts if isinstance(s, Fixed) and s.value is not None]
    if len(known) < len(starts):
        return None
    firsts = np.clip(known, 0, np.subtract(shape, sizes)).tolist()
    return tuple(slice(first, first + n) for first, n in zip(firsts, sizes, strict=True))


@rule("gather")
def gather(trace: Trace, equation: JaxprEqn, x: Value, indices: Value) -> Value:
    """Indexing; with unknown indices, as into an embedding, they may be any."""
    if isinstance(indices, Fixed) and indices.value is not None:
        shape = shape_of(equation.invars[0])
        at = np.broadcast_to(indices.value, shape_of(equation.invars[1]))
        return moved(x, lambda ids: gathered(np.broadcast_to(ids, shape), at, equation.params))
    trace.because("indexing with an activation")
    trace.pin(indices)
    trace.because("indexing at unknown places")
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape = shape_of(equation.invars[0])
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    partial = [axis for axis, n in enumerate(sizes) if n != shape[axis] or axis in gone]
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    ids = _any_of(trace, x, len(shape), partial)
    rank = len(shape_of(equation.outvars[0]))
    return Scaled(values.place(values.pick(ids, kept), numbers.offset_dims, rank))


def _any_of(trace: Trace, x: Value, rank: int, axes: Sequence[int]) -> np.ndarray:
    """Units of an element that may lie anywhere along axes."""
    if isinstance(x, View):
        out = trace.units.fresh([1 if a in axes else n for a, n in enumerate(x.index.shape)])
        trace.multiply(x, out, np.zeros((1,) * rank, np.int32))
        return out
    return trace.level(trace.ids(x, rank), axes)


def gathered(
    ids: np.ndarray, indices: np.ndarray, params: Mapping[str, Any], fill: int = 0
) -> np.ndarray:
    """What a gather's parameters take from an array at known indices; `fill` outside of it."""
    with jax.ensure_compile_time_eval():
        return np.asarray(
            jax.lax.gather(
                ids,
                indices,
                params["dimension_numbers"],
                params["slice_sizes"],
                mode=params["mode"],
                fill_value=fill,
            )
        )
