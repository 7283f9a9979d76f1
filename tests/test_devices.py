"""The program on machines this one is not: several devices, GPUs, TPUs."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jaxlib.xla_client import generate_pjrt_gpu_plugin_options

from enorm_jax import FullyConnected
from enorm_jax.data import load
from enorm_jax.methods import METHODS
from enorm_jax.program import compile_program, evaluate_runs, train_runs
from enorm_jax.ray_executor import _environment
from enorm_jax.recipe import Recipe, hyperparameters, init_states
from enorm_jax.timing import memory

DIGITS = load("digits")


def recipe(method="enorm+bn", precision="float32", width=8):
    return Recipe(
        model=FullyConnected(depth=2, width=width, norm=METHODS[method].norm, precision=precision),
        equalize=METHODS[method].equalize,
        standardization=DIGITS.standardization,
        batch_size=256,
        epochs=2,
        train_size=len(DIGITS.train_labels),
    )


def abstract(recipe, runs):
    seeds = jax.ShapeDtypeStruct((runs,), jnp.uint32)
    hyper = hyperparameters(runs, learning_rate=0.05, c=1.2, weight_decay=1e-3)
    images, labels = DIGITS.train_images, jnp.asarray(DIGITS.train_labels)
    states = jax.eval_shape(functools.partial(init_states, recipe), seeds, hyper, images[:1])
    return states, seeds, images, labels


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_epoch_and_evaluation_lower_for_accelerators_without_callbacks(platform, precision):
    own = recipe(precision=precision)
    states, seeds, images, labels = abstract(own, 3)
    static = {"static_argnums": 0, "static_argnames": "platform"}
    epoch = jax.jit(train_runs, donate_argnums=1, **static)
    test = jax.jit(evaluate_runs, **static)
    for traced in (
        epoch.trace(own, states, seeds, jnp.int32(0), images, labels, platform=platform),
        test.trace(own, states, images, labels, platform=platform),
    ):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "callback" not in text
        assert "dot_general" in text
        assert ("bf16" in text) == (precision == "bfloat16")


def test_an_epoch_moves_nothing_between_host_and_device():
    program = compile_program(recipe(), DIGITS, 2)
    seeds = jnp.arange(2, dtype=jnp.uint32)
    hyper = hyperparameters(2, learning_rate=0.05, c=1.2, weight_decay=1e-3)
    states, epoch = program.init(seeds, hyper), jnp.int32(0)
    with jax.transfer_guard("disallow"):
        states, losses = program.train(states, seeds, epoch)
        outcome = program.test(states)
        jax.block_until_ready((losses, outcome))


def test_predicted_memory_is_an_upper_bound_that_is_not_far_off():
    runs, width = 4, 256
    own = recipe(width=width)
    states, seeds, images, labels = abstract(own, runs)
    lowered = jax.jit(train_runs, static_argnums=0, donate_argnums=1).lower(
        own, states, seeds, jnp.int32(0), images, labels
    )
    exact = lowered.compile().memory_analysis()
    used = exact.argument_size_in_bytes + exact.temp_size_in_bytes
    predicted = sum(memory(2, width, 64, len(images), batch_size=256, runs=runs, at_once=1))
    assert used < predicted < 2 * used


FOUR = """
import jax, numpy as np
from test_devices import DIGITS, recipe
from enorm_jax.devices import runs_mesh
from enorm_jax.fit import fit
from enorm_jax.program import compile_program
from enorm_jax.recipe import hyperparameters
assert jax.device_count() == 4
def train(seeds):
    program = compile_program(recipe(), DIGITS, len(seeds))
    hyper = hyperparameters(len(seeds), learning_rate=0.05, c=1.2, weight_decay=1e-3)
    *_, last = fit(program, seeds, hyper, 2)
    return last
together = train(range(4))
kernel = together.states.params["layer_01"]["kernel"]
assert len({shard.device for shard in kernel.addressable_shards}) == 4
assert [len(runs_mesh(runs).devices) for runs in (1, 3, 5, 8)] == [1, 3, 1, 4]
alone = train([3])
jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[3]),
             alone.states, together.states)
np.testing.assert_array_equal(alone.losses[0], together.losses[3])
print("same")
"""


TWO = """
import jax, numpy as np
from enorm_jax.convolution import CONVOLUTIONS
from enorm_jax.layers import matmul_bfloat16
from enorm_jax.norms import normalize
P, key = jax.P, jax.random.key(0)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("shares",))
assert mesh.size == 2
def convolved(conv):
    return lambda x, kernel: conv(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
cases = [(matmul_bfloat16, (8, 5), (5, 4))]
cases += [(convolved(conv), (8, 4, 4, 3), (3, 3, 3, 2)) for conv in CONVOLUTIONS.values()]
for product, *shapes in cases:
    x, w = (jax.random.normal(key, shape) for shape in shapes)
    gradient = jax.grad(lambda x, w: jax.numpy.tanh(product(x, w)).sum(), (0, 1))
    specs = P("shares"), P()
    shared = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs)
    for found, want in zip(jax.jit(shared)(x, w), gradient(x, w)):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
