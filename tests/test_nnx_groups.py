import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from enorm_jax import enorm_step, equi_normalize, explain, infer_groups, infer_groups_nnx


class Network(nnx.Module):
    """A convolution with batch norm, a skip, dropout, and two dense layers."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.branch = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, temperature=1.0, rngs=None):
        x = nnx.relu(self.norm(self.stem(x)))
        x = nnx.relu(x + self.branch(x)).mean(axis=(1, 2))
        return self.out(nnx.relu(self.hidden(self.drop(x, rngs=rngs)))) / temperature


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (4, 5, 5, 1))


@pytest.fixture
def model():
    return Network(nnx.Rngs(0))


def test_groups_name_what_the_optimizer_gets_and_the_model_stays_as_it_is(model, images):
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey))))
    groups = infer_groups_nnx(model, images, temperature=2.0)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert infer_groups_nnx(model, images, rngs=nnx.Rngs(1)) == groups
    assert not infer_groups_nnx(model, images, check=False).checked
    assert groups.checked
    assert [group.size for group in groups] == [4, 8]
    names = [[slot.name for slot in side] for side in (groups[0].producers, groups[0].consumers)]
    assert names == [["branch/kernel", "norm/scale"], ["branch/kernel", "hidden/kernel"]]

    momentum = equi_normalize(optax.sgd(0.01, momentum=0.9), groups=groups)
    optimizer = nnx.Optimizer(model, momentum, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda model: jnp.square(model(images) - 1).mean())(model)
        optimizer.update(model, grads)
        return loss

    for _ in range(30):
        step(model, optimizer)
    incoming = jnp.linalg.norm(model.hidden.kernel[...], axis=0)
    outgoing = jnp.linalg.norm(model.out.kernel[...], axis=1)
    np.testing.assert_allclose(incoming, outgoing, rtol=1e-4)


def test_balanced_parameters_go_back_into_the_module(model, images):
    model.eval()
    groups = infer_groups_nnx(model, images)
    outputs = model(images)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    nnx.update(model, enorm_step(params, groups=groups, cycles=5))
    assert not np.allclose(model.out.kernel[...], params["out"]["kernel"])
    np.testing.assert_allclose(model(images), outputs, rtol=1e-5, atol=1e-6)


def test_what_is_not_trained_keeps_its_scale(model, images):
    head = nnx.All(nnx.Param, nnx.PathContains("out"))
    groups = infer_groups_nnx(model, images, wrt=nnx.Any(head, nnx.PathContains("hidden")))
    assert [group.size for group in groups] == [8]
    assert "stem" not in explain(groups)
    assert not len(infer_groups_nnx(model, images, wrt=head))


def test_groups_of_another_structure_are_refused_before_training(model, images):
    groups = infer_groups_nnx(model, images)
    some = nnx.All(nnx.Param, nnx.PathContains("out"))
    with pytest.raises(ValueError, match=r"have \['out'\]\['bias'\], \['out'\]\['kernel'\]: infer"):
        nnx.Optimizer(model, equi_normalize(optax.sgd(0.1), groups=groups), wrt=some)


class Nested(nnx.Module):
    """Parameters that are trees, and a name that is spelt as an attribute of variables."""

    def __init__(self, rngs):
        self.value = nnx.Param({"a": rngs.normal((3, 4)), "b": rngs.normal((4, 2))})

    def __call__(self, x):
        return nnx.relu(x @ self.value["a"]) @ self.value["b"]


def test_groups_fit_however_variables_hold_their_arrays():
    model, x = Nested(nnx.Rngs(0)), jnp.ones((2, 3))
    groups = infer_groups_nnx(model, x)
    assert [group.size for group in groups] == [4]
    nnx.Optimizer(model, equi_normalize(optax.sgd(0.1), groups=groups), wrt=nnx.Param)


def test_variables_themselves_are_balanced_where_groups_name_them():
    layers = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(4, 2, rngs=nnx.Rngs(1))
    )
    graph, state = nnx.split(layers)
    groups = infer_groups(lambda state, x: nnx.merge(graph, state)(x), state, jnp.ones((2, 3)))
    transform = equi_normalize(optax.sgd(0.1), groups=groups)
    still = jax.tree.map(jnp.zeros_like, state)
    updates, _ = transform.update(still, transform.init(state), state)
    balanced = enorm_step(state, groups=groups)
    chex.assert_trees_all_close(optax.apply_updates(state, updates), balanced, rtol=1e-6)


class Chain(nnx.Module):
    """Two layers whose names spell their order."""

    def __init__(self, rngs):
        self.layer_00, self.layer_01 = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.layer_01(nnx.relu(self.layer_00(x)))


def test_a_chain_needs_no_groups_with_biases_in_the_gauge_too():
    x = jnp.ones((2, 3))
    model, twin = Chain(nnx.Rngs(0)), Chain(nnx.Rngs(0))
    inner = equi_normalize(optax.sgd(0.1), c=1.2, bias="gauge")
    optimizer = nnx.Optimizer(model, inner, wrt=nnx.Param)
    params = nnx.as_pure(nnx.state(twin, nnx.Param))
    state = inner.init(params)
    for _ in range(2):
        gradients = nnx.grad(lambda model: (model(x) ** 2).sum())(model)
        optimizer.update(model, gradients)
        updates, state = inner.update(nnx.as_pure(gradients), state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(
        nnx.to_pure_dict(nnx.state(model, nnx.Param)), nnx.to_pure_dict(params), rtol=1e-6
    )


def test_variables_in_the_place_of_a_chains_arrays_are_named():
    with pytest.raises(ValueError, match=r"pass nnx\.as_pure\(params\)"):
        enorm_step(nnx.state(Chain(nnx.Rngs(0)), nnx.Param))
