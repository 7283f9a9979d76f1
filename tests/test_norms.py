"""BN has torch's semantics, by the equation in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax import BatchNorm
from enorm_jax.norms import normalize


def batches(rng, sizes=(8, 5, 2)):
    return [rng.normal(3, 2, (n, 4)) for n in sizes]


def test_training_follows_torch(rng):
    """Output by the biased variance, running variance unbiased, momentum for the new batch."""
    mean, var = np.zeros(4), np.ones(4)
    scale, bias = rng.normal(size=4), rng.normal(size=4)
    variables = {
        "params": {"scale": jnp.float32(scale), "bias": jnp.float32(bias)},
        "batch_stats": {"mean": jnp.zeros(4), "var": jnp.ones(4)},
    }
    for x in batches(rng):
        y, new = BatchNorm(train=True).apply(variables, jnp.float32(x), mutable=["batch_stats"])
        want = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale + bias
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
        mean, var = 0.9 * mean + 0.1 * x.mean(0), 0.9 * var + 0.1 * x.var(0, ddof=1)
        np.testing.assert_allclose(new["batch_stats"]["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(new["batch_stats"]["var"], var, rtol=1e-5)
        variables = variables | new


def test_evaluation_uses_the_running_estimates(rng):
    variables = {
        "params": {"scale": jnp.full(4, 2.0), "bias": jnp.full(4, 1.0)},
        "batch_stats": {"mean": jnp.full(4, 3.0), "var": jnp.full(4, 4.0)},
    }
    (x,) = batches(rng, (1,))
    y = BatchNorm(train=False).apply(variables, jnp.float32(x))
    np.testing.assert_allclose(y, (x - 3) / np.sqrt(4 + 1e-5) * 2 + 1, rtol=1e-5)


def test_scaling_the_input_does_not_change_the_output(rng):
    """Why ENorm's rescaling is not function-preserving with BN in between."""
    (x,) = batches(rng, (64,))
    variables = BatchNorm(train=True).init(jax.random.key(0), jnp.float32(x))
    plain, scaled = (
        BatchNorm(train=True).apply(variables, jnp.float32(s * x), mutable=["batch_stats"])[0]
        for s in (1, 7)
    )
    np.testing.assert_allclose(plain, scaled, rtol=1e-3, atol=1e-4)


def test_images_are_averaged_over_all_axes_but_the_last(rng):
    x = rng.normal(size=(4, 3, 5, 2))
    variables = BatchNorm(train=False).init(jax.random.key(0), jnp.float32(x))
    y, new = BatchNorm(train=True).apply(variables, jnp.float32(x), mutable=["batch_stats"])
    flat = x.reshape(-1, 2)
    want = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 2), want, rtol=1e-4, atol=1e-5)
    want = 0.9 + 0.1 * flat.var(0, ddof=1)
    np.testing.assert_allclose(new["batch_stats"]["var"], want, rtol=1e-5)


def test_first_and_second_derivatives_are_those_of_the_equation(rng):
    """As Hessian-vector products, by which second-order optimizers go, need them."""
    x, weights = rng.normal(1, 2, (5, 3)), rng.normal(size=(5, 3))
    scale, bias = rng.normal(size=3), rng.normal(size=3)

    def equation(x, scale, bias):
        normal = (x - x.mean(0)[None, :]) / jnp.sqrt(x.var(0) + 1e-5)[None, :]
        return normal * scale[None, :] + bias[None, :]

    def of(y):
        return lambda *args: jnp.sum(weights * jnp.tanh(y(*args)))

    with jax.enable_x64(True):
        args = [jnp.asarray(value) for value in (x, scale, bias)]
        ours, naive = of(lambda *args: normalize(*args, 1e-5)[0]), of(equation)
        for derivative in (jax.grad, jax.hessian):
            for found, want in zip(
                jax.tree.leaves(jax.jit(derivative(ours, (0, 1, 2)))(*args)),
                jax.tree.leaves(jax.jit(derivative(naive, (0, 1, 2)))(*args)),
                strict=True,
            ):
                np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-11)
        mixed = jax.jit(jax.jacrev(jax.grad(ours)))(*args)
        want = jax.jit(jax.hessian(naive))(*args)
        np.testing.assert_allclose(mixed, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("values", "dtype"), [([0.0, 600, 300, 100], jnp.float16), ([128.0, 129], jnp.bfloat16)]
)
def test_statistics_of_low_precision_are_those_of_its_numbers(values, dtype):
    """In float16 a deviation above 256 has no square; bfloat16 has no mean of 128 and 129."""
    x = jnp.asarray(values, dtype)[:, None]
    with jax.numpy_dtype_promotion("standard"):
        norm = BatchNorm(train=True)
        variables = norm.init(jax.random.key(0), x)
        y, new = norm.apply(variables, x, mutable=["batch_stats"])
    x = np.float64(values)
    np.testing.assert_allclose(y[:, 0], (x - x.mean()) / np.sqrt(x.var() + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * x.mean(), rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 + 0.1 * x.var(ddof=1), rtol=1e-6)


def test_a_batch_of_one_cannot_be_trained_on():
    variables = BatchNorm(train=False).init(jax.random.key(0), jnp.ones((1, 4)))
    with pytest.raises(ValueError, match="batch of 1"):
        BatchNorm(train=True).apply(variables, jnp.ones((1, 4)), mutable=["batch_stats"])
