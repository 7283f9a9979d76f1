"""Networks whose rescaling groups are known by hand."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

relu = jax.nn.relu
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Network:
    """A function, its parameters and inputs, and how many units of each tensor are balanced."""

    apply: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    balanced: dict[str, int]
    left: dict[str, str] = dataclasses.field(default_factory=dict)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def tensors(**shapes):
    """Random tensors by name."""
    return {name: normal(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())}


def conv(x, kernel, **kwargs):
    settings = {"window_strides": (1, 1), "padding": "SAME"} | kwargs
    return lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings
    )


def max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


def flattened_conv():
    """Each channel owns h * w rows of the dense kernel; stride, dilation, pooling in between."""
    params = tensors(a=(3, 3, 2, 4), ab=(4,), b=(3, 3, 4, 5), c=(20, 3))

    def apply(p, x):
        x = max_pool(relu(conv(x, p["a"], window_strides=(2, 2)) + p["ab"][None, None, None]))
        x = relu(conv(x, p["b"], rhs_dilation=(2, 2)))
        return x.reshape(x.shape[0], -1) @ p["c"]

    return Network(apply, params, (normal(2, 8, 8, 2),), {"a": 4, "ab": 4, "b": 5})


def channels_first():
    """NCHW, a global mean, and a kernel transposed on its way."""
    params = tensors(a=(4, 2, 3, 3), b=(5, 4), c=(5, 3))

    def apply(p, x):
        x = relu(lax.conv_general_dilated(x, p["a"], (1, 1), "VALID")).mean((2, 3))
        return relu(x @ p["b"].T) @ p["c"]

    return Network(apply, params, (normal(2, 2, 6, 6),), {"a": 4, "b": 5})


def grouped_convs():
    """Grouped, depthwise and transposed convolutions."""
    params = tensors(a=(1, 1, 2, 6), b=(3, 3, 3, 8), c=(3, 3, 1, 16), d=(3, 3, 16, 4), e=(4, 2))

    def apply(p, x):
        x = relu(conv(x, p["a"]))
        x = relu(conv(x, p["b"], feature_group_count=2))
        x = relu(conv(x, p["c"], feature_group_count=8))
        x = relu(lax.conv_transpose(x, p["d"], (2, 2), "SAME"))
        return x.sum((1, 2)) @ p["e"]

    balanced = {"a": 6, "b": 8, "c": 16, "d": 4}
    return Network(apply, params, (normal(1, 4, 4, 2),), balanced)


def densely_connected():
    """Concatenation: a kernel reads the units of several layers, and of the input."""
    params = tensors(a=(2, 3), b=(5, 4), c=(9, 5), d=(14, 2))

    def apply(p, x):
        for name in "abc":
            x = jnp.concatenate([x, relu(x @ p[name])], -1)
        return x @ p["d"]

    return Network(apply, params, (normal(3, 2),), {"a": 3, "b": 4, "c": 5})


def residual():
    """Pre-activation blocks with an identity and a learned skip, and zero-padded channels."""
    params = tensors(
        stem=(3, 4),
        a=(4, 6),
        b=(6, 4),
        c=(4, 6),
        d=(6, 5),
        skip=(4, 5),
        e=(5, 7),
        f=(7, 8),
        g=(8, 2),
    )

    def apply(p, x):
        x = x @ p["stem"]
        x = x + relu(relu(x) @ p["a"]) @ p["b"]
        x = x @ p["skip"] + relu(relu(x) @ p["c"]) @ p["d"]
        x = jnp.pad(x, ((0, 0), (1, 2))) + relu(relu(x) @ p["e"]) @ p["f"]
        return relu(x) @ p["g"]

    units = {"stem": 4, "a": 6, "b": 4, "c": 6, "d": 5, "skip": 5, "e": 7, "f": 8}
    return Network(apply, params, (normal(3, 3),), units)


def recurrent():
    """An RNN by scan: the recurrent kernel is on both sides of one group."""
    params = tensors(into=(3, 5), loop=(5, 5), bias=(5,), out=(5, 2))

    def apply(p, xs):
        def turn(h, x):
            return relu(x @ p["into"] + h @ p["loop"] + p["bias"]), None

        h, _ = lax.scan(turn, jnp.zeros(5), xs)
        return h @ p["out"]

    return Network(apply, params, (normal(4, 3),), {"into": 5, "loop": 5, "bias": 5})


def stacked():
    """Layers as one array with a leading axis, scanned over and checkpointed."""
    params = tensors(a=(3, 4), layers=(5, 4, 4), biases=(5, 4), b=(4, 2))

    def apply(p, x):
        def layer(x, now):
            return relu(x @ now[0] + now[1][None]), x.sum()

        x, _ = lax.scan(jax.checkpoint(layer), relu(x @ p["a"]), (p["layers"], p["biases"]))
        return x @ p["b"]

    return Network(apply, params, (normal(3, 3),), {"a": 4, "layers": 20, "biases": 20})


def indexed_layers():
    """The same, by a loop that indexes; the stack of units is read at the end."""
    params = tensors(layers=(3, 4, 4), b=(12, 2))

    def apply(p, x):
        def layer(k, state):
            x, all_units = state
            x = relu(x @ lax.dynamic_index_in_dim(p["layers"], k, keepdims=False))
            return x, all_units

        x, _ = lax.fori_loop(0, 3, layer, (x, 0.0))
        last = jnp.concatenate([x, jnp.flip(x, -1), x[:, 1:3], x[:, ::2]], -1)
        return last @ p["b"]

    return Network(apply, params, (normal(3, 4),), {"layers": 12})


def tied():
    """A kernel used again, transposed: the units that it would scale are fixed."""
    params = tensors(a=(3, 5), b=(5, 4), bias=(3,), c=(3, 6), d=(6, 2))

    def apply(p, x):
        h = relu(x @ p["a"])
        code = relu(h @ p["b"])
        decoded = relu(code @ p["b"].T) @ p["a"].T + p["bias"][None]
        return relu(decoded @ p["c"]) @ p["d"]

    left = {"a": "second use of a parameter", "b": "second use of a parameter"}
    return Network(apply, params, (normal(2, 3),), {"c": 6}, left)


def gated():
    """A product of two branches: the scale of one of them is free."""
    params = tensors(a=(3, 4), gate=(3, 4), b=(4, 5), gate2=(3, 5), c=(5, 2))

    def apply(p, x):
        h = relu(x @ p["a"]) * relu(x @ p["gate"])
        return (relu(h @ p["b"]) * jax.nn.sigmoid(x @ p["gate2"])) @ p["c"]

    left = {"gate": "product of two activations", "gate2": "logistic"}
    return Network(apply, params, (normal(2, 3),), {"a": 4, "b": 5}, left)


def maximum_over_channels():
    """Units that compete share one scale, or none if a constant competes."""
    params = tensors(a=(3, 8), b=(4, 6), c=(1, 5), d=(5, 4), e=(4, 2))

    def apply(p, x):
        x = (x @ p["a"]).reshape(-1, 4, 2).max(-1)  # maxout of pairs
        x = jnp.max(relu(x @ p["b"]), -1, keepdims=True)
        x = jnp.maximum(x @ p["c"], 0.1)
        return relu(x @ p["d"]) @ p["e"]

    return Network(
        apply, params, (normal(2, 3),), {"a": 4, "b": 1, "d": 4}, {"c": "max with a constant"}
    )


def joined_by_the_input():
    """The input, added: its units are fixed; concatenated: they alone are."""
    params = tensors(a=(3, 3), b=(3, 4), c=(7, 5), d=(5, 2))

    def apply(p, x):
        h = relu(x @ p["a"]) + x
        h = jnp.concatenate([x, relu(h @ p["b"])], -1)
        return relu(h @ p["c"]) @ p["d"]

    left = {"a": "add of a constant or an input"}
    return Network(apply, params, (normal(2, 3),), {"b": 4, "c": 5}, left)


def returned():
    """A parameter that is an output, or in a penalty, keeps its value."""
    params = tensors(a=(3, 4), b=(4, 5), c=(5, 6), d=(6, 2))

    def apply(p, x):
        h = relu(relu(relu(x @ p["a"]) @ p["b"]) @ p["c"])
        return h @ p["d"], p["a"], jnp.sum(p["d"] ** 2)

    left = {"a": "output of the network", "c": "output of the network"}
    return Network(apply, params, (normal(2, 3),), {"b": 5}, left)


def not_homogeneous():
    """GELU, tanh and a clip end groups; leaky and parametric ReLU do not."""
    params = tensors(a=(3, 4), b=(4, 5), c=(5, 4), d=(4, 6), slope=(6,), e=(6, 4), f=(4, 2))

    def apply(p, x):
        x = jax.nn.gelu(relu(x @ p["a"]) @ p["b"])
        x = jnp.tanh(x @ p["c"])
        x = jax.nn.leaky_relu(x @ p["d"])
        x = jnp.where(x >= 0, x, p["slope"][None] * x)
        return jax.nn.relu6(x @ p["e"]) @ p["f"]

    left = {"b": "gelu", "c": "tanh", "e": "relu6 (min with a constant"}
    return Network(apply, params, (normal(2, 3),), {"a": 4, "d": 6}, left)


def odd_operations():
    """Sorting, sums, comparisons of units, an embedding, a masked kernel, branches, division."""
    params = tensors(table=(7, 4), a=(4, 4), b=(4, 6), c=(2, 5), d=(5, 5), e=(5, 3))
    mask = jnp.triu(jnp.ones((4, 4)))

    def apply(p, tokens, flag):
        x = relu(p["table"][tokens].sum(0))
        x = relu(x @ (p["a"] * mask)) / 3
        x = relu(x @ p["b"]).reshape(3, 2)
        x = jnp.cumsum(jnp.sort(x, 0), 0)[1]
        x = jnp.where(x[0] > x[1], x, -x) @ p["c"]
        x = lax.cond(flag, lambda x: relu(x), lambda x: x * 0.5, x)
        return (x @ p["d"] / (1 + jnp.sum(jnp.abs(x)))) @ p["e"]

    inputs = (jnp.array([1, 5, 2]), jnp.array(True))
    left = {"c": "add of a constant"}
    return Network(apply, params, inputs, {"table": 4, "a": 4, "b": 1, "d": 5}, left)


def ensemble():
    """Members by vmap: each has units of its own, in dense and in convolutional layers."""
    params = tensors(a=(3, 2, 2, 1, 4), b=(3, 16, 5), bias=(3, 5), c=(3, 5, 2))

    def apply(p, x):
        def member(p):
            y = relu(conv(x, p["a"])).reshape(x.shape[0], -1)
            return relu(y @ p["b"] + p["bias"][None]) @ p["c"]

        return jax.vmap(member)(p).mean(0)

    return Network(apply, params, (normal(2, 2, 2, 1),), {"a": 12, "b": 15, "bias": 15})


def tokens():
    """A learned token beside others, pixels mixed by a kernel, a normalized kernel with a gain."""
    params = tensors(a=(3, 4), token=(1, 4), b=(4, 5), mix=(3, 2), g=(6,), v=(5, 6), d=(6, 2))

    def apply(p, x):
        x = jnp.concatenate([p["token"], relu(x @ p["a"])])
        x = p["mix"].T @ relu(x @ p["b"])
        kernel = p["g"][None] * (p["v"] / jnp.linalg.norm(p["v"], axis=0, keepdims=True))
        return relu(x @ kernel) @ p["d"]

    balanced = {"a": 4, "token": 4, "b": 1, "g": 6}
    return Network(apply, params, (normal(2, 3),), balanced, {"mix": "one kernel for several"})


def parts():
    """Stacked and cut, repeated; kernels from a list, stacked for a loop."""
    params = tensors(a=(3, 4), b=(3, 4), c=(8, 5), l0=(5, 5), l1=(5, 5), d=(5, 2))

    def apply(p, x):
        h = jnp.stack([relu(x @ p["a"]), relu(x @ p["b"])], axis=1)
        u, v = jnp.unstack(h, axis=1)
        x = relu(jnp.tile(u + v, (1, 2)) @ p["c"])
        kernels = jnp.stack([p["l0"], p["l1"]])
        return lax.scan(lambda x, kernel: (relu(x @ kernel), None), x, kernels)[0] @ p["d"]

    units = {"a": 4, "b": 4, "c": 5, "l0": 5, "l1": 5}
    return Network(apply, params, (normal(2, 3),), units)


def message_passing():
    """Sums and maxima over the edges of a graph, which is an input."""
    params = tensors(a=(3, 4), b=(4, 5), c=(5, 6), d=(6, 2))

    def apply(p, x, start, end):
        x = relu(x @ p["a"])
        x = relu(x + jax.ops.segment_sum(x[start], end, len(x))) @ p["b"]
        x = relu(jax.ops.segment_max(relu(x)[start], end, len(x)))
        return relu(x @ p["c"]).at[0].set(0.0) @ p["d"]

    edges = jnp.array([0, 1, 2, 2, 3]), jnp.array([1, 0, 0, 3, 2])
    return Network(apply, params, (normal(4, 3), *edges), {"a": 4, "b": 5, "c": 6})


def written():
    """Units put at known places among zeros, a cache at an unknown one, a constant beside."""
    params = tensors(a=(3, 4), b=(6, 5), c=(5, 6), d=(6, 2))

    def apply(p, x, position):
        h = relu(jnp.zeros((len(x), 6)).at[:, 1:5].set(relu(x @ p["a"])) @ p["b"])
        cache = lax.dynamic_update_slice(jnp.zeros((9, 5)), h, (position, 0))
        return relu(cache @ p["c"]).at[:, 2].set(1.0) @ p["d"]

    inputs = normal(2, 3), jnp.int32(4)
    return Network(apply, params, inputs, {"a": 4, "b": 5, "c": 5})


def scaled_input():
    """A scale of the inputs is a diagonal layer, as that of RMSNorm is."""
    params = tensors(s=(3,), a=(3, 5), bias=(5,), b=(5, 2))

    def apply(p, x):
        return relu((x * p["s"][None]) @ p["a"] + p["bias"][None]) @ p["b"]

    return Network(apply, params, (normal(4, 3),), {"s": 3, "a": 5, "bias": 5})


PLAIN = [
    parts,
    message_passing,
    written,
    scaled_input,
    ensemble,
    tokens,
    flattened_conv,
    channels_first,
    grouped_convs,
    densely_connected,
    residual,
    recurrent,
    stacked,
    indexed_layers,
    tied,
    gated,
    maximum_over_channels,
    joined_by_the_input,
    returned,
    not_homogeneous,
    odd_operations,
]
