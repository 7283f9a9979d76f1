"""Cells of convolutional networks: the recipe that they make, and that it trains."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from enorm_jax import enorm_step_with_state, networks, program, stepwise
from enorm_jax.augment import Augmentation
from enorm_jax.cell import Cell
from enorm_jax.errors import InputError
from enorm_jax.recipe import hyperparameters, init_states
from enorm_jax.sweep import recipe_of
from enorm_jax.training import first_carry, step_of_epoch

CONV = Cell(
    experiment="conv", dataset="blobs", method="enorm", depth=9, width=2, bias=False, epochs=2,
    learning_rate=0.05, c=1.1, batch_size=23, weight_decay=1e-3, precision="float32", restarts=0,
    seeds=(0, 1), groups=1, network="conv", momentum=0.9, augment=True, norm_after="all",
)  # fmt: skip
RESNET = dataclasses.replace(
    CONV, experiment="micro_batch", method="bn", c=None, depth=8, network="resnet"
)


def small(cell, dataset):
    """The recipe of a cell; a residual network with its first stage only, which compiles faster."""
    its = recipe_of(cell, dataset)
    if cell.network == "conv":
        return its
    return dataclasses.replace(its, model=its.model.clone(stages=(1,)))


def states_of(its, dataset):
    """States of two runs, with weights that need no compiled initializer."""
    rng = np.random.default_rng(0)
    hyper = hyperparameters(2, learning_rate=0.05, c=1.1, weight_decay=1e-3)
    example = jnp.asarray(dataset.train_images[:1])
    shapes = jax.eval_shape(
        lambda hyper: init_states(its, jnp.arange(2, dtype=jnp.uint32), hyper, example), hyper
    )

    def weights(leaf):
        kernel = rng.normal(size=leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[1:-1])))
        return jnp.float32(kernel if len(leaf.shape) > 2 else np.ones(leaf.shape))

    return dataclasses.replace(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes),
        params=jax.tree.map(weights, shapes.params),
        batch_stats=jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes.batch_stats),
        hyper=hyper,
    )


METHODS = ("baseline", "bn", "gn", "ln", "ws+gn", "bcn", "bcn-micro", "ws+bcn", "wn+bn")
CASES = [
    *(pytest.param(RESNET, method, id=f"resnet-{method}") for method in METHODS),
    *(pytest.param(CONV, method, id=f"conv-{method}") for method in ("enorm+bn", "ws+bcn-micro")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "method"), CASES)
def test_every_network_trains_under_every_normalization(blobs, cell, method):
    c = 1.1 if "enorm" in method else None
    its = small(dataclasses.replace(cell, method=method, c=c), blobs)
    state = jax.tree.map(lambda leaf: leaf[0], states_of(its, blobs))
    step = jax.jit(step_of_epoch, static_argnums=0)
    data, key = (
        (jnp.asarray(blobs.train_images), jnp.asarray(blobs.train_labels)),
        jax.random.key(0),
    )
    carry = first_carry(its, state)
    for index in jnp.arange(46).reshape(2, 23):
        carry, loss = step(its, carry, key, index[0], *(array[index] for array in data))
        assert np.isfinite(loss)
    chex.assert_tree_all_finite(carry[0].params)
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(carry[0].params), strict=True)
    assert all((before != now).any() for before, now in pairs if before.ndim == 4)


@pytest.mark.slow
def test_step_by_step_is_the_epoch_in_one_program(blobs):
    cell = dataclasses.replace(RESNET, method="baseline", batch_size=30)  # a last batch of 16
    its = small(cell, blobs)
    states = states_of(its, blobs)
    data = jnp.asarray(blobs.train_images), jnp.asarray(blobs.train_labels)
    rest = jnp.arange(2, dtype=jnp.uint32), jnp.int32(1), *data
    train, _ = stepwise.compile_training(its, states, *rest)
    after, losses = train(states, *rest)
    want, want_losses = jax.jit(program.train_runs, static_argnums=0)(its, states, *rest)
    chex.assert_trees_all_close(losses, np.asarray(want_losses), rtol=1e-4)
    chex.assert_trees_all_close(after, want, rtol=2e-3, atol=1e-6)


@pytest.mark.slow
def test_batches_from_the_host_train_the_same_network_bit_by_bit(blobs, monkeypatch):
    monkeypatch.setattr(stepwise, "EVALUATION_BATCH", 6)  # 20 images: 6 + 6 + 6 + 2
    its = small(dataclasses.replace(RESNET, batch_size=10), blobs)  # 46: a last batch of 6
    hyper = hyperparameters(2, learning_rate=0.05, c=1.1, weight_decay=1e-3)
    held = dataclasses.replace(
        blobs, validation_images=blobs.test_images[:7], validation_labels=blobs.test_labels[:7]
    )
    found = []
    for stream in (False, True):
        made = program.compile_program(its, held, 2, stream=stream)
        states = made.init(jnp.arange(2, dtype=jnp.uint32), hyper)
        states, losses = made.train(states, jnp.arange(2, dtype=jnp.uint32), jnp.int32(1))
        found.append((states, losses, made.test(states), made.validate(states)))
    chex.assert_trees_all_equal(*found)


@pytest.mark.slow
def test_data_that_would_fill_a_device_stays_on_the_host(blobs, monkeypatch):
    its = small(dataclasses.replace(RESNET, method="baseline"), blobs)
    monkeypatch.setattr(program, "memory_size", lambda: 2 * blobs.nbytes - 1)
    assert not program.fits(blobs)
    streamed = program.compile_program(its, blobs, 1)
    monkeypatch.setattr(program, "memory_size", lambda: 2 * blobs.nbytes)
    assert program.fits(blobs)
    resident = program.compile_program(its, blobs, 1)
    trained = blobs.train_images.nbytes + blobs.train_labels.nbytes
    assert resident.memory - streamed.memory == trained


def test_evaluation_by_steps_counts_every_image_once(blobs, monkeypatch):
    monkeypatch.setattr(stepwise, "EVALUATION_BATCH", 7)  # 20 images: 7 + 7 + 6
    its = small(RESNET, blobs)
    states = states_of(its, blobs)
    test_data = jnp.asarray(blobs.test_images), jnp.asarray(blobs.test_labels)
    found = stepwise.compile_evaluation(its, states, *test_data)(states, *test_data)
    want = jax.jit(program.evaluate_runs, static_argnums=0)(its, states, *test_data)
    chex.assert_trees_all_close(found, want, rtol=1e-4)


@pytest.mark.slow
def test_enorm_rescales_momentum_against_weights(blobs, rng):
    """What a weight's motion does to the function is W m, which no rescaling may change."""
    its = recipe_of(CONV, blobs)
    x = jnp.float32(rng.normal(size=(2, 2, 2, 3)))
    params = jax.tree.map(lambda leaf: leaf[0], states_of(its, blobs).params)
    moving = jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), params)
    state = (optax.TraceState(trace=moving),)
    groups = its.equalize.inferred
    assert len(groups) == 8
    balanced, (trace,), *_ = enorm_step_with_state(params, state, 1.1, groups=groups)
    apply = jax.jit(lambda params: its.model.apply({"params": params}, x, train=True))
    chex.assert_trees_all_close(apply(balanced), apply(params), rtol=1e-4)
    changed = 0
    for before, now, m, n in zip(
        *map(jax.tree.leaves, (params, balanced, moving, trace.trace)), strict=True
    ):
        np.testing.assert_allclose(now * n, before * m, rtol=1e-4, atol=1e-6)
        changed += not np.allclose(m, n, rtol=0.01)
    assert changed == 9


