"""Quantization of weights, and what the script and the figure make of it."""

import functools
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax import FullyConnected, group_norm, rescale
from enorm_jax.checkpoint import save_arrays
from enorm_jax.methods import make_method
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


@pytest.mark.parametrize("parts", [{}, {"use_scale": False}, {"use_bias": False}], ids=str)
def test_folding_batch_norm_leaves_the_function(parts, rng):
    norm = functools.partial(BatchNorm, **parts)
    model = FullyConnected(depth=1, width=6, classes=3, use_bias=True, norm=norm)
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
    with pytest.raises(ValueError, match="one is the sign, to 32, got 1"):
        quantize_weights({"kernel": jnp.ones((2, 2))}, 1)


def test_what_cannot_be_quantized_or_folded_is_named():
    with pytest.raises(ValueError, match="granularity must be"):
        quantize_weights({"kernel": jnp.ones((2, 2))}, 8, "kernel")
    model = FullyConnected(depth=1, width=6, classes=3, norm=group_norm(2))
    params = model.init(jax.random.key(0), jnp.ones((1, 4)), train=False)["params"]
    with pytest.raises(ValueError, match="norm_00 has no running statistics"):
        fold_batch_norm(params, {})
    for name, fault in (("wn+bn", "layer_00 has gain"), ("bcn", "norm_00 has no running statis")):
        model = make_method(name, groups=3).network(1, width=6, classes=3)
        variables = model.init(jax.random.key(0), jnp.ones((1, 4)), train=False)
        with pytest.raises(ValueError, match=fault):
            fold_batch_norm(variables["params"], variables["batch_stats"])


def write_networks(path, settings):
    """Two networks of digits, the second of which diverged."""
    model = FullyConnected(depth=1, width=6)
    x = jnp.ones((1, 8, 8, 1))
    params = model.init(jax.random.key(0), x, train=False)["params"]
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, jnp.nan * leaf]), params)
    save_arrays(path, {"params": stacked}, settings)


SETTINGS = {"experiment": "fc", "dataset": "digits", "method": "baseline", "depth": 1, "width": 6,
            "seeds": [0, 1], "inputs": "image"}  # fmt: skip


@pytest.mark.slow
def test_a_run_that_diverged_is_left_out_and_inputs_are_those_of_the_training(run_script, tmp_path):
    accuracies = []
    for inputs in ("image", "published"):
        path, out = tmp_path / f"{inputs}.safetensors", tmp_path / f"{inputs}.json"
        write_networks(path, SETTINGS | {"inputs": inputs})
        status, text, err = run_script("experiments/quantize.py", "--params", path, "--out", out)
        assert status == 0, err
        assert "seed 1 diverged" in text
        (network,) = json.loads(out.read_text())["networks"]
        assert network["seed"] == 0
        accuracies.append(network["float"])
    assert accuracies[0] != accuracies[1]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"experiment": "conv"}, "no finished cell of fc_sweep.py"),
        ({"method": "gn"}, "was trained with gn"),
    ],
    ids=str,
)
def test_networks_of_other_kinds_are_refused_in_one_line(run_script, tmp_path, change, fault):
    path = tmp_path / "other.safetensors"
    write_networks(path, SETTINGS | change)
    status, _, err = run_script("experiments/quantize.py", "--params", path)
    assert status == 2
    assert fault in err
    assert err.strip().count("\n") == 0


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
