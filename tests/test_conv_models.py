"""The papers' convolutional networks, and that ENorm finds its way through them."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax import BatchNorm, enorm_step, infer_groups
from enorm_jax.conv_models import (
    SKIPS,
    FullyConvolutional,
    ResNet,
    resnet18,
    resnet20,
    resnet50,
    resnet56,
    resnet101,
)
from enorm_jax.group_norms import batch_channel_norm, group_norm
from enorm_jax.kernels import WeightNormConv, WeightStandardizedConv

IMAGES = jnp.ones((2, 8, 8, 3))


def shapes(model, size):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)["params"]


def count(model, size):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model, size)))


def test_parameters_are_as_many_as_published():
    """Torch's resnet18, 50 and 101; 0.27 and 0.85 million for 20 and 56 layers (He et al.)."""
    assert count(resnet18(norm=BatchNorm), 224) == 11_689_512
    assert count(resnet50(norm=BatchNorm), 224) == 25_557_032
    assert count(resnet101(norm=BatchNorm), 224) == 44_549_160
    assert [round(count(net(norm=BatchNorm), 32) / 1e6, 2) for net in (resnet20, resnet56)] == [
        0.27,
        0.85,
    ]


def test_the_fully_convolutional_network_is_the_authors():
    params = shapes(FullyConvolutional(norm=BatchNorm), 28)
    kernels = [params[f"conv_{k:02d}"]["kernel"].shape for k in range(9)]
    channels = [3, 128, 128, 128, 256, 256, 256, 320, 320, 10]
    assert [k[2:] for k in kernels] == [*itertools.pairwise(channels)]
    assert [k[:2] for k in kernels] == [(3, 3)] * 7 + [(1, 1)] * 2
    assert {name for name in params if "norm" in name} == {"norm_02", "norm_05"}
    everywhere = shapes(FullyConvolutional(norm=BatchNorm, norm_after="all"), 28)
    assert sum("norm" in name for name in everywhere) == 8


NORMS = {
    "none": {},
    "bn": {"norm": BatchNorm},
    "gn": {"norm": group_norm(2)},
    "ws+gn": {"norm": group_norm(2), "conv": WeightStandardizedConv},
    "wn+bn": {"norm": BatchNorm, "conv": WeightNormConv},
    "bcn": {"norm": batch_channel_norm(2)},
    "ws+bcn-micro": {"norm": batch_channel_norm(2, True), "conv": WeightStandardizedConv},
}


CONV = FullyConvolutional(width=1 / 32)
POST = ResNet((1, 1), width=4)
PRE = ResNet((1, 1), width=2, bottleneck=True, preactivation=True, skip="learned")


@pytest.mark.parametrize("network", [CONV, POST, PRE], ids=["conv", "post", "pre"])
@pytest.mark.parametrize("norm", NORMS)
def test_every_network_takes_every_normalization(network, norm):
    model = network.clone(**NORMS[norm])

    def logits(x):
        return model.init_with_output(jax.random.key(0), x, train=False)

    y, variables = jax.eval_shape(logits, IMAGES)
    assert y.shape == (2, 10)
    names = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
    gains = ["gain" in jax.tree_util.keystr(path) for path, _ in names]
    assert any(gains) == ("wn" in norm)
    assert ("batch_stats" in variables) == ("bn" in norm or "bcn" in norm)


@pytest.mark.parametrize(
    ("network", "norm"),
    [(CONV, "none"), (ResNet((1,), width=4, preactivation=True, skip="learned"), "ws+bcn-micro")],
    ids=["conv", "pre-ws+bcn-micro"],
)
def test_a_step_of_training_changes_every_parameter(rng, network, norm):
    model = network.clone(**NORMS[norm])
    x = jnp.float32(rng.normal(size=IMAGES.shape))
    variables = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(0))

    def loss(params):
        changed = variables | {"params": params}
        return jnp.sum(jnp.sin(model.apply(changed, x, train=True, mutable=["batch_stats"])[0]))

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    chex.assert_tree_all_finite(gradients)
    assert all(leaf.any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("skip", SKIPS)
def test_a_skip_s_channels_are_free_where_every_block_has_a_convolution_on_it(skip):
    model = ResNet((2, 1), width=4, skip=skip)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))["params"]
    groups = infer_groups(
        lambda params, x: model.apply({"params": params}, x, train=True),
        params,
        IMAGES,
        check=False,
    )
    inner = {f"stage_{s}_block_{b:02d}_conv_0/kernel" for s, b in ((0, 0), (0, 1), (1, 0))}
    producers = [{slot.name for slot in group.producers} for group in groups]
    assert all({name} in producers for name in inner)
    sums = [names for names in producers if any("conv_1" in name for name in names)]
    if skip == "learned":  # each block's sum is a group of its own
        assert len(sums) == 3
        assert all(len(names) == 2 for names in sums)
    else:  # the channels that pass tie the blocks of a stage, here of both
        assert len(max(sums, key=len)) >= 3


def test_enorm_leaves_the_fully_convolutional_network_as_it_is(rng):
    model = FullyConvolutional(width=1 / 32)
    x = jnp.float32(rng.normal(size=(2, 8, 8, 3)))
    params = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(0))["params"]

    @jax.jit
    def apply(params, x):
        return model.apply({"params": params}, x, train=False)

    groups = infer_groups(apply, params, x)
    assert len(groups) == 8
    balanced = jax.jit(lambda params: enorm_step(params, c=1.1, groups=groups))(params)
    chex.assert_trees_all_close(apply(balanced, x), apply(params, x), rtol=1e-4, atol=1e-6)
    assert not np.allclose(balanced["conv_03"]["kernel"], params["conv_03"]["kernel"], rtol=0.05)


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="skip must be"):
        shapes(ResNet((1,), skip="none"), 8)
    with pytest.raises(ValueError, match="no channel"):
        shapes(FullyConvolutional(width=0.001), 8)
    with pytest.raises(ValueError, match="norm_after must be"):
        shapes(FullyConvolutional(norm_after="publishd"), 8)
