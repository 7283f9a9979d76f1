"""What a run may change of the study's setting, one thing at a time."""

import dataclasses
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from enorm_jax import FullyConnected, cumulative_scales, history, rescale
from enorm_jax.cell import LATER, Cell
from enorm_jax.data import held_out, with_inputs
from enorm_jax.display import title
from enorm_jax.evaluation import evaluate
from enorm_jax.inputs import PerImage
from enorm_jax.kernels import WeightNormDense, WeightStandardizedDense
from enorm_jax.methods import METHODS, ENorm, make_method
from enorm_jax.optimizer import path_sgd, schedule
from enorm_jax.recipe import hyperparameters, init_state
from enorm_jax.sweep import recipe_of, run_cell
from enorm_jax.training import train_epoch

CELL = Cell(
    experiment="fc", dataset="blobs", method="enorm", depth=1, width=6, bias=False, epochs=4,
    learning_rate=0.05, c=1.2, batch_size=8, weight_decay=1e-3, precision="float32", restarts=0,
    seeds=(0,),
)  # fmt: skip


def start(blobs, **changes):
    own = recipe_of(dataclasses.replace(CELL, **changes), blobs)
    hyper = jax.tree.map(
        lambda leaf: leaf[0], hyperparameters(1, learning_rate=0.05, c=1.2, weight_decay=1e-3)
    )
    return own, init_state(own, jax.random.key(0), hyper, blobs.train_images[:1])


def test_per_image_inputs_have_mean_0_and_deviation_1_in_every_image_and_channel(blobs):
    inputs = np.asarray(with_inputs(blobs, "image").standardization(blobs.train_images))
    np.testing.assert_allclose(inputs.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std((1, 2)), 1, atol=1e-3)
    assert not PerImage(255.0)(np.full((1, 2, 2, 1), 7, np.uint8)).any()


def test_true_inputs_have_mean_0_and_deviation_1_over_the_training_set(blobs):
    inputs = np.asarray(with_inputs(blobs, "true").standardization(blobs.train_images))
    np.testing.assert_allclose(inputs.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std((0, 1, 2)), 1, atol=1e-5)
    assert with_inputs(blobs, "published") is blobs


@pytest.mark.parametrize(("name", "expected"), [
    ("linear", [0.05, 0.05, 0.025]), ("constant", [0.05] * 3), ("notebook", [0.05, 0.05, 0.0]),
])  # fmt: skip
def test_schedules_are_constant_within_an_epoch(name, expected):
    rate = schedule(name, 0.05, epochs=4, steps_per_epoch=3)
    np.testing.assert_allclose([rate(jnp.int32(s)) for s in (0, 2, 6)], expected, atol=1e-8)


def test_names_that_mean_nothing_are_refused(blobs):
    with pytest.raises(ValueError, match="schedule must be"):
        schedule("cosine", 0.1, epochs=2, steps_per_epoch=1)
    with pytest.raises(ValueError, match="inputs must be"):
        with_inputs(blobs, "pixels")
    params = FullyConnected(depth=1, width=2).init(jax.random.key(0), jnp.ones((1, 3)), train=False)
    with pytest.raises(ValueError, match="bias must be"):
        rescale(params["params"], (jnp.ones(2), jnp.ones(2)), bias="Keep")


def test_he_normal_has_he_s_variance_and_is_not_cut_off():
    model = FullyConnected(depth=1, width=200, kernel_init="he_normal")
    params = model.init(jax.random.key(0), jnp.ones((1, 50)), train=False)["params"]
    kernel = np.asarray(params["layer_01"]["kernel"]) / np.sqrt(2 / 200)
    assert abs(kernel.std() - 1) < 0.02
    assert abs(kernel).max() > 3


