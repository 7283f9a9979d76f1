"""Groups that are inferred: the right units, the function unchanged, the energy never higher."""

import collections
import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linen_networks
import networks
from enorm_jax import (
    FullyConnected,
    check,
    energy,
    enorm_step,
    equi_normalize,
    explain,
    infer_groups,
    rescale,
)
from enorm_jax.methods import STUDY, make_method


def balanced(groups):
    """How many units of each tensor are balanced."""
    count = collections.Counter()
    for group in groups:
        for slot in group.producers + group.vectors:
            count[slot.name] += len(np.unique(slot.units[slot.units >= 0]))
    return dict(count)


def relative_change(before, after):
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return max(
        float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-30)) for a, b in pairs
    )


def random_scales(groups, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.uniform(0.4, 2.5, group.size), jnp.float32) for group in groups)


def assert_right(network):
    groups = infer_groups(network.apply, network.params, *network.inputs, check=False)
    assert balanced(groups) == network.balanced, explain(groups)
    reasons = collections.defaultdict(str)
    for left in groups.left_alone:
        reasons[left.path.strip("[]'").replace("']['", "/")] += left.reason
    for name, reason in network.left.items():
        assert reason in reasons[name], explain(groups)
    outputs, energies = run(network, dataclasses.replace(groups, checked=True))
    for k in (1, 2):  # rescaled at random; rescaled and balanced
        assert relative_change(*(jax.tree.map(lambda o, k=k: o[k], outputs) for k in (0, k))) < 1e-5
    assert (np.diff(energies) <= 1e-6 * energies[:-1]).all()
    assert energies[-1] < 0.999 * energies[0]
    return groups


def run(network, groups):
    """Outputs before, after a random rescaling and after cycles; the energies of the cycles."""

    @jax.jit
    def everything(params, scales):
        def cycle(params, _):
            return enorm_step(params, 1.0, groups=groups), energy(params, groups)

        scaled = rescale(params, scales, groups)
        settled, energies = jax.lax.scan(cycle, scaled, length=5)
        nets = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, scaled, settled)
        return jax.lax.map(lambda params: network.apply(params, *network.inputs), nets), energies

    outputs, energies = everything(network.params, random_scales(groups))
    return outputs, np.asarray(energies)


@pytest.mark.parametrize("network", networks.PLAIN + linen_networks.LINEN, ids=lambda f: f.__name__)
def test_units_of_a_network(network):
    assert_right(network())


@pytest.mark.slow
def test_resnet_18_of_the_imagenet_example():
    """Each BN's scale and shift feed units; of a stage's blocks and skip, the same ones."""
    for train in (False, True):
        module = linen_networks.RESNET_18(filters=4, classes=3, train=train)
        network = linen_networks.linen(module, networks.normal(2, 64, 64, 3), balanced={})
        groups = infer_groups(network.apply, network.params, *network.inputs, check=False)
        assert balanced(groups) == norms_of(network.params)
        assert [len(group.producers) for group in groups] == [3, 1, 1] + [1, 3, 1] * 3
    assert_right(dataclasses.replace(network, balanced=norms_of(network.params)))


def test_resnet_50_of_the_imagenet_example_is_inferred_from_shapes_alone():
    module = linen_networks.RESNET_50(train=True)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)

    def apply(variables, x):
        return module.apply(variables, x, mutable=["batch_stats"])

    def apply_params(params, statistics, x):
        return apply({"params": params, "batch_stats": statistics}, x)

    groups = infer_groups(
        apply_params, variables["params"], variables["batch_stats"], x, check=False
    )
    assert balanced(groups) == norms_of(variables["params"])
    assert [group.size for group in groups if len(group.producers) > 1] == [256, 512, 1024, 2048]
    assert all(slot.table is None for group in groups for slot in group.producers)


def norms_of(params):
    """Scales and shifts of all batch norms, and their units."""
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    sizes = {jax.tree_util.keystr(k, simple=True, separator="/"): leaf.shape for k, leaf in flat}
    return {name: shape[0] for name, shape in sizes.items() if "norm" in name.lower()}


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("method", [*map(make_method, STUDY)], ids=STUDY)
def test_fully_connected_networks_of_the_study(method, train, use_bias):
    model = FullyConnected(depth=12, width=4, classes=3, norm=method.norm, use_bias=use_bias)
    network = linen_networks.linen(model, networks.normal(3, 2, 2), balanced={}, train=train)
    groups = infer_groups(network.apply, network.params, *network.inputs, check=False)
    names = [f"layer_{k:02d}" for k in range(13)]
    assert [len(group.producers) for group in groups] == [1] * 13
    if method.norm is None:
        assert [group.producers[0].name for group in groups] == [f"{n}/kernel" for n in names]
        assert len(groups[0].vectors) == use_bias
        chained = enorm_step(network.params, 1.2)
        grouped = enorm_step(network.params, 1.2, groups=dataclasses.replace(groups, checked=True))
        chex.assert_trees_all_equal(grouped, chained)
    else:
        scales = [f"norm_{k:02d}/scale" for k in range(13)]
        assert [group.producers[0].name for group in groups] == scales
        assert [len(group.vectors) for group in groups] == [1] * 13


