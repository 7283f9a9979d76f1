"""Keeps the last member of an `optax.chain` from leaving the other members' states behind.

The members of a chain see gradients and parameters, never each other's states. So one member
cannot rescale the momentum that another keeps; all it can do is to find out at `init`, when
optax calls the members one by one, who else is called.
"""

import inspect
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
import optax

from enorm_jax.opt_state import Degrees, walk_state

# Combinators of optax that hand parameters and final updates through as they are.
_TRANSPARENT = (
    "chain.", "named_chain.", "MultiSteps.", "apply_if_finite.", "inject_hyperparams.",
    "with_extra_args_support.",
)  # fmt: skip
_CHAINS = ("chain.<locals>.init_fn", "named_chain.<locals>.init_fn")
# They keep copies of the parameters, which a member cannot rescale.
_COPYING = ("lookahead.", "schedule_free.", "mechanize.")
REMEDY = "write equi_normalize(optax.chain(...), c=...) around the optimizer instead"

_NOT_LAST = (
    "equi_normalize must be the last member of its chain, since what follows would change the "
    f"rescaling: move it to the end, or {REMEDY}"
)


def require_stateless_siblings(params: Any, degrees: Degrees | None = None) -> None:
    """Raises unless `init` was called by a chain whose other members keep nothing to rescale.

    Args:
      params: parameters that the chain is initialized with.
      degrees: as in `rescale_state`.

    Raises:
      ValueError: if there is no chain, the member is not its last, another member keeps a state
        that follows the parameters' scale, or a combinator around the chain changes what the
        member sees.
    """
    chained = False
    for name, frame, caller in _optax_frames():
        if not name.startswith(_TRANSPARENT):
            raise ValueError(
                "equi_normalize(c=...) without an optimizer cannot work inside "
                f"optax's {name.partition('.')[0]}: {REMEDY}"
            )
        if name in _CHAINS:
            _check_members(*_members(frame, caller), params, degrees)
            chained = True
    if not chained:
        raise ValueError(
            "equi_normalize(c=...) without an optimizer must be the last member of an "
            f"optax.chain: {REMEDY}"
        )


def require_last() -> None:
    """Raises if `init` was called by what would change, or not follow, a rescaling.

    Later members of a chain change updates that are a rescaling in part; slow and averaged
    parameters stay in the scale that they had.

    Raises:
      ValueError: if the member is not the last of its chain, or is within a combinator that keeps
        copies of the parameters.
    """
    for name, frame, caller in _optax_frames():
        if name.startswith(_COPYING):
            outer = name.partition(".")[0]
            raise ValueError(
                f"optax's {outer} keeps copies of the parameters, which must be rescaled along: "
                f"write equi_normalize({outer}(...), c=...) around it instead"
            )
        if name in _CHAINS:
            members, running = _members(frame, caller)
            if members[-1] is not running:
                raise ValueError(_NOT_LAST)


def _optax_frames() -> Iterator[tuple[str, FrameType, FrameType | None]]:
    """The calling frames of optax's functions, innermost first: name, frame, and what it called."""
    frame, called = inspect.currentframe(), None
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("optax."):
            yield frame.f_code.co_qualname, frame, called
        frame, called = frame.f_back, frame


def _members(frame: FrameType, caller: FrameType | None) -> tuple[list[Any], Any]:
    """The init functions of a chain that is being initialized, and the one that runs."""
    if "transforms" in frame.f_locals:  # named_chain
        members = [transform.init for _, transform in frame.f_locals["transforms"]]
        return members, frame.f_locals["tx"].init
    running = caller.f_locals.get("fn") if caller is not None else None
    return list(frame.f_locals["init_fns"]), running


def _check_members(members: list[Any], running: Any, params: Any, degrees: Degrees | None) -> None:
    if members[-1] is not running:
        raise ValueError(_NOT_LAST)

    def visit(tree: Any, exponent: int, place: str) -> Any:
        if exponent:
            raise ValueError(
                "equi_normalize(c=...) at the end of an optax.chain cannot reach the state of its "
                f"other members, and {place} has to be rescaled: {REMEDY}"
            )
        return tree

    for member in members[:-1]:
        walk_state(jax.eval_shape(member, params), params, visit, degrees)


def require_all(reason: str, params: Any) -> None:
    """Raises where `optax.masked` or `optax.multi_transform` keep parameters back.

    Args:
      reason: why all are needed.
      params: what a transform was given.

    Raises:
      ValueError: if some are masked.
    """

    def masked(leaf: Any) -> bool:
        return isinstance(leaf, optax.MaskedNode)

    if any(map(masked, jax.tree.leaves(params, is_leaf=masked))):
        raise ValueError(
            f"{reason} and cannot see masked parameters: put it outside of optax.masked and "
            "optax.multi_transform"
        )