@pytest.mark.slow
def test_images_beyond_the_first_n_are_never_trained_on(blobs):
    own, state = start(blobs, train_images=20)
    images, labels = jnp.asarray(blobs.train_images), jnp.asarray(blobs.train_labels)
    key = jax.random.key(1)
    _, losses = train_epoch(own, state, key, images, labels)
    _, same = train_epoch(own, state, key, images.at[20:].set(0), labels)
    assert losses.shape == (3,)
    np.testing.assert_array_equal(losses, same)


def test_a_softmax_before_the_loss_bounds_it(blobs):
    """Cross-entropy of softmax(p) for probabilities p, in float64."""
    own, state = start(blobs, softmax=True)
    test = jnp.asarray(blobs.test_images), jnp.asarray(blobs.test_labels)
    loss, accuracy = evaluate(own, state, *test)
    inputs = own.standardization(blobs.test_images)
    logits = np.float64(own.model.apply({"params": state.params}, inputs, train=False))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    nats = np.log(np.exp(p).sum(1)) - p[np.arange(len(p)), blobs.test_labels]
    np.testing.assert_allclose(loss, nats.mean(), rtol=1e-5)
    plain, state = start(blobs)
    assert evaluate(plain, state, *test)[1] == accuracy


def test_order_and_last_layer_reach_enorm(blobs):
    own, state = start(blobs, order="simultaneous", balance_last=False)
    assert own.equalize == ENorm("simultaneous", balance_last=False)
    expected = cumulative_scales(state.params, 1.2, order="simultaneous", balance_last=False)
    jax.tree.map(np.testing.assert_array_equal, own.equalize.scales(state.params, 1.2), expected)
    assert start(blobs)[0].equalize == ENorm()


