"""Inference on networks put together at random: rescaling leaves their function as it is."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import networks
from enorm_jax import infer_groups, rescale
from networks import conv, relu

WIDTH = 4
OPERATIONS = {
    "dense": lambda x, w, v, y, z: x @ w,
    "conv": lambda x, w, v, y, z: conv(x, jnp.broadcast_to(w[None, None], (1, 1, *w.shape))),
    "depthwise": lambda x, w, v, y, z: conv(x, w[None, :, None], feature_group_count=WIDTH),
    "grouped": lambda x, w, v, y, z: conv(x, w[None, None, :2], feature_group_count=2),
    "transposed": lambda x, w, v, y, z: x @ w.T,
    "einsum": lambda x, w, v, y, z: jnp.einsum("bhwc,ch->bhwc", x, w[:, : x.shape[1]]),
    "outer": lambda x, w, v, y, z: (x[..., None] * w[None, None, None]).sum(-2),
    "mix_pixels": lambda x, w, v, y, z: jnp.einsum("bhwc,hk->bkwc", x, w[:2, :2]),
    "bias": lambda x, w, v, y, z: x + v[None, None, None],
    "scale": lambda x, w, v, y, z: x * v[None, None, None],
    "one_scale": lambda x, w, v, y, z: x * v[0],
    "prelu": lambda x, w, v, y, z: jnp.where(x > 0, x, x * v[None, None, None]),
    "relu": lambda x, w, v, y, z: relu(x),
    "leaky": lambda x, w, v, y, z: jax.nn.leaky_relu(x),
    "abs": lambda x, w, v, y, z: jnp.abs(x),
    "shrink": lambda x, w, v, y, z: 0.5 * x,
    "add": lambda x, w, v, y, z: x + y,
    "add_input": lambda x, w, v, y, z: x + z,
    "gate": lambda x, w, v, y, z: x * y,
    "sigmoid_gate": lambda x, w, v, y, z: x * jax.nn.sigmoid(y),
    "maximum": lambda x, w, v, y, z: jnp.maximum(x, y),
    "maximum_of_channels": lambda x, w, v, y, z: (
        x.max(-1, keepdims=True) * jnp.ones(WIDTH)[None, None, None]
    ),
    "choose": lambda x, w, v, y, z: jnp.where(x > y, x, -y),
    "divide": lambda x, w, v, y, z: x / (1 + jnp.abs(y)),
    "tanh": lambda x, w, v, y, z: jnp.tanh(x),
    "clip": lambda x, w, v, y, z: jnp.clip(x, 0, 2),
    "normalize": lambda x, w, v, y, z: (x - x.mean()) / (1 + x.var()),
    "concatenate": lambda x, w, v, y, z: jnp.concatenate([x[..., :1], y[..., 1:3], z[..., :1]], -1),
    "reverse": lambda x, w, v, y, z: x[..., ::-1],
    "roll": lambda x, w, v, y, z: jnp.roll(x, 1, -1),
    "shuffle": lambda x, w, v, y, z: (
        x.reshape(*x.shape[:-1], 2, 2).swapaxes(-1, -2).reshape(x.shape)
    ),
    "mix_reshape": lambda x, w, v, y, z: x.transpose(0, 3, 1, 2).reshape(x.shape),
    "max_pool": lambda x, w, v, y, z: jnp.repeat(jnp.repeat(networks.max_pool(x), 2, 1), 2, 2),
    "mean": lambda x, w, v, y, z: x - x.mean((1, 2), keepdims=True),
    "stack": lambda x, w, v, y, z: jnp.stack([x, y, z]).max(0),
    "unstack": lambda x, w, v, y, z: sum(jnp.unstack(x @ w, axis=1))[:, None] + x,
    "tile": lambda x, w, v, y, z: jnp.tile(x[..., :2], (1, 1, 1, 2)),
    "set": lambda x, w, v, y, z: x.at[:, 0, :, 1:].set(y[:, 1, :, :3]),
    "add_at": lambda x, w, v, y, z: x.at[..., 1:].add(y[..., :3]),
    "segments": lambda x, w, v, y, z: jax.ops.segment_sum(x, (z[:, 0, 0, 0] > 0).astype(int), 2),
    "update": lambda x, w, v, y, z: jax.lax.dynamic_update_slice(
        x, y[..., :2], (0, 0, 0, (z[0, 0, 0, 0] > 0).astype(int))
    ),
    "by_load": lambda x, w, v, y, z: x @ w[jnp.argsort(y.mean((0, 1, 2)))],
    "input_scale": lambda x, w, v, y, z: x + (z * v[None, None, None]) @ w,
    "sort": lambda x, w, v, y, z: jnp.sort(x, 1),
    "attend": lambda x, w, v, y, z: jnp.einsum("bhwc,bwk->bhkc", x, jax.nn.softmax(y[:, 0, :, :2])),
    "bilinear": lambda x, w, v, y, z: jnp.einsum("bhwc,bhwd->bhwd", x, y),
    "standardized": lambda x, w, v, y, z: x @ ((w - w.mean(0, keepdims=True)) / (1 + w.std())),
    "weight_norm": lambda x, w, v, y, z: (
        x @ (v[None] * w / jnp.linalg.norm(w, axis=0, keepdims=True))
    ),
    "masked": lambda x, w, v, y, z: x @ jnp.triu(w),
    "tied_product": lambda x, w, v, y, z: x @ (w @ w.T),
    "branch": lambda x, w, v, y, z: jax.lax.cond(z.sum() > 0, lambda: x @ w, lambda: y * 2),
    "scan": lambda x, w, v, y, z: jax.lax.scan(lambda h, k: (relu(h @ w), None), x, None, length=2)[
        0
    ],
}
step = st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 3), st.integers(0, 5))


def network(program):
    def apply(params, z):
        history = [relu(z @ params["w"][0])]
        for name, leaf, back in program:
            other = history[max(-1 - back, -len(history))]
            x = OPERATIONS[name](history[-1], params["w"][leaf], params["v"][leaf], other, z)
            history.append(x)
        return relu(history[-1].mean((1, 2)) @ params["out"]) @ params["last"]

    w, v = networks.normal(4, WIDTH, WIDTH) / 2, 1 + 0.3 * networks.normal(4, WIDTH)
    params = {
        "w": list(w),
        "v": list(v),
        "out": networks.normal(WIDTH, 3),
        "last": networks.normal(3, 2),
    }
    return apply, params


@settings(max_examples=30)
@given(program=st.lists(step, min_size=1, max_size=7))
def test_rescaling_what_is_inferred_leaves_a_random_network_as_it_is(program):
    apply, params = network(program)
    x = networks.normal(2, 2, 2, WIDTH)
    groups = infer_groups(apply, params, x, check=False)
    rng = np.random.default_rng(0)
    scales = tuple(jnp.asarray(2.0 ** rng.integers(-3, 4, g.size), jnp.float32) for g in groups)
    before = apply(params, x)
    after = apply(rescale(params, scales, groups), x)
    assert groups.groups
    np.testing.assert_allclose(
        after, before, rtol=0, atol=1e-5 * float(jnp.abs(before).max()) + 1e-30
    )
