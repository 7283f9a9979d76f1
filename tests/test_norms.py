"""BN has torch's semantics, by the equation in float64 NumPy."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax import BatchNorm, FullyConnected, enorm_step
from enorm_jax.group_norms import EstimatedBatchNorm
from enorm_jax.norm_groups import norm_groups
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


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize(("use_scale", "use_bias"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("norm", [BatchNorm, EstimatedBatchNorm])
def test_affine_parts_and_dtypes_are_chosen_as_in_flax_s_own(norm, use_scale, use_bias, dtype, rng):
    x = jnp.asarray(rng.normal(3, 2, (6, 4)), jnp.bfloat16)
    options = {
        "use_scale": use_scale, "use_bias": use_bias, "dtype": dtype,
        "scale_init": nn.initializers.constant(0.5), "bias_init": nn.initializers.constant(2.0),
    }  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):
        flax = nn.BatchNorm(use_running_average=True, epsilon=1e-5, **options)
        variables = flax.init(jax.random.key(0), x)
        chex.assert_trees_all_equal(
            norm(train=False, **options).init(jax.random.key(0), x), variables
        )
        want = flax.apply(variables, x)
        after = norm(train=False, **options).apply(variables, x)
        during, new = norm(train=True, **options).apply(variables, x, mutable=["batch_stats"])
    assert after.dtype == during.dtype == want.dtype
    np.testing.assert_allclose(np.float32(after), np.float32(want), rtol=1e-2)
    x = np.float64(x)
    mean, var = (
        (x.mean(0), x.var(0))
        if norm is BatchNorm
        else (0.1 * x.mean(0), 0.9 + 0.1 * (x**2).mean(0))
    )
    y = (x - mean) / np.sqrt(var + 1e-5) * (0.5 if use_scale else 1) + (2 if use_bias else 0)
    np.testing.assert_allclose(np.float32(during), y, rtol=1e-2, atol=1e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("use_bias", [True, False])
def test_balancing_its_scale_and_shift_leaves_the_function(use_bias, rng):
    norm = functools.partial(BatchNorm, use_bias=use_bias)
    model = FullyConnected(depth=2, width=6, classes=3, norm=norm)
    x = jnp.float32(rng.normal(size=(9, 4)))
    variables = model.init(jax.random.key(0), x, train=False)
    variables = jax.tree.map(lambda leaf: jnp.float32(rng.uniform(0.5, 2, leaf.shape)), variables)
    params = enorm_step(variables["params"], 1.2, groups=norm_groups(variables["params"]))
    before, after = (
        model.apply(variables | {"params": p}, x, train=False)
        for p in (variables["params"], params)
    )
    assert not np.allclose(params["norm_01"]["scale"], variables["params"]["norm_01"]["scale"])
    np.testing.assert_allclose(after, before, rtol=1e-5)


def test_a_batch_of_one_cannot_be_trained_on():
    variables = BatchNorm(train=False).init(jax.random.key(0), jnp.ones((1, 4)))
    with pytest.raises(ValueError, match="batch of 1"):
        BatchNorm(train=True).apply(variables, jnp.ones((1, 4)), mutable=["batch_stats"])
