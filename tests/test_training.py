"""A step, an epoch and the loop around it, against plain loops and NumPy."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import reference
from enorm_jax import enorm_step, equi_normalize
from enorm_jax.chain import chain
from enorm_jax.evaluation import evaluate
from enorm_jax.fit import first_divergence, fit
from enorm_jax.methods import METHODS, ORIGINAL, STUDY, make_method
from enorm_jax.optimizer import linear_decay, sgd
from enorm_jax.program import compile_program
from enorm_jax.recipe import Recipe, hyperparameters, init_state, init_states
from enorm_jax.training import train_epoch, train_step


def make_recipe(blobs, method="baseline", depth=1, bias=False, epochs=4, batch_size=8, width=6):
    m = make_method(method, groups=2)
    return Recipe(
        model=m.network(depth, width=width, classes=3, use_bias=bias),
        equalize=m.equalize,
        optimizer=m.optimizer,
        standardization=blobs.standardization,
        batch_size=batch_size,
        epochs=epochs,
        train_size=len(blobs.train_labels),
    )


def make_hyper(runs, learning_rate=0.05, c=1.2, weight_decay=1e-3):
    return hyperparameters(runs, learning_rate=learning_rate, c=c, weight_decay=weight_decay)


def one(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def test_a_step_is_sgd_with_decay_on_all_parameters_then_enorm(blobs):
    recipe = make_recipe(blobs, "enorm", bias=True)
    hyper = one(make_hyper(1, weight_decay=0.1))
    state = init_state(recipe, jax.random.key(3), hyper, blobs.train_images[:1])
    biased = jax.tree.map(lambda leaf: leaf + 0.1, state.params)
    state = state.replace(params=biased)
    images, labels = blobs.train_images[:8], blobs.train_labels[:8]
    new, loss = train_step(recipe, state, jnp.asarray(images), jnp.asarray(labels))

    pixels = images / 255
    std = recipe.standardization
    x = ((pixels - np.array(std.mean)) / np.array(std.std)).reshape(8, -1)
    names = chain(biased)
    kernels, biases = ([np.float64(biased[n][k]) for n in names] for k in ("kernel", "bias"))
    kernels, biases, want_loss = reference.sgd_step(kernels, biases, x, labels, 0.05, 0.1)
    kernels, biases, _ = reference.enorm(kernels, biases, 1.2)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    for k, name in enumerate(names):
        np.testing.assert_allclose(new.params[name]["kernel"], kernels[k], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(new.params[name]["bias"], biases[k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [*STUDY, "path-sgd"])
def test_an_epoch_is_its_steps_in_order_the_smaller_last_batch_included(blobs, method):
    recipe = make_recipe(blobs, method)
    state = init_state(recipe, jax.random.key(3), one(make_hyper(1)), blobs.train_images[:1])
    images, labels = jnp.asarray(blobs.train_images), jnp.asarray(blobs.train_labels)
    key = jax.random.key(7)
    after, losses = jax.jit(train_epoch, static_argnums=0)(recipe, state, key, images, labels)

    step = jax.jit(train_step, static_argnums=0)
    order, want = jax.random.permutation(key, 46), []
    assert sorted(order.tolist()) == list(range(46))
    for start in range(0, 46, 8):
        index = order[start : start + 8]
        state, loss = step(recipe, state, images[index], labels[index])
        want.append(loss)
    chex.assert_shape(losses, (6,))
    chex.assert_trees_all_close(losses, jnp.stack(want), rtol=1e-4)
    chex.assert_trees_all_close(after, state, rtol=1e-3, atol=1e-5)


def test_an_epoch_of_cifar10_has_196_steps(blobs):
    recipe = dataclasses.replace(make_recipe(blobs, batch_size=256), train_size=50_000)
    assert recipe.steps_per_epoch == 196


def test_evaluation_counts_every_image_once(blobs, monkeypatch):
    recipe = make_recipe(blobs)
    state = init_state(recipe, jax.random.key(3), one(make_hyper(1)), blobs.train_images[:1])
    images, labels = jnp.asarray(blobs.test_images), jnp.asarray(blobs.test_labels)
    whole = evaluate(recipe, state, images, labels)
    monkeypatch.setattr("enorm_jax.evaluation.EVALUATION_BATCH", 7)  # 20 images: 7 + 7 + 6
    chex.assert_trees_all_close(evaluate(recipe, state, images, labels), whole, rtol=1e-5)
    inputs = recipe.standardization(images)
    logits = recipe.model.apply({"params": state.params}, inputs, train=False)
    np.testing.assert_allclose(whole[1], np.mean(np.argmax(logits, axis=1) == blobs.test_labels))


@pytest.mark.slow
def test_runs_in_parallel_equal_runs_one_by_one(blobs):
    """Seeds and learning rates are one vmapped program."""
    recipe = make_recipe(blobs, "enorm+bn")
    seeds, rates = [0, 1, 0, 1], [0.05, 0.05, 0.01, 0.01]
    program = compile_program(recipe, blobs, 4)
    *_, together = fit(program, seeds, make_hyper(4, rates), epochs=3)
    single = compile_program(recipe, blobs, 1)
    for run, (seed, rate) in enumerate(zip(seeds, rates, strict=True)):
        *_, alone = fit(single, [seed], make_hyper(1, rate), epochs=3)
        row = jax.tree.map(lambda leaf, run=run: leaf[run], together.states)
        chex.assert_trees_all_close(row, one(alone.states), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(together.losses[run], alone.losses[0], rtol=1e-3)


@pytest.mark.slow
def test_batches_from_the_host_train_as_data_on_the_device(blobs, monkeypatch):
    """There an epoch is one program, here each of its six steps."""
    monkeypatch.setattr("enorm_jax.stepwise.EVALUATION_BATCH", 6)  # 20 images: 6 + 6 + 6 + 2
    recipe = make_recipe(blobs, "enorm+bn")
    resident, streamed = (
        list(fit(compile_program(recipe, blobs, 2, stream=stream), [0, 1], make_hyper(2), epochs=2))
        for stream in (False, True)
    )
    for there, here in zip(resident, streamed, strict=True):
        np.testing.assert_allclose(here.losses, there.losses, rtol=1e-3)
        np.testing.assert_allclose(here.test_loss, there.test_loss, rtol=1e-3)
        np.testing.assert_array_equal(here.test_accuracy, there.test_accuracy)
    chex.assert_trees_all_close(streamed[-1].states, resident[-1].states, rtol=1e-3, atol=1e-4)


def test_learning_rate_falls_linearly_by_epoch(blobs):
    """At the last epoch of n the rate is 1/n of the first's: seen in what a step moves."""
    recipe = make_recipe(blobs, epochs=4)
    state = init_state(
        recipe, jax.random.key(0), one(make_hyper(1, weight_decay=0.0)), blobs.train_images[:1]
    )
    images, labels = jnp.asarray(blobs.train_images[:8]), jnp.asarray(blobs.train_labels[:8])

    def moved(step):
        at = state.replace(
            opt_state=jax.tree.map(lambda count: jnp.full_like(count, step), state.opt_state)
        )
        new, _ = train_step(recipe, at, images, labels)
        return new.params["layer_00"]["kernel"] - state.params["layer_00"]["kernel"]

    for step, share in [(5, 1), (6, 3 / 4), (23, 1 / 4)]:
        np.testing.assert_allclose(moved(step), share * moved(0), rtol=1e-2, atol=1e-6)


