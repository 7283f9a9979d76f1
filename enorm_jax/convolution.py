"""Convolutions in bfloat16: on a CPU as matrix products, which its matrix unit is fast at."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from enorm_jax.layers import product, row_major_transpose, to_bfloat16

Pads = tuple[tuple[int, int], tuple[int, int]]

# Channels. Below the first XLA's own float32 convolutions are as fast; below the second a product
# takes a whole row of the kernel, so that its sums run over enough numbers.
NARROW, WIDE = 32, 128
# Activations in a block of images: what a core's cache holds.
BLOCK = 100_000


def conv_general_dilated_bfloat16(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    r"""A float32 convolution whose operands are rounded to bfloat16, as are its gradients'.

    .. math::
        y_{n p o} = \sum_{t, c} \hat x_{n, p + t, c} \, \hat w_{t c o}, \quad
        \hat a = \mathrm{bfloat16}(a)

    Sums are float32. It takes what ``flax.linen.Conv(...,
    conv_general_dilated=conv_general_dilated_bfloat16)`` gives it. On a CPU a convolution of
    two images or more, 32 channels or more and stride 1 is a sum over the kernel's positions t, or
    rows of them, of products of matrices; others, and those on other devices, are XLA's own, of
    rounded operands. Reverse mode only. `infer_groups` does not look into it: give it the model in
    float32, whose parameters are the same.

    Args:
      x: (batch, height, width, in), float32.
      kernel: (rows, columns, in, out), float32.
      window_strides: of rows and columns.
      padding: ``"SAME"``, ``"VALID"``, or pairs for rows and columns.
      lhs_dilation: ones only.
      rhs_dilation: ones only.
      dimension_numbers: those of Flax: channels last.
      feature_group_count: 1 only.
      precision: not used: bfloat16 operands, float32 sums.

    Returns:
      (batch, height', width', out), float32.

    Raises:
      ValueError: if it is dilated, grouped, not of images with channels last, or not in float32.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from enorm_jax.convolution import conv_general_dilated_bfloat16
      >>> layer = nn.Conv(4, (3, 3), conv_general_dilated=conv_general_dilated_bfloat16)
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 3)))
      >>> y.shape, variables["params"]["kernel"].dtype
      ((2, 8, 8, 4), dtype('float32'))
    """
    dilated = any(n != 1 for n in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if dilated or feature_group_count != 1 or not _are_images(x, kernel, dimension_numbers):
        raise ValueError(
            "convolutions in bfloat16 are those of images, channels last, neither dilated nor in "
            f"groups; got {x.shape} and {kernel.shape}"
        )
    if not x.dtype == kernel.dtype == jnp.float32:
        raise ValueError(
            "convolutions in bfloat16 round float32 operands themselves: leave out dtype=, got "
            f"{x.dtype} and {kernel.dtype}"
        )
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], window_strides, padding)
    rows, columns = ((int(low), int(high)) for low, high in padding)
    strides = int(window_strides[0]), int(window_strides[1])
    if strides == (1, 1) and min(kernel.shape[2:]) >= NARROW and len(x) > 1:
        return jax.lax.platform_dependent(
            x,
            kernel,
            cpu=functools.partial(_by_products, (rows, columns)),
            default=functools.partial(_rounded, ((rows, columns), strides)),
        )
    return _rounded(((rows, columns), strides), x, kernel)


@functools.cache
def in_bfloat16(conv: Any) -> Any:
    """A kind of convolution, with its operands rounded to bfloat16.

    Args:
      conv: called as `nn.Conv` is, such as `WeightStandardizedConv`.

    Returns:
      The kind; the same object for the same kind.

    Example:
      >>> import flax.linen as nn
      >>> from enorm_jax.convolution import in_bfloat16
      >>> in_bfloat16(nn.Conv) is in_bfloat16(nn.Conv)
      True
    """
    return functools.partial(conv, conv_general_dilated=conv_general_dilated_bfloat16)


Window = tuple[Pads, tuple[int, int]]  # padding and strides
Operands = tuple[jax.Array, jax.Array]  # images and kernel


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's own convolution, of rounded operands that stay float32."""
    return _rounded_forward(window, x, kernel)[0]


def _rounded_forward(window: Window, *operands: jax.Array) -> tuple[jax.Array, Operands]:
    x, kernel = map(_round, operands)
    return _xla(window, x, kernel), (x, kernel)


