"""Which entries of an optimizer's state follow a rescaling of the parameters, and how.

A gradient scales inversely to its weight, so every entry of a state that is made of gradients
follows with a power of the weight's factor: -1 for a mean of gradients, -2 for a mean of their
squares, 1 for a copy of the parameters. `DEGREES` knows the power by the state's class and field.
What comes after a transform that divides out the gradient's scale, such as the momentum trace of
`optax.rmsprop`, is made of updates without a scale, and stays as it is.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Degrees = Mapping[type, Mapping[str, int]]
# (arrays of a field, exponent of the weight's factor, "Class.field") -> arrays
Visit = Callable[[Any, int, str], Any]

_MOMENTS = {"mu": -1, "nu": -2}
# optax's own classes by name, as some are private.
DEGREES: Mapping[str, Mapping[str, int]] = {
    "EmaState": {"ema": -1},
    "MultiStepsState": {"acc_grads": -1},
    "MuonState": {"mu": -1, "ns_coeffs": 0},
    "ScaleByAdaDeltaState": {"e_g": -2, "e_x": 0},
    "ScaleByAdamState": _MOMENTS,
    "ScaleByAdanState": {"m": -1, "v": -1, "n": -2, "g": -1},
    "ScaleByAdemamixState": {"m1": -1, "m2": -1, "nu": -2},
    "ScaleByAmsgradState": _MOMENTS | {"nu_max": -2},
    "ScaleByBeliefState": _MOMENTS,
    "ScaleByLionState": {"mu": -1},
    "ScaleByOptimisticGradientState": {"previous_gradient": -1},
    "ScaleByRStdDevState": _MOMENTS,
    "ScaleByRStdDevWithCountState": _MOMENTS,
    "ScaleByRmsState": {"nu": -2},
    "ScaleByRmsWithCountState": {"nu": -2},
    "ScaleByRpropState": {"step_sizes": 0, "prev_updates": 0},
    "ScaleByRssState": {"sum_of_squares": -2},
    "ScaleBySimplifiedAdEMAMixState": {"m": -1, "n": -2},
    "ScheduleFreeState": {"z": 1},
    "SophiaState": _MOMENTS,
    "TraceState": {"trace": -1},
}
# The updates that leave these scale as those that enter, or as the state inside says; the others
# of `DEGREES` divide the gradient's scale out.
_PROPORTIONAL = {"EmaState", "ScaleByOptimisticGradientState", "TraceState"}
_WRAPPERS = {"MultiStepsState", "ScheduleFreeState"}
# They mix elements of a tensor, whose factors differ.
_MIXING = {
    "FactoredState": "Adafactor",
    "ScaleByNovogradState": "NovoGrad",
    "ScaleBySM3State": "SM3",
}


def walk_state(state: Any, params: Any, visit: Visit, degrees: Degrees | None = None) -> Any:
    """Replaces the fields of a state that may depend on the scale of the parameters.

    Args:
      state: state of an optax transform; arrays, or `jax.ShapeDtypeStruct`.
      params: parameters; only the structure matters.
      visit: function of a field's arrays, the exponent of the weight's factor that they follow
        with (0 for none) and the field's name.
      degrees: powers of other classes, ``{Class: {"field": power}}``; they go before the known.

    Returns:
      The state with the fields as `visit` returns them.

    Raises:
      ValueError: if a state of unknown class holds arrays that may have to be rescaled.
    """
    return _Walk(jax.tree.structure(params), visit, degrees or {}).walk(state, 1, "")[0]


class _Walk:
    """One pass over a state, in the order in which updates flow through its transforms.

    The order of the updates is 1 where they are in proportion to the gradients, 0 where they no
    longer depend on their scale, None where that differs between parameters or is not known.
    """

    def __init__(self, params: Any, visit: Visit, degrees: Degrees) -> None:
        self.params, self.visit, self.degrees = params, visit, degrees

    def walk(self, state: Any, order: int | None, owner: str) -> tuple[Any, int | None]:
        """The state, and the order of the updates that leave its transform."""
        kind = type(state)
        optax_name = kind.__name__ if kind.__module__.startswith("optax.") else ""
        if kind in self.degrees:
            return self._fields(state, self.degrees[kind], order, final=True)[0], None
        if optax_name in _MIXING:
            raise ValueError(
                f"{_MIXING[optax_name]}'s {optax_name} mixes elements of a tensor, so that no "
                "rescaling of it is right: use another optimizer, such as optax.adamw"
            )
        if optax_name in DEGREES:
            done, inner = self._fields(state, DEGREES[optax_name], order)
            if optax_name in _WRAPPERS:
                return done, inner
            return done, order if optax_name in _PROPORTIONAL else 0
        if optax_name == "PartitionState":
            return self._partition(state, order)
        children, treedef = jax.tree.flatten(state, is_leaf=lambda node: node is not state)
        is_leaf = len(children) == 1 and children[0] is state
        plain = is_leaf or isinstance(state, Mapping) or kind.__module__ == "builtins"
        owner = owner if plain else kind.__name__
        if self._may_scale(state, is_leaf):
            raise ValueError(
                f"cannot tell how {owner or kind.__name__} in the optimizer's state follows a "
                'rescaling: pass degrees={Class: {"field": power}}, -1 for a mean of gradients, '
                "-2 of their squares, 1 for parameters, 0 for what does not scale"
            )
        if is_leaf:
            return state, order
        done, after = [], order
        for child in children:
            child, after = self.walk(child, after, owner)
            done.append(child)
        if optax_name == "MaskedState" and after != order:
            after = None
        return jax.tree.unflatten(treedef, done), after

    def _may_scale(self, state: Any, is_leaf: bool) -> bool:
        """Whether it holds arrays that are like the parameters, or no single numbers at least."""
        if is_leaf:
            return getattr(state, "ndim", 0) > 0 and _inexact(state)
        same = jax.tree.structure(state) == self.params
        return same and any(map(_inexact, jax.tree.leaves(state)))

    def _fields(
        self, state: Any, powers: Mapping[str, int], order: int | None, final: bool = False
    ) -> tuple[Any, int | None]:
        """Visits the fields with a power, and walks the others."""
        name, new, after = type(state).__name__, {}, order
        for field in _field_names(state):
            value = getattr(state, field)
            if field not in powers:
                new[field], after = self.walk(value, after, name)
                continue
            if order is None and powers[field] < 0 and not final:
                raise ValueError(
                    f"cannot tell how {name}.{field} follows a rescaling: the updates that enter "
                    f'it scale differently by parameter; pass degrees={{{name}: {{"{field}": '
                    "power}}"
                )
            exponent = powers[field]
            if exponent < 0 and not final:
                exponent *= order or 0
            new[field] = self.visit(value, exponent, f"{name}.{field}")
        return _replaced(state, new), after

    def _partition(self, state: Any, order: int | None) -> tuple[Any, int | None]:
        """Parallel branches, each on its own part of the parameters."""
        inner, orders = {}, set()
        for label, masked in state.inner_states.items():
            done, after = self.walk(masked.inner_state, order, "")
            inner[label] = masked._replace(inner_state=done)
            orders.add(after)
        return state._replace(inner_states=inner), orders.pop() if len(orders) == 1 else None


def _field_names(state: Any) -> tuple[str, ...]:
    if hasattr(state, "_fields"):
        return state._fields
    return tuple(field.name for field in dataclasses.fields(state))


def _replaced(state: Any, new: dict[str, Any]) -> Any:
    return state._replace(**new) if hasattr(state, "_fields") else dataclasses.replace(state, **new)


def _inexact(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.inexact)
