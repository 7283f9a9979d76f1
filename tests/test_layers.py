"""Products in bfloat16: what they compute, and that every transform computes the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from enorm_jax import FullyConnected
from enorm_jax.layers import dot_general_bfloat16, matmul_bfloat16


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


def test_on_a_cpu_no_product_has_a_transposed_operand(operands):
    """Where XLA folded the transpose into the product, it left the fast path."""
    x, w, g = (a[0] for a in operands)
    text = jax.jit(product_and_gradients).lower(x, w, g).compile().as_text()
    products = [line for line in text.splitlines() if " dot(" in line]
    assert len(products) == 3
    for line in products:
        assert "lhs_contracting_dims={1}, rhs_contracting_dims={0}" in line


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
