"""Convolutions in bfloat16: on a CPU as matrix products, which its matrix unit is fast at."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from enorm_jax.layers import product, row_major_transpose, to_bfloat16

Pads = tuple[tuple[int, int], tuple[int, int]]

# Channels. Below the first XLA's own float32 convolutions are as fast, but for the gradient of the
# kernel; below the second a product takes a whole row of the kernel, so that its sums run over
# enough numbers.
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
    rows of them, of products of matrices, and so is every gradient of a kernel; others, and those
    on other devices, are XLA's own, of rounded operands. Reverse mode only. `infer_groups` does not
    look into it: give it the model in float32, whose parameters are the same.

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
    window = (rows, columns), strides
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_rounded, (window, True)),
        default=functools.partial(_rounded, (window, False)),
    )


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
def _rounded(way: tuple[Window, bool], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution, as products of matrices where they pay if it is on a CPU."""
    return _rounded_forward(way, x, kernel)[0]


def _rounded_forward(
    way: tuple[Window, bool], x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, Operands]:
    window, on_cpu = way
    if on_cpu and _pays(window, x, kernel):
        return _products(window[0], x, kernel), (x, kernel)
    return _xla(window, _round(x), _round(kernel)), (x, kernel)


def _rounded_backward(way: tuple[Window, bool], operands: Operands, g: jax.Array) -> Operands:
    window, on_cpu = way
    x, kernel = operands
    if on_cpu and _pays(window, x, kernel):
        of_x = _products_of_images(window[0], kernel, g)
    else:
        xla = functools.partial(_xla, window)
        of_x = jax.vjp(lambda x: xla(x, _round(kernel)), x)[1](_round(g))[0]
    if on_cpu:
        return of_x, _products_of_kernel(window, x, kernel, g)
    of_kernel = jax.vjp(lambda kernel: xla(_round(x), kernel), kernel)[1](_round(g))[0]
    return of_x, of_kernel


_rounded.defvjp(_rounded_forward, _rounded_backward)


def _pays(window: Window, x: jax.Array, kernel: jax.Array) -> bool:
    """Whether products are faster than XLA's convolution; for the kernel's gradient they are."""
    return window[1] == (1, 1) and min(kernel.shape[2:]) >= NARROW and len(x) > 1


def _products(pads: Pads, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 1, some images at a time."""
    weights = to_bfloat16(kernel)

    def block(x: jax.Array) -> jax.Array:
        return _sum_of_products(to_bfloat16(x, ((0, 0), *pads, (0, 0))), weights)

    y = jax.lax.map(block, _blocks(x, _block_size(x, kernel)))
    return y.reshape(len(x), *y.shape[2:])


def _products_of_images(pads: Pads, kernel: jax.Array, g: jax.Array) -> jax.Array:
    """Its gradient of the images: the convolution of `g` with the kernel turned around."""
    around = tuple(
        (size - 1 - low, size - 1 - high)
        for size, (low, high) in zip(kernel.shape[:2], pads, strict=True)
    )
    return _products((around[0], around[1]), g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))


def _products_of_kernel(window: Window, x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    """Its gradient of the kernel, at any stride."""
    pads, strides = window
    rows, columns, _, outputs = kernel.shape

    def block(of_taps: jax.Array, operands: Operands) -> tuple[jax.Array, None]:
        x, g = operands
        flat = row_major_transpose(to_bfloat16(g).reshape(-1, outputs))
        taps = _taps(to_bfloat16(x, ((0, 0), *pads, (0, 0))), rows, columns, strides)
        return of_taps + jnp.stack([product(flat, tap) for tap in taps]), None

    zeros = jnp.zeros(_tap_shape(kernel.shape), jnp.float32)
    size = _block_size(x, kernel)
    if len(x) > 1:
        of_taps, _ = jax.lax.scan(block, zeros, (_blocks(x, size), _blocks(g, size)))
    else:
        of_taps, _ = block(zeros, (x, g))
    return of_taps.swapaxes(1, 2).reshape(kernel.shape)


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


def _taps(
    x: jax.Array, rows: int, columns: int, strides: tuple[int, int] = (1, 1)
) -> list[jax.Array]:
    """What each position of a kernel, or each row of positions, sees of padded images."""
    down, right = strides
    starts_down, starts_right = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    shifted = [x[:, :, j : j + starts_right : right] for j in range(columns)]
    if x.shape[-1] < WIDE:
        shifted = [jnp.concatenate(shifted, axis=-1)]
    return [
        part[:, i : i + starts_down : down].reshape(-1, part.shape[-1])
        for i in range(rows)
        for part in shifted
    ]
