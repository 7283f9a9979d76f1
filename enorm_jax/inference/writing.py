"""Rules of writing at indices: what is written, added or compared somewhere shares units there."""

import math

import numpy as np
from jax.extend.core import JaxprEqn
from jax.lax import GatherDimensionNumbers

from enorm_jax.inference import values
from enorm_jax.inference.interpret import Trace, rule, shape_of
from enorm_jax.inference.movement import gathered, known_slices
from enorm_jax.inference.values import Fixed, Scaled, Value, compact


@rule("scatter", "scatter-add", "scatter-sub", "scatter-max", "scatter-min")
def scatter(trace: Trace, equation: JaxprEqn, x: Value, indices: Value, updates: Value) -> Value:
    """Writing at indices, or adding there, as a sum over a graph's edges does."""
    numbers = equation.params["dimension_numbers"]
    shape, sizes = (shape_of(equation.invars[k]) for k in (0, 2))
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    window = dict(zip(kept, numbers.update_window_dims, strict=True))
    if isinstance(indices, Fixed) and indices.value is not None:
        at = np.broadcast_to(indices.value, shape_of(equation.invars[1]))
        transposed = {
            "dimension_numbers": GatherDimensionNumbers(
                numbers.update_window_dims,
                numbers.inserted_window_dims,
                numbers.scatter_dims_to_operand_dims,
                numbers.operand_batching_dims,
                numbers.scatter_indices_batching_dims,
            ),
            "slice_sizes": tuple(
                sizes[window[axis]] if axis in window else 1 for axis in range(len(shape))
            ),
            "mode": equation.params["mode"],
        }
        return _written(trace, equation, x, updates, gathered(_places(shape), at, transposed, -1))
    trace.because("indexing with an activation")
    trace.pin(indices)
    return _anywhere(trace, equation, x, updates, sizes, window)


@rule("dynamic_update_slice")
def dynamic_update_slice(
    trace: Trace, equation: JaxprEqn, x: Value, updates: Value, *starts: Value
) -> Value:
    """Writing from computed indices on, as into a cache."""
    shape, sizes = (shape_of(equation.invars[k]) for k in (0, 1))
    if (slices := known_slices(starts, shape, sizes)) is not None:
        return _written(trace, equation, x, updates, _places(shape)[slices])
    trace.because("writing at an unknown place")
    trace.pin(*starts)
    window = {axis: axis for axis in range(len(shape))}
    return _anywhere(trace, equation, x, updates, sizes, window)


def _places(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.int32).reshape(shape)


def _neutral(equation: JaxprEqn, value: Value) -> bool:
    """Whether a value is right under any scale of what it meets."""
    if not isinstance(value, Fixed):
        return False
    added = equation.primitive.name in ("scatter-add", "scatter-sub")
    return value.zero if added else value.scale_free


def _written(
    trace: Trace, equation: JaxprEqn, x: Value, updates: Value, places: np.ndarray
) -> Value:
    """Units after writing at known places; -1 is none."""

    def full(value: Value, shape: tuple[int, ...]) -> np.ndarray:
        if _neutral(equation, value):
            return trace.units.fresh([math.prod(shape)])
        return np.broadcast_to(trace.ids(value, len(shape)), shape).flatten()

    shape = shape_of(equation.outvars[0])
    ids, new = full(x, shape), full(updates, places.shape)
    inside = places.ravel() >= 0
    at, new = places.ravel()[inside], new[inside]
    trace.because("writing over or beside it")
    if equation.primitive.name in ("scatter", "dynamic_update_slice"):
        ids[at] = new
    trace.unify(ids[at], new)  # of what is written twice, either may stay
    return Scaled(compact(trace.units.top(ids.reshape(shape))))


def _anywhere(
    trace: Trace,
    equation: JaxprEqn,
    x: Value,
    updates: Value,
    sizes: tuple[int, ...],
    window: dict[int, int],
) -> Value:
    """Units after writing updates of given sizes at places that are not known.

    `window` gives x's axes those of updates. An axis that is written whole keeps its units; along
    the others they become one.
    """
    if _neutral(equation, updates):
        return x
    shape = shape_of(equation.outvars[0])
    rank = len(shape)
    whole = [axis for axis, of in window.items() if sizes[of] == shape[axis]]
    trace.because("writing at unknown places")
    ends = [window[axis] for axis in whole]
    level = [axis for axis in range(len(sizes)) if axis not in ends]
    new = trace.level(trace.ids(updates, len(sizes)), level)
    new = values.place(values.pick(new, ends), whole, rank)
    if _neutral(equation, x):
        return Scaled(compact(new))
    old = trace.level(trace.ids(x, rank), [axis for axis in range(rank) if axis not in whole])
    return trace.join(old, new)
