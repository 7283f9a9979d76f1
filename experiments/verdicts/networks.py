"""Claims on convolutional networks, micro-batches, and why normalizations work."""

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import conv_sweep
import mechanisms
import micro_batch
from enorm_jax.cell import Cell, same_setting
from enorm_jax.layers import Precision
from enorm_jax.methods import make_method
from verdicts.outcome import Claim
from verdicts.sides import Comparison, Side, compared
from verdicts.store import Store

CHANCE = 10.0  # percent; what a run that diverged counts as
COLLAPSE = 5.0  # percent
# The size at which conv_sweep.py runs on a CPU.
REDUCED = ("--width=0.25", "--train-images=10240", "--epochs=10", "--batch-size=128", "--lr=0.01")


def accuracies(store: Store, cell: Cell) -> dict[int, float]:
    """Test accuracies (%) at a cell's setting by seed; chance where the run diverged."""
    found = sorted(store.accuracies(cell).items())
    return {seed: CHANCE if accuracy is None else accuracy for seed, accuracy in found}


def conv(method: str) -> Side:
    """ENorm's convolutional network, at the reduced size."""
    return Side(make_method(method).label, lambda store, p: accuracies(store, conv_cell(method, p)))


def at_batch(method: str, size: int) -> Side:
    """The small residual network on batches of a size, BCN by estimates where they are small."""
    label = f"{make_method(method).label} at {size}"
    return Side(label, lambda store, p: accuracies(store, micro_cell(method, size, p)))


@functools.cache
def conv_cell(method: str, precision: Precision) -> Cell:
    """A cell of `conv_sweep.py` at the reduced size."""
    flags = ("--method", method, "--precision", precision, *REDUCED)
    (cell,) = conv_sweep.cells(conv_sweep.parser().parse_args(flags))
    return cell


@functools.cache
def micro_cell(method: str, size: int, precision: Precision) -> Cell:
    """A cell of `micro_batch.py` at its own settings."""
    flags = ("--method", method, "--batch-sizes", str(size), "--precision", precision)
    (cell,) = micro_batch.cells(micro_batch.parser().parse_args(flags))
    return cell


Run = Sequence[Mapping[str, Any]]  # epoch by epoch


def mechanism(what: str, name: str, number: Callable[[Run], float | None]) -> Side:
    """What `mechanisms.py` measured of a method, or of a half of weight standardization.

    Runs without the number, which diverged, are left out.
    """

    def values(store: Store, _: Precision) -> dict[int, float]:
        cell = measured_cell(what, "ws+gn" if what == "standardization" else name)
        series = [found["series"] for found in store.mechanisms if found["what"] == what]
        entries = [of[name] for of in series if name in of]
        ours = [entry for entry in entries if same_setting(cell, entry["settings"])]
        numbers = {
            seed: number(run)
            for entry in ours[:1]
            for seed, run in zip(entry["settings"]["seeds"], entry["runs"], strict=True)
        }
        return {seed: value for seed, value in numbers.items() if value is not None}

    return Side(name if what == "standardization" else make_method(name).label, values)


@functools.cache
def measured_cell(what: str, method: str) -> Cell:
    """What `mechanisms.py` trains of a method at its own settings."""
    return mechanisms.cell_of(mechanisms.parser().parse_args([what]), method)


def nearest_units(run: Run) -> float | None:
    """After the last epoch: mean over deviation of the lowest tenth of units, layers averaged."""
    layers = run[-1]["tenth_distance"]
    return None if None in layers else statistics.fmean(layers)


def steepness(name: str) -> Callable[[Run], float | None]:
    """The decimal logarithm of a Lipschitz estimate, epochs averaged."""

    def number(run: Run) -> float | None:
        found = [epoch[name] for epoch in run]
        return None if None in found else statistics.fmean(map(math.log10, found))

    return number


def last_accuracy(run: Run) -> float:
    """Test accuracy (%) after the last epoch; chance if the run diverged."""
    found = run[-1]["test_accuracy"]
    return CHANCE if found is None else float(found)


SMALL = (1, 2)
OVER_BATCH = (
    "a residual network of 8 layers, 5 epochs of 5,120 images (400 steps at 64 images, 25,600 at "
    "one), rates in proportion to the batch size, at the settings of `micro_batch.py`"
)
OF_CONV = (
    "ENorm's convolutional network at a quarter of its channels, 10 epochs of 10,240 images in "
    "batches of 128 at a rate of 0.01, ENorm by the study's cycle, as `conv_sweep.py` trains it"
)


def _stands_small_batches(method: str, size: int) -> Comparison:
    """A method at a batch size is not 5 % below itself at 64."""
    return Comparison(at_batch(method, size), at_batch(method, 64), -COLLAPSE, -COLLAPSE)


def _less_off(upper: str, lower: str) -> Comparison:
    """One method's lowest units lie farther from always being off than another's."""
    first, second = (mechanism("elimination", name, nearest_units) for name in (upper, lower))
    return Comparison(first, second)


def _steeper(upper: str, lower: str, of: str) -> Comparison:
    """One method's loss, or its gradient, changes faster than another's."""
    sides = [mechanism("smoothness", name, steepness(of)) for name in (upper, lower)]
    first, second = (dataclasses.replace(side, label=f"{side.label} ({of})") for side in sides)
    return Comparison(first, second)


def _gains_more(upper: str, lower: str) -> Comparison:
    """One half of weight standardization is more accurate than another."""
    first, second = (mechanism("standardization", n, last_accuracy) for n in (upper, lower))
    return Comparison(first, second)


