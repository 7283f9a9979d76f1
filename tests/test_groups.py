"""Laws of ENorm over groups, against the equation in float64 NumPy, and what groups refuse."""

import dataclasses
import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import networks
import reference
from enorm_jax import (
    Groups,
    RescalingGroup,
    Slot,
    cumulative_scales,
    energy,
    enorm_step,
    infer_groups,
    rescale,
)

NETWORKS = [
    networks.flattened_conv,
    networks.grouped_convs,
    networks.densely_connected,
    networks.recurrent,
    networks.stacked,
]
VARIANTS = [
    {"cycles": 3},
    {"order": "simultaneous", "p": 1, "cycles": 2},
    {"p": 60},
    {"p": jnp.inf},
]


def inferred(network):
    groups = infer_groups(network.apply, network.params, *network.inputs, check=False)
    return dataclasses.replace(groups, checked=True)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_follows_the_equation(variant):
    nets = [network() for network in NETWORKS]
    all_groups = [inferred(network) for network in nets]
    steps = jax.jit(
        lambda trees: [
            enorm_step(params, 1.2, groups=groups, **variant)
            for params, groups in zip(trees, all_groups, strict=True)
        ]
    )([network.params for network in nets])
    for network, groups, new in zip(nets, all_groups, steps, strict=True):
        tensors = {f"['{name}']": leaf for name, leaf in network.params.items()}
        want = reference.enorm_groups(tensors, groups, 1.2, **variant)
        got = {f"['{name}']": leaf for name, leaf in new.items()}
        chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-6)


def test_a_loop_alone_settles_without_raising_the_energy(rng):
    """The full step can raise it: both ends of each of its weights move at once."""
    slots = (Slot("['w']", (6, 6), (1,)),), (Slot("['w']", (6, 6), (0,)),)
    groups = Groups((RescalingGroup(6, *slots),), checked=True)
    step = jax.jit(lambda params: enorm_step(params, 1.0, groups=groups))
    for spread in (1, 3, 6):
        params = {"w": jnp.asarray(np.exp(spread * rng.normal(size=(6, 6))), jnp.float32)}
        for _ in range(30):
            new = step(params)
            assert float(energy(new, groups)) <= float(energy(params, groups)) * (1 + 1e-6)
            params = new


def test_the_fixed_point_is_the_least_energy(rng):
    network = networks.recurrent()
    groups = inferred(network)
    settled = enorm_step(network.params, 1.0, groups=groups, cycles=300)
    least = float(energy(settled, groups))
    for _ in range(20):
        scales = tuple(jnp.asarray(rng.uniform(0.9, 1.1, g.size), jnp.float32) for g in groups)
        assert float(energy(rescale(settled, scales, groups), groups)) >= least * (1 - 1e-6)


def test_gradients_follow_with_the_inverse_scales():
    network = networks.stacked()
    groups = inferred(network)

    def loss(params):
        return jnp.sum(network.apply(params, *network.inputs) ** 2)

    @jax.jit
    def both(params):
        scales = cumulative_scales(params, 1.2, groups=groups)
        inverse = jax.tree.map(jnp.reciprocal, scales)
        moved = jax.grad(loss)(rescale(params, scales, groups))
        return moved, rescale(jax.grad(loss)(params), inverse, groups)

    chex.assert_trees_all_close(*both(network.params), rtol=1e-3, atol=1e-3)


