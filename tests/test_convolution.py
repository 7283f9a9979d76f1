"""Convolutions in bfloat16: what they compute, on whichever way they take."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from enorm_jax import WeightStandardizedConv, convolution
from enorm_jax.convolution import (
    CONVOLUTIONS,
    conv_general_dilated_bfloat16,
    conv_general_dilated_float32,
    with_convolution,
)

# Channels in and out, kernel, strides, padding.
CASES = {
    "many channels": (128, 32, (3, 3), (1, 1), "SAME"),
    "as many": (32, 40, (3, 3), (1, 1), "SAME"),
    "uneven": (33, 64, (2, 3), (1, 1), [(2, 0), (0, 1)]),
    "one": (64, 64, (1, 1), (1, 1), "VALID"),
    "wide padding": (32, 32, (2, 2), (1, 1), [(3, 2), (2, 3)]),
    "few channels": (3, 32, (3, 3), (1, 1), "SAME"),
    "strides": (32, 32, (3, 3), (2, 2), [(1, 1), (1, 1)]),
}


def rounded(a):
    return np.asarray(a).astype(ml_dtypes.bfloat16).astype(np.float64)


def operands(
    inputs, outputs, size, strides, padding, images=(4, 5, 6), own=conv_general_dilated_bfloat16
):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (*images, inputs))
    kernel = jax.random.normal(keys[1], (*size, inputs, outputs))
    conv = functools.partial(
        own, window_strides=strides, padding=padding,
        dimension_numbers=nn.linear._conv_dimension_numbers(x.shape),
    )  # fmt: skip
    g = jax.random.normal(keys[2], jax.eval_shape(conv, x, kernel).shape)
    return conv, x, kernel, g


def by_loops(x, kernel, g, strides, padding):
    """The equation, and its derivatives, position by position in float64."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    padded = np.pad(x, ((0, 0), *padding, (0, 0)))
    y, of_x, of_kernel = np.zeros(g.shape), np.zeros(padded.shape), np.zeros(kernel.shape)
    height, width = g.shape[1:3]
    for i, j in np.ndindex(*kernel.shape[:2]):
        seen = (
            slice(None),
            slice(i, i + strides[0] * (height - 1) + 1, strides[0]),
            slice(j, j + strides[1] * (width - 1) + 1, strides[1]),
        )
        y += padded[seen] @ kernel[i, j]
        of_x[seen] += g @ kernel[i, j].T
        of_kernel[i, j] = np.einsum("nhwc,nhwo->co", padded[seen], g)
    (top, _), (left, _) = padding
    return y, of_x[:, top : top + x.shape[1], left : left + x.shape[2]], of_kernel


def both_passes(conv):
    def forward_and_backward(x, kernel, g):
        y, pullback = jax.vjp(conv, x, kernel)
        return y, *pullback(g)

    return jax.jit(forward_and_backward)


