"""The methods under study; the only module that knows their names."""

import dataclasses
from collections.abc import Callable

import jax

from enorm_jax.enorm import Scales, cumulative_scales
from enorm_jax.groups import Params
from enorm_jax.models import Norm
from enorm_jax.norms import BatchNorm

Equalize = Callable[[Params, jax.Array], Scales]


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method changes the network and the training step.

    Attributes:
      label: its name in figures.
      norm: normalization layer, as `FullyConnected` takes it, or None.
      equalize: pure function (params, c) -> scales, by which `rescale` multiplies hidden units
        after each step, or None.
    """

    label: str
    norm: Norm | None = None
    equalize: Equalize | None = None


METHODS: dict[str, Method] = {
    "baseline": Method("Baseline"),
    "bn": Method("BN", norm=BatchNorm),
    "enorm": Method("ENorm", equalize=cumulative_scales),
    "enorm+bn": Method("ENorm + BN", norm=BatchNorm, equalize=cumulative_scales),
}
