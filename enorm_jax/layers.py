"""Dense layers' matrix products in bfloat16, kept on the path where the device is fast at them."""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.layout import Layout, with_layout_constraint

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


# Matrix units multiply tiles: products of 512 units take two thirds of the time of those of 500.
TILE = 32


def matmul_bfloat16(x: jax.Array, w: jax.Array) -> jax.Array:
    r"""A float32 matrix product whose operands are rounded to bfloat16, as are its gradients'.

    .. math::
        y = \hat x \hat w, \quad
        \bar x = \hat{\bar y} \hat w^\top, \quad
        \bar w = \hat x^\top \hat{\bar y}, \quad
        \hat a = \mathrm{bfloat16}(a)

    Sums are float32. Inside, operands are padded with zeros to whole tiles. CPUs multiply bfloat16
    slowly where the first operand is transposed, so that there it is laid out anew, and `vmap`
    gives one product after another; those without instructions for bfloat16 multiply the
    rounded numbers in float32, which is faster there. Other devices get plain and batched
    products. Derivatives begin with reverse mode, `jax.grad`; gradients have any, such as
    Hessian-vector products by `jax.jvp`.

    Args:
      x: (batch, in), float32.
      w: (in, out), float32.

    Returns:
      (batch, out), float32.

    Raises:
      ValueError: if an operand is not in float32, or no matrix, or the two do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.layers import matmul_bfloat16
      >>> x = jnp.array([[1 + 2**-9, 2.0]])  # bfloat16 has 8 bits
      >>> float(matmul_bfloat16(x, jnp.ones((2, 1)))[0, 0])
      3.0
    """
    if not x.dtype == w.dtype == jnp.float32:
        raise ValueError(
            "products in bfloat16 round float32 operands themselves: leave out dtype= and "
            f"param_dtype=, got {x.dtype} and {w.dtype}"
        )
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0]:  # which padding would hide
        raise ValueError(f"cannot multiply {x.shape} with {w.shape}: (batch, in) and (in, out)")
    return _matmul(w.shape, x, w)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(shape: tuple[int, int], x: jax.Array, w: jax.Array) -> jax.Array:
    return _forward(shape, x, w)[0]