def batch_norm(axis_name):
    def loss(x, scale, bias):
        return jax.numpy.tanh(normalize(x, scale, bias, 1e-5, axis_name)[0]).sum()
    return jax.grad(loss, (0, 1, 2))
x, scale, bias = (jax.random.normal(key, shape) for shape in [(8, 3), (3,), (3,)])
specs = P("shares"), P(), P()
shared = jax.shard_map(batch_norm("shares"), mesh=mesh, in_specs=specs, out_specs=specs)
for found, want in zip(jax.jit(shared)(x, scale, bias), batch_norm(None)(x, scale, bias)):
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
print("same")
"""


# Kernels that are sharded along one axis each: a unit's tensors lie differently.
EXPLICIT = """
import chex, jax, jax.numpy as jnp, optax
from jax.sharding import NamedSharding, PartitionSpec as P
from enorm_jax import energy, enorm_step, equi_normalize, infer_groups

def apply(params, x):
    whole = jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, P(*[None] * leaf.ndim)), params)
    for _ in range(2):
        x = jax.nn.relu(x @ whole["in"] + x[:, :1] * whole["bias"]) @ whole["out"]
    return x @ whole["head"]

keys = jax.random.split(jax.random.key(0), 3)
shapes = {"in": (8, 16), "out": (16, 8), "head": (8, 4)}
params = {n: jax.random.normal(k, shapes[n]) for n, k in zip(shapes, keys, strict=True)}
params["bias"] = jnp.zeros(16)
x = jnp.ones((2, 8))
mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
with jax.set_mesh(mesh):
    specs = {"in": P("data", None), "out": P("data", None), "head": P(None, "model"), "bias": P()}
    shared = {n: jax.device_put(leaf, NamedSharding(mesh, specs[n])) for n, leaf in params.items()}
    groups = infer_groups(apply, shared, jax.device_put(x, NamedSharding(mesh, P())))
    assert sum(group.size for group in groups) == 16 and not groups[0].loops
    optimizer = equi_normalize(optax.sgd(0.0, momentum=0.9), 1.1, groups=groups, p=3.5, cycles=2)
    updates, _ = optimizer.update(shared, optimizer.init(shared), shared)
    for new in (jax.jit(lambda p: enorm_step(p, 1.1, groups=groups, cycles=2, p=3.5))(shared),
                optax.apply_updates(shared, updates)):
        for name, leaf in new.items():
            assert leaf.sharding.is_equivalent_to(shared[name].sharding, leaf.ndim), name
        alone = enorm_step(params, 1.1, groups=groups, cycles=2, p=3.5)
        chex.assert_trees_all_close(jax.device_get(new), jax.device_get(alone), rtol=1e-5)
    both = {"in": shared["in"], "out": shared["head"]}  # of two groups, sharded across them
    both["in"] = jax.sharding.reshard(both["in"], P(None, "model"))
    both["out"] = jnp.ones((6, 4), out_sharding=P("data", None))
    both["out2"] = jnp.ones((10, 4), out_sharding=P("data", None))
    def fused(p, x):
        y = jax.nn.relu(x @ p["in"])
        return y[:, :6] @ p["out"] + 2 * (y[:, 6:] @ p["out2"])
plain = jax.tree.map(jnp.asarray, jax.device_get(both))
groups = infer_groups(fused, plain, x)
want = enorm_step(plain, 1.1, groups=groups)
with jax.set_mesh(mesh):
    new = enorm_step(both, 1.1, groups=groups)
    assert new["in"].sharding.spec == P(None, "model")
    chex.assert_trees_all_close(jax.device_get(new), jax.device_get(want), rtol=1e-5)
print("same")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "devices"), [(FOUR, 4), (TWO, 2), (EXPLICIT, 4)], ids=["runs", "gradients", "mesh"]
)
def test_devices_share_the_work_and_give_what_one_gives(program, devices):
    flags = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=200,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)} | flags,
    )  # fmt: skip
    assert done.stdout == "same\n", done.stderr


def test_processes_on_one_gpu_leave_each_other_memory(run_script, monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")
    for name, value in _environment(gpus=0.25).items():  # as Ray sets them on a node
        monkeypatch.setenv(name, value)
    options = generate_pjrt_gpu_plugin_options()  # refuses both names of the fraction
    assert options["memory_fraction"] == 0.225
    listed = ["experiments/fc_sweep.py", "--method", "bn", "--depths", "1", "--dataset", "digits",
              "--precision", "float32", "--out", tmp_path, "--dry-run"]  # fmt: skip
    preallocate = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.delenv(preallocate, raising=False)
    assert run_script(*listed)[0] == 0
    assert preallocate not in os.environ
    found = []  # when JAX is first asked for devices
    monkeypatch.setattr("train_cells.default_workers", lambda: found.append(os.environ.copy()) or 2)
    assert run_script(*listed, "--workers", "2")[0] == 0
    assert found[0][preallocate] == "false"
    monkeypatch.setenv(preallocate, "true")
    assert run_script(*listed, "--workers", "2")[0] == 0
    assert os.environ[preallocate] == "true"