def check(case, images=(4, 5, 6)):
    conv, x, kernel, g = operands(*case, images)
    expected = by_loops(*map(rounded, (x, kernel, g)), *case[3:])
    for found, exact in zip(both_passes(conv)(x, kernel, g), expected, strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_convolution_of_rounded_operands_summed_in_float32(case):
    check(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_in_float32_it_is_the_convolution(case):
    """Kernels' gradients too, which are summed in another order than XLA sums them."""
    conv, x, kernel, g = operands(*CASES[case], own=conv_general_dilated_float32)
    expected = by_loops(*(np.float64(a) for a in (x, kernel, g)), *CASES[case][3:])
    for found, exact in zip(both_passes(conv)(x, kernel, g), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("images", [1, 2, 3, 7, 12])
def test_images_are_taken_in_blocks_whatever_their_number(images, monkeypatch):
    """The images and the smaller outputs of a convolution that is not padded: in equal blocks."""
    monkeypatch.setattr(convolution, "BLOCK", 5 * 6 * 32 * 4)
    check((32, 32, (3, 3), (1, 1), "VALID"), (images, 5, 6))


def test_vmap_gives_the_convolutions_one_by_one():
    conv, *arrays = operands(*CASES["as many"])
    runs = [tuple(scale * a for a in arrays) for scale in (1.0, 2.0)]
    together = jax.vmap(both_passes(conv))(*map(jnp.stack, zip(*runs, strict=True)))
    for run, own in enumerate(runs):
        for found, expected in zip(together, both_passes(conv)(*own), strict=True):
            np.testing.assert_allclose(found[run], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(("case", "products", "convolutions"), [
    ("many channels", 3, 0), ("as many", 3, 0), ("one", 3, 0), ("few channels", 1, 2),
    ("strides", 1, 2),
])  # fmt: skip
def test_on_a_cpu_it_is_products_where_that_pays_and_elsewhere_a_convolution(
    case, products, convolutions
):
    conv, x, kernel, g = operands(*CASES[case])
    with jax.default_matmul_precision("float32"):  # as training does
        traced = both_passes(conv).trace(x, kernel, g)
    text = traced.lower().compile().as_text()
    assert text.count(" dot(") == products
    assert text.count(" convolution(") == convolutions
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 3
        assert "dot_general" not in text
        assert "HIGHEST" not in text  # TF32 holds what bfloat16 does


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("case", ["many channels", "strides"])
def test_in_float32_a_kernels_gradient_is_a_product_on_a_cpu_and_xlas_elsewhere(case):
    conv, x, kernel, g = operands(*CASES[case], own=conv_general_dilated_float32)
    traced = both_passes(conv).trace(x, kernel, g)
    text = traced.lower().compile().as_text()
    assert text.count(" dot(") == 1
    assert text.count(" convolution(") == 2
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 3
        assert "dot_general" not in text


@pytest.mark.parametrize("settings", [
    {"kernel_dilation": 2}, {"feature_group_count": 2}, {"dtype": jnp.bfloat16},
    {"strides": 3, "padding": "VALID"},
], ids=str)  # fmt: skip
def test_in_float32_whatever_xla_convolves_is_convolved(settings):
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    own, plain = (
        kind(4, (3, 3), **settings) for kind in (with_convolution(nn.Conv, "float32"), nn.Conv)
    )
    variables = plain.init(jax.random.key(1), x)

    def of(layer):
        y, pullback = jax.vjp(layer.apply, variables, x)
        return y, pullback(jnp.cos(y))

    chex.assert_trees_all_close(of(own), of(plain), rtol=1e-5, atol=1e-5)


def test_layers_take_it_with_their_own_arguments():
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 32))
    layer = with_convolution(WeightStandardizedConv, "bfloat16")(32, (3, 3), scale=False)
    y, variables = layer.init_with_output(jax.random.key(1), x)
    kernel = np.asarray(variables["params"]["kernel"])
    centred = kernel - kernel.mean((0, 1, 2))
    expected, _, _ = by_loops(rounded(x), rounded(centred), np.zeros(y.shape), (1, 1), "SAME")
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [
    {"kernel_dilation": 2}, {"input_dilation": 2}, {"feature_group_count": 2},
])  # fmt: skip
def test_what_it_cannot_compute_is_refused(settings):
    layer = with_convolution(nn.Conv, "bfloat16")(4, (3, 3), **settings)
    with pytest.raises(ValueError, match="neither dilated nor in groups"):
        layer.init(jax.random.key(0), jnp.ones((2, 8, 8, 4)))
    with pytest.raises(ValueError, match="images, channels last"):
        with_convolution(nn.Conv, "bfloat16")(4, (3,)).init(jax.random.key(0), jnp.ones((2, 8, 4)))


def test_other_types_are_refused():
    layer = with_convolution(nn.Conv, "bfloat16")(4, (3, 3), dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="leave out dtype="):
        layer.init(jax.random.key(0), jnp.ones((2, 8, 8, 4)))


@pytest.mark.parametrize("precision", CONVOLUTIONS)
def test_nnx_takes_it_and_no_output_has_no_gradient(precision):
    conv = CONVOLUTIONS[precision]
    layer = nnx.Conv(4, 5, (3, 3), rngs=nnx.Rngs(0), conv_general_dilated=conv)
    assert layer(jnp.ones((2, 8, 8, 4))).shape == (2, 8, 8, 5)

    def none(kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jnp.ones((2, 1, 3, 1))
        return conv(x, kernel, (2, 2), "VALID", dimension_numbers=numbers).sum()

    np.testing.assert_array_equal(jax.grad(none)(jnp.ones((3, 1, 1, 1))), 0)


@pytest.mark.parametrize(
    "case",
    ["few channels", *(pytest.param(c, marks=pytest.mark.slow) for c in ("as many", "strides"))],
)
def test_gradient_penalties_differ_from_those_in_float32_by_rounding(case):
    conv, x, kernel, _ = operands(*CASES[case])
    plain, *_ = operands(*CASES[case], own=jax.lax.conv_general_dilated)

    def penalty(conv):
        loss = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel) / 20)))
        return jax.grad(lambda kernel: jnp.sum(loss(x, kernel) ** 2))(kernel)

    exact, own = penalty(plain), penalty(conv)
    assert jnp.linalg.norm(exact) > 0
    assert jnp.linalg.norm(own - exact) < 0.05 * jnp.linalg.norm(exact)


@pytest.mark.parametrize("case", ["as many", "few channels", "strides"])
def test_hessian_vector_products_differ_from_those_in_float32_by_rounding(case):
    conv, x, kernel, _ = operands(*CASES[case])
    plain, *_ = operands(*CASES[case], own=jax.lax.conv_general_dilated)
    direction = jnp.sin(jnp.arange(kernel.size, dtype=jnp.float32)).reshape(kernel.shape)

    def curvature(conv):
        loss = jax.grad(lambda kernel: jnp.sum(jnp.sin(conv(x, kernel) / 20)))
        return jax.jvp(loss, (kernel,), (direction,))[1]

    exact, own = curvature(plain), curvature(conv)
    assert jnp.linalg.norm(exact) > 0.1
    assert jnp.linalg.norm(own - exact) < 0.05 * jnp.linalg.norm(exact)
