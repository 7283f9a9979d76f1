"""Convolutions that are fast on a CPU: as matrix products, in bfloat16 or in float32."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from enorm_jax.layers import Precision, product, row_major_transpose, to_bfloat16

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
    if not _are_plain_images(x, kernel, lhs_dilation, rhs_dilation, dimension_numbers) or (
        feature_group_count != 1
    ):
        raise ValueError(
            "convolutions in bfloat16 are those of images, channels last, neither dilated nor in "
            f"groups; got {x.shape} and {kernel.shape}"
        )
    if not x.dtype == kernel.dtype == jnp.float32:
        raise ValueError(
            "convolutions in bfloat16 round float32 operands themselves: leave out dtype=, got "
            f"{x.dtype} and {kernel.dtype}"
        )
    # TF32, which a GPU takes by default, holds what bfloat16 does.
    way = _way(x, kernel, window_strides, padding, True, jax.lax.Precision.DEFAULT)
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_convolution, dataclasses.replace(way, cpu=True)),
        default=functools.partial(_convolution, way),
    )


def conv_general_dilated_float32(
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
    r"""`jax.lax.conv_general_dilated` whose gradient of the kernel is fast on a CPU.

    .. math::
        y_{n p o} = \sum_{t, c} x_{n, p + t, c} \, w_{t c o}, \quad
        \frac{\partial L}{\partial w_{t c o}}
        = \sum_{n, p} x_{n, p + t, c} \frac{\partial L}{\partial y_{n p o}}

    It takes what ``flax.linen.Conv(..., conv_general_dilated=conv_general_dilated_float32)`` gives
    it. XLA's CPU backend takes several times as long for the second sum as for the first; here it
    is a product of matrices for each position t of the kernel, or row of them, as in
    `conv_general_dilated_bfloat16`, in reverse mode only. On other devices, and where images are
    not float32 with channels last, or dilated, or in groups, it is XLA's own. `infer_groups` does
    not look into it: give it the model with `nn.Conv`, whose parameters are the same.

    Args:
      x: (batch, height, width, in), or what else `jax.lax.conv_general_dilated` takes.
      kernel: (rows, columns, in, out).
      window_strides: of rows and columns.
      padding: ``"SAME"``, ``"VALID"``, or pairs for rows and columns.
      lhs_dilation: as for `jax.lax.conv_general_dilated`, as are the rest.
      rhs_dilation: likewise.
      dimension_numbers: likewise.
      feature_group_count: likewise.
      precision: likewise.

    Returns:
      (batch, height', width', out).

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from enorm_jax.convolution import conv_general_dilated_float32
      >>> layer = nn.Conv(4, (3, 3), conv_general_dilated=conv_general_dilated_float32)
      >>> layer.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 3)))[0].shape
      (2, 8, 8, 4)
    """
    xla = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )
    plain = _are_plain_images(x, kernel, lhs_dilation, rhs_dilation, dimension_numbers)
    if not plain or feature_group_count != 1 or not x.dtype == kernel.dtype == jnp.float32:
        return xla(x, kernel)
    way = _way(x, kernel, window_strides, padding, False, precision)
    by_products = functools.partial(_convolution, dataclasses.replace(way, cpu=True))
    return jax.lax.platform_dependent(x, kernel, cpu=by_products, default=xla)


CONVOLUTIONS: dict[Precision, Callable[..., jax.Array]] = {
    "float32": conv_general_dilated_float32,
    "bfloat16": conv_general_dilated_bfloat16,
}


@functools.cache
def with_convolution(conv: Any, precision: Precision) -> Any:
    """A kind of convolution, computed by one of this module's functions.

    Args:
      conv: called as `nn.Conv` is, such as `WeightStandardizedConv`.
      precision: of the operands.

    Returns:
      The kind; the same object for the same arguments.

    Example:
      >>> import flax.linen as nn
      >>> from enorm_jax.convolution import with_convolution
      >>> with_convolution(nn.Conv, "bfloat16") is with_convolution(nn.Conv, "bfloat16")
      True
    """
    return functools.partial(conv, conv_general_dilated=CONVOLUTIONS[precision])


Operands = tuple[jax.Array, jax.Array]  # images and kernel


@dataclasses.dataclass(frozen=True)
class _Way:
    """How to convolve.

    Attributes:
      pads: before and after rows and columns.
      strides: of rows and columns.
      bfloat16: whether operands are rounded.
      precision: for XLA's convolutions.
      cpu: whether it is on one, where matrix products may pay.
    """

    pads: Pads
    strides: tuple[int, int]
    bfloat16: bool
    precision: Any
    cpu: bool = False

    def pays(self, images: jax.Array, kernel: jax.Array) -> bool:
        """Whether products are faster than XLA's convolution; for kernels' gradients they are."""
        wide = self.strides == (1, 1) and min(kernel.shape[2:]) >= NARROW and len(images) > 1
        return self.cpu and self.bfloat16 and wide

    def operand(self, a: jax.Array, padding: Sequence[tuple[int, int]] | None = None) -> jax.Array:
        """What products take of an array: rounded, and padded."""
        if self.bfloat16:
            return to_bfloat16(a, padding)
        return a if padding is None else jnp.pad(a, padding)

    def xla(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """XLA's own convolution."""
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            self.pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=self.precision,
        )

    def rounded(self, a: jax.Array) -> jax.Array:
        """What XLA's convolution takes: float32 numbers, of those that bfloat16 has if so asked."""
        return jax.lax.reduce_precision(a, 8, 7) if self.bfloat16 else a