def _forward(
    shape: tuple[int, int], x: jax.Array, w: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    tiles = _tiles(x), _tiles(w)
    return product(*tiles)[: len(x), : shape[1]], tiles


def _backward(
    shape: tuple[int, int], tiles: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    (x, w), (inputs, outputs), narrow = tiles, shape, _tiles(g)
    of_x, of_w = _product_with_transpose(narrow, w), product(row_major_transpose(x), narrow)
    return over_shares(of_x[: len(g), :inputs], x), over_shares(of_w[:inputs, :outputs], w)


_matmul.defvjp(_forward, _backward)


def over_shares(gradient: jax.Array, operand: jax.Array) -> jax.Array:
    """A gradient summed over the devices of a `jax.shard_map` that hold the same operand."""
    axes = varying(gradient) - varying(operand)
    return jax.lax.psum(gradient, tuple(sorted(axes))) if axes else gradient


def varying(x: jax.Array) -> frozenset[str]:
    """The axes of a `jax.shard_map` along which devices hold shares of their own."""
    # Where a version of JAX names it otherwise, it has to be told check_vma=False.
    kind = getattr(jax.typeof(x), "manual_axis_type", None)
    return frozenset() if kind is None else kind.varying


def dot_general_bfloat16(
    x: jax.Array,
    kernel: jax.Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    r"""`matmul_bfloat16` as ``flax.linen.Dense(..., dot_general=dot_general_bfloat16)`` takes it.

    .. math:: y = \hat x \hat w, \quad \hat a = \mathrm{bfloat16}(a)

    Args:
      x: (..., in), float32.
      kernel: (in, out), float32.
      dimension_numbers: those of a dense layer: x's last axis against the kernel's first.
      precision: not used: bfloat16 operands, float32 sums.
      preferred_element_type: not used: the result is float32.
      out_sharding: None only, as ``flax.nnx.Linear`` gives it.

    Returns:
      (..., out), float32.

    Raises:
      ValueError: if the axes are not a dense layer's, an operand is not in float32, or there is a
        sharding.

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
    if out_sharding is not None:
        raise ValueError("bfloat16 products take no out_sharding: leave it out")
    flat = x.reshape(-1, x.shape[-1])
    return matmul_bfloat16(flat, kernel).reshape(*x.shape[:-1], kernel.shape[1])


def _one_by_one(product: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A product of matrices that `vmap` unrolls on a CPU, which is slow at batched ones.

    Its derivative, which only those of gradients need, is one of plain products: what `custom_vmap`
    wraps cannot be transposed.
    """
    unrolled = custom_vmap(product)

    @unrolled.def_vmap
    def over_runs(
        size: int, batched: Sequence[bool], a: jax.Array, b: jax.Array
    ) -> tuple[jax.Array, bool]:
        a, b = (
            x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            for x, is_batched in zip((a, b), batched, strict=True)
        )

        def one_by_one(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.stack([unrolled(a[i], b[i]) for i in range(size)])

        return jax.lax.platform_dependent(a, b, cpu=one_by_one, default=product), True

    differentiable = jax.custom_jvp(unrolled)

    @differentiable.defjvp
    def derivative(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        (a, b), (da, db) = primals, tangents
        return differentiable(a, b), product(da, b) + product(a, db)

    return differentiable


def _widened(product: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A product of bfloat16 numbers, in float32 on a CPU without instructions for them.

    The same products and sums, but for the order: float32 holds a product of two such numbers.
    """

    def in_float32(a: jax.Array, b: jax.Array) -> jax.Array:
        return product(a.astype(jnp.float32), b.astype(jnp.float32))

    @functools.wraps(product)
    def fastest(a: jax.Array, b: jax.Array) -> jax.Array:
        if a.dtype != jnp.bfloat16 or _multiplies_bfloat16():
            return product(a, b)
        return jax.lax.platform_dependent(a, b, cpu=in_float32, default=product)

    return fastest


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for it: False only where Linux lists none."""
    described = Path("/proc/cpuinfo")
    # avx512_bf16, amx_bf16; bf16 on ARM.
    return not described.exists() or re.search(r"bf16\b", described.read_text()) is not None


@_one_by_one
@_widened
def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Product a b of matrices in bfloat16, summed in float32."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@_one_by_one
@_widened
def _product_with_transpose(a: jax.Array, b: jax.Array) -> jax.Array:
    """Product a bᵀ, likewise."""
    last, runs = a.ndim - 1, tuple(range(a.ndim - 2))
    axes = ((last,), (last,)), (runs, runs)
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


@jax.named_scope("to_bfloat16")
def to_bfloat16(a: jax.Array, padding: Sequence[tuple[int, int]] | None = None) -> jax.Array:
    """A float32 array rounded to bfloat16, and padded with zeros.

    Args:
      a: the array.
      padding: numbers of zeros before and after, for each axis, cut off where negative; None
        for none.

    Returns:
      The array in bfloat16.

    Example:
      >>> import jax.numpy as jnp
      >>> from enorm_jax.layers import to_bfloat16
      >>> to_bfloat16(jnp.array([1 + 2**-9, 2.0]), [(0, 1)])
      Array([1, 2, 0], dtype=bfloat16)
    """
    zeros = ((0, 0),) * a.ndim if padding is None else tuple(map(tuple, padding))
    return _to_bfloat16(a, zeros)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _to_bfloat16(a: jax.Array, padding: tuple[tuple[int, int], ...]) -> jax.Array:
    def by_integers(a: jax.Array) -> jax.Array:
        # Half a unit is added, less the smallest bit if even, and what is below a unit cut off.
        # NaN as arithmetic makes it stays NaN. XLA's CPU backend converts and pads number by
        # number, and takes five times as long.
        bits = jax.lax.bitcast_convert_type(a, jnp.uint32)
        upper = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        narrow = with_zeros(upper.astype(jnp.uint16), padding)
        return jax.lax.bitcast_convert_type(narrow, jnp.bfloat16)

    converted = functools.partial(_converted, padding=padding)
    return jax.lax.platform_dependent(a, cpu=by_integers, default=converted)


@_to_bfloat16.defjvp
def _to_bfloat16_jvp(
    padding: tuple[tuple[int, int], ...], primals: Any, tangents: Any
) -> tuple[jax.Array, jax.Array]:
    # Without it the bits, which are integers, would have no derivative: second ones would be 0.
    (a,), (da,) = primals, tangents
    return _to_bfloat16(a, padding), _converted(da, padding)


def _converted(a: jax.Array, padding: tuple[tuple[int, int], ...]) -> jax.Array:
    return with_zeros(a.astype(jnp.bfloat16), padding)


def with_zeros(a: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """An array with numbers of zeros before and after, for each axis, cut off where negative."""
    if not any(map(any, padding)):
        return a
    return jax.lax.pad(a, jnp.zeros((), a.dtype), [(low, high, 0) for low, high in padding])


@jax.named_scope("row_major_transpose")
def row_major_transpose(x: jax.Array) -> jax.Array:
    """Transpose of a matrix; on a CPU one that XLA cannot fold into the product."""

    def row_major(x: jax.Array) -> jax.Array:
        return with_layout_constraint(x.T, Layout(major_to_minor=(0, 1)))

    return jax.lax.platform_dependent(x, cpu=row_major, default=jnp.transpose)


def _tiles(a: jax.Array) -> jax.Array:
    """A float32 matrix in bfloat16, padded with zeros to whole tiles."""
    return to_bfloat16(a, [(0, -size % TILE) for size in a.shape])
