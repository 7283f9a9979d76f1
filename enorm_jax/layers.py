"""Dense layers' matrix products in bfloat16, kept on the path where the device is fast at them."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.layout import Layout, with_layout_constraint

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@jax.custom_vjp
def matmul_bfloat16(x: jax.Array, w: jax.Array) -> jax.Array:
    r"""A float32 matrix product whose operands are rounded to bfloat16, as are its gradients'.

    .. math::
        y = \hat x \hat w, \quad
        \bar x = \hat{\bar y} \hat w^\top, \quad
        \bar w = \hat x^\top \hat{\bar y}, \quad
        \hat a = \mathrm{bfloat16}(a)

    Sums are float32. CPUs multiply bfloat16 fast only where both operands are row-major, so
    that there the transposed operands are laid out anew, and `vmap` gives one product after
    another; other devices get plain and batched products. Reverse mode only.

    Args:
      x: (batch, in), float32.
      w: (in, out), float32.

    Returns:
      (batch, out), float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.layers import matmul_bfloat16
      >>> x = jnp.array([[1 + 2**-9, 2.0]])  # bfloat16 has 8 bits
      >>> float(matmul_bfloat16(x, jnp.ones((2, 1)))[0, 0])
      3.0
    """
    return _product(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    narrow = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return _product(*narrow), narrow


def _backward(narrow: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = narrow
    g = g.astype(jnp.bfloat16)
    return _product(g, _transpose(w)), _product(_transpose(x), g)


matmul_bfloat16.defvjp(_forward, _backward)


def dot_general_bfloat16(
    x: jax.Array,
    kernel: jax.Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """`matmul_bfloat16` as ``flax.linen.Dense(..., dot_general=dot_general_bfloat16)`` takes it.

    Args:
      x: (..., in), float32.
      kernel: (in, out), float32.
      dimension_numbers: those of a dense layer: x's last axis against the kernel's first.
      precision: not used: bfloat16 operands, float32 sums.
      preferred_element_type: not used: the result is float32.

    Returns:
      (..., out), float32.

    Raises:
      ValueError: if the axes are not a dense layer's.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from enorm_jax.layers import dot_general_bfloat16
      >>> layer = nn.Dense(4, dot_general=dot_general_bfloat16)
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 3)))
      >>> y.shape, variables["params"]["kernel"].dtype
      ((2, 4), dtype('float32'))
    """
    (of_x, of_kernel), (batched, _) = dimension_numbers
    contracted = tuple(of_x), tuple(of_kernel)
    if kernel.ndim != 2 or contracted != ((x.ndim - 1,), (0,)) or len(batched):
        raise ValueError(
            f"bfloat16 products are those of dense layers, (..., in) x (in, out); got {x.shape} "
            f"and {kernel.shape} with dimension numbers {dimension_numbers}"
        )
    flat = x.reshape(-1, x.shape[-1])
    return matmul_bfloat16(flat, kernel).reshape(*x.shape[:-1], kernel.shape[1])


@custom_vmap
def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Product of two bfloat16 matrices, summed in float32."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@_product.def_vmap
def _product_over_runs(
    size: int, batched: Sequence[bool], a: jax.Array, b: jax.Array
) -> tuple[jax.Array, bool]:
    a, b = (
        x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
        for x, is_batched in zip((a, b), batched, strict=True)
    )

    def one_by_one(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.stack([_product(a[i], b[i]) for i in range(size)])

    def together(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)

    return jax.lax.platform_dependent(a, b, cpu=one_by_one, default=together), True


def _transpose(x: jax.Array) -> jax.Array:
    """Transpose of a matrix; on a CPU one that XLA cannot fold into the product."""

    def row_major(x: jax.Array) -> jax.Array:
        return with_layout_constraint(x.T, Layout(major_to_minor=(0, 1)))

    return jax.lax.platform_dependent(x, cpu=row_major, default=jnp.transpose)
