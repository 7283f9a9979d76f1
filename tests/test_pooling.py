"""Max-pooling is Flax's."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from enorm_jax.pooling import max_pool


def flax_max_pool(x):
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (2, 7, 5, 3), (1, 1, 2, 1)], ids=str)
def test_values_and_gradients_are_those_of_flax(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    y, pullback = jax.vjp(max_pool, x)
    expected, expected_pullback = jax.vjp(flax_max_pool, x)
    np.testing.assert_array_equal(y, expected)
    g = jax.random.normal(jax.random.key(1), y.shape)
    np.testing.assert_allclose(pullback(g)[0], expected_pullback(g)[0], rtol=1e-6)


def test_the_last_three_axes_are_an_image():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4, 2))
    np.testing.assert_array_equal(max_pool(x[0, 0]), max_pool(x[0])[0])
    np.testing.assert_array_equal(max_pool(x)[1], max_pool(x[1]))


def test_equal_values_share_the_gradient_and_after_relu_zeros_have_none():
    x = jax.numpy.ones((1, 1, 2, 1))
    (shared,) = jax.vjp(max_pool, x)[1](jax.numpy.ones((1, 1, 1, 1)))
    np.testing.assert_array_equal(shared.ravel(), [0.5, 0.5])
    negative = -jax.random.uniform(jax.random.key(0), (1, 4, 4, 2))
    gradient = jax.grad(lambda x: max_pool(nn.relu(x)).sum())(negative)
    np.testing.assert_array_equal(gradient, 0)
