"""Layer, group and batch-channel normalization, by their equations in float64 NumPy."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax import BatchChannelNorm, BatchNorm, group_norm, layer_norm
from enorm_jax.group_norms import EstimatedBatchNorm


def groups_normalized(x, groups):
    """Each sample's groups at mean 0 and variance 1, all positions of a group together."""
    split = np.float64(x).reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, var = (f(split, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((split - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)


def started(norm, x):
    """The norm's answer with parameters that are not those of the start, and these."""
    variables = norm.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + jnp.arange(p.size, dtype=p.dtype), variables["params"])
    return variables | {"params": params}


@pytest.mark.parametrize("shape", [(4, 12), (3, 2, 5, 12)])
@pytest.mark.parametrize("groups", [1, 3])
def test_groups_of_a_sample_are_normalized_alone(rng, shape, groups):
    x = jnp.float32(rng.normal(3, 2, shape))
    norm = group_norm(groups)(train=True)
    variables = started(norm, x)
    want = groups_normalized(x, groups) * (1 + np.arange(12)) + np.arange(12)
    np.testing.assert_allclose(norm.apply(variables, x), want, rtol=1e-3, atol=1e-3)


def test_layer_norm_is_group_norm_with_one_group_and_flax_s_own(rng):
    x = jnp.float32(rng.normal(3, 2, (5, 8)))
    one, group, flax = (
        layer_norm(train=True),
        group_norm(1)(train=False),
        nn.LayerNorm(epsilon=1e-5),
    )
    variables = started(one, x)
    chex.assert_trees_all_equal(one.apply(variables, x), group.apply(variables, x))
    chex.assert_trees_all_close(
        one.apply(variables, x), flax.apply(variables, x), rtol=1e-4, atol=1e-5
    )


def test_equal_groups_are_one_value_so_that_programs_are_shared():
    assert group_norm(4) is group_norm(4)
    assert group_norm(4) is not group_norm(2)


@pytest.mark.parametrize(
    "norm",
    [
        group_norm(2, jnp.bfloat16),
        functools.partial(layer_norm, dtype=jnp.bfloat16),
        functools.partial(BatchChannelNorm, groups=2, dtype=jnp.bfloat16),
        functools.partial(BatchChannelNorm, groups=2, dtype=jnp.bfloat16, micro_batch=True),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_in_bfloat16_they_round_what_they_are_in_float32(norm, train, rng):
    x = jnp.asarray(rng.normal(3, 2, (6, 4)), jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        variables = norm(train=train).init(jax.random.key(0), x)
        y, _ = norm(train=train).apply(variables, x, mutable=["batch_stats"])
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert y.dtype == jnp.bfloat16
    wide = norm(train=train).clone(dtype=None)
    want, _ = wide.apply(variables, jnp.float32(x), mutable=["batch_stats"])
    np.testing.assert_allclose(np.float32(y), want, atol=0.03)


@pytest.mark.parametrize("train", [False, True])
def test_batch_channel_norm_is_group_norm_of_batch_norm(rng, train):
    x = jnp.float32(rng.normal(3, 2, (6, 8)))
    bcn, bn, gn = BatchChannelNorm(train=train, groups=4), BatchNorm(train=train), group_norm(4)
    variables = started(bcn, x)
    batch, channel = ({k: v[name] for k, v in variables.items() if name in v}
                      for name in ("batch", "channel"))  # fmt: skip
    y, new = bcn.apply(variables, x, mutable=["batch_stats"])
    normal, stats = bn.apply(batch, x, mutable=["batch_stats"])
    chex.assert_trees_all_close(y, gn(train=train).apply(channel, normal))
    chex.assert_trees_all_close(new["batch_stats"]["batch"], stats["batch_stats"])


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (4, 2, 1)])
@pytest.mark.parametrize("positions", [(), (3,)])
def test_estimates_of_micro_batches_follow_the_equations(rng, sizes, positions):
    """Batch after batch against a float64 loop: normalized by what was just updated."""
    r, mean, var = 0.1, np.zeros(6), np.ones(6)
    norm = BatchChannelNorm(train=True, groups=2, micro_batch=True, momentum=r)
    first = jnp.zeros((1, *positions, 6))
    variables = started(norm, first)
    scale, bias = 1 + np.arange(6), np.arange(6)
    for n in sizes:
        x = rng.normal(3, 2, (n, *positions, 6))
        axes = tuple(range(x.ndim - 1))
        var = (1 - r) * var + r * ((x - mean) ** 2).mean(axes)
        mean = (1 - r) * mean + r * x.mean(axes)
        normal = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
        y, new = norm.apply(variables, jnp.float32(x), mutable=["batch_stats"])
        np.testing.assert_allclose(
            y, groups_normalized(normal, 2) * scale + bias, rtol=1e-3, atol=1e-3
        )
        stats = new["batch_stats"]["batch"]
        np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(stats["var"], var, rtol=1e-5)
        variables = variables | new
    test = BatchChannelNorm(train=False, groups=2, micro_batch=True)
    y = test.apply(variables, jnp.float32(x))
    normal = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, groups_normalized(normal, 2) * scale + bias, rtol=1e-3, atol=1e-3)


def test_no_gradient_passes_through_the_estimates(rng):
    """The gradient of a batch is that of the affine map which its estimates make."""
    x = jnp.float32(rng.normal(3, 2, (4, 5)))
    norm = EstimatedBatchNorm(train=True)
    variables = started(norm, x)
    y, new = norm.apply(variables, x, mutable=["batch_stats"])
    fixed = EstimatedBatchNorm(train=False)

    def loss(x, norm, variables):
        return jnp.sum(jnp.sin(norm.apply(variables, x, mutable=["batch_stats"])[0]))

    chex.assert_trees_all_close(
        jax.grad(loss)(x, norm, variables), jax.grad(loss)(x, fixed, variables | new), rtol=1e-5
    )
    chex.assert_trees_all_close(y, fixed.apply(variables | new, x))


@pytest.mark.parametrize(
    "norm",
    [
        BatchNorm(train=True, axis_name="share"),
        BatchChannelNorm(train=True, groups=2, axis_name="share"),
        BatchChannelNorm(train=True, groups=2, micro_batch=True, axis_name="share"),
    ],
    ids=["bn", "bcn", "bcn-micro"],
)
def test_shares_of_a_batch_are_normalized_as_the_whole(norm, rng):
    """By its statistics, running ones and gradients too; a share may hold one example."""
    x = jnp.float32(rng.normal(3, 2, (5, 6)))
    variables = started(norm, x)

    def loss(norm, shares, params):
        def of_share(x):
            filled = variables | {"params": params}
            y, new = norm.apply(filled, x, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y)), (y, new)

        losses, (y, new) = jax.vmap(of_share, axis_name="share")(shares)
        return jnp.sum(losses), (y.reshape(x.shape), jax.tree.map(lambda v: v[0], new))

    def found(norm, shares):
        gradient = jax.jit(jax.grad(loss, argnums=(1, 2), has_aux=True), static_argnums=0)
        (of_x, of_params), aux = gradient(norm, shares, variables["params"])
        return of_x.reshape(x.shape), of_params, aux

    alone = norm.clone(axis_name=None)
    chex.assert_trees_all_close(
        found(norm, x[:, None]), found(alone, x[None]), rtol=1e-4, atol=1e-5
    )


def test_a_batch_of_one_needs_the_estimates():
    x = jnp.ones((1, 4))
    variables = BatchChannelNorm(train=False, groups=2).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="batch of 1"):
        BatchChannelNorm(train=True, groups=2).apply(variables, x, mutable=["batch_stats"])
