"""Path-SGD's laws: κ counts paths, and a step commutes with rescaling."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from enorm_jax import FullyConnected, rescale, scale_by_path
from enorm_jax.optimizer import path_sgd
from enorm_jax.path_sgd import path_norm, path_weights


def network(rng, sizes, bias=False, dtype=jnp.float32):
    params = {}
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        params[f"layer_{k:02d}"] = {"kernel": jnp.asarray(rng.normal(size=(n, m)), dtype)}
        if bias:
            params[f"layer_{k:02d}"]["bias"] = jnp.asarray(rng.normal(size=m), dtype)
    return params


def brute_force(kernels, biases):
    """κ by enumerating every path from an input, or a bias, to an output."""
    sizes = [k.shape[0] for k in kernels] + [kernels[-1].shape[1]]
    counts = [np.zeros(k.shape) for k in kernels], [np.zeros(b.shape) for b in biases]
    for start in range(len(kernels) + 1):  # 0: at an input; else at the bias of layer start - 1
        if start and not biases:
            continue
        ranges = [range(n) for n in sizes[start:]]
        for path in itertools.product(*ranges):
            edges = [(0, start + k, (i, j)) for k, (i, j) in enumerate(itertools.pairwise(path))]
            if start:
                edges.append((1, start - 1, path[0]))
            values = [(kernels, biases)[kind][layer][index] ** 2 for kind, layer, index in edges]
            for own, (kind, layer, index) in enumerate(edges):
                counts[kind][layer][index] += np.prod(np.delete(values, own))
    return counts


@pytest.mark.parametrize("bias", [False, True])
def test_kappa_is_the_sum_over_all_paths(rng, bias):
    params = network(rng, (3, 4, 2, 3), bias)
    kernels, biases = (
        [np.float64(layer[kind]) for layer in params.values() if kind in layer]
        for kind in ("kernel", "bias")
    )
    want_kernels, want_biases = brute_force(kernels, biases)
    got = path_weights(params)
    for k, layer in enumerate(got.values()):
        np.testing.assert_allclose(layer["kernel"], want_kernels[k], rtol=1e-5)
        if bias:
            np.testing.assert_allclose(layer["bias"], want_biases[k], rtol=1e-5)


def test_a_flax_model_is_a_network_too(rng):
    model = FullyConnected(depth=1, width=5, classes=3, use_bias=True)
    params = model.init(jax.random.key(0), jnp.ones((1, 4)), train=False)["params"]
    params = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), params)

    def gamma(squares):
        return model.apply({"params": squares}, jnp.ones((1, 4)), train=False).sum()

    chex.assert_trees_all_close(path_weights(params, gamma), path_weights(params), rtol=1e-5)


def loss(params, x, y):
    names = sorted(params)
    for name in names:
        x = x @ params[name]["kernel"] + params[name].get("bias", jnp.zeros(()))
        x = jax.nn.relu(x) if name != names[-1] else x
    return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()


@pytest.mark.parametrize("bias", [False, True])
def test_steps_commute_with_any_rescaling_weight_decay_included(rng, bias):
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        params = network(rng, (4, 6, 5, 3), bias, jnp.float64)
        scales = tuple(jnp.asarray(np.exp(rng.uniform(-3, 3, n))) for n in (6, 5))
        x, y = jnp.asarray(rng.normal(size=(8, 4))), jnp.arange(8) % 3
        optimizer = path_sgd(0.01, weight_decay=0.1)
        start = optimizer.init(params)

        @jax.jit
        def trained(params):
            state = start  # what κ is measured by belongs to the run, not to the parameters
            for _ in range(3):
                updates, state = optimizer.update(jax.grad(loss)(params, x, y), state, params)
                params = optax.apply_updates(params, updates)
            return params

        after = rescale(trained(params), scales)
        chex.assert_trees_all_close(trained(rescale(params, scales)), after, rtol=1e-9)

        @jax.jit
        def plain_step(params):
            gradients = jax.grad(loss)(params, x, y)
            return jax.tree.map(lambda p, g: p - 0.01 * g, params, gradients)

        one, other = plain_step(rescale(params, scales)), rescale(plain_step(params), scales)
        assert not np.allclose(one["layer_00"]["kernel"], other["layer_00"]["kernel"], rtol=1e-3)


def test_relative_kappa_makes_the_mean_factor_one_at_the_start(rng):
    params = network(rng, (4, 6, 3))
    ones = jax.tree.map(jnp.ones_like, params)
    path = scale_by_path()
    updates, _ = path.update(ones, path.init(params), params)
    leaves = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(updates)])
    np.testing.assert_allclose(leaves.mean(), 1, rtol=1e-5)


def test_in_low_precision_the_level_counts_all_weights_and_updates_keep_their_dtype(rng):
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), network(rng, (30, 30, 30)))
    exact = scale_by_path().init(jax.tree.map(lambda a: a.astype(jnp.float32), params))
    assert scale_by_path().init(params).level == exact.level
    for relative in (True, False):
        path = scale_by_path(relative=relative)
        updates, _ = path.update(params, path.init(params), params)
        chex.assert_trees_all_equal_dtypes(updates, params)


def test_it_must_see_all_parameters(rng):
    params = network(rng, (3, 4, 2))
    mask = {"layer_00": False, "layer_01": True}
    with pytest.raises(ValueError, match="cannot see masked parameters"):
        optax.masked(scale_by_path(), mask).init(params)


def test_no_path_no_division(rng):
    """A dead unit, and a parameter that the network does not use, keep finite updates."""
    params = network(rng, (3, 4, 2)) | {"norm_00": {"scale": jnp.ones(4)}}
    with pytest.raises(ValueError, match=r"norm_00.*without normalization"):
        scale_by_path().init(params)
    params["layer_00"]["kernel"] = params["layer_00"]["kernel"].at[:, 1].set(0)
    params["layer_01"]["kernel"] = params["layer_01"]["kernel"].at[1].set(0)

    def dense(squares):
        return path_norm({name: squares[name] for name in ("layer_00", "layer_01")})

    path = scale_by_path(dense)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = path.update(ones, path.init(params), params)
    chex.assert_tree_all_finite(updates)
    chex.assert_trees_all_equal(updates["norm_00"], ones["norm_00"])
    with pytest.raises(ValueError, match="needs the parameters"):
        path.update(ones, path.init(params))
