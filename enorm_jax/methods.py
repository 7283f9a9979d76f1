"""The methods under study, by their names.

A name is one or several parts joined by ``+``: what becomes of the weights (``wn``, ``ws``,
``enorm``, ``path-sgd``), then what normalizes between layer and ReLU (``bn``, ``gn``, ``ln``,
``bcn``, ``bcn-micro``). `make_method` makes any combination that makes sense and refuses others
with the reason; `METHODS` are those of the papers.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax

from enorm_jax.conv_models import Conv
from enorm_jax.enorm import Bias, Order, Scales, cumulative_scales, rescale
from enorm_jax.errors import InputError
from enorm_jax.group_norms import batch_channel_norm, group_norm, layer_norm
from enorm_jax.groups import Groups, Params
from enorm_jax.kernels import (
    WeightNormConv,
    WeightNormDense,
    WeightStandardizedConv,
    WeightStandardizedDense,
)
from enorm_jax.models import Dense, FullyConnected, Norm
from enorm_jax.norm_groups import norm_groups
from enorm_jax.norms import BatchNorm
from enorm_jax.optimizer import Optimizer, path_sgd, sgd

# Of 500 units; no paper says how many it used for dense layers.
GROUPS = 20


@dataclasses.dataclass(frozen=True)
class ENorm:
    """One cycle of ENorm, as a value that compares by its settings.

    Attributes:
      order: as in `enorm_step`.
      balance_last: likewise.
      of_norms: whether the scales of normalization layers, not the kernels before them, are
        balanced with the kernels behind, which leaves the network's function as it is; see
        `norm_groups`.
      inferred: what shares a unit's scale, from `infer_groups`, for networks that are no chain.
    """

    order: Order = "sequential"
    balance_last: bool = True
    of_norms: bool = False
    inferred: Groups | None = None

    def scales(self, params: Params, c: jax.Array) -> Scales:
        """The scales of the hidden units; see `cumulative_scales`."""
        return cumulative_scales(
            params,
            c,
            groups=self.groups(params),
            order=self.order,
            balance_last=self.balance_last,
        )

    def rescale(self, params: Params, scales: Scales, bias: Bias) -> Params:
        """The rescaled parameters; see `enorm_jax.rescale`."""
        return rescale(params, scales, self.groups(params), bias=bias)

    def groups(self, params: Params) -> Groups | None:
        """What shares a unit's scale; None for the chain of kernels."""
        return norm_groups(params) if self.of_norms else self.inferred


@dataclasses.dataclass(frozen=True)
class Method:
    """How a method changes the network and the training step.

    Attributes:
      label: its name in figures.
      norm: normalization layer, as `FullyConnected` takes it, or None.
      equalize: what rescales hidden units after each step, or None.
      dense: kind of the hidden layers.
      output: kind of the output layer.
      conv: kind of the convolutions, in networks that have some.
      optimizer: function from learning rate and weight decay to an optax transformation.
      whole_batch: whether it takes statistics of a training batch, which has to be more than one.
      grouped: whether it divides units into groups.
    """

    label: str
    norm: Norm | None = None
    equalize: ENorm | None = None
    dense: Dense = nn.Dense
    output: Dense = nn.Dense
    conv: Conv = nn.Conv
    optimizer: Optimizer = sgd
    whole_batch: bool = False
    grouped: bool = False

    def network(self, depth: int, **settings: Any) -> FullyConnected:
        """The study's network with this method's layers.

        Args:
          depth: number of hidden-to-hidden layers p.
          **settings: others of `FullyConnected`.

        Returns:
          The network, without parameters.
        """
        return FullyConnected(
            depth, norm=self.norm, dense=self.dense, output=self.output, **settings
        )


LABELS = {
    "bn": "BN",
    "gn": "GN",
    "ln": "LN",
    "bcn": "BCN",
    "bcn-micro": "BCN (estimates)",
    "wn": "WN",
    "ws": "WS",
    "enorm": "ENorm",
    "path-sgd": "Path-SGD",
}
NORMS = ("bn", "gn", "ln", "bcn", "bcn-micro")
# Why no two of them go together.
WEIGHTS = {
    "wn": "the norm of its kernels means nothing, only their direction does",
    "ws": "scaling its kernels changes nothing",
    "enorm": "it rescales kernels",
    "path-sgd": "its steps are the same however kernels are rescaled",
}