def test_learning_rate_is_never_negative():
    rate = linear_decay(0.1, epochs=4, steps_per_epoch=7)
    assert [float(rate(step)) for step in (4 * 7, 1000)] == [0.0, 0.0]


def test_resuming_ends_with_the_same_bits(blobs):
    recipe = make_recipe(blobs, "enorm+bn")
    program = compile_program(recipe, blobs, 2)
    *_, whole = fit(program, [0, 1], make_hyper(2), epochs=4)
    whole = jax.device_get(whole.states)
    *_, half = fit(program, [0, 1], make_hyper(2), epochs=2)
    resume = (2, jax.device_put(jax.device_get(half.states)))
    *_, rest = fit(program, [0, 1], make_hyper(2), epochs=4, resume=resume)
    chex.assert_trees_all_equal(jax.device_get(rest.states), whole)


@pytest.mark.slow
def test_training_learns(blobs):
    program = compile_program(make_recipe(blobs, "enorm", epochs=30, width=32), blobs, 2)
    *_, last = fit(program, [0, 1], make_hyper(2), epochs=30)
    assert (last.test_accuracy > 90).all()


def test_divergence_is_located(blobs):
    program = compile_program(make_recipe(blobs), blobs, 2)
    epoch = next(fit(program, [0, 1], make_hyper(2, [0.05, 1e30]), epochs=4))
    sound, lost = first_divergence(epoch)
    assert sound is None
    assert np.isfinite(epoch.losses[1, :lost]).all()
    assert not np.isfinite(epoch.losses[1, lost])
    at_the_end = dataclasses.replace(epoch, losses=epoch.losses[:1], test_loss=[np.nan])
    assert first_divergence(at_the_end) == [5]


