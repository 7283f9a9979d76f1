"""Convolutions that are fast on a CPU: as matrix products, in bfloat16 or in float32."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from enorm_jax.layers import (
    Precision,
    over_shares,
    product,
    row_major_transpose,
    to_bfloat16,
    varying,
    with_zeros,
)

Pads = tuple[tuple[int, int], tuple[int, int]]

# Channels below which XLA's own float32 convolutions are as fast, but for kernels' gradients.
NARROW = 32
# Activations in a block of images: what a core's cache holds.
BLOCK = 200_000


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
    out_sharding: Any = None,
) -> jax.Array:
    r"""A float32 convolution whose operands are rounded to bfloat16, as are its gradients'.

    .. math::
        y_{n p o} = \sum_{t, c} \hat x_{n, p + t, c} \, \hat w_{t c o}, \quad
        \hat a = \mathrm{bfloat16}(a)

    Sums are float32. It takes what ``flax.linen.Conv(...,
    conv_general_dilated=conv_general_dilated_bfloat16)`` gives it, and ``flax.nnx.Conv``. On a CPU
    a convolution of two images or more, 32 channels or more and stride 1 is a product of matrices
    for some images at a time, and so is every gradient of a kernel; others, and those on other
    devices, are XLA's own, of rounded operands. Derivatives begin with reverse mode, `jax.grad`;
    gradients have any. `infer_groups` does not look into it: give it the model in float32, whose
    parameters are the same.

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
      out_sharding: None only.

    Returns:
      (batch, height', width', out), float32.

    Raises:
      ValueError: if it is dilated, grouped, not of images with channels last, not in float32, or
        has a sharding.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from enorm_jax.convolution import conv_general_dilated_bfloat16
      >>> layer = nn.Conv(4, (3, 3), conv_general_dilated=conv_general_dilated_bfloat16)
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 8, 8, 3)))
      >>> y.shape, variables["params"]["kernel"].dtype
      ((2, 8, 8, 4), dtype('float32'))
    """
    dilations = lhs_dilation, rhs_dilation
    if not _are_plain(x, kernel, dilations, dimension_numbers, feature_group_count):
        raise ValueError(
            "convolutions in bfloat16 are those of images, channels last, neither dilated nor in "
            f"groups; got {x.shape} and {kernel.shape}"
        )
    if not x.dtype == kernel.dtype == jnp.float32:
        raise ValueError(
            "convolutions in bfloat16 round float32 operands themselves: leave out dtype=, got "
            f"{x.dtype} and {kernel.dtype}"
        )
    if out_sharding is not None:
        raise ValueError("convolutions in bfloat16 take no out_sharding: leave it out")
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
    out_sharding: Any = None,
) -> jax.Array:
    r"""`jax.lax.conv_general_dilated` whose gradient of the kernel is fast on a CPU.

    .. math::
        y_{n p o} = \sum_{t, c} x_{n, p + t, c} \, w_{t c o}, \quad
        \frac{\partial L}{\partial w_{t c o}}
        = \sum_{n, p} x_{n, p + t, c} \frac{\partial L}{\partial y_{n p o}}

    It takes what ``flax.linen.Conv(..., conv_general_dilated=conv_general_dilated_float32)`` gives
    it. XLA's CPU backend takes several times as long for the second sum as for the first; here it
    is a product of matrices for some images at a time, and derivatives begin with reverse mode, as
    in `conv_general_dilated_bfloat16`. On other devices, and where images are not float32 with
    channels last, or dilated, or in groups, or have a sharding, it is XLA's own. `infer_groups`
    does not look into it: give it the model with `nn.Conv`, whose parameters are the same.

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
      out_sharding: likewise.

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
        out_sharding=out_sharding,
    )
    dilations = lhs_dilation, rhs_dilation
    plain = _are_plain(x, kernel, dilations, dimension_numbers, feature_group_count)
    if out_sharding is not None or not plain or not x.dtype == kernel.dtype == jnp.float32:
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
        return a if padding is None else with_zeros(a, padding)

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
    """The way of a convolution's arguments, on a device that is not a CPU."""
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
    if not g.size:  # nor would there be blocks
        return jnp.zeros_like(x), jnp.zeros_like(kernel)
    # XLA drops the half of a pullback that is not used.
    of_x, of_kernel = jax.vjp(way.xla, *map(way.rounded, operands))[1](way.rounded(g))
    if way.pays(x, kernel):
        of_x = _products_of_images(way.pads, kernel, g)
    if way.cpu:
        of_kernel = _products_of_kernel(way, x, kernel, g)
    return over_shares(of_x, x), over_shares(of_kernel, kernel)


