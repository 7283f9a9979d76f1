"""How much balancing amplifies the steps of biases."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reference
from enorm_jax import bias_amplification, initial_gauge
from enorm_jax.bias_gauge import advance_gauge
from enorm_jax.methods import ENorm
from enorm_jax.scaling import rescale


def chain_of(kernels):
    return {f"layer_{k:02d}": {"kernel": jnp.asarray(w)} for k, w in enumerate(kernels)}


@pytest.mark.parametrize("settings", [{}, {"order": "simultaneous", "balance_last": False}])
def test_it_is_the_largest_inverse_square_of_the_scales_in_float64(settings, rng):
    kernels = [rng.normal(size=shape) for shape in ((5, 4), (4, 6), (6, 4), (4, 3))]
    biases = [np.zeros(w.shape[1]) for w in kernels]
    *_, totals = reference.enorm(kernels, biases, 1.3, cycles=7, **settings)
    expected = max(1 / s**2 for total in totals for s in total)
    with jax.enable_x64(True):
        found = bias_amplification(chain_of(kernels), 1.3, cycles=7, **settings)
        assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("c", [0.8, 1.0, 1.2])
def test_where_it_settles_follows_the_law(c):
    """A unit's share of its kernel's norm is the same for all: S² = c^(-k (n-k)) Π F̄² / F²."""
    widths = (3, 4, 4, 4, 4, 2)
    sizes = [2.0, 1.0, 0.5, 3.0, 0.1]
    shapes = itertools.pairwise(widths)
    kernels = [np.full(shape, f) for shape, f in zip(shapes, sizes, strict=True)]
    norms = np.array([np.linalg.norm(w) for w in kernels])
    relative = np.cumprod(norms**2 / np.exp(np.log(norms**2).mean()))
    n = len(norms)
    law = max(c ** (k * (n - k)) * relative[k - 1] for k in range(1, n))
    with jax.enable_x64(True):
        found = bias_amplification(chain_of(kernels), c, cycles=300)
    np.testing.assert_allclose(found, law, rtol=1e-9)


def test_it_counts_scales_as_the_gauge_does_in_training(rng):
    params = chain_of([np.float32(rng.normal(size=shape)) for shape in ((3, 4), (4, 4), (4, 2))])

    @jax.jit
    def step(params, gauge):
        scales = ENorm().scales(params, jnp.float32(1.2))
        return rescale(params, scales), advance_gauge(gauge, scales)

    balanced, gauge = params, initial_gauge(params)
    for _ in range(4):
        balanced, gauge = step(balanced, gauge)
    expected = max(float(jnp.max(1 / s**2)) for s in gauge)
    jitted = jax.jit(bias_amplification, static_argnames="cycles")
    np.testing.assert_allclose(jitted(params, 1.2, cycles=4), expected, rtol=1e-5)


def test_without_hidden_units_nothing_is_amplified():
    assert bias_amplification(chain_of([np.ones((2, 3), np.float32)])) == 1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="cycles must be a whole number, at least 1, got 0"):
        bias_amplification(chain_of([np.ones((2, 2), np.float32)] * 2), cycles=0)
