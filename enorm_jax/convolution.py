"""Convolutions in bfloat16: on a CPU as matrix products, which its matrix unit is fast at."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from enorm_jax.layers import product, row_major_transpose, to_bfloat16

Pads = tuple[tuple[int, int], tuple[int, int]]

# Below it XLA's own float32 convolutions are as fast, measured on CPUs with and without AMX.
NARROW = 32
# Below it a product takes a whole row of the kernel, so that the sum runs over enough numbers.
WIDE = 64


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
    stride 1 and 32 channels or more is a sum over the kernel's positions t, or rows of them, of
    products of matrices; others, and those on other devices, are XLA's own, of rounded operands.

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
      ValueError: if it is dilated, grouped, or not of images with channels last.

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
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], window_strides, padding)
    rows, columns = ((int(low), int(high)) for low, high in padding)
    down, across = map(int, window_strides)
    return _conv(((rows, columns), (down, across)), x, kernel)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _forward(window, x, kernel)[0]


def _forward(
    window: Window, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    pads, strides = window
    narrow = to_bfloat16(x, ((0, 0), *pads, (0, 0))), to_bfloat16(kernel)

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _plain(x, kernel, strides)

    if not _as_products(strides, kernel.shape):
        return plain(*narrow), narrow
    return jax.lax.platform_dependent(*narrow, cpu=_products, default=plain), narrow


def _backward(
    window: Window, narrow: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    (pads, strides), kernel = window, narrow[1]
    ((above, below), (before, after)), (height, width) = pads, narrow[0].shape[1:3]

    def plain(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        wide = x.astype(jnp.float32), kernel.astype(jnp.float32)
        of_x, of_kernel = jax.vjp(functools.partial(_plain, strides=strides), *wide)[1](
            g.astype(jnp.float32)
        )
        return of_x[:, above : height - below, before : width - after], of_kernel

    def products(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, columns, _, outputs = kernel.shape
        flat = row_major_transpose(g.reshape(-1, outputs))
        # Else XLA would move the transpose into the product, which has no such form.
        of_taps = [
            jax.lax.optimization_barrier(product(flat, tap)).T for tap in _taps(x, rows, columns)
        ]
        around = (
            (rows - 1 - above, rows - 1 - below), (columns - 1 - before, columns - 1 - after)
        )  # fmt: skip
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        of_x = _products(_padded(g, around), turned)
        return of_x, jnp.stack(of_taps).reshape(kernel.shape)

    operands = (*narrow, to_bfloat16(g))
    if not _as_products(strides, kernel.shape):
        return plain(*operands)
    return jax.lax.platform_dependent(*operands, cpu=products, default=plain)


_conv.defvjp(_forward, _backward)


def _are_images(x: jax.Array, kernel: jax.Array, dimension_numbers: Any) -> bool:
    """Whether channels come last, in images and in the kernel."""
    if x.ndim != 4:
        return False
    asked, last = (
        jax.lax.conv_dimension_numbers(x.shape, kernel.shape, numbers)
        for numbers in (dimension_numbers, ("NHWC", "HWIO", "NHWC"))
    )
    return asked == last


def _as_products(strides: tuple[int, int], shape: tuple[int, ...]) -> bool:
    return strides == (1, 1) and min(shape[2:]) >= NARROW


def _plain(x: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """XLA's own convolution, of padded images."""
    return jax.lax.conv_general_dilated(
        x.astype(jnp.float32),
        kernel.astype(jnp.float32),
        strides,
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.DEFAULT,  # TF32 holds what bfloat16 does
    )


def _products(x: jax.Array, kernel: jax.Array) -> jax.Array:
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


def _padded(x: jax.Array, pads: Pads) -> jax.Array:
    """Images with zeros around, or with less where a pad is negative."""
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)])
