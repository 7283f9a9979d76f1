"""Quantization of weights, and what the script and the figure make of it."""

import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax import FullyConnected, rescale
from enorm_jax.norms import BatchNorm
from enorm_jax.quantization import fold_batch_norm, quantize_weights

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_lie_on_the_grid_nearest_to_where_they_were(granularity, bits, rng):
    kernel = rng.normal(size=(6, 5)) * rng.uniform(0.1, 5, (1, 5))
    params = {"kernel": jnp.float32(kernel), "bias": jnp.ones(5)}
    new = quantize_weights(params, bits, granularity)
    axis = None if granularity == "tensor" else 0
    step = np.abs(kernel).max(axis=axis, keepdims=True) / (2 ** (bits - 1) - 1)
    levels = np.float64(new["kernel"]) / step
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    assert (np.abs(new["kernel"] - kernel) <= step / 2 * (1 + 1e-5)).all()
    assert len(np.unique(np.round(levels))) <= 2**bits - 1
    np.testing.assert_array_equal(new["bias"], params["bias"])


def test_nothing_is_left_of_a_kernel_of_zeros():
    zeros = {"kernel": jnp.zeros((2, 2))}
    assert (quantize_weights(zeros, 8)["kernel"] == 0).all()


def test_folding_batch_norm_leaves_the_function(rng):
    model = FullyConnected(depth=1, width=6, classes=3, use_bias=True, norm=BatchNorm)
    x = jnp.float32(rng.normal(size=(9, 4)))
    variables = model.init(jax.random.key(0), x, train=False)
    variables = jax.tree.map(lambda leaf: jnp.float32(rng.uniform(0.5, 2, leaf.shape)), variables)
    folded = fold_batch_norm(variables["params"], variables["batch_stats"])
    plain = FullyConnected(depth=1, width=6, classes=3, use_bias=True)
    np.testing.assert_allclose(
        plain.apply({"params": folded}, x, train=False), model.apply(variables, x, train=False),
        rtol=1e-5,
    )  # fmt: skip


def test_too_few_bits_are_named():
    with pytest.raises(ValueError, match="bits must be at least 2, got 1"):
        quantize_weights({"kernel": jnp.ones((2, 2))}, 1)


@pytest.mark.slow
def test_the_script_measures_a_lopsided_network_before_and_after(blobs, rng):
    params = FullyConnected(depth=1, width=6, classes=3).init(
        jax.random.key(0), jnp.ones((1, 2, 2, 3)), train=False
    )["params"]
    scales = tuple(jnp.float32(10 ** rng.uniform(-2, 2, 6)) for _ in range(2))
    settings = {"method": "baseline", "depth": 1, "width": 6, "seed": 0}
    measured = runpy.run_path(str(ROOT / "experiments" / "quantize.py"))["measured"]
    found = measured((settings, rescale(params, scales), {}), blobs)
    assert found["float_equalized"] == found["float"]
    assert max(found["spread_equalized"]) < 5 < max(found["spread"])
    assert len(found["per_tensor"]) == len(found["per_tensor_equalized"]) == 6


def test_the_figure_is_drawn_of_what_was_measured(run_script, tmp_path):
    values = [50.0, 49.0]
    network = {"method": "bn", "depth": 1, "seed": 0, "float": 51.0, "per_tensor": values,
               "per_tensor_equalized": values, "per_channel": values}  # fmt: skip
    found = {"experiment": "quantize", "dataset": "digits", "bits": [8, 4], "networks": [network]}
    result = tmp_path / "result.json"
    result.write_text(json.dumps(found))
    assert run_script("figures/quantization.py", result)[0] == 0
    names = {"quantization_digits.svg", "quantization_digits.png", "result.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
