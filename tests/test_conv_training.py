"""Training of convolutional networks: crops, momentum that ENorm rescales, one program."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from enorm_jax import FullyConvolutional, enorm_step_with_state, infer_groups
from enorm_jax.augment import Augmentation
from enorm_jax.evaluation import evaluate
from enorm_jax.methods import ENorm
from enorm_jax.optimizer import momentum_sgd
from enorm_jax.recipe import Recipe, hyperparameters, init_state
from enorm_jax.training import train_epoch


@pytest.fixture(scope="module")
def recipe(blobs):
    model = FullyConvolutional(width=1 / 64, classes=3)
    x = jnp.ones((2, 2, 2, 3))
    params = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(0))["params"]

    def apply(params, x):
        return model.apply({"params": params}, x, train=True)

    return Recipe(
        model=model,
        equalize=ENorm(inferred=infer_groups(apply, params, x)),
        standardization=blobs.standardization,
        batch_size=23,
        epochs=4,
        train_size=46,
        optimizer=momentum_sgd(0.9),
        augmentation=Augmentation(pad=1, crop=2),
    )


@pytest.mark.slow
def test_an_epoch_is_momentum_sgd_on_crops_and_enorm_of_weights_and_momentum(recipe, blobs):
    hyper = hyperparameters(1, learning_rate=0.05, c=1.1, weight_decay=1e-3)
    hyper = jax.tree.map(lambda leaf: leaf[0], hyper)
    state = init_state(recipe, jax.random.key(0), hyper, blobs.train_images[:1])
    images, labels = jnp.asarray(blobs.train_images), jnp.asarray(blobs.train_labels)
    key = jax.random.key(3)
    epoch, losses = jax.jit(train_epoch, static_argnums=0)(recipe, state, key, images, labels)

    groups, optimizer = recipe.equalize.inferred, momentum_sgd(0.9)(0.05, 1e-3)

    @jax.jit
    def step(params, opt_state, index):
        batch = recipe.augmentation(jax.random.fold_in(key, 1 + index[0]), images[index])

        def loss(params):
            inputs = recipe.standardization(batch)
            logits = recipe.model.apply({"params": params}, inputs, train=True)
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels[index])
            return each.mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return *enorm_step_with_state(params, opt_state, 1.1, groups=groups)[:2], value

    params, opt_state, want = state.params, optimizer.init(state.params), []
    for index in jax.random.permutation(key, 46).reshape(2, 23):
        params, opt_state, value = step(params, opt_state, index)
        want.append(value)
    chex.assert_trees_all_close(losses, jnp.stack(want), rtol=1e-4)
    chex.assert_trees_all_close(epoch.params, params, rtol=1e-3, atol=1e-6)
    trace = [leaf for leaf in jax.tree.leaves(epoch.opt_state) if leaf.ndim == 4]
    expected = [leaf for leaf in jax.tree.leaves(opt_state) if leaf.ndim == 4]
    chex.assert_trees_all_close(trace, expected, rtol=1e-3, atol=1e-6)
    assert len(trace) == 9


@pytest.mark.slow
def test_test_images_are_cropped_in_the_middle(recipe, blobs):
    hyper = jax.tree.map(
        lambda leaf: leaf[0], hyperparameters(1, learning_rate=0.05, c=1.1, weight_decay=0.0)
    )
    state = init_state(recipe, jax.random.key(0), hyper, blobs.train_images[:1])
    labels = jnp.asarray(blobs.test_labels)
    framed = jnp.pad(jnp.asarray(blobs.test_images), ((0, 0), (1, 1), (1, 1), (0, 0)))
    test = jax.jit(evaluate, static_argnums=0)
    chex.assert_trees_all_close(
        test(recipe, state, framed, labels),
        test(recipe, state, jnp.asarray(blobs.test_images), labels),
    )
