"""Flax Linen networks whose rescaling groups are known by hand."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from networks import KEY, Network, normal


def ones(leaf):
    return jnp.ones(leaf.shape, leaf.dtype)


def random_leaf(leaf):
    """Kernels that keep signals at their size, and vectors around 1."""
    fan_in = np.prod(leaf.shape[:-1], dtype=int)
    return (
        normal(*leaf.shape, seed=fan_in) / np.sqrt(fan_in)
        if fan_in > 1
        else 1 + 0.2 * normal(*leaf.shape)
    )


def linen(module, *inputs, balanced, left=None, **kwargs):
    """A Flax Linen module; its statistics are closed over, and its outputs include new ones."""
    rngs = {"params": KEY, "dropout": KEY}
    shapes = jax.eval_shape(lambda: module.init(rngs, *inputs, **kwargs))
    state = {name: jax.tree.map(ones, tree) for name, tree in shapes.items() if name != "params"}
    # Not as initialized: shifts of zero and scales of one hide what is wrong with them.
    params = jax.tree.map(random_leaf, shapes["params"])

    def apply(params, *inputs):
        return module.apply(
            {"params": params, **state},
            *inputs,
            mutable=list(state),
            rngs={"dropout": KEY},
            **kwargs,
        )

    return Network(apply, params, inputs, balanced, left or {})


class Bottleneck(nn.Module):
    """A block of Flax's ImageNet example: three convolutions, each with its BN, and a skip."""

    filters: int
    strides: int
    wide: int
    norm: Any

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.filters, (1, 1), use_bias=False)(x)
        y = nn.relu(self.norm()(y))
        y = nn.Conv(self.filters, (3, 3), strides=self.strides, use_bias=False)(y)
        y = nn.relu(self.norm()(y))
        y = nn.Conv(self.filters * self.wide, (1, 1), use_bias=False)(y)
        y = self.norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = nn.Conv(
                self.filters * self.wide, (1, 1), self.strides, use_bias=False, name="skip"
            )(x)
            x = self.norm(name="skip_norm")(x)
        return nn.relu(x + y)


class Basic(nn.Module):
    """Its block of two convolutions, of ResNet-18 and 34."""

    filters: int
    strides: int
    wide: int
    norm: Any

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.filters, (3, 3), strides=self.strides, use_bias=False)(x)
        y = nn.relu(self.norm()(y))
        y = nn.Conv(self.filters, (3, 3), use_bias=False)(y)
        y = self.norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            skip = nn.Conv(y.shape[-1], (1, 1), self.strides, use_bias=False, name="skip")
            x = skip(x)
            x = self.norm(name="skip_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """The ResNet of Flax's ImageNet example, as its description has it."""

    stages: tuple[int, ...]
    block: Any
    wide: int
    filters: int = 64
    classes: int = 1000
    train: bool = False

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=not self.train, momentum=0.9)
        x = nn.Conv(self.filters, (7, 7), 2, padding=3, use_bias=False, name="stem")(x)
        x = nn.relu(norm(name="stem_norm")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate(self.stages):
            for k in range(blocks):
                strides = 2 if stage and not k else 1
                x = self.block(self.filters * 2**stage, strides, self.wide, norm)(x)
        return nn.Dense(self.classes, name="head")(x.mean((1, 2)))


RESNET_18 = functools.partial(ResNet, stages=(2, 2, 2, 2), block=Basic, wide=1)
RESNET_50 = functools.partial(ResNet, stages=(3, 4, 6, 3), block=Bottleneck, wide=4)


class InvertedResidual(nn.Module):
    """MobileNet's block: widened, depthwise, narrowed, with ReLU6 or ReLU, and an identity skip."""

    act: Any

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (1, 1), name="stem")(x)
        y = self.act(nn.Conv(8, (1, 1), name="widen")(x))
        y = self.act(nn.Conv(8, (3, 3), feature_group_count=8, name="depthwise")(y))
        x = x + nn.Conv(4, (1, 1), name="narrow")(y)
        return nn.Dense(3, name="head")(x.mean((1, 2)))


def relu6_block():
    """ReLU6 fixes what it clips; the stream between, which it does not touch, is balanced."""
    left = {"widen/kernel": "relu6", "depthwise/kernel": "relu6"}
    balanced = dict.fromkeys(("stem/kernel", "stem/bias", "narrow/kernel", "narrow/bias"), 4)
    return linen(InvertedResidual(nn.relu6), normal(1, 4, 4, 3), balanced=balanced, left=left)


def relu_block():
    """With ReLU the widened units are balanced too, on both sides of the depthwise kernel."""
    balanced = dict.fromkeys(("stem/kernel", "stem/bias", "narrow/kernel", "narrow/bias"), 4)
    inner = ("widen/kernel", "widen/bias", "depthwise/kernel", "depthwise/bias")
    balanced |= dict.fromkeys(inner, 8)
    return linen(InvertedResidual(nn.relu), normal(1, 4, 4, 3), balanced=balanced)


class Transformer(nn.Module):
    """A pre-norm block: attention, then ReLU."""

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(y, y)
        y = nn.relu(nn.Dense(6, name="up")(nn.LayerNorm()(x)))
        x = x + nn.Dense(4, name="down")(y)
        return nn.Dense(2, name="head")(nn.LayerNorm()(x))


def transformer():
    """LayerNorm and softmax fix most; not the norms' scales, a head's values, the ReLU's units."""
    names = ["attention/value", "up", *(f"LayerNorm_{k}" for k in range(3))]
    kinds = ["kernel"] * 2 + ["scale"] * 3
    balanced = {
        f"{name}/{kind}": 6 if name == "up" else 4
        for name, weight in zip(names, kinds, strict=True)
        for kind in (weight, "bias")
    }
    left = {"attention/query/kernel": "softmax", "down/kernel": "add of a constant or an input"}
    return linen(Transformer(), normal(2, 3, 4), balanced=balanced, left=left)


class Dropped(nn.Module):
    """Dropout in training, PReLU, average pooling with padding."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.PReLU()(nn.Conv(4, (3, 3))(x))
        x = nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.relu(nn.Dense(5)(x.reshape(x.shape[0], -1)))
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


def dropout():
    """Dropout zeroes units and scales by a constant."""
    balanced = {"Conv_0/kernel": 4, "Conv_0/bias": 4, "Dense_0/kernel": 5, "Dense_0/bias": 5}
    return linen(Dropped(), normal(2, 5, 5, 2), balanced=balanced, train=True)


class Deep(nn.Module):
    """Layers by `nn.scan`, rematerialized."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(4, name="first")(x))
        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(2, name="head")(x)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.remat(nn.Dense)(4, name="dense")(x)), None


def scanned():
    """Each turn's slice of a stacked kernel is a layer."""
    stacks = {"layers/dense/kernel": 12, "layers/dense/bias": 12}
    balanced = {"first/kernel": 4, "first/bias": 4} | stacks
    return linen(Deep(), normal(2, 3), balanced=balanced)


LINEN = [scanned, relu6_block, relu_block, transformer, dropout]
