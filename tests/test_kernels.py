"""Weight normalization and standardization, by their equations in float64 NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax import (
    WeightNormConv,
    WeightNormDense,
    WeightStandardizedConv,
    WeightStandardizedDense,
    enorm_step,
)
from enorm_jax.kernels import normalize_weights, standardize_weights

LAYERS = [
    (nn.Dense, WeightNormDense, (5,), (7, 6)),
    (nn.Conv, WeightNormConv, (5, (3, 2)), (2, 6, 5, 4)),
]


def fan_in(kernel):
    """Its weights as (inputs, units)."""
    return np.float64(kernel).reshape(-1, kernel.shape[-1])


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(("plain", "normalized", "arguments", "shape"), LAYERS)
def test_weight_norm_starts_as_the_plain_layer(rng, plain, normalized, arguments, shape, use_bias):
    x = jnp.float32(rng.normal(size=shape))
    init = nn.initializers.he_uniform()
    layers = [cls(*arguments, use_bias=use_bias, kernel_init=init) for cls in (plain, normalized)]
    variables = [layer.init(jax.random.key(3), x) for layer in layers]
    y, same = (layer.apply(v, x) for layer, v in zip(layers, variables, strict=True))
    np.testing.assert_allclose(same, y, rtol=1e-5, atol=1e-5)
    assert set(variables[1]["params"]) == set(variables[0]["params"]) | {"gain"}


def test_weight_norm_is_its_equation_and_forgets_the_norm_of_v(rng):
    v, g = rng.normal(size=(3, 2, 4, 5)), rng.normal(size=5)
    flat = fan_in(v)
    want = (g * flat / np.sqrt((flat**2).sum(0))).reshape(v.shape)
    for factor in (1, 100):
        w = normalize_weights(jnp.float32(factor * v), jnp.float32(g))
        np.testing.assert_allclose(w, want, rtol=1e-5)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shape", [(300, 5), (3, 3, 8, 5)])
def test_weight_standardization_is_its_equation(rng, shape, center, scale):
    w = rng.normal(0.1, 0.05, shape)
    flat = fan_in(w)
    want = flat - flat.mean(0) * center
    want = want / np.sqrt(flat.var(0) + 1e-5) if scale else want
    got = standardize_weights(jnp.float32(w), center=center, scale=scale)
    np.testing.assert_allclose(fan_in(got), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        WeightStandardizedDense(5, use_bias=False, epsilon=0.0),
        WeightStandardizedConv(5, (1, 1), use_bias=False, epsilon=0.0),
    ],
)
def test_the_layer_multiplies_with_mean_0_and_variance_1_per_unit(layer):
    """What it multiplies with, read off its answers to unit vectors."""
    identity = jnp.eye(40) if isinstance(layer, nn.Dense) else jnp.eye(40)[:, None, None, :]
    used, _ = layer.init_with_output(jax.random.key(0), identity)
    weights = np.float64(used).reshape(40, 5)
    np.testing.assert_allclose(weights.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(weights.var(0), 1, rtol=1e-4)


def test_a_constant_kernel_and_its_gradient_are_finite():
    """With ε outside the root the gradient is NaN where the deviation is 0."""
    w = jnp.full((4, 2), 0.3)
    assert not standardize_weights(w).any()
    gradient = jax.grad(lambda w: jnp.sum(standardize_weights(w) ** 2))(w)
    assert np.isfinite(gradient).all()


def test_a_kernel_of_zeros_gives_zeros_and_finite_gradients():
    """As of pruned units, or `kernel_init=zeros`."""
    v, g = jnp.ones((4, 2)).at[:, 1].set(0), jnp.ones(2)
    np.testing.assert_allclose(normalize_weights(v, g), [[0.5, 0]] * 4)
    for gradient in jax.grad(lambda v, g: jnp.sum(normalize_weights(v, g) ** 2), (0, 1))(v, g):
        assert np.isfinite(gradient).all()


def test_kernels_in_low_precision_are_normalized_in_float32():
    w = jnp.array([[1.0], [1.0078125]], jnp.bfloat16)  # neighbours: their mean lies between
    standard = standardize_weights(w, epsilon=0.0)
    assert standard.dtype == jnp.bfloat16
    np.testing.assert_array_equal(standard.astype(jnp.float32), [[-1], [1]])
    tiny = normalize_weights(jnp.full((4, 1), 1e-4, jnp.float16), jnp.ones(1, jnp.float16))
    np.testing.assert_array_equal(tiny.astype(jnp.float32), 0.5)


def test_enorm_refuses_a_kernel_that_has_no_scale_of_its_own():
    x = jnp.ones((2, 3))
    params = {
        f"layer_0{k}": WeightNormDense(3).init(jax.random.key(k), x)["params"] for k in (0, 1)
    }
    with pytest.raises(ValueError, match=r"layer_00.*weight normalization"):
        enorm_step(params, 1.2)


def test_a_unit_of_one_weight_is_not_centred_to_0():
    single = jnp.full((1, 1, 1, 3), 2.0)
    with pytest.raises(ValueError, match="one weight a unit, and centring would leave 0"):
        standardize_weights(single)
    assert standardize_weights(single, center=False, scale=False).all()
