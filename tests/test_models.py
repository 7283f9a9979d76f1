import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reference
from enorm_jax import BatchNorm, FullyConnected
from enorm_jax.chain import chain

IMAGES = jnp.ones((2, 4, 4, 3))


def init(model):
    return model.init(jax.random.key(0), IMAGES, train=False)


def test_shapes_are_the_study_s():
    params = jax.eval_shape(lambda: init_cifar(FullyConnected(depth=3)))["params"]
    shapes = [layer["kernel"].shape for layer in params.values()]
    assert shapes == [(3072, 500), (500, 500), (500, 500), (500, 500), (500, 10)]


def init_cifar(model):
    return model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)), train=False)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("norm", [None, BatchNorm])
def test_parameters_by_option(bias, norm):
    params = init(FullyConnected(depth=1, width=6, classes=3, use_bias=bias, norm=norm))["params"]
    layer = {"kernel", "bias"} if bias else {"kernel"}
    want = {f"layer_{k:02d}": layer for k in range(3)}
    if norm is not None:
        want |= {f"norm_{k:02d}": {"scale", "bias"} for k in range(2)}
    assert {name: set(entry) for name, entry in params.items()} == want


def test_kernels_start_he_uniform_and_biases_at_zero():
    params = init(FullyConnected(depth=1, width=400, use_bias=True))["params"]
    for layer in params.values():
        limit = np.sqrt(6 / layer["kernel"].shape[0])
        kernel = np.asarray(layer["kernel"])
        assert np.abs(kernel).max() <= limit
        np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.05)
        assert not layer["bias"].any()


def test_computes_the_relu_network(rng):
    model = FullyConnected(depth=2, width=6, classes=3, use_bias=True)
    params = jax.tree.map(
        lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), init(model)["params"]
    )
    x = rng.normal(size=(5, 4, 4, 3))
    logits = model.apply({"params": params}, jnp.float32(x), train=True)
    kernels, biases = (
        [np.float64(params[n][k]) for n in chain(params)] for k in ("kernel", "bias")
    )
    want, _ = reference.forward(kernels, biases, x.reshape(5, -1))
    chex.assert_shape(logits, (5, 3))
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4)


def test_normalization_stands_between_layer_and_relu(rng):
    model = FullyConnected(depth=0, width=6, classes=3, norm=BatchNorm)
    variables = init(model)
    x = rng.normal(size=(9, 48))
    logits, _ = model.apply(variables, jnp.float32(x), train=True, mutable=["batch_stats"])
    first, last = (np.float64(variables["params"][f"layer_0{k}"]["kernel"]) for k in (0, 1))
    h = x @ first
    h = np.maximum((h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5), 0)
    np.testing.assert_allclose(logits, h @ last, rtol=1e-3, atol=1e-4)


def test_kernels_start_as_named_or_as_flax_s_own_do():
    own = FullyConnected(depth=0, width=3, kernel_init=nn.initializers.constant(2.0))
    assert all((layer["kernel"] == 2).all() for layer in init(own)["params"].values())
    with pytest.raises(ValueError, match=r"kernel_init must be one of .*'he_uniform'.*'he'"):
        init(FullyConnected(depth=0, kernel_init="he"))


def test_a_negative_depth_is_refused():
    with pytest.raises(ValueError, match="depth must be at least 0, got -3"):
        init(FullyConnected(depth=-3))


@pytest.mark.parametrize("depth", [9, 19, 101])
def test_names_sort_in_order_at_any_depth(depth):
    params = jax.eval_shape(lambda: init(FullyConnected(depth=depth, width=4)))["params"]
    names = chain(params)
    assert [int(name.removeprefix("layer_")) for name in names] == list(range(depth + 2))