def test_init_gives_each_seed_its_own_weights(blobs):
    states = init_states(
        make_recipe(blobs), jnp.uint32([0, 1, 0]), make_hyper(3), blobs.train_images[:1]
    )
    first, second, again = states.params["layer_00"]["kernel"]
    chex.assert_trees_all_equal(first, again)
    assert not np.allclose(first, second)


def test_weight_decay_shrinks_normalization_parameters_too(blobs):
    """The step with decay differs from the one without by -rate * decay * parameter, for all."""
    recipe = make_recipe(blobs, "bn", bias=True)
    states = [
        init_state(
            recipe,
            jax.random.key(3),
            one(make_hyper(1, weight_decay=decay)),
            blobs.train_images[:1],
        )
        for decay in (0.0, 0.5)
    ]
    shifted = jax.tree.map(lambda leaf: leaf + 0.3, states[0].params)
    images, labels = jnp.asarray(blobs.train_images[:8]), jnp.asarray(blobs.train_labels[:8])
    plain, decayed = (
        train_step(recipe, state.replace(params=shifted), images, labels)[0].params
        for state in states
    )
    want = jax.tree.map(lambda new, old: new - 0.05 * 0.5 * old, plain, shifted)
    chex.assert_trees_all_close(decayed, want, rtol=1e-4, atol=1e-6)


def test_every_seed_and_epoch_has_an_order_of_its_own(blobs):
    """With a rate of zero, the losses of an epoch's batches tell the order of the images."""
    recipe = make_recipe(blobs)
    program = compile_program(recipe, blobs, 2)
    hyper = make_hyper(2, learning_rate=0.0)
    states = program.init(jnp.uint32([0, 0]), hyper)
    seen = []
    for epoch in (0, 1):
        states, losses = program.train(states, jnp.uint32([0, 1]), jnp.int32(epoch))
        seen.extend(np.sort(np.asarray(losses[:, :5])))
    for i, first in enumerate(seen):
        for second in seen[i + 1 :]:
            assert not np.allclose(first, second, rtol=1e-4)


def test_enorm_is_the_last_thing_a_step_does(blobs):
    """A step of ENorm is the baseline's step, then one call of enorm_step."""
    plain, balanced = (make_recipe(blobs, method) for method in ("baseline", "enorm"))
    state = init_state(plain, jax.random.key(3), one(make_hyper(1)), blobs.train_images[:1])
    images, labels = jnp.asarray(blobs.train_images[:8]), jnp.asarray(blobs.train_labels[:8])
    sgd_only, _ = train_step(plain, state, images, labels)
    both, _ = train_step(balanced, state, images, labels)
    chex.assert_trees_all_close(both.params, enorm_step(sgd_only.params, 1.2), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*ORIGINAL, "ln", "wn", "ws+gn", "bcn", "ws+bcn", "bcn-micro"])
def test_every_method_stays_finite_at_depth_19_for_an_epoch(blobs, method):
    recipe = make_recipe(blobs, method, depth=19, bias=method not in METHODS, batch_size=23)
    hyper = one(make_hyper(1, 0.01))
    state = init_state(recipe, jax.random.key(0), hyper, blobs.train_images[:1])
    data = jnp.asarray(blobs.train_images), jnp.asarray(blobs.train_labels)
    with jax.disable_jit():  # compiling 21 layers takes longer than two steps without
        after, losses = train_epoch(recipe, state, jax.random.key(1), *data)
    chex.assert_tree_all_finite((after, losses))
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), state.params, after.params)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("bias", ["scale", "keep", "gauge"])
def test_an_epoch_handles_biases_as_the_optax_transform_does(blobs, bias):
    recipe = dataclasses.replace(make_recipe(blobs, "enorm", depth=2, bias=True), bias=bias)
    hyper = one(make_hyper(1))
    start = init_state(recipe, jax.random.key(3), hyper, blobs.train_images[:1])
    images, labels = jnp.asarray(blobs.train_images), jnp.asarray(blobs.train_labels)
    key = jax.random.key(5)
    epoch, _ = train_epoch(recipe, start, key, images, labels)

    optimizer = equi_normalize(sgd(0.05, 1e-3), c=1.2, bias=bias)

    @jax.jit
    def step(params, state, batch, target):
        def loss(params):
            logits = recipe.model.apply({"params": params}, batch, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = start.params, optimizer.init(start.params)
    order = jax.random.permutation(key, len(labels))
    for first in range(0, len(labels), recipe.batch_size):
        index = order[first : first + recipe.batch_size]
        params, state = step(params, state, recipe.standardization(images[index]), labels[index])
    chex.assert_trees_all_close(epoch.params, params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(epoch.gauge, state.gauge, rtol=1e-4)
    assert bool(epoch.gauge) == (bias == "gauge")