def test_skips_are_those_of_the_paper_unless_named():
    imagenet = dataclasses.replace(RESNET, network="imagenet-resnet", depth=18)
    for cell, published in ((RESNET, "identity"), (imagenet, "projection")):
        assert networks.build(cell, 3).skip == published
        learned = dataclasses.replace(cell, skip="learned")
        assert networks.build(learned, 3).skip == "learned"
        assert "-learned_skips-" in learned.stem
        assert "skips" not in cell.stem


@pytest.mark.parametrize(("depth", "millions"), [(18, 11.7), (50, 25.6)])
def test_full_size_imagenet_is_cropped_and_classified_by_its_residual_networks(depth, millions):
    """Of as many parameters as published."""
    cell = dataclasses.replace(
        CONV, network="imagenet-resnet", depth=depth, width=64, method="bn", c=None
    )
    image = (256, 256, 3)
    assert networks.crops(cell, image) == Augmentation(pad=0, crop=224)
    crop = jax.ShapeDtypeStruct((1, *networks.input_shape(cell, image)), jnp.float32)
    model = networks.build(cell, 1000)
    logits, variables = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, train=False), crop
    )
    assert logits.shape == (1, 1000)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert round(count / 1e6, 1) == millions


def test_equal_networks_share_a_program(blobs):
    faster = dataclasses.replace(CONV, learning_rate=0.1, seeds=(3,))
    assert recipe_of(CONV, blobs) == recipe_of(faster, blobs)
    assert recipe_of(CONV, blobs) != recipe_of(dataclasses.replace(CONV, momentum=0.0), blobs)
    assert recipe_of(CONV, blobs) != recipe_of(dataclasses.replace(CONV, augment=False), blobs)