def _rounded_backward(window: Window, operands: Operands, g: jax.Array) -> Operands:
    return jax.vjp(functools.partial(_xla, window), *operands)[1](_round(g))


_rounded.defvjp(_rounded_forward, _rounded_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_products(pads: Pads, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 1 on a CPU: products of matrices, some images at a time."""
    return _products_forward(pads, x, kernel)[0]


def _products_forward(pads: Pads, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    weights = to_bfloat16(kernel)

    def block(x: jax.Array) -> jax.Array:
        return _sum_of_products(to_bfloat16(x, ((0, 0), *pads, (0, 0))), weights)

    y = jax.lax.map(block, _blocks(x, _block_size(x, kernel)))
    return y.reshape(len(x), *y.shape[2:]), (x, kernel)


def _products_backward(pads: Pads, operands: Operands, g: jax.Array) -> Operands:
    x, kernel = operands
    rows, columns, _, outputs = kernel.shape
    ((above, below), (before, after)) = pads
    around = (
        (0, 0),
        (rows - 1 - above, rows - 1 - below),
        (columns - 1 - before, columns - 1 - after),
        (0, 0),
    )
    turned = to_bfloat16(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))

    def block(of_taps: jax.Array, operands: Operands) -> tuple[jax.Array, jax.Array]:
        x, g = operands
        flat = row_major_transpose(to_bfloat16(g).reshape(-1, outputs))
        taps = _taps(to_bfloat16(x, ((0, 0), *pads, (0, 0))), rows, columns)
        of_taps += jnp.stack([product(flat, tap) for tap in taps])
        return of_taps, _sum_of_products(to_bfloat16(g, around), turned)

    zeros = jnp.zeros(_tap_shape(kernel.shape), jnp.float32)
    size = _block_size(x, kernel)
    of_taps, of_x = jax.lax.scan(block, zeros, (_blocks(x, size), _blocks(g, size)))
    return of_x.reshape(x.shape), of_taps.swapaxes(1, 2).reshape(kernel.shape)


_by_products.defvjp(_products_forward, _products_backward)


def _are_images(x: jax.Array, kernel: jax.Array, dimension_numbers: Any) -> bool:
    """Whether channels come last, in images and in the kernel."""
    if x.ndim != 4:
        return False
    asked, last = (
        jax.lax.conv_dimension_numbers(x.shape, kernel.shape, numbers)
        for numbers in (dimension_numbers, ("NHWC", "HWIO", "NHWC"))
    )
    return asked == last


def _round(x: jax.Array) -> jax.Array:
    """Float32 numbers rounded to those that bfloat16 has."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _xla(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    pads, strides = window
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.DEFAULT,  # TF32, which a GPU takes, holds what bfloat16 does
    )


def _block_size(images: jax.Array, kernel: jax.Array) -> int:
    """How many images are convolved at a time: a divisor of all, as many as caches hold."""
    n, height, width, _ = images.shape
    most = BLOCK // (height * width * max(kernel.shape[2:]))
    # Two blocks at least: XLA would merge a loop of one step with what is around it, to compute
    # activations anew wherever they are read.
    return max(size for size in range(1, max(1, min(n // 2, most)) + 1) if n % size == 0)


def _blocks(images: jax.Array, size: int) -> jax.Array:
    """Images in equal blocks: (blocks, images in one, ...)."""
    return images.reshape(len(images) // size, size, *images.shape[1:])


def _tap_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Number of products that a kernel's taps take, and of outputs and inputs of each."""
    rows, columns, inputs, outputs = shape
    if inputs < WIDE:
        return rows, outputs, columns * inputs
    return rows * columns, outputs, inputs


def _sum_of_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of padded images as a sum of products of matrices."""
    rows, columns, _, outputs = kernel.shape
    taps = _taps(x, rows, columns)
    weights = kernel.reshape(len(taps), -1, outputs)
    y = sum(product(tap, weights[k]) for k, tap in enumerate(taps))
    size = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    return jnp.reshape(y, (len(x), *size, outputs))


def _taps(x: jax.Array, rows: int, columns: int) -> list[jax.Array]:
    """What each position of a kernel, or each row of positions, sees of padded images."""
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    shifted = [x[:, :, j : j + width] for j in range(columns)]
    if x.shape[-1] < WIDE:
        shifted = [jnp.concatenate(shifted, axis=-1)]
    return [
        part[:, i : i + height].reshape(-1, part.shape[-1]) for i in range(rows) for part in shifted
    ]
