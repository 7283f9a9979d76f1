"""Rules of element-wise operations."""

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from enorm_jax.inference.interpret import Trace, rule, shape_of
from enorm_jax.inference.values import Fixed, Scaled, Value, View, compact

_ZERO = Fixed(np.zeros(()))


@rule("neg", "abs", "copy", "copy_p", "reduce_precision", "name")
@rule("real", "stop_gradient", "pvary", "sharding_constraint", "reshard")
def same(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """What scales as its operand."""
    return x


@rule("optimization_barrier", "device_put")
def same_each(trace: Trace, equation: JaxprEqn, *values: Value) -> list[Value]:
    """What passes several operands on."""
    return list(values)


@rule("debug_callback", "debug_print")
def shown(trace: Trace, equation: JaxprEqn, *values: Value) -> list[Value]:
    """What looks at values, and gives nothing to the function."""
    return []


@rule("sign", "is_finite")
def invariant(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """What no positive scale changes."""
    return Fixed()


@rule("convert_element_type")
def convert(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """A cast: to bool it asks for zero, to integers it rounds."""
    new = equation.params["new_dtype"]
    if new == np.bool_:
        return Fixed()
    if jnp.issubdtype(new, jnp.floating):
        return x
    trace.because(
        "cast to complex numbers" if jnp.issubdtype(new, np.complexfloating) else "cast to integers"
    )
    trace.pin(x)
    return Fixed()


@rule("add", "sub", "add_any")
def add(trace: Trace, equation: JaxprEqn, x: Value, y: Value) -> Value:
    """A sum: its terms share their units."""
    rank = len(shape_of(equation.outvars[0]))
    for one, other in ((x, y), (y, x)):
        if isinstance(one, Fixed) and one.zero:
            return _of_rank(other, rank)
        if isinstance(one, Fixed):
            trace.because(f"{equation.primitive.name} of a constant or an input")
    return trace.join(*(_rank(trace.ids(value, rank), rank) for value in (x, y)))


@rule("mul")
def multiply(trace: Trace, equation: JaxprEqn, x: Value, y: Value) -> Value:
    """A product: of parameters and activations, a diagonal layer."""
    rank = len(shape_of(equation.outvars[0]))
    for one, other in ((x, y), (y, x)):
        if isinstance(one, Fixed):
            return _ZERO if one.zero else times_fixed(one, _of_rank(other, rank))
    x, y = _of_rank(x, rank), _of_rank(y, rank)
    if isinstance(x, View) and isinstance(y, View):
        kept, free = sorted((x, y), key=lambda v: (not trace.uses.fixed(v.index), v.index.size))
        trace.because("product of two parameters")
        trace.pin(kept)
        return View(free.index, free.leaves, product=True)
    if isinstance(x, View) or isinstance(y, View):
        view, activation = (x, y) if isinstance(x, View) else (y, x)
        assert isinstance(view, View)
        return diagonal(trace, view, trace.ids(activation, rank))
    return Scaled(product(trace, trace.ids(x, rank), trace.ids(y, rank)))


def times_fixed(fixed: Fixed, other: Value) -> Value:
    """A value times a constant or an input."""
    if isinstance(other, View) and (fixed.value is None or fixed.value.ndim):
        return View(other.index, other.leaves, product=True)
    return Fixed() if isinstance(other, Fixed) else other


def diagonal(trace: Trace, view: View, ids: np.ndarray) -> Scaled:
    """Parameters times an activation: new units where there is one parameter for each."""
    ids, index = compact(trace.units.find(ids)), view.index
    if any(n > 1 and m == 1 for n, m in zip(ids.shape, index.shape, strict=True)):
        trace.because("one parameter for several units")
        trace.pin(view)
        return Scaled(ids)
    out = trace.units.fresh(index.shape)
    trace.multiply(view, out, ids)
    return Scaled(out)


def product(trace: Trace, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Units of a product of two activations: one of them must have a fixed scale."""
    roots = trace.units.find(a), trace.units.find(b)
    conflict = (roots[0] != 0) & (roots[1] != 0)
    if conflict.any():
        loser = a if np.unique(roots[0]).size < np.unique(roots[1]).size else b
        trace.because("product of two activations (attention, gate, normalization)")
        trace.unify(np.broadcast_to(loser, conflict.shape)[conflict], np.zeros(1, np.int32))
    return compact(trace.units.top(np.where(trace.units.find(a) != 0, a, b)))


@rule("div")
def divide(trace: Trace, equation: JaxprEqn, x: Value, y: Value) -> Value:
    """A quotient: the divisor's scale is fixed."""
    trace.because("division by it")
    trace.pin(y)
    x = _of_rank(x, len(shape_of(equation.outvars[0])))
    return times_fixed(y if isinstance(y, Fixed) else Fixed(), x)


@rule("max", "min")
def extremum(trace: Trace, equation: JaxprEqn, x: Value, y: Value) -> Value:
    """ReLU, and the larger or smaller of two activations, which share their units."""
    rank = len(shape_of(equation.outvars[0]))
    for one, other in ((x, y), (y, x)):
        if isinstance(one, Fixed) and one.scale_free:
            return _of_rank(other, rank)
        if isinstance(one, Fixed):
            trace.because(f"{equation.primitive.name} with a constant or an input")
    return trace.join(*(_rank(trace.ids(value, rank), rank) for value in (x, y)))


@rule("clamp")
def clamp(trace: Trace, equation: JaxprEqn, low: Value, x: Value, high: Value) -> Value:
    """Clipping, which fixes the scale unless the bounds are 0 or infinite."""
    if all(isinstance(bound, Fixed) and bound.scale_free for bound in (low, high)):
        return x
    trace.because("clipping")
    trace.pin(low, x, high)
    return Fixed()


@rule("eq", "ne", "lt", "le", "gt", "ge")
def compare(trace: Trace, equation: JaxprEqn, x: Value, y: Value) -> Value:
    """A comparison: with zero no scale changes it, of two activations a common one does not."""
    rank = len(shape_of(equation.outvars[0]))
    for one in (x, y):
        if isinstance(one, Fixed) and one.scale_free:
            return Fixed()
    trace.because("comparison")
    trace.join(*(_rank(trace.ids(value, rank), rank) for value in (x, y)))
    return Fixed()


@rule("select_n")
def select(trace: Trace, equation: JaxprEqn, which: Value, *cases: Value) -> Value:
    """A choice between values, which share their units."""
    if not isinstance(which, Fixed):
        trace.because("choice by an activation")
        trace.pin(which)
    rank = len(shape_of(equation.outvars[0]))
    return choose(trace, rank, cases)


def choose(trace: Trace, rank: int, cases: tuple[Value, ...]) -> Value:
    """One of several values, not known which."""
    free = [case for case in cases if isinstance(case, Fixed) and case.scale_free]
    others = [case for case in cases if not (isinstance(case, Fixed) and case.scale_free)]
    if not others:
        return free[0] if len(free) == 1 or all(case.zero for case in free) else Fixed()
    if len(others) == 1:
        return Fixed() if isinstance(others[0], Fixed) else _of_rank(others[0], rank)
    if all(isinstance(case, Fixed) for case in others):
        return Fixed()
    trace.because("choice between a constant or an input and an activation")
    return trace.join(*(_rank(trace.ids(case, rank), rank) for case in others))


def _rank(ids: np.ndarray, rank: int) -> np.ndarray:
    """Units of a scalar operand, broadcastable to arrays of the given rank."""
    return ids if ids.ndim == rank else ids.reshape((1,) * rank)


def _of_rank(value: Value, rank: int) -> Value:
    if isinstance(value, Scaled):
        return Scaled(_rank(value.ids, rank))
    if isinstance(value, View):
        return View(_rank(value.index, rank), value.leaves, value.product)
    return value