@pytest.mark.parametrize("cell", [CONV, RESNET], ids=["conv", "resnet"])
@pytest.mark.slow
def test_in_bfloat16_a_network_has_the_same_parameters_and_groups(blobs, cell):
    """And its outputs differ by the rounding of what its convolutions multiply."""
    narrow = dataclasses.replace(cell, precision="bfloat16")
    assert networks.build(narrow, 3) == networks.build(narrow, 3) != networks.build(cell, 3)
    image = blobs.train_images.shape[1:]
    assert networks.equalizer(narrow, image, 3) == networks.equalizer(cell, image, 3)
    state = jax.tree.map(lambda leaf: leaf[0], states_of(small(cell, blobs), blobs))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    exact, rounded = (
        small(its, blobs).model.apply(variables, x, train=False) for its in (cell, narrow)
    )
    assert rounded.dtype == jnp.float32
    assert 1e-6 < float(jnp.abs(exact - rounded).max() / jnp.abs(exact).max()) < 0.05


@pytest.mark.slow
def test_with_of_norms_enorm_leaves_a_normalized_network_as_it_is(blobs):
    """By default, as in both public codes, it balances kernels around a normalization."""
    cell = dataclasses.replace(CONV, method="enorm+bn", norm_after="published", width=16)
    image, x = blobs.train_images.shape[1:], jax.random.normal(jax.random.key(0), (8, 4, 4, 3))
    its = recipe_of(cell, blobs)
    state = jax.tree.map(lambda leaf: leaf[0], states_of(its, blobs))
    params = state.params

    @jax.jit
    def apply(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        return its.model.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    changes = {}
    for of_norms in (False, True):
        enorm = networks.equalizer(dataclasses.replace(cell, of_norms=of_norms), image, 3)
        balanced = enorm.rescale(params, enorm.scales(params, jnp.float32(1.1)), "scale")
        changes[of_norms] = float(jnp.abs(apply(balanced) - apply(params)).max())
    assert changes[True] < 1e-4 < changes[False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 8}, "has 9 layers: not 8"),
        ({"network": "resnet"}, "8, 14, 20, ... layers, not 9"),
        ({"network": "imagenet-resnet", "depth": 20}, "18, 50 or 101 layers, not 20"),
        ({"method": "path-sgd", "c": None}, "chain of dense layers"),
        ({"method": "ws+gn", "norm_after": "published"}, "add --norm-after all"),
        ({"network": "fc", "method": "path-sgd"}, "takes no momentum"),
    ],
    ids=str,
)
def test_networks_that_do_not_exist_are_refused(blobs, change, message):
    with pytest.raises(InputError, match=message):
        recipe_of(dataclasses.replace(CONV, **change), blobs)
    with pytest.raises(ValueError, match="no bias here"):
        recipe_of(dataclasses.replace(CONV, bias=True), blobs)
    with pytest.raises(ValueError, match="precision must be one of"):
        recipe_of(dataclasses.replace(CONV, precision="float16"), blobs)
