"""Rules of loops and branches."""

from jax.extend.core import JaxprEqn

from enorm_jax.inference.elementwise import choose
from enorm_jax.inference.interpret import Trace, rule, shape_of
from enorm_jax.inference.movement import along_new_axis, taken
from enorm_jax.inference.values import Fixed, Value


@rule("scan")
def scan(trace: Trace, equation: JaxprEqn, *operands: Value) -> list[Value]:
    """A loop of known length, turn by turn; stacked parameters are one layer each."""
    params = equation.params
    consts_end = params["num_consts"]
    carry_end = consts_end + params["num_carry"]
    consts, carry = list(operands[:consts_end]), list(operands[consts_end:carry_end])
    turns = range(params["length"])
    outputs: list[list[Value]] = []
    for turn in reversed(turns) if params["reverse"] else turns:
        now = [_turn(x, turn) for x in operands[carry_end:]]
        results = trace.call(params["jaxpr"], [*consts, *carry, *now])
        carry = results[: len(carry)]
        outputs.append(results[len(carry) :])
    if params["reverse"]:
        outputs.reverse()
    variables = equation.outvars[len(carry) :]
    return [
        *carry,
        *(_stack(trace, [o[k] for o in outputs], shape_of(v)) for k, v in enumerate(variables)),
    ]


def _turn(x: Value, turn: int) -> Value:
    """One turn's part of what is stacked over turns."""
    if isinstance(x, Fixed):
        return Fixed(x.value[turn]) if x.value is not None and x.value.ndim else x
    return taken(x, turn, 0)


def _stack(trace: Trace, values: list[Value], shape: tuple[int, ...]) -> Value:
    return along_new_axis(trace, values, shape, 0) if values else Fixed()


@rule("cond")
def cond(trace: Trace, equation: JaxprEqn, which: Value, *operands: Value) -> list[Value]:
    """A branch, not known which."""
    trace.because("choice by an activation")
    trace.pin(which)
    results = [trace.call(branch, operands) for branch in equation.params["branches"]]
    variables = equation.outvars
    return [
        choose(trace, len(shape_of(variable)), cases)
        for variable, cases in zip(variables, zip(*results, strict=True), strict=True)
    ]
