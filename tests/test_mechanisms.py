"""What explains the normalizations: units that are always off, and smoothness of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax import BatchNorm, FullyConnected, enorm_step
from enorm_jax.singularities import activity, eliminated, relu_inputs
from enorm_jax.smoothness import along_gradient


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def signals(params, x):
    return relu_inputs(lambda p, x: MODEL.apply({"params": p}, x, train=False), params, x)


MODEL = FullyConnected(depth=2, width=7, classes=3)


@pytest.fixture
def params(rng):
    shapes = [(5, 7), (7, 7), (7, 7), (7, 3)]
    return {f"layer_{k:02d}": {"kernel": rng.normal(size=shape)} for k, shape in enumerate(shapes)}


def test_signals_before_relus_are_the_layers_outputs_and_activity_the_equations(params, rng):
    h = x = rng.normal(size=(11, 5))
    found = signals(params, jnp.asarray(x))
    assert len(found) == 3
    for k, layer in enumerate(found):
        z = h @ params[f"layer_{k:02d}"]["kernel"]
        np.testing.assert_allclose(layer, z, rtol=1e-12)
        distance, active = activity(layer)
        np.testing.assert_allclose(distance, z.mean(0) / z.std(0), rtol=1e-10)
        np.testing.assert_allclose(active, np.mean(z > 0, axis=0))
        h = np.maximum(z, 0)


def test_rescaling_moves_no_unit_towards_a_singularity(params, rng):
    x = jnp.asarray(rng.normal(size=(11, 5)))
    for before, after in zip(signals(params, x), signals(enorm_step(params, 1.2), x), strict=True):
        assert not np.allclose(before, after, rtol=0.01)
        for a, b in zip(activity(before), activity(after), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)


def test_batch_normalization_keeps_the_distance_that_its_parameters_say(rng):
    x = jnp.asarray(3.0 * rng.normal(size=(4, 3, 3, 6)) - 100)  # every unit far below
    assert float(eliminated(activity(x).active)) == 1.0
    scale, bias = rng.normal(size=6), rng.normal(size=6)
    variables = {"params": {"scale": scale, "bias": bias},
                 "batch_stats": {"mean": np.zeros(6), "var": np.ones(6)}}  # fmt: skip
    y, _ = BatchNorm(train=True).apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(activity(y).distance, bias / np.abs(scale), rtol=1e-5)
    # Of any signal, at most 1 / (1 + d²) lies d deviations below its mean (Cantelli).
    d = np.maximum(0, bias / np.abs(scale))
    assert (activity(y).active >= d**2 / (1 + d**2)).all()


def test_units_of_a_network_that_diverged_are_not_off_but_unknown():
    distance, active = activity(jnp.array([[jnp.nan, -1.0], [1.0, -2.0]]))
    assert np.isnan(distance[0])
    assert np.isnan(active[0])
    assert active[1] == 0
    assert np.isnan(eliminated(active))
    assert eliminated(active[1:]) == 1


def test_a_function_without_relus_is_refused():
    with pytest.raises(ValueError, match=r"no jax\.nn\.relu"):
        relu_inputs(jnp.tanh, jnp.ones(3))


def test_smoothness_of_a_quadratic_is_its_curvature_along_the_gradient(rng):
    half = rng.normal(size=(6, 6))
    matrix = half @ half.T
    theta, steps = rng.normal(size=6), np.array([0.001, 0.003, 0.01])
    found = along_gradient(
        lambda p: 0.5 * p["x"] @ matrix @ p["x"], {"x": jnp.asarray(theta)}, jnp.asarray(steps)
    )
    g = matrix @ theta
    unit = g / np.linalg.norm(g)
    np.testing.assert_allclose(found.gradient, np.linalg.norm(matrix @ unit), rtol=1e-8)
    points = [theta - step * g for step in (0.0, *steps)]
    values = [0.5 * p @ matrix @ p for p in points]
    slopes = np.abs(np.diff(values)) / np.diff([0.0, *steps]) / np.linalg.norm(g)
    np.testing.assert_allclose(found.loss, slopes.max(), rtol=1e-8)
    assert found.gradient <= np.linalg.eigvalsh(matrix).max() * (1 + 1e-9)


def test_smoothness_scales_with_the_loss_and_with_the_parameters(rng):
    """L(a x) has a times the slope and a² times the curvature at x / a."""
    theta, steps = jnp.asarray(rng.normal(size=4)), jnp.array([0.01, 0.02])

    def loss(x):
        return jnp.sum(jnp.tanh(x) ** 3 + x**2)

    plain = along_gradient(loss, theta, steps)
    scaled = along_gradient(lambda x: loss(4 * x), theta / 4, steps / 16)
    np.testing.assert_allclose(scaled.loss, 4 * plain.loss, rtol=1e-9)
    np.testing.assert_allclose(scaled.gradient, 16 * plain.gradient, rtol=1e-9)