def test_names_do_not_tell_the_order():
    """Dense_10 comes before Dense_2 as a string; groups come as the network computes them."""

    def apply(params, x):
        for k in range(12):
            x = jax.nn.relu(x @ params[f"Dense_{k}"])
        return x @ params["a"]

    params = {f"Dense_{k}": networks.normal(3, 3, seed=k) for k in range(12)}
    groups = infer_groups(apply, params | {"a": jnp.ones((3, 1))}, jnp.ones((1, 3)), check=False)
    assert [group.producers[0].name for group in groups] == [f"Dense_{k}" for k in range(12)]


def test_running_statistics_that_are_still_zero_count_as_data():
    """They are 0 and 1 at first, when the norm is a mere product; later they are not."""
    mean, kernel = jnp.zeros(3), networks.normal(2, 3)

    def apply(params, x):
        return jax.nn.relu((x @ params["a"] - mean[None]) * params["scale"][None]) @ params["b"]

    params = {"a": kernel, "scale": jnp.ones(3), "b": kernel.T}
    groups = infer_groups(apply, params, jnp.ones((1, 2)), check=False)
    assert balanced(groups) == {"scale": 3}


def test_unknown_operations_fix_what_they_touch():
    def apply(params, x):
        h = jax.nn.relu(x @ params["a"])
        h = jax.lax.while_loop(lambda h: h.sum() < 1, lambda h: 2 * h, h)
        return jax.nn.relu(h @ params["b"]) @ params["c"]

    params = networks.tensors(a=(2, 3), b=(3, 4), c=(4, 2))
    groups = infer_groups(apply, params, jnp.ones((1, 2)), check=False)
    assert balanced(groups) == {"b": 4}
    assert "while" in explain(groups)


def two_layers(params, x):
    return jax.nn.relu(x @ params["a"] + params["bias"][None]) @ params["b"]


def test_check_finds_wrong_groups_and_names_their_tensors():
    params = {"a": networks.normal(2, 3), "bias": jnp.zeros(3), "b": networks.normal(3, 2)}
    x = jnp.ones((1, 2))
    groups = infer_groups(two_layers, params, x)
    assert groups.checked
    with pytest.raises(ValueError, match=r"changes the function: group 0 \(a, b, bias\)"):
        check(lambda params, x: two_layers(params, x) + params["a"][0, 0], params, groups, x)
    (group,) = groups
    forgotten = dataclasses.replace(
        groups, groups=(dataclasses.replace(group, vectors=()),), checked=False
    )
    with pytest.raises(ValueError, match="group 0"):  # though the bias is zero now
        check(two_layers, params, forgotten, x)
    with pytest.raises(ValueError, match="not finite"):
        check(two_layers, params | {"bias": jnp.full(3, jnp.nan)}, groups, x)


def test_an_order_that_depends_on_data_is_not_known():
    """The kernels lie in order for these inputs, and the check would pass wrong groups."""

    def apply(params, x):
        kernel = params["experts"][jnp.argsort(x.mean(0))]
        hidden = jax.nn.relu(jnp.einsum("bi,eio->beo", x, kernel))
        return jnp.einsum("beo,eoc->bc", hidden, params["heads"])

    params = networks.tensors(experts=(2, 2, 4), heads=(2, 4, 1))
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    groups = infer_groups(apply, params, x)
    scaled = rescale(params, random_scales(groups), groups)
    for inputs in (x, x[:, ::-1]):
        np.testing.assert_allclose(apply(scaled, inputs), apply(params, inputs), rtol=1e-4)


def test_python_numbers_are_parameters_too():
    def apply(params, x):
        return jax.nn.relu(x @ params["a"]) * params["alpha"] @ params["b"]

    params = networks.tensors(a=(3, 1), b=(1, 2)) | {"alpha": 2.0}
    assert balanced(infer_groups(apply, params, jnp.ones((2, 3)))) == {"a": 1, "alpha": 1}


def test_what_cannot_be_checked_says_so():
    params, x = networks.tensors(a=(2, 3), bias=(3,), b=(3, 2)), jnp.ones((1, 2))
    with pytest.raises(ValueError, match="only shapes: pass arrays, or"):
        infer_groups(two_layers, jax.eval_shape(lambda: params), x)
    with pytest.raises(ValueError, match="once, outside of jit"):
        jax.jit(lambda params: len(infer_groups(two_layers, params, x)))(params)


def test_a_part_of_a_tensor_is_told_by_its_indices():
    params = networks.tensors(both=(3, 9), out=(4, 2), out2=(5, 2))

    def apply(p, x):
        y = x @ p["both"]
        return jax.nn.relu(y[:, :4]) @ p["out"] + jnp.tanh(y[:, 4:]) @ p["out2"]

    text = explain(infer_groups(apply, params, jnp.ones((1, 3))))
    assert "both[1 at 0-3]  out[0]" in text
    assert "out, out2   2      output of the network" in text


