"""What a cell costs: operations, memory, and the device's rate at such operations."""

import functools
import math
import statistics
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from enorm_jax import networks
from enorm_jax.cell import Cell
from enorm_jax.convolution import CONVOLUTIONS
from enorm_jax.data import Dataset, kept
from enorm_jax.layers import PRECISIONS, Precision
from enorm_jax.program import fits
from enorm_jax.stepwise import AHEAD, EVALUATION_BATCH
from enorm_jax.timing import clock, epoch_flops, faster, matmul_rate, memory, parameter_count


def epoch_work(cell: Cell, dataset: Dataset) -> float:
    """Floating-point operations of one epoch of a cell, all its runs together.

    Training is three times the forward pass of each image. Of a convolutional network, the test
    after each epoch counts too: with few training images it is not small beside them.

    Args:
      cell: the cell.
      dataset: its data.

    Returns:
      Number of operations.
    """
    n = len(dataset.train_labels)
    images = cell.train_images or (kept(n, cell.fold) if cell.fold else n)
    if cell.network == "fc":
        pixels = dataset.train_images[0].size
        parameters = parameter_count(cell.depth, cell.width, pixels, dataset.classes)
        return cell.runs * epoch_flops(parameters, images)
    forward = forward_flops(*_network(cell, dataset))
    return cell.runs * forward * (3 * images + len(dataset.test_labels))


def cell_memory(cell: Cell, dataset: Dataset, runs: int) -> tuple[float, float]:
    """Device memory of a cell with a number of seeds, by a count.

    Of a data set that stays on the host (`enorm_jax.program.fits`) the batches that wait count.

    Args:
      cell: the cell.
      dataset: its data.
      runs: number of seeds.

    Returns:
      Bytes of the data, and of all runs.
    """
    images, pixels = len(dataset.train_labels) + len(dataset.test_labels), dataset.train_images[0]
    one_by_one = jax.default_backend() == "cpu"
    if not fits(dataset):
        images, one_by_one = (1 + AHEAD) * max(cell.batch_size, EVALUATION_BATCH), True
    if cell.network == "fc":
        return memory(
            cell.depth,
            cell.width,
            pixels.size,
            images,
            classes=dataset.classes,
            batch_size=cell.batch_size,
            runs=runs,
            at_once=1 if one_by_one else runs,
        )
    parameters, activations = sizes(*_network(cell, dataset))
    # Weights and momentum before and after an epoch; then of the run that is being trained
    # gradients and new weights, and activations as computed, as rectified and their gradients.
    held = 4 * runs * parameters + 2 * parameters + 3 * cell.batch_size * activations
    return images * (pixels.size + 4.0), 4.0 * held


def cell_rate(cell: Cell) -> float:
    """The rate at which this device trains a cell's network, from one product or convolution.

    Args:
      cell: the cell.

    Returns:
      Floating-point operations per second.
    """
    if cell.network == "fc":
        # Of the rate of one large product an epoch reaches some three quarters in float32, and in
        # bfloat16 a third (with a matrix unit) to nine tenths.
        return {"float32": 0.75, "bfloat16": 0.5}[cell.precision] * matmul_rate(
            precision=cell.precision
        )
    # The channels in the middle of the network. Narrow networks spend two fifths of the time
    # between convolutions; at the published size layers that are faster make up for it.
    return 0.6 * conv_rate(2 * cell.width, min(cell.batch_size, 64), cell.precision)


def fastest_conv_precision(channels: int, batch: int) -> Precision:
    """The precision in which this device's convolutions are faster.

    Args:
      channels: in and out.
      batch: images.

    Returns:
      As `faster`.
    """
    return faster({precision: _convolution(channels, batch, precision) for precision in PRECISIONS})


@functools.cache
def forward_flops(model: nn.Module, image: networks.Shape) -> float:
    """Floating-point operations of a forward pass, as XLA counts them.

    Args:
      model: a Flax module called as ``model(images, train=...)``.
      image: shape of an input.

    Returns:
      Operations per image, two for a product and its sum.

    Example:
      >>> from enorm_jax import FullyConvolutional
      >>> from enorm_jax.cost import forward_flops
      >>> round(forward_flops(FullyConvolutional(), (28, 28, 3)) / 1e9, 1)
      1.0
    """
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    lowered = jax.jit(lambda v, x: model.apply(v, x, train=False)).lower(_variables(model, x), x)
    costs = lowered.cost_analysis()
    assert costs is not None  # counted before a device is asked
    return float(costs["flops"])


@functools.cache
def sizes(model: nn.Module, image: networks.Shape) -> tuple[int, int]:
    """How many parameters a network has, and how many activations an image.

    Args:
      model: a Flax module called as ``model(images, train=...)``.
      image: shape of an input.

    Returns:
      Number of parameters, and of the outputs of all layers together.
    """
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    variables = _variables(model, x)

    def outputs(variables: Any, x: jax.Array) -> Any:
        kept = ["intermediates"]
        return model.apply(variables, x, train=False, capture_intermediates=True, mutable=kept)[1]

    def count(tree: Any) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    return count(variables["params"]), count(jax.eval_shape(outputs, variables, x))


@functools.cache
def conv_rate(
    channels: int, batch: int, precision: Precision = "float32", repeats: int = 3
) -> float:
    """The device's rate at one 3 x 3 convolution of 16 x 16 positions, forward and backward.

    Args:
      channels: in and out.
      batch: images.
      precision: of the operands; sums are float32.
      repeats: how often it is timed; the median counts.

    Returns:
      Floating-point operations per second.
    """
    convolve = _convolution(channels, batch, precision)
    seconds = statistics.median(convolve() for _ in range(repeats))
    return 3 * 2.0 * 9 * channels**2 * batch * 16**2 / seconds


def _convolution(channels: int, batch: int, precision: Precision) -> Callable[[], float]:
    """What computes such a convolution and tells the seconds."""
    conv = CONVOLUTIONS[precision]
    x = jnp.ones((batch, 16, 16, channels))
    kernel = jnp.ones((3, 3, channels, channels)) / channels

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("float32"):
            y = conv(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(y * y)

    return clock(jax.jit(jax.grad(product, (0, 1))), x, kernel)


def _network(cell: Cell, dataset: Dataset) -> tuple[nn.Module, networks.Shape]:
    image = networks.input_shape(cell, dataset.train_images.shape[1:])
    return networks.plain(cell, dataset.classes), image


def _variables(model: nn.Module, x: jax.ShapeDtypeStruct) -> Any:
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