_convolution.defvjp(_forward, _backward)


def _products(pads: Pads, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 1, some images at a time.

    One product takes all rows of the kernel to all rows of the images; then what each row of the
    output consists of is added up.
    """
    rows, columns, inputs, outputs = kernel.shape
    weights = to_bfloat16(kernel).transpose(1, 2, 0, 3).reshape(columns * inputs, rows * outputs)

    def block(x: jax.Array) -> jax.Array:
        seen = _columns_together(to_bfloat16(x, ((0, 0), *pads, (0, 0))), columns, 1)
        by_row = product(seen.reshape(-1, columns * inputs), weights)
        by_row = by_row.reshape(*seen.shape[:3], rows, outputs)
        height = seen.shape[1] - rows + 1
        first, *others = (by_row[:, i : i + height, :, i] for i in range(rows))
        return sum(others, start=first)

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
    """Its gradient of the kernel, at any stride.

    One product for all rows of the kernel: it takes `g` once for each of them, moved down to where
    that row sees the images.
    """
    rows, columns, inputs, outputs = kernel.shape
    down, right = way.strides

    def block(sums: jax.Array, operands: Operands) -> tuple[jax.Array, None]:
        x, g = operands
        padded = way.operand(x, ((0, 0), *way.pads, (0, 0)))
        seen = _columns_together(padded, columns, right)
        turned = row_major_transpose(way.operand(g).reshape(-1, outputs))
        turned = turned.reshape(outputs, *g.shape[:3])
        below = seen.shape[1] - down * (g.shape[1] - 1) - 1
        of_rows = jnp.stack([_spread(turned, i, below - i, down - 1) for i in range(rows)])
        flat = of_rows.reshape(rows * outputs, -1)
        return sums + product(flat, seen.reshape(-1, columns * inputs)), None

    zeros = jnp.zeros((rows * outputs, columns * inputs), jnp.float32)
    if axes := varying(x) | varying(g):  # within `jax.shard_map`, as the sums will
        zeros = jax.lax.pcast(zeros, tuple(sorted(axes)), to="varying")
    size = _block_size(x, kernel)
    if len(x) > 1:
        sums, _ = jax.lax.scan(block, zeros, (_blocks(x, size), _blocks(g, size)))
    else:
        sums, _ = block(zeros, (x, g))
    return sums.reshape(rows, outputs, columns, inputs).transpose(0, 2, 3, 1)


def _columns_together(x: jax.Array, columns: int, stride: int) -> jax.Array:
    """What the columns of a kernel see of padded images, beside each other as channels."""
    starts = x.shape[2] - columns + 1
    return jnp.concatenate([x[:, :, j : j + starts : stride] for j in range(columns)], axis=-1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _spread(g: jax.Array, before: int, after: int, between: int) -> jax.Array:
    """Rows of zeros around and between those of (outputs, images, height, width)."""
    padding = _rows(before, after, between)
    if g.dtype == jnp.float32:
        return jax.lax.pad(g, jnp.float32(0), padding)
    # XLA's CPU backend pads bfloat16 number by number.
    bits = jax.lax.bitcast_convert_type(g, jnp.uint16)
    padded = jax.lax.pad(bits, jnp.uint16(0), padding)
    return jax.lax.bitcast_convert_type(padded, jnp.bfloat16)


@_spread.defjvp
def _spread_jvp(
    before: int, after: int, between: int, primals: Any, tangents: Any
) -> tuple[jax.Array, jax.Array]:
    (g,), (dg,) = primals, tangents
    spread = jax.lax.pad(dg, jnp.zeros((), dg.dtype), _rows(before, after, between))
    return _spread(g, before, after, between), spread  # bits have no derivative


def _rows(before: int, after: int, between: int) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), (0, 0, 0), (before, after, between), (0, 0, 0)]


def _are_plain(
    x: jax.Array,
    kernel: jax.Array,
    dilations: tuple[Sequence[int] | None, Sequence[int] | None],
    dimension_numbers: Any,
    groups: int,
) -> bool:
    """Whether these are images and a kernel, channels last, neither dilated nor in groups."""
    if x.ndim != 4 or groups != 1 or any(n != 1 for each in dilations for n in each or ()):
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