def test_vmap_scan_grad_and_a_static_argument():
    network = networks.gated()
    groups = inferred(network)
    step = jax.jit(chex.assert_max_traces(enorm_step, n=1), static_argnames="groups")
    once = step(network.params, 1.2, groups=groups)
    twice = step(once, 1.2, groups=dataclasses.replace(groups))

    @jax.jit
    def otherwise(params, seeds, dead):
        def scanned(p, _):
            return enorm_step(p, 1.2, groups=groups), None

        def total(p):
            return sum(map(jnp.sum, enorm_step(p, groups=groups).values()))

        together = jax.vmap(lambda p: enorm_step(p, 1.2, groups=groups))(seeds)
        return together, jax.lax.scan(scanned, params, length=2)[0], jax.grad(total)(dead)

    seeds = jax.tree.map(lambda *leaves: np.stack(leaves), network.params, once)
    dead = network.params | {"a": network.params["a"].at[..., 1].set(0)}
    together, scanned, gradient = otherwise(network.params, seeds, dead)
    want = jax.tree.map(lambda *leaves: np.stack(leaves), once, twice)
    chex.assert_trees_all_close(together, want, rtol=1e-5)
    chex.assert_trees_all_close(scanned, twice, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in gradient.values())


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from enorm_jax import enorm_step, infer_groups

params = {"a": jnp.arange(1.0, 7.0).reshape(2, 3), "b": jnp.arange(1.0, 13.0).reshape(3, 4)}
apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
groups = infer_groups(apply, params, jnp.ones((1, 2)))
step = lambda params: enorm_step(params, 1.2, groups=groups)
seeds = jax.tree.map(lambda leaf: jnp.stack([leaf * k for k in range(1, 5)]), params)
mesh = Mesh(jax.devices(), "seed")
sharded = jax.jit(jax.shard_map(jax.vmap(step), mesh=mesh, in_specs=P("seed"), out_specs=P("seed")))
got, want = sharded(seeds), jax.vmap(step)(seeds)
assert len(jax.devices()) == 4
assert len(got["a"].sharding.device_set) == 4
for name in params:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-6)
"""


@pytest.mark.slow
def test_seeds_sharded_over_devices():
    flags = "--xla_force_host_platform_device_count=4"
    environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", SHARDED], check=True, env=os.environ | environment)


def test_layers_stacked_in_one_tensor_cost_what_they_cost_apart():
    """Each of its groups computes with its own layer, not with all."""
    up, down, head, x = jnp.ones((8, 4, 6)), jnp.ones((8, 6, 4)), jnp.ones((4, 3)), jnp.ones((1, 4))

    def layer(x, weights):
        return x + jax.nn.relu(x @ weights[0]) @ weights[1], None

    def stacked(params, x):
        return jax.lax.scan(layer, x, (params["up"], params["down"]))[0] @ params["head"]

    def apart(params, x):
        for pair in params["layers"]:
            x, _ = layer(x, pair)
        return x @ params["head"]

    def work(apply, params):
        groups = infer_groups(apply, params, x)
        assert len(groups) == 8
        program = jax.jit(lambda params: enorm_step(params, 1.2, groups=groups))
        return program.lower(params).compile().cost_analysis()["flops"]

    whole = work(stacked, {"up": up, "down": down, "head": head})
    assert whole < 1.5 * work(apart, {"layers": list(zip(up, down, strict=True)), "head": head})


def test_groups_refuse_what_they_do_not_fit():
    network = networks.tied()
    groups = inferred(network)
    with pytest.raises(ValueError, match="have not passed a check"):
        enorm_step(network.params, groups=dataclasses.replace(groups, checked=False))
    without = {name: leaf for name, leaf in network.params.items() if name != "c"}
    with pytest.raises(ValueError, match=r"\['c'\], and these params have"):
        enorm_step(without, groups=groups)
    with pytest.raises(ValueError, match=r"\['c'\] has shape \(3, 7\).*\(3, 6\)"):
        enorm_step(network.params | {"c": jnp.ones((3, 7))}, groups=groups)
    with pytest.raises(ValueError, match=r"\('c', 6\).*one vector per group"):
        rescale(network.params, (jnp.ones(5),), groups)


def test_groups_are_an_immutable_sequence():
    groups = inferred(networks.residual())
    assert hash(groups) == hash(inferred(networks.residual()))
    assert groups == inferred(networks.residual())
    assert [group.size for group in groups] == [group.size for group in groups[:]]
    with pytest.raises(dataclasses.FrozenInstanceError):
        groups.checked = False
