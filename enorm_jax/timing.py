"""How much work an epoch is, and how fast this device multiplies matrices."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from enorm_jax.layers import Precision


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


def memory(
    depth: int, width: int, pixels: int, images: int, *, batch_size: int, runs: int
) -> tuple[float, float]:
    """Device memory that training takes, by a count: of the data and of all runs.

    A run holds its weights, gradients and the weights after the step; a batch's images twice
    (as inputs and transposed) and four arrays of activations a layer. XLA's own figure is
    between 0.5 and 1 times this.

    Args:
      depth: number of hidden-to-hidden layers p.
      width: hidden units per layer.
      pixels: pixels times channels.
      images: images of training and test set, uint8.
      batch_size: images in a step.
      runs: number of runs in parallel.

    Returns:
      Bytes of the data set, and of all runs.

    Example:
      >>> from enorm_jax.timing import memory
      >>> data, runs = memory(9, 500, 3072, 60_000, batch_size=256, runs=3)
      >>> round(data / 1e6), round(runs / 1e6)
      (185, 217)
    """
    weights = 3 * parameter_count(depth, width, pixels)
    activations = batch_size * (2 * pixels + 4 * width * (depth + 1))
    return images * (pixels + 4.0), 4.0 * runs * (weights + activations)


def matmul_rate(size: int = 2048, repeats: int = 3, precision: Precision = "float32") -> float:
    """The device's rate at one large matrix product.

    Args:
      size: rows and columns of both operands.
      repeats: products timed; the median counts.
      precision: of the operands; sums are float32.

    Returns:
      Floating-point operations per second.
    """
    a = jnp.ones((size, size), precision)

    @jax.jit
    def multiply(a: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("float32"):
            return jnp.matmul(a, a, preferred_element_type=jnp.float32)

    multiply(a).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2.0 * size**3 / float(np.median(seconds))


def fastest_precision() -> Precision:
    """The precision in which this device trains faster, found by timing a product in both.

    Devices without a unit for bfloat16 are slower in it, often by far; those with one are faster
    by at least 1.6: anything from 1.2 on counts, so that chance does not decide.

    Returns:
      ``"bfloat16"`` or ``"float32"``.
    """
    ratio = matmul_rate(1024, 5, "bfloat16") / matmul_rate(1024, 5, "float32")
    return "bfloat16" if ratio > 1.2 else "float32"