@functools.cache
def make_method(name: str, groups: int = GROUPS) -> Method:
    """Makes a method from its name.

    Args:
      name: ``"baseline"``, or parts joined by ``+``, such as ``"enorm+gn"``.
      groups: into how many groups group normalization divides a layer's units.

    Returns:
      A `Method`; the same object for the same arguments.

    Raises:
      InputError: if there is no such part, or parts do not go together.

    Example:
      >>> from enorm_jax.methods import make_method
      >>> make_method("ws+gn").label
      'WS + GN'
    """
    if name == "baseline":
        return Method("Baseline")
    parts = name.split("+")
    for part in parts:
        if part not in LABELS:
            near = difflib.get_close_matches(part, LABELS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                f"unknown method {part!r}: {hint}choose baseline, or parts joined with + of "
                f"{', '.join(LABELS)}"
            )
    weights, norms = ([p for p in parts if p in kind] for kind in (WEIGHTS, NORMS))
    if parts != weights + norms:
        raise InputError(f"method {name!r}: write {'+'.join(weights + norms)}")
    _check(name, weights, norms)
    weight, norm = (kind[0] if kind else "" for kind in (weights, norms))
    dense = {"wn": WeightNormDense, "ws": WeightStandardizedDense}.get(weight, nn.Dense)
    conv = {"wn": WeightNormConv, "ws": WeightStandardizedConv}.get(weight, nn.Conv)
    return Method(
        label=" + ".join(LABELS[part] for part in parts),
        norm=_norm(norm, groups) if norm else None,
        equalize=ENorm() if weight == "enorm" else None,
        dense=dense,
        # Nothing normalizes what leaves the network, so weight standardization keeps off.
        output=WeightNormDense if weight == "wn" else nn.Dense,
        conv=conv,
        optimizer=path_sgd if weight == "path-sgd" else sgd,
        whole_batch=norm in ("bn", "bcn"),
        grouped=norm in ("gn", "bcn", "bcn-micro"),
    )


def _check(name: str, weights: list[str], norms: list[str]) -> None:
    if len(norms) > 1:
        raise InputError(
            f"method {name!r}: {norms[0]} and {norms[1]} take the same place: drop one"
        )
    if len(weights) > 1:
        a, b = weights[:2]
        raise InputError(
            f"method {name!r}: {a} ({WEIGHTS[a]}) does not go with {b} ({WEIGHTS[b]}): drop one"
        )
    if weights == ["ws"] and not norms:
        raise InputError(
            f"method {name!r}: standardized kernels make activations grow from layer to layer "
            "unless a normalization follows: write ws+gn, ws+bcn, ws+bn or ws+ln"
        )
    if weights == ["path-sgd"] and norms:
        raise InputError(
            f"method {name!r}: behind a normalization layer the products along paths do not say "
            "how far an output moves: write path-sgd alone"
        )


def _norm(part: str, groups: int) -> Norm:
    grouped: dict[str, Callable[[], Norm]] = {
        "bn": lambda: BatchNorm,
        "ln": lambda: layer_norm,
        "gn": lambda: group_norm(groups),
        "bcn": lambda: batch_channel_norm(groups),
        "bcn-micro": lambda: batch_channel_norm(groups, micro_batch=True),
    }
    return grouped[part]()


STUDY = ("baseline", "bn", "enorm", "enorm+bn")
ORIGINAL = ("baseline", "bn", "gn", "path-sgd", "wn+bn", "enorm", "enorm+bn")
# Of the study, of the original figure, then what the other papers add, then combinations.
METHODS: dict[str, Method] = {
    name: make_method(name)
    for name in dict.fromkeys(
        (
            *STUDY,
            *ORIGINAL,
            *("ln", "wn", "ws+gn", "bcn", "ws+bcn"),
            *("enorm+gn", "enorm+ln", "enorm+bcn"),
        )
    )
}


def in_order(names: Iterable[str]) -> list[str]:
    """Names of methods in the order of `METHODS`, and then those of other combinations.

    Args:
      names: in any order.

    Returns:
      Each once.

    Example:
      >>> from enorm_jax.methods import in_order
      >>> in_order(["enorm+wn", "gn", "bn"])
      ['bn', 'gn', 'enorm+wn']
    """
    present = set(names)
    return [*(name for name in METHODS if name in present), *sorted(present - METHODS.keys())]
