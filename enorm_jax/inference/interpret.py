"""Reads a jaxpr equation by equation, with units in place of numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from enorm_jax.inference import source
from enorm_jax.inference.units import Units, Uses
from enorm_jax.inference.values import Fixed, Scaled, Value, View, compact

Rule = Callable[..., Value | list[Value]]
RULES: dict[str, Rule] = {}
# Constants up to this size are computed, so that indices are known.
_FOLDED = 1024
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def rule(*primitives: str) -> Callable[[Rule], Rule]:
    """Registers ``function(trace, equation, *values)`` for primitives."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(primitives, function))
        return function

    return register


def shape_of(variable: Any) -> tuple[int, ...]:
    """The shape of a variable or literal of a jaxpr."""
    return tuple(variable.aval.shape)


class Trace:
    """The state of a reading: units, uses of parameters, and where in the program it is."""

    def __init__(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> None:
        self.units = Units()
        self.uses = Uses(self.units, names, shapes)
        self._places: list[JaxprEqn] = []
        self._detail = ""

    def reason(self) -> str:
        """The operation being read, as users know it, and where it is."""
        return source.describe(self._places, self._detail) if self._places else self._detail

    def because(self, detail: str) -> None:
        """Says more than the primitive's name about what the operation does."""
        self._detail = detail

    def ids(self, value: Value, rank: int) -> np.ndarray:
        """The units of a value; elements of parameters become added vectors."""
        if isinstance(value, Fixed):
            return np.zeros((1,) * rank, np.int32)
        if isinstance(value, View):
            return self.lift(value)
        return value.ids

    def lift(self, view: View) -> np.ndarray:
        """New units for elements of parameters that are added, or multiply data only."""
        out = self.units.fresh(view.index.shape)
        self._detail = self._detail or "second use of a parameter"
        self.uses.record(view.index, out, np.zeros_like(out), self.reason)
        if view.product:
            self.uses.products |= view.leaves
        return out

    def multiply(self, view: View, out: np.ndarray, into: np.ndarray) -> None:
        """Notes that parameters multiply the units `into` and feed the units `out`."""
        self.uses.products |= view.leaves
        self._detail = self._detail or "second use of a parameter"
        self.uses.record(view.index, out, into, self.reason)

    def unify(self, a: np.ndarray, b: np.ndarray) -> None:
        """Makes units equal."""
        self.units.unify(a, b, self.reason)

    def join(self, *ids: np.ndarray) -> Scaled:
        """Makes units of arrays that broadcast equal, element by element."""
        joined, *others = ids
        for other in others:
            self.unify(joined, other)
            joined = np.where(joined == 0, other, joined)  # not 0, which does not tell why
        return Scaled(compact(self.units.top(joined)))

    def level(self, ids: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        """Makes units equal along axes; the array with size 1 there."""
        first = ids[tuple(slice(1) if axis in axes else slice(None) for axis in range(ids.ndim))]
        self.unify(ids, first)
        return self.units.top(first)

    def pin(self, *values: Value) -> None:
        """Fixes the scale of all that values depend on."""
        for value in values:
            if isinstance(value, Scaled):
                self.unify(value.ids, np.zeros(1, np.int32))
            elif isinstance(value, View):
                zero = np.zeros(1, np.int32)
                self.uses.record(value.index, zero, zero, self.reason)
                for leaf in value.leaves:
                    self.uses.pinned.setdefault(leaf, self.reason())

    def run(self, jaxpr: Jaxpr, consts: Sequence[Value], args: Sequence[Value]) -> list[Value]:
        """The values of a jaxpr's outputs."""
        known: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        known.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return Fixed(np.asarray(atom.val)) if isinstance(atom, Literal) else known[atom]

        for equation in jaxpr.eqns:
            values = [read(atom) for atom in equation.invars]
            self._places.append(equation)
            self._detail = ""
            outputs = self._equation(equation, values)
            self._places.pop()
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def call(self, closed: ClosedJaxpr | Jaxpr, args: Sequence[Value]) -> list[Value]:
        """The values of a call's outputs."""
        if isinstance(closed, Jaxpr):
            return self.run(closed, [], args)
        return self.run(closed.jaxpr, [Fixed()] * len(closed.consts), args)

    def _equation(self, equation: JaxprEqn, values: list[Value]) -> list[Value]:
        primitive = equation.primitive.name
        if primitive in _CALL_PRIMITIVES:
            inner = next(equation.params[key] for key in _CALLS if key in equation.params)
            return self.call(inner, values)
        constants = [value for value in values if isinstance(value, Fixed)]
        if len(constants) == len(values):
            return _fold(equation, constants)
        if primitive not in RULES:
            self.pin(*values)
            return [Fixed() for _ in equation.outvars]
        result = RULES[primitive](self, equation, *values)
        return result if isinstance(result, list) else [result]


_CALL_PRIMITIVES = frozenset(
    ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
) | {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_UNIFORM = frozenset(
    ("broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "rev", "copy", "copy_p")
) | {"dynamic_slice", "split"}
_ELEMENTWISE = frozenset(("add", "sub", "mul", "div", "neg", "max", "min", "convert_element_type"))


def _fold(equation: JaxprEqn, values: list[Fixed]) -> list[Value]:
    """What is known of the outputs of an operation on constants."""
    arrays = [value.value for value in values]
    unknown: list[Value] = [Fixed() for _ in equation.outvars]
    name = equation.primitive.name
    if any(array is None for array in arrays) or equation.effects:
        return unknown
    uniform = all(array.ndim == 0 for array in arrays if array is not None)
    if name == "optimization_barrier":
        return [Fixed(array) for array in arrays]
    if name in _UNIFORM and arrays and uniform:
        return [Fixed(arrays[0]) for _ in equation.outvars]
    shapes = [getattr(variable.aval, "shape", None) for variable in equation.outvars]
    small = all(shape is not None and np.prod(shape) <= _FOLDED for shape in shapes)
    full = arrays
    if not (name in _ELEMENTWISE and uniform):
        if not small or any(not hasattr(v.aval, "shape") for v in equation.invars):
            return unknown
        pairs = zip(arrays, equation.invars, strict=True)
        full = [np.broadcast_to(a, shape_of(v)) for a, v in pairs if a is not None]
    try:
        with jax.ensure_compile_time_eval():
            results = equation.primitive.bind(*full, **equation.params)
        outputs = results if equation.primitive.multiple_results else [results]
        return [Fixed(np.asarray(output)) for output in outputs]
    except Exception:  # what cannot be computed here is merely not known
        return unknown
