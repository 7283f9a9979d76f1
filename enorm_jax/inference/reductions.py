"""Rules of reductions, windows and sorting: the units that meet in one are the same."""

from jax.extend.core import JaxprEqn

from enorm_jax.inference.interpret import Trace, rule, shape_of
from enorm_jax.inference.values import Fixed, Scaled, Value


@rule("reduce_sum", "reduce_max", "reduce_min")
def reduce(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """Sums, means and extrema over axes."""
    axes = equation.params["axes"]
    ids = trace.level(trace.ids(x, len(shape_of(equation.invars[0]))), axes)
    return Scaled(ids.squeeze(tuple(axes)))


@rule("argmax", "argmin")
def arg_reduce(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """Where the extremum lies, which a common scale does not change."""
    trace.level(trace.ids(x, len(shape_of(equation.invars[0]))), equation.params["axes"])
    return Fixed()


@rule("cumsum", "cummax", "cummin")
def cumulate(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """Running sums and extrema."""
    axes = [equation.params["axis"]]
    return Scaled(trace.level(trace.ids(x, len(shape_of(equation.invars[0]))), axes))


@rule("reduce_window_sum", "reduce_window_max", "reduce_window_min")
def pool(trace: Trace, equation: JaxprEqn, x: Value) -> Value:
    """Pooling: units are constant along the axes that windows lie in."""
    params, rank = equation.params, len(shape_of(equation.invars[0]))
    plain = zip(
        params["window_dimensions"],
        params["window_strides"],
        params["base_dilation"],
        params["window_dilation"],
        params["padding"],
        strict=True,
    )
    axes = [axis for axis, each in enumerate(plain) if each != (1, 1, 1, 1, (0, 0))]
    return Scaled(trace.level(trace.ids(x, rank), axes))


@rule("sort")
def sort(trace: Trace, equation: JaxprEqn, *operands: Value) -> list[Value]:
    """Sorting along an axis."""
    axes = [equation.params["dimension"]]
    return [_leveled(trace, equation, k, value, axes) for k, value in enumerate(operands)]


@rule("top_k")
def top_k(trace: Trace, equation: JaxprEqn, x: Value) -> list[Value]:
    """The largest elements, and where they are."""
    rank = len(shape_of(equation.invars[0]))
    axes = [equation.params.get("axis", rank - 1) % rank]
    return [_leveled(trace, equation, 0, x, axes), Fixed()]


def _leveled(trace: Trace, equation: JaxprEqn, k: int, value: Value, axes: list[int]) -> Value:
    if isinstance(value, Fixed):  # in an order that is not known, unless all of it is the same
        same = value.value is not None and value.value.ndim == 0
        return value if same else Fixed()
    return Scaled(trace.level(trace.ids(value, len(shape_of(equation.invars[k]))), axes))