CLAIMS = [
    Claim(
        "conv-enorm-bn",
        "ENorm can take the place of BN and GN in a small convolutional network",
        "The original paper offers it as an alternative to both on CIFAR-10.",
        f"ENorm minus BN, and minus GN, in {OF_CONV}. Holds if both intervals lie above −0.5 %, "
        "does not hold if one does not and lies below 0.",
        partial(
            compared,
            comparisons=[
                Comparison(conv("enorm"), conv(other), above=-0.5) for other in ("bn", "gn")
            ],
        ),
    ),
    Claim(
        "conv-enorm-baseline",
        "ENorm improves a small convolutional network without normalization",
        "Interleaved with SGD, it is said to improve test accuracy.",
        f"ENorm minus Baseline in {OF_CONV}. Holds if the interval lies above 0, does not hold if "
        "below.",
        partial(compared, comparisons=[Comparison(conv("enorm"), conv("baseline"))]),
    ),
    Claim(
        "conv-both-bn",
        "ENorm improves a small convolutional network with batch normalization",
        "Published of fully connected networks, asked of a convolutional one.",
        f"ENorm + BN minus BN in {OF_CONV}. Holds if the interval lies above 0, does not hold if "
        "below.",
        partial(compared, comparisons=[Comparison(conv("enorm+bn"), conv("bn"))]),
    ),
    Claim(
        "micro-bn",
        "Batch normalization loses over 5 % on batches of one and two images",
        "Batches so small give no estimate of the statistics that testing goes by, and training is "
        "said to collapse.",
        f"BN at 64 images minus BN at 1 and at 2, in {OVER_BATCH}. Holds if both intervals lie "
        "above 5 %, does not hold if one lies below. A run that diverged counts as 10 %, chance.",
        partial(
            compared,
            comparisons=[
                Comparison(at_batch("bn", 64), at_batch("bn", size), COLLAPSE, COLLAPSE)
                for size in SMALL
            ],
        ),
    ),
    Claim(
        "micro-ws",
        "WS + GN and WS + BCN do not lose over 5 % there",
        "They take no statistics over a batch, or estimate them over many.",
        f"WS + GN and WS + BCN at 1 and at 2 images minus the same at 64, in {OVER_BATCH}. Holds "
        "if all four intervals lie above −5 %, does not hold if one lies below.",
        partial(
            compared,
            comparisons=[
                _stands_small_batches(name, size) for name in ("ws+gn", "ws+bcn") for size in SMALL
            ],
        ),
    ),
    Claim(
        "micro-ws-bn",
        "Weight standardization at one image reaches what BN reaches at 64",
        "With WS, micro-batch training is as accurate as batch normalization on large batches.",
        f"WS + GN and WS + BCN at 1 image minus BN at 64, in {OVER_BATCH}. Holds if both intervals "
        "lie above −0.5 %, does not hold if one does not and lies below 0.",
        partial(
            compared,
            comparisons=[
                Comparison(at_batch(name, 1), at_batch("bn", 64), above=-0.5)
                for name in ("ws+gn", "ws+bcn")
            ],
        ),
    ),
    Claim(
        "micro-ws-gn",
        "On micro-batches WS improves GN, and BCN improves WS + GN",
        "WS + GN is above GN, and WS + BCN above WS + GN.",
        f"WS + GN minus GN, and WS + BCN minus WS + GN, at 1 and at 2 images, in {OVER_BATCH}. "
        "Holds if all four intervals lie above 0, does not hold if one lies below.",
        partial(
            compared,
            comparisons=[
                Comparison(at_batch(upper, size), at_batch(lower, size))
                for upper, lower in (("ws+gn", "gn"), ("ws+bcn", "ws+gn"))
                for size in SMALL
            ],
        ),
    ),
    Claim(
        "elimination",
        "BN keeps units farther from always being off than GN and LN do; WS and BCN help GN to it",
        "Elimination singularities are where a unit is off on all data. BN's units lie far from "
        "them by design.",
        "How many deviations the mean before the ReLU lies above 0 in the lowest tenth of units "
        "after the last epoch, layers averaged, in the network of `mechanisms.py elimination`: BN "
        "minus GN, BN minus LN, WS + GN minus GN, BCN minus GN. Batches of 64 images; runs that "
        "diverged, or in which a layer is off altogether, have no such number and are left out. "
        "Holds if all four intervals lie above 0, does not hold if one lies below.",
        partial(
            compared,
            comparisons=[
                _less_off(*pair)
                for pair in (("bn", "gn"), ("bn", "ln"), ("ws+gn", "gn"), ("bcn", "gn"))
            ],
        ),
    ),
    Claim(
        "smoothness",
        "Weight standardization smooths the loss",
        "It lowers the Lipschitz constants of the loss and of its gradient.",
        "Decimal logarithms of both constants' estimates along the gradient, epochs averaged, in "
        "the network of `mechanisms.py smoothness`: GN minus WS + GN, and BCN minus WS + BCN. "
        "Runs that diverged are left out. Holds if all four intervals lie above 0, does not hold "
        "if one lies below.",
        partial(
            compared,
            comparisons=[
                _steeper(*pair, of)
                for pair in (("gn", "ws+gn"), ("bcn", "ws+bcn"))
                for of in ("loss", "gradient")
            ],
        ),
    ),
    Claim(
        "standardization",
        "Of weight standardization's halves centring gains more than scaling, and both the most",
        "In the ablation of the paper on WS centring gives most of the gain, scaling little.",
        "Test accuracy with GN in the network of `mechanisms.py standardization`: centring minus "
        "neither, centring minus scaling, both minus centring. Holds if all three intervals lie "
        "above 0, does not hold if one lies below.",
        partial(
            compared,
            comparisons=[
                _gains_more(*pair)
                for pair in (("centring", "neither"), ("centring", "scaling"), ("both", "centring"))
            ],
        ),
    ),
]
