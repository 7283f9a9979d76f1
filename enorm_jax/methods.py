"""The methods under study; the only module that knows their names."""

import dataclasses
from collections.abc import Callable

import jax

from enorm_jax.enorm import Order, Scales, cumulative_scales
from enorm_jax.groups import Params
from enorm_jax.models import Norm
from enorm_jax.norms import BatchNorm

Equalize = Callable[[Params, jax.Array], Scales]


@dataclasses.dataclass(frozen=True)
class ENorm:
    """One cycle of ENorm, as a value that compares by its settings.

    Attributes:
      order: as in `enorm_step`.
      balance_last: likewise.
    """

    order: Order = "sequential"
    balance_last: bool = True

    def __call__(self, params: Params, c: jax.Array) -> Scales:
        """The scales of the hidden units; see `cumulative_scales`."""
        return cumulative_scales(params, c, order=self.order, balance_last=self.balance_last)


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method changes the network and the training step.

    Attributes:
      label: its name in figures.
      norm: normalization layer, as `FullyConnected` takes it, or None.
      equalize: how `rescale` multiplies hidden units after each step, or None.
    """

    label: str
    norm: Norm | None = None
    equalize: ENorm | None = None


METHODS: dict[str, Method] = {
    "baseline": Method("Baseline"),
    "bn": Method("BN", norm=BatchNorm),
    "enorm": Method("ENorm", equalize=ENorm()),
    "enorm+bn": Method("ENorm + BN", norm=BatchNorm, equalize=ENorm()),
}