@pytest.mark.parametrize("scanned", [False, True])
def test_a_recurrent_kernel_is_left_alone_for_what_its_cell_does(scanned):
    params, x = networks.tensors(into=(3, 4), loop=(4, 4), out=(4, 2)), jnp.ones((5, 2, 3))

    def apply(p, x):
        def cell(state, x):
            return jnp.tanh(x @ p["into"] + state @ p["loop"]), None

        state = jnp.zeros((2, 4))
        if scanned:
            return jax.lax.scan(cell, state, x)[0] @ p["out"]
        for step in x:
            state, _ = cell(state, step)
        return state @ p["out"]

    left = infer_groups(apply, params, x).left_alone
    assert [tensor.path for tensor in left] == ["['into']", "['loop']", "['out']"]
    assert ["tanh" in tensor.reason for tensor in left] == [True, True, False]


def test_many_tensors_of_one_cause_stand_on_several_lines():
    names = [f"kernel_of_layer_{k:02d}" for k in range(12)]
    params = networks.tensors(**dict.fromkeys(names, (4, 4)))

    def apply(p, x):
        return sum(x @ p[name] for name in names)

    text = explain(infer_groups(apply, params, jnp.ones((1, 4))))
    assert all(name in text for name in names)
    assert max(map(len, text.splitlines())) < 120


def test_what_is_no_tree_of_trained_parameters_is_refused():
    params, x = networks.tensors(a=(2, 3), bias=(3,), b=(3, 2)), jnp.ones((1, 2))
    with pytest.raises(ValueError, match=r"one array and no input.*infer_groups_nnx"):
        infer_groups(lambda x: two_layers(params, x), x)
    flat = infer_groups(lambda flat, x: jax.nn.relu(x @ flat), jnp.ones((2, 3)), x)
    assert flat.checked
    variables = {"params": params, "batch_stats": {"mean": jnp.ones(3)}}
    with pytest.raises(ValueError, match=r"batch_stats is not trained: pass variables\['params"):
        infer_groups(lambda variables, x: two_layers(variables["params"], x), variables, x)
    wrapped = equi_normalize(optax.sgd(0.1), c=1.2)
    for call in (
        infer_groups,
        lambda _, params, x: enorm_step(params),
        lambda _, params, x: wrapped.init(params),
    ):
        with pytest.raises(ValueError, match=r"hold a custom_jvp at act: .*eqx\.partition"):
            call(two_layers, params | {"act": jax.nn.relu6}, x)
    named = {"params": params, "temperature": jnp.ones(())}
    groups = infer_groups(
        lambda named, x: two_layers(named["params"], x) / named["temperature"], named, x
    )
    assert [group.size for group in groups] == [3]


def test_check_does_not_pass_what_it_cannot_tell():
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    groups = infer_groups(
        lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 3)), check=False
    )

    def saturates(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    with pytest.raises(ValueError, match="changes it by"):
        check(saturates, params, groups, jnp.zeros((2, 3)))

    def off(params, x):  # a last ReLU
        return jax.nn.relu(saturates(params, x))

    with pytest.raises(ValueError, match="changes it by"):
        check(off, params, groups, -jnp.ones((2, 3)))
    for apply, x in (
        (saturates, jnp.ones((0, 3))),
        (lambda params, x: 0 * saturates(params, x), jnp.ones((2, 3))),
        (lambda params, x: jnp.argmax(saturates(params, x), -1), jnp.ones((2, 3))),
    ):
        with pytest.raises(ValueError, match="nothing can be checked"):
            check(apply, params, groups, x)


def test_check_is_exact_in_low_precision():
    params = networks.tensors(a=(4, 64), bias=(64,), b=(64, 3))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert infer_groups(two_layers, params, jnp.ones((2, 4), jnp.bfloat16)).checked


def test_a_network_without_a_free_unit_is_refused_with_the_reason():
    params = networks.tensors(a=(2, 3), bias=(3,), b=(3, 2))

    def apply(params, x):
        return jnp.tanh(x @ params["a"] + params["bias"][None]) @ params["b"]

    groups = infer_groups(apply, params, jnp.ones((1, 2)))
    assert len(groups) == 0
    with pytest.raises(ValueError, match=r"no hidden unit.*a \(tanh"):
        enorm_step(params, groups=groups)


def test_parameters_that_are_not_used_or_not_real_are_left_alone():
    params = networks.tensors(a=(2, 3), bias=(3,), b=(3, 2), spare=(2,)) | {"steps": jnp.int32(3)}

    def apply(params, x):
        return two_layers(params, x) * params["steps"].astype(jnp.float32)

    groups = infer_groups(apply, params, jnp.ones((1, 2)))
    assert [left.path for left in groups.left_alone if "not used" in left.reason] == [
        "['spare']",
        "['steps']",
    ]
    assert enorm_step(params, groups=groups)["steps"].dtype == jnp.int32
