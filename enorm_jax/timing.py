"""How much work an epoch is, and how fast this device multiplies matrices."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from enorm_jax.layers import PRECISIONS, Precision, product

K = TypeVar("K", bound=str)
T = TypeVar("T")


def parameter_count(depth: int, width: int, inputs: int, classes: int = 10) -> int:
    """Weights of the study's network, biases not counted.

    Args:
      depth: number of hidden-to-hidden layers p.
      width: hidden units per layer.
      inputs: pixels times channels.
      classes: outputs.

    Returns:
      inputs·width + p·width² + width·classes.

    Example:
      >>> from enorm_jax.timing import parameter_count
      >>> parameter_count(depth=9, width=500, inputs=3072)
      3791000
    """
    return inputs * width + depth * width**2 + width * classes


def epoch_flops(parameters: int, images: int) -> float:
    """Floating-point operations of an epoch of training: 6 per weight and image.

    Two for the product forward, four for the two products backward. The first layer needs no
    gradient of its input, so that a little less is really done.

    Args:
      parameters: weights of the network.
      images: images in an epoch.

    Returns:
      Number of operations.

    Example:
      >>> from enorm_jax.timing import epoch_flops
      >>> epoch_flops(3_791_000, 50_000) / 1e12
      1.1373
    """
    return 6.0 * parameters * images


def epoch_bytes(layers: Sequence[int], images: int, batch_size: int, operand: int) -> float:
    """Bytes that an epoch of training moves at least, if nothing stays in a cache.

    Each of a layer's three products reads its two operands and writes its float32 result; there is
    none for the gradient of the inputs. The update reads weight and gradient, and writes weights.

    Args:
      layers: units of each layer, from the inputs to the classes.
      images: images in an epoch.
      batch_size: images in a step.
      operand: bytes of an operand of a product, 4 or 2.

    Returns:
      Number of bytes.

    Example:
      >>> from enorm_jax.timing import epoch_bytes
      >>> round(epoch_bytes([3072, *[500] * 10, 10], 50_000, 256, operand=2) / 1e9, 1)
      18.8
    """
    update = 3 * 4
    total = 0
    for number, (before, after) in enumerate(itertools.pairwise(layers)):
        kernel, x, y = before * after, batch_size * before, batch_size * after
        forward = operand * (x + kernel) + 4 * y
        of_kernel = operand * (x + y) + 4 * kernel
        of_x = operand * (y + kernel) + 4 * x if number else 0
        total += forward + of_kernel + of_x + update * kernel
    return images / batch_size * total


def memory(
    depth: int,
    width: int,
    pixels: int,
    images: int,
    *,
    classes: int = 10,
    batch_size: int,
    runs: int,
    at_once: int,
) -> tuple[float, float]:
    """Device memory that training takes, by a count: that of the data and that of all runs.

    A run has its weights before and after an epoch; while it is being trained also gradients and
    the weights after a step, a batch's images twice, as inputs and transposed, and four arrays
    of activations a layer.

    Args:
      depth: number of hidden-to-hidden layers p.
      width: hidden units per layer.
      pixels: pixels times channels.
      images: images of training and test set, uint8.
      classes: number of classes.
      batch_size: images in a step.
      runs: number of runs of a cell.
      at_once: how many of them are trained at once: one on a CPU, else all.

    Returns:
      Bytes of the data set, and of all runs.

    Example:
      >>> from enorm_jax.timing import memory
      >>> data, runs = memory(9, 500, 3072, 60_000, batch_size=256, runs=3, at_once=3)
      >>> round(data / 1e6), round(runs / 1e6)
      (185, 262)
    """
    weights = parameter_count(depth, width, pixels, classes)
    activations = batch_size * (2 * pixels + 4 * width * (depth + 1))
    held = 2 * runs * weights + at_once * (2 * weights + activations)
    return images * (pixels + 4.0), 4.0 * held


def clock(compute: Callable[..., Any], *arguments: Any) -> Callable[[], float]:
    """What computes something once more and tells the seconds; the first time is over before.

    Args:
      compute: a function of JAX's arrays.
      *arguments: its arguments.

    Returns:
      Function of nothing.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from enorm_jax.timing import clock
      >>> clock(jax.jit(jnp.sum), jnp.ones(3))() > 0
      True
    """

    def seconds() -> float:
        start = time.perf_counter()
        jax.block_until_ready(compute(*arguments))
        return time.perf_counter() - start

    seconds()  # compiles
    return seconds


def in_rounds(runs: Mapping[K, Callable[[], T]], rounds: int) -> Iterator[dict[K, T]]:
    """Runs all of several things to time, round after round, each round in a new order.

    A machine that drifts then drifts for all, and none always runs behind the same other. The
    first round warms up and is left out.

    Args:
      runs: what to run, by name.
      rounds: number of rounds that count.

    Yields:
      What each returned in a round, by name.

    Example:
      >>> from enorm_jax.timing import in_rounds
      >>> counts = {"a": iter(range(3)), "b": iter("xyz")}
      >>> [of["b"] for of in in_rounds({k: v.__next__ for k, v in counts.items()}, rounds=2)]
      ['y', 'z']
    """
    order = np.random.default_rng(0)
    for turn in range(rounds + 1):
        names = list(runs)
        order.shuffle(names)
        found = {name: runs[name]() for name in names}
        if turn > 0:
            yield found


def within_rounds(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Ratios of two things that were timed in turn, so that a machine that drifts drifts for both.

    Args:
      above: seconds of one, round by round.
      below: seconds of the other, likewise.

    Returns:
      One ratio a round.

    Example:
      >>> from enorm_jax.timing import within_rounds
      >>> within_rounds([2.0, 3.0], [1.0, 2.0])
      [2.0, 1.5]
    """
    return [a / b for a, b in zip(above, below, strict=True)]


def matmul_rate(size: int = 2048, repeats: int = 3, precision: Precision = "float32") -> float:
    """The device's rate at one large matrix product.

    Args:
      size: rows and columns of both operands.
      repeats: products timed; the median counts.
      precision: of the operands; sums are float32.

    Returns:
      Floating-point operations per second.
    """
    multiply = _product(size, precision)
    return 2.0 * size**3 / statistics.median(multiply() for _ in range(repeats))


def fastest_precision() -> Precision:
    """The precision in which this device multiplies matrices faster.

    Returns:
      As `faster`.
    """
    return faster({precision: _product(1024, precision) for precision in PRECISIONS})


def faster(clocks: Mapping[Precision, Callable[[], float]], rounds: int = 7) -> Precision:
    """The precision in which something is faster, timed in both in turn.

    Devices without a unit for bfloat16 gain nothing by it, in those with one products are 1.4 to 2
    times as fast, and convolutions up to 2: anything from 1.2 on counts, so that chance does not
    decide.

    Args:
      clocks: in each precision, what does it and tells the seconds.
      rounds: how often each is timed.

    Returns:
      ``"bfloat16"`` or ``"float32"``.

    Example:
      >>> from enorm_jax.timing import faster
      >>> faster({"float32": lambda: 1.0, "bfloat16": lambda: 0.5})
      'bfloat16'
    """
    ratios = [of["float32"] / of["bfloat16"] for of in in_rounds(clocks, rounds)]
    return "bfloat16" if statistics.median(ratios) > 1.2 else "float32"


def _product(size: int, precision: Precision) -> Callable[[], float]:
    """What multiplies two large matrices and tells the seconds."""
    a = jnp.ones((size, size), precision)

    @jax.jit
    def multiply(a: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("float32"):
            return product(a, a)

    return clock(multiply, a)
