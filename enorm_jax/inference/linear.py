"""Rules of matrix products and convolutions."""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from enorm_jax.inference.elementwise import product
from enorm_jax.inference.interpret import Trace, rule, shape_of
from enorm_jax.inference.values import Fixed, Scaled, Value, View, compact, pick, place

Axes = Sequence[int]


@rule("dot_general")
def dot_general(trace: Trace, equation: JaxprEqn, lhs: Value, rhs: Value) -> Value:
    """A dense layer where one operand is a parameter: its units in, new units out."""
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = equation.params["dimension_numbers"]
    if any(isinstance(value, Fixed) and value.zero for value in (lhs, rhs)):
        return Fixed(np.zeros(()))
    ranks = [len(shape_of(variable)) for variable in equation.invars]
    if isinstance(lhs, View) and isinstance(rhs, View):
        if lhs.product == rhs.product:
            trace.because("matrix product of two parameters")
            trace.pin(lhs, rhs)
            return Fixed()
        # Parameters times data are activations, as of a diagonal layer.
        lhs, rhs = (Scaled(trace.lift(v)) if v.product else v for v in (lhs, rhs))
    sides = [(lhs, ranks[0], lhs_sum, lhs_batch), (rhs, ranks[1], rhs_sum, rhs_batch)]
    for this, other in ((0, 1), (1, 0)):
        if isinstance(sides[this][0], View):
            layer = _dense(trace, sides[this], sides[other])
            if layer is not None:
                parts = [layer, np.zeros((1,) * ranks[other], np.int32)]
                arrays = parts if this == 0 else parts[::-1]
                return Scaled(_combine(trace, sides, arrays))
            trace.because("one kernel for several units")
            trace.pin(sides[this][0])
            sides[this] = (Fixed(), *sides[this][1:])
    arrays = [trace.level(trace.ids(value, rank), axes) for value, rank, axes, _ in sides]
    return Scaled(_combine(trace, sides, arrays))


Side = tuple[Value, int, Axes, Axes]


def _dense(trace: Trace, kernel: Side, data: Side) -> np.ndarray | None:
    """Units that a kernel feeds, on its own axes; None if it had better keep its values.

    It must where units vary along data's free axes, as channels do when pixels are mixed, or
    else these become one: that is better where units vary along the axes it sums over as well.
    """
    view, rank, kernel_sum, kernel_batch = kernel
    value, data_rank, data_sum, data_batch = data
    assert isinstance(view, View)
    ids = compact(trace.units.find(trace.ids(value, data_rank)))
    bound = [*data_sum, *data_batch]
    free = [axis for axis in range(data_rank) if axis not in bound]
    if any(ids.shape[axis] > 1 for axis in free):
        if all(ids.shape[axis] == 1 for axis in data_sum):
            return None
        ids = trace.level(ids, free)
    into = place(pick(ids, bound), [*kernel_sum, *kernel_batch], rank)
    shape = [1 if axis in kernel_sum else n for axis, n in enumerate(view.index.shape)]
    out = trace.units.fresh(shape)
    trace.multiply(view, out, into)
    return out


def _combine(trace: Trace, sides: Sequence[Side], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Units of the product: batch axes, the left's free axes, the right's free axes."""
    frees = [
        [axis for axis in range(rank) if axis not in (*sums, *batch)]
        for _, rank, sums, batch in sides
    ]
    batch_size = len(sides[0][3])
    rank = batch_size + len(frees[0]) + len(frees[1])
    starts = (batch_size, batch_size + len(frees[0]))
    placed = [
        place(
            pick(ids, [*batch, *free]), [*range(batch_size), *range(first, first + len(free))], rank
        )
        for ids, free, first, (_, _, _, batch) in zip(arrays, frees, starts, sides, strict=True)
    ]
    return product(trace, *placed)


@rule("conv_general_dilated")
def convolution(trace: Trace, equation: JaxprEqn, lhs: Value, rhs: Value) -> Value:
    """A convolution: as a dense layer between the channels of each group."""
    if equation.params["batch_group_count"] != 1:
        trace.because("convolution in groups of the batch")
        trace.pin(lhs, rhs)
        return Fixed()
    if any(isinstance(value, Fixed) and value.zero for value in (lhs, rhs)):
        return Fixed(np.zeros(()))
    numbers, groups = equation.params["dimension_numbers"], equation.params["feature_group_count"]
    rank = len(shape_of(equation.outvars[0]))
    out_axis, in_axis = numbers.rhs_spec[:2]
    ins, outs = (shape_of(equation.invars[1])[axis] for axis in (in_axis, out_axis))
    channel = numbers.lhs_spec[1]
    others = [axis for axis in range(rank) if axis != channel]
    ids = pick(trace.level(trace.ids(lhs, rank), others), [channel])
    # (out, in) of the kernel: the input channels that each output channel reads
    into = np.broadcast_to(ids, groups * ins).reshape(groups, ins).repeat(outs // groups, axis=0)
    if isinstance(rhs, View):
        shape = [n if axis == out_axis else 1 for axis, n in enumerate(rhs.index.shape)]
        fed = trace.units.fresh(shape)
        trace.multiply(rhs, fed, place(compact(into), [out_axis, in_axis], rank))
        out = pick(fed, [out_axis])
    else:
        kernel = trace.level(
            trace.ids(rhs, rank), [axis for axis in range(rank) if axis != out_axis]
        )
        out = product(trace, pick(trace.level(into, [1]), [0]), pick(kernel, [out_axis]))
    return Scaled(place(out, [numbers.out_spec[1]], rank))
