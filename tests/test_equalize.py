"""Equalization after training."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reference
from enorm_jax import enorm_step, equalize
from enorm_jax.equalize import equalizing_scales
from enorm_jax.groups import chain_groups

SIZES = (5, 7, 4, 6, 3)


@pytest.fixture
def net(rng):
    kernels = [
        rng.normal(size=s) * 10 ** rng.uniform(-2, 2, (1, s[1])) for s in itertools.pairwise(SIZES)
    ]
    return kernels, [rng.normal(size=n) for n in SIZES[1:]]


def as_params(kernels, biases):
    return {
        f"layer_{k:02d}": {"kernel": jnp.float32(w), "bias": jnp.float32(b)}
        for k, (w, b) in enumerate(zip(kernels, biases, strict=True))
    }


def lists(params):
    layers = params.values()
    return [np.float64(p["kernel"]) for p in layers], [np.float64(p["bias"]) for p in layers]


equalized = jax.jit(equalize, static_argnames=("groups", "p", "clamp", "max_cycles", "tolerance"))


@pytest.mark.parametrize("p", [jnp.inf, 2])
def test_the_ranges_around_every_unit_become_equal_and_the_function_stays(net, rng, p):
    params = as_params(*net)
    kernels, biases = lists(equalized(params, chain_groups(params), p=p))
    for before, after in itertools.pairwise(kernels):
        ranges = np.linalg.norm(before, p, axis=0), np.linalg.norm(after, p, axis=1)
        np.testing.assert_allclose(*ranges, rtol=1e-3)
    x = rng.normal(size=(20, SIZES[0]))
    want = reference.forward(*net, x)[0]
    np.testing.assert_allclose(reference.forward(kernels, biases, x)[0], want, rtol=1e-4)
    want, _, _ = reference.enorm(*net, 1.0, p=p, cycles=300)
    chex.assert_trees_all_close(kernels, want, rtol=1e-2)


def test_it_stops_when_settled_or_at_the_bound(net):
    params = as_params(*net)
    _, cycles = equalizing_scales(params, tolerance=1e-3)
    assert 2 < int(cycles) < 100
    _, again = equalizing_scales(equalize(params, tolerance=1e-4), tolerance=1e-3)
    assert int(again) == 1
    chex.assert_trees_all_close(
        equalized(params, max_cycles=2), enorm_step(params, 1.0, p=jnp.inf, cycles=2), rtol=1e-5
    )


def test_clamped_scales_stay_within_their_bounds_and_keep_the_function(net, rng):
    params = as_params(*net)
    scales, _ = equalizing_scales(params, clamp=2.0)
    largest = max(float(jnp.max(jnp.abs(jnp.log(d)))) for d in scales)
    np.testing.assert_allclose(largest, np.log(2), rtol=1e-5)
    x = rng.normal(size=(20, SIZES[0]))
    got = reference.forward(*lists(equalized(params, clamp=2.0)), x)[0]
    np.testing.assert_allclose(got, reference.forward(*net, x)[0], rtol=1e-4)


def test_a_single_layer_is_left_as_it_is():
    params = {"layer_00": {"kernel": jnp.ones((3, 2))}}
    chex.assert_trees_all_equal(equalize(params), params)


@pytest.mark.parametrize("wrong", [{"tolerance": 0.0}, {"max_cycles": 0}, {"clamp": 1.0}], ids=str)
def test_wrong_arguments_are_named(wrong, net):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        equalize(as_params(*net), **wrong)
