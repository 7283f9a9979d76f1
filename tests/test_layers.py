"""Products in bfloat16: what they compute, and that every transform computes the same."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from enorm_jax import FullyConnected, layers
from enorm_jax.layers import _tiles, dot_general_bfloat16, matmul_bfloat16


def rounded(a):
    return np.asarray(a).astype(ml_dtypes.bfloat16).astype(np.float64)


@pytest.fixture(scope="module")
def operands():
    keys = jax.random.split(jax.random.key(0), 3)
    return tuple(
        jax.random.normal(key, shape)
        for key, shape in zip(keys, [(3, 16, 20), (3, 20, 12), (3, 16, 12)], strict=True)
    )


def product_and_gradients(x, w, g):
    y, pullback = jax.vjp(matmul_bfloat16, x, w)
    return y, *pullback(g)


def test_products_and_gradients_are_those_of_rounded_operands_summed_in_float32(operands):
    x, w, g = (a[0] for a in operands)
    y, dx, dw = jax.jit(product_and_gradients)(x, w, g)
    x, w, g = map(rounded, (x, w, g))
    for own, exact in ((y, x @ w), (dx, g @ w.T), (dw, x.T @ g)):
        assert own.dtype == jnp.float32
        np.testing.assert_allclose(own, exact, rtol=1e-5, atol=1e-5)
    assert not np.allclose(y, operands[0][0] @ operands[1][0], rtol=1e-5, atol=1e-5)


def test_vmap_and_scan_give_the_products_one_by_one(operands):
    one = jax.jit(product_and_gradients)
    expected = [one(*(a[i] for a in operands)) for i in range(3)]
    together = jax.jit(jax.vmap(product_and_gradients))(*operands)
    _, scanned = jax.lax.scan(lambda c, o: (c, product_and_gradients(*o)), 0, operands)
    for i, single in enumerate(expected):
        for own, a, b in zip(single, together, scanned, strict=True):
            np.testing.assert_array_equal(own, a[i])
            np.testing.assert_array_equal(own, b[i])


def test_vmap_over_one_operand_broadcasts_the_other(operands):
    x, w, _ = operands
    own = jax.jit(jax.vmap(matmul_bfloat16, in_axes=(None, 0)))(x[0], w)
    np.testing.assert_array_equal(own, jnp.stack([matmul_bfloat16(x[0], k) for k in w]))


@pytest.fixture
def bfloat16_unit(monkeypatch):
    """Says whether the CPU multiplies bfloat16; what was traced before is forgotten."""

    def say(unit):
        monkeypatch.setattr(layers, "_multiplies_bfloat16", lambda: unit)
        jax.clear_caches()

    yield say
    jax.clear_caches()


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("unit", [True, False])
def test_on_a_cpu_no_product_has_its_first_operand_transposed(operands, bfloat16_unit, unit):
    """Where XLA folds the transpose into the product, or widens operands itself, it is slow."""
    bfloat16_unit(unit)
    x, w, g = (a[0] for a in operands)
    text = jax.jit(product_and_gradients).lower(x, w, g).compile().as_text()
    products = [line for line in text.splitlines() if " dot(" in line]
    assert len(products) == 3
    assert all("lhs_contracting_dims={1}" in line for line in products)
    assert ("f32[32,32]{1,0} convert(" in text) != unit


@pytest.mark.usefixtures("on_cpu")
def test_with_and_without_instructions_for_bfloat16_products_differ_by_the_order_of_sums(
    operands, bfloat16_unit
):
    found = []
    for unit in (True, False):
        bfloat16_unit(unit)
        found.append(jax.jit(jax.vmap(product_and_gradients))(*operands))
    for narrow, wide in zip(*found, strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 500, 10), (80, 48, 64), (1, 1, 1)])
def test_padding_to_whole_tiles_changes_nothing(shape):
    """Integers, which bfloat16 holds and float32 sums exactly."""
    batch, inputs, outputs = shape
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (batch, inputs), (inputs, outputs), (batch, outputs)
    x, w, g = (
        jax.random.randint(key, s, -8, 9).astype(jnp.float32)
        for key, s in zip(keys, shapes, strict=True)
    )
    y, dx, dw = product_and_gradients(x, w, g)
    x, w, g = (np.asarray(a, np.float64) for a in (x, w, g))
    np.testing.assert_array_equal(y, x @ w)
    np.testing.assert_array_equal(dx, g @ w.T)
    np.testing.assert_array_equal(dw, x.T @ g)


def test_operands_are_rounded_to_the_nearest_even_and_nan_stays():
    """Every upper half, with lower halves below, at and above the middle; subnormals are zero."""
    upper = np.arange(2**16, dtype=np.uint32) << 16
    lower = np.uint32([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    numbers = (upper[:, None] | lower).view(np.float32)
    tiny = np.finfo(np.float32).tiny
    finite = numbers[(np.isfinite(numbers) & (np.abs(numbers) >= tiny)).all(axis=1)]
    with np.errstate(over="ignore"):
        expected = finite.astype(ml_dtypes.bfloat16)
    own = np.asarray(jax.jit(_tiles)(finite))[: finite.shape[0], : finite.shape[1]]
    np.testing.assert_array_equal(own.view(np.uint16), expected.view(np.uint16))
    special = jnp.array([[jnp.inf, -jnp.inf, jnp.inf - jnp.inf, -0.0]])
    inf, negative, nan, zero = np.asarray(_tiles(special))[0, :4].astype(np.float32)
    assert (inf, negative) == (np.inf, -np.inf)
    assert np.isnan(nan)
    assert np.signbit(zero)


def test_on_a_gpu_runs_stay_one_batched_product(operands):
    traced = jax.jit(jax.vmap(matmul_bfloat16)).trace(*operands[:2])
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("batching_dims = [0] x [0]") == 1


def test_a_dense_layer_takes_any_leading_axes():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5))
    layer = nn.Dense(4, dot_general=dot_general_bfloat16)
    y, variables = layer.init_with_output(jax.random.key(1), x)
    expected = rounded(x) @ rounded(variables["params"]["kernel"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_what_is_no_dense_layer_is_refused():
    with pytest.raises(ValueError, match="dense layers"):
        dot_general_bfloat16(jnp.ones((2, 3)), jnp.ones((4, 3)), (((1,), (1,)), ((), ())))
    with pytest.raises(ValueError, match="leave out dtype"):
        matmul_bfloat16(jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4)))


def forward_over_reverse(loss, w, direction):
    return jax.jvp(jax.grad(loss), (w,), (direction,))[1]


def reverse_over_reverse(loss, w, direction):
    """As a gradient penalty has it."""
    return jax.grad(lambda w: jnp.sum(jax.grad(loss)(w) * direction))(w)


def over_directions(loss, w, direction):
    """As `jax.hessian` has it."""
    hvp = functools.partial(forward_over_reverse, loss, w)
    return jax.vmap(hvp)(jnp.stack([direction, -direction]))[0]


@pytest.mark.parametrize(
    "hvp",
    [
        forward_over_reverse,
        reverse_over_reverse,
        pytest.param(over_directions, marks=pytest.mark.slow),
    ],
)
def test_hessian_vector_products_differ_from_those_in_float32_by_rounding(operands, hvp):
    x, w, _ = (a[0] for a in operands)
    direction = jnp.sin(jnp.arange(w.size, dtype=jnp.float32)).reshape(w.shape)

    def curvature(product):
        def loss(w):
            return jnp.sum(jnp.tanh(product(jnp.tanh(product(x, w)), w[:12])) ** 2)

        return hvp(loss, w, direction)

    exact, own = curvature(jnp.matmul), curvature(matmul_bfloat16)
    assert jnp.linalg.norm(exact) > 1
    assert jnp.linalg.norm(own - exact) < 0.05 * jnp.linalg.norm(exact)


def test_nnx_takes_it():
    layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0), dot_general=dot_general_bfloat16)
    x = jnp.ones((2, 3))
    own = dot_general_bfloat16(x, layer.kernel[...], (((1,), (0,)), ((), ())))
    np.testing.assert_array_equal(layer(x), own)
    with pytest.raises(ValueError, match="take no out_sharding"):
        dot_general_bfloat16(x, layer.kernel[...], (((1,), (0,)), ((), ())), out_sharding="data")


def test_precision_changes_products_alone():
    """Same parameters, all in float32; outputs differ by the rounding of operands only."""
    x = jax.random.normal(jax.random.key(0), (8, 6))
    models = [FullyConnected(depth=2, width=16, precision=p) for p in ("float32", "bfloat16")]
    variables = [model.init(jax.random.key(1), x, train=False) for model in models]
    jax.tree.map(np.testing.assert_array_equal, *variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    exact, narrow = (m.apply(v, x, train=False) for m, v in zip(models, variables, strict=True))
    assert narrow.dtype == jnp.float32
    assert 1e-5 < float(jnp.abs(exact - narrow).max()) < 0.05
    with pytest.raises(ValueError, match="precision must be one of"):
        FullyConnected(depth=1, precision="float16").init(jax.random.key(1), x, train=False)


@pytest.mark.parametrize("shapes", [((1, 2), (3, 2)), ((1, 40), (33, 2)), ((2, 2, 2), (2, 2))])
def test_operands_that_do_not_fit_are_named_and_not_padded(shapes):
    with pytest.raises(ValueError, match=re.escape(f"cannot multiply {shapes[0]} with")):
        matmul_bfloat16(*map(jnp.ones, shapes))
