"""ENorm on networks of every house, as the tutorial scripts and the page beside them show it."""

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "own_network"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def lenient():
    """Other libraries do not pass this suite's strictness."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


BALANCED = {
    "plain_pytree": ["0/w[1]", "2/w[0]"],
    "flax_linen": ["BatchNorm_0/scale[0]", "Dense_0/kernel[0]"],
    "flax_nnx": ["norm/scale[0]", "logits/kernel[0]"],
    "equinox_net": ["layers/0/weight[0]", "layers/6/weight[1]"],
    "haiku_net": ["conv2_d/w[3]", "depthwise_conv2_d/w[3]"],
    "resnet": ["skip_1/kernel[3]", "second_2/kernel[3]", "logits/kernel[0]"],
}


@pytest.mark.slow
@pytest.mark.parametrize("script", BALANCED)
@pytest.mark.usefixtures("lenient")
def test_a_script_explains_its_groups_and_learns(script, capsys):
    losses = runpy.run_path(str(FOLDER / f"{script}.py"))["main"](8)
    assert np.mean(losses[-3:]) < losses[0]
    table = capsys.readouterr().out.partition("left alone")[0]
    for tensor in BALANCED[script]:
        assert tensor in table


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")
def test_the_page_runs_and_prints_what_it_shows():
    scope: dict = {}
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", PAGE, flags=re.DOTALL)
    assert len(blocks) == PAGE.count("```python") >= 7
    for code, shown in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, "network.py", "exec"), scope)
        assert [line.rstrip() for line in printed.getvalue().splitlines()] == shown.splitlines()


def test_every_script_is_on_the_page():
    assert set(re.findall(r"\]\((\w+)\.py\)", PAGE)) == {path.stem for path in FOLDER.glob("*.py")}


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from functools import partial
from jax.sharding import PartitionSpec as P
from enorm_jax import equi_normalize

assert jax.device_count() == 4
keys = jax.random.split(jax.random.key(0), 3)
net = {f"layer_{k:02d}": {"kernel": jax.random.normal(key, s), "bias": jnp.zeros(s[1])}
       for k, (key, s) in enumerate(zip(keys, [(4, 6), (6, 5), (5, 3)]))}
x, y = jax.random.normal(jax.random.key(1), (8, 4)), jnp.arange(8) % 3
optimizer = equi_normalize(optax.sgd(0.1, momentum=0.9), c=1.2, every=2, bias="gauge")

def loss(params, x, y):
    for name in ("layer_00", "layer_01"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
    logits = x @ params["layer_02"]["kernel"] + params["layer_02"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

def train(params, state, x, y, mean=lambda grads: grads):
    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(mean(jax.grad(loss)(params, x, y)), state, params)
        return (optax.apply_updates(params, updates), state), None
    return jax.lax.scan(step, (params, state), length=4)[0][0]

def close(a, b):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), a, b)

mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
shard = partial(jax.shard_map, mesh=mesh)
mean = lambda grads: jax.lax.pmean(grads, "i")
by_batch = shard(partial(train, mean=mean), in_specs=(P(), P(), P("i"), P("i")),
                 out_specs=P(), check_vma=False)
state = optimizer.init(net)
seeds = jax.tree.map(lambda leaf: jnp.stack([leaf * s for s in (0.5, 1, 2, 3)]), net)
states = jax.vmap(optimizer.init)(seeds)
each = jax.vmap(train, (0, 0, None, None))
by_seed = shard(each, in_specs=(P("i"), P("i"), P(), P()), out_specs=P("i"))
want = jax.jit(each)(seeds, states, x, y)
close(jax.jit(by_seed)(seeds, states, x, y), want)
own = jax.jit(by_batch)(net, state, x, y)
close(own, jax.tree.map(lambda leaf: leaf[1], want))
"""


@pytest.mark.slow
def test_four_devices_share_the_batch_or_the_seeds():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], capture_output=True, text=True, env=os.environ | flags
    )
    assert done.returncode == 0, done.stderr