@pytest.mark.parametrize("method", ["enorm+bn", "enorm+gn", "enorm+bcn"])
def test_enorm_of_norms_leaves_the_network_s_function_as_it_is(blobs, method):
    """As what it balances does: the scale of each unit against the kernel behind it."""
    own, state = start(blobs, method=method, groups=2, depth=2, of_norms=True)
    params = jax.tree.map(
        lambda p: p + 0.1 * jnp.arange(float(p.size)).reshape(p.shape), state.params
    )
    scales = own.equalize.scales(params, 1.2)
    assert all(np.ptp(d) > 0.1 for d in scales)
    new = own.equalize.rescale(params, scales, "scale")
    x = own.standardization(blobs.test_images)

    def logits(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        return own.model.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    np.testing.assert_allclose(logits(new), logits(params), rtol=1e-4, atol=1e-3)
    behind = np.linalg.norm(new["layer_03"]["kernel"], axis=1)
    norm = new["norm_02"].get("channel", new["norm_02"])
    np.testing.assert_allclose(behind / np.abs(norm["scale"]), 1.2, rtol=1e-4)
    kernels, _ = start(blobs, method=method, groups=2, depth=2)
    plain = kernels.equalize.rescale(params, kernels.equalize.scales(params, 1.2), "scale")
    assert np.abs(logits(plain) - logits(params)).max() > 0.1  # the public codes' way is not


def test_a_variant_has_a_name_and_a_file_of_its_own(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments"))
    monkeypatch.setattr(sys, "argv", ["fc_sweep.py"])
    import fc_cells

    def cells(*flags, own="enorm"):
        arguments = ["--method", own, "bn", "--depths", "3", "--lr", "0.1", *flags]
        args = fc_cells.parser(None).parse_args(arguments)
        return fc_cells.cells(args)

    flags = {
        "--order=simultaneous": "simultaneous", "--leave-last": "last_left_out",
        "--init=he_normal": "he_normal", "--inputs=image": "image",
        "--schedule=notebook": "notebook", "--train-images=40960": "40960",
        "--softmax": "softmax", "--bias=gauge": "gauge", "--groups=10": "10_groups",
        "--of-norms": "of_norms", "--select=best": "best_epoch",
    }  # fmt: skip
    of_convolutions = {"network", "momentum", "augment", "norm_after", "skip"}
    of_others = {"rates", "fold"} | of_convolutions  # other scripts' settings
    assert len(flags) == len(LATER.keys() - of_others)
    methods = {"10_groups": "gn", "of_norms": "enorm+bn"}
    only_own = ("simultaneous", "last_left_out", "gauge", *methods)
    for flag, word in flags.items():
        plain, plain_bn = cells(own=methods.get(word, "enorm"))
        changed, bn = cells(flag, own=methods.get(word, "enorm"))
        assert plain.variants == []
        held = ["fold0of5"] * (word == "best_epoch")
        assert changed.variants == [*held, word]
        assert word in changed.stem
        assert word in title(changed)
        assert bn.variants == ([] if word in only_own else [*held, word])
        assert (bn.stem == plain_bn.stem) == (word in only_own and not bn.bias)


@pytest.mark.slow
def test_the_best_epoch_is_chosen_on_the_fold_and_told_on_the_test_images(blobs, tmp_path):
    cell = dataclasses.replace(
        CELL, seeds=(0, 1), learning_rate=0.3, schedule="constant", epochs=6, fold="0/5",
        select="best",
    )  # fmt: skip
    result = run_cell(cell, blobs, tmp_path)
    curves = result["curves"]
    for run, best in enumerate(result["best_epoch"]):
        validation = curves["validation_accuracy"][run]
        assert len(validation) == 6
        assert validation[best] == max(validation) > max([0, *validation[:best]])
        assert result["test_accuracy"][run] == curves["test_accuracy"][run][best]
    held = held_out(blobs, "0/5", keep_test=True)
    assert held.test_images is blobs.test_images
    np.testing.assert_array_equal(held.validation_images, held_out(blobs, "0/5").test_images)
    searched = dataclasses.replace(cell, select="last")  # the fold in the test images' place
    other = run_cell(searched, blobs, tmp_path)
    assert other["curves"]["test_accuracy"] == curves["validation_accuracy"]
    assert other["curves"]["train_loss"] == curves["train_loss"]


def test_a_run_that_diverges_after_its_best_epoch_counts_with_it():
    cell = dataclasses.replace(CELL, seeds=(0, 1), epochs=3, fold="0/5", select="best")
    found = history.new_history(cell.seeds)
    found["diverged"] = [{"epoch": 2, "step": 0}, {"epoch": 0, "step": 1}]
    found["curves"] = {
        "train_loss": [[2.0, 1.9, math.nan], [math.nan]],
        "test_loss": [[2.1, 1.8, math.nan], [math.nan]],
        "test_accuracy": [[31.0, 41.0, None], [None]],
        "validation_accuracy": [[30.0, 40.0, None], [None]],
        "kernel_norms": [[[1.0]] * 3, [[1.0]]],
    }
    found["seconds"] = [1.0]
    result = history.final(cell, [found])
    assert result["best_epoch"][0] == 1
    assert result["test_accuracy"] == [41.0, None]
    assert result["test_loss"] == [1.8, None]
    assert result["diverged"] == found["diverged"]
    last = history.final(dataclasses.replace(cell, fold=None, select="last"), [found])
    assert last["test_accuracy"] == [None, None]


@pytest.mark.parametrize("name", [*METHODS, "bcn-micro"])
def test_a_method_reaches_the_program_of_its_cell(blobs, name):
    own = recipe_of(dataclasses.replace(CELL, method=name, groups=2), blobs)
    its = make_method(name, 2)
    assert own.optimizer is its.optimizer
    assert (own.model.norm, own.model.dense, own.model.output) == (its.norm, its.dense, its.output)
    assert own.equalize == its.equalize
    assert (own.optimizer is path_sgd) == (name == "path-sgd")
    assert (own.model.dense is WeightNormDense) == ("wn" in name.split("+"))
    assert (own.model.dense is WeightStandardizedDense) == ("ws" in name.split("+"))