def _way(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    bfloat16: bool,
    precision: Any,
) -> _Way:
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    rows, columns = ((int(low), int(high)) for low, high in padding)
    return _Way((rows, columns), (int(strides[0]), int(strides[1])), bfloat16, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolution(way: _Way, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution, one way."""
    return _forward(way, x, kernel)[0]


def _forward(way: _Way, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Operands]:
    if way.pays(x, kernel):
        return _products(way.pads, x, kernel), (x, kernel)
    return way.xla(way.rounded(x), way.rounded(kernel)), (x, kernel)


def _backward(way: _Way, operands: Operands, g: jax.Array) -> Operands:
    x, kernel = operands
    # XLA drops the half of a pullback that is not used.
    of_x, of_kernel = jax.vjp(way.xla, *map(way.rounded, operands))[1](way.rounded(g))
    if way.pays(x, kernel):
        of_x = _products_of_images(way.pads, kernel, g)
    if way.cpu:
        of_kernel = _products_of_kernel(way, x, kernel, g)
    return of_x, of_kernel


_convolution.defvjp(_forward, _backward)


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


def _products_of_kernel(way: _Way, x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    """Its gradient of the kernel, at any stride."""
    rows, columns, _, outputs = kernel.shape

    def block(of_taps: jax.Array, operands: Operands) -> tuple[jax.Array, None]:
        x, g = operands
        flat = row_major_transpose(way.operand(g).reshape(-1, outputs))
        taps = _taps(way.operand(x, ((0, 0), *way.pads, (0, 0))), rows, columns, way.strides)
        return of_taps + jnp.stack([product(flat, tap) for tap in taps]), None

    zeros = jnp.zeros(_tap_shape(kernel.shape), jnp.float32)
    size = _block_size(x, kernel)
    if len(x) > 1:
        of_taps, _ = jax.lax.scan(block, zeros, (_blocks(x, size), _blocks(g, size)))
    else:
        of_taps, _ = block(zeros, (x, g))
    return of_taps.swapaxes(1, 2).reshape(kernel.shape)


def _are_plain_images(
    x: jax.Array,
    kernel: jax.Array,
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    dimension_numbers: Any,
) -> bool:
    """Whether channels come last, in images and in the kernel, and nothing is dilated."""
    if x.ndim != 4 or any(n != 1 for n in (*(lhs_dilation or ()), *(rhs_dilation or ()))):
        return False
    asked, last = (
        jax.lax.conv_dimension_numbers(x.shape, kernel.shape, numbers)
        for numbers in (dimension_numbers, ("NHWC", "HWIO", "NHWC"))
    )
    return asked == last


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
