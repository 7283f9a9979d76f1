"""The network that a cell names: layers, crops, optimizer, and what ENorm balances in it."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from enorm_jax.augment import Augmentation
from enorm_jax.cell import Cell
from enorm_jax.conv_models import FullyConvolutional, ResNet, resnet18, resnet50, resnet101
from enorm_jax.convolution import with_convolution
from enorm_jax.errors import InputError
from enorm_jax.groups import Groups
from enorm_jax.inference import infer_groups
from enorm_jax.kernels import WeightStandardizedConv
from enorm_jax.layers import PRECISIONS
from enorm_jax.methods import ENorm, make_method
from enorm_jax.norms import BatchNorm
from enorm_jax.optimizer import Optimizer, momentum_sgd, sgd

Shape = tuple[int, ...]  # of an image: height, width, channels

CONV_LAYERS = 9
CONV_WIDTH = 128  # channels of the first layer, as published
IMAGENET_RESNETS = {18: resnet18, 50: resnet50, 101: resnet101}


def build(cell: Cell, classes: int) -> nn.Module:
    """The network of a cell, with its method's layers.

    Args:
      cell: the cell; of a ``"conv"`` network the depth is 9, of a ``"resnet"`` 8, 14, 20, ..., of
        an ``"imagenet-resnet"`` 18, 50 or 101.
      classes: outputs.

    Returns:
      The network, without parameters.

    Raises:
      InputError: if the network has no such depth, or does not go with the method.
      ValueError: if the cell asks for biases in a convolutional network, or there is no such
        precision.

    Example:
      >>> import dataclasses
      >>> from enorm_jax.cell import Cell
      >>> from enorm_jax.networks import build
      >>> cell = Cell("micro", "cifar10", "bn", 8, 16, False, 10, 0.1, None, 64, 1e-4, "float32",
      ...             0, (0,), network="resnet")
      >>> build(cell, classes=10).stages
      (1, 1, 1)
    """
    its = make_method(cell.method, cell.groups)
    if cell.network == "fc":
        return its.network(
            cell.depth,
            width=cell.width,
            classes=classes,
            use_bias=cell.bias,
            precision=cell.precision,
            kernel_init=cell.init,
        )
    if cell.bias:
        raise ValueError(f"convolutions have no bias here: {cell}")
    if cell.precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {cell.precision!r}")
    conv = with_convolution(its.conv, cell.precision)
    if its.optimizer is not sgd:
        raise InputError(
            f"method {cell.method!r} takes a chain of dense layers: drop it, or use fc_sweep.py"
        )
    if cell.network == "conv":
        if cell.depth != CONV_LAYERS:
            raise InputError(
                f"the convolutional network has {CONV_LAYERS} layers: not {cell.depth}"
            )
        if its.conv is WeightStandardizedConv and cell.norm_after != "all":
            raise InputError(
                f"method {cell.method!r}: standardized kernels want a normalization after each "
                "convolution: add --norm-after all"
            )
        return FullyConvolutional(
            width=cell.width / CONV_WIDTH,
            classes=classes,
            norm=its.norm,
            norm_after=cell.norm_after,
            conv=conv,
            kernel_init=cell.init,
        )
    values: dict[str, Any] = {
        "width": cell.width,
        "classes": classes,
        "norm": its.norm,
        "conv": conv,
        "kernel_init": cell.init,
    }
    if cell.skip != "published":
        values["skip"] = cell.skip
    if cell.network == "imagenet-resnet":
        if cell.depth not in IMAGENET_RESNETS:
            raise InputError(
                f"ImageNet's residual networks have 18, 50 or 101 layers, not {cell.depth}"
            )
        return IMAGENET_RESNETS[cell.depth](**values)
    blocks, rest = divmod(cell.depth - 2, 6)
    if rest or not blocks:
        raise InputError(f"residual networks have 8, 14, 20, ... layers, not {cell.depth}")
    return ResNet((blocks,) * 3, **values)


def plain(cell: Cell, classes: int) -> nn.Module:
    """The network of a cell in float32, with convolutions that XLA and `infer_groups` look into.

    Args:
      cell: the cell.
      classes: outputs.

    Returns:
      The network, with the parameters of the one that `build` makes.

    Raises:
      InputError: as `build` does.
    """
    model = build(dataclasses.replace(cell, precision="float32"), classes)
    if cell.network == "fc":
        return model
    return model.clone(conv=make_method(cell.method, cell.groups).conv)


def crops(cell: Cell, image: Shape) -> Augmentation | None:
    """The random crops and flips that a cell trains on: those of its network's paper.

    Of images of 32 pixels, ENorm's authors crop 28 from an image padded by 2, He et al. 32 from
    one padded by 4, and of ImageNet's 256 pixels 224; here in these proportions, whatever the
    size.

    Args:
      cell: the cell.
      image: shape of an image.

    Returns:
      The augmentation, which crops test images in the middle to the same size, or None.

    Example:
      >>> from enorm_jax.cell import Cell
      >>> from enorm_jax.networks import crops
      >>> cell = Cell("conv", "cifar10", "bn", 9, 32, False, 10, 0.1, None, 64, 1e-4, "float32",
      ...             0, (0,), network="conv", augment=True)
      >>> crops(cell, (32, 32, 3))
      Augmentation(pad=2, crop=28, flip=True)
    """
    if not cell.augment:
        return None
    size = min(image[:2])
    if cell.network == "conv":
        return Augmentation(pad=size // 16, crop=size * 7 // 8)
    if cell.network == "imagenet-resnet":
        return Augmentation(pad=0, crop=size * 7 // 8)
    return Augmentation(pad=size // 8)


def input_shape(cell: Cell, image: Shape) -> Shape:
    """The shape of what the network sees of an image: the crop's.

    Args:
      cell: the cell.
      image: shape of an image.

    Returns:
      Height, width, channels.
    """
    cropped = crops(cell, image)
    if cropped is None or cropped.crop is None:
        return image
    return cropped.crop, cropped.crop, image[2]


def optimizer(cell: Cell) -> Optimizer:
    """The optimizer of a cell.

    Args:
      cell: the cell.

    Returns:
      The method's, or SGD with momentum if the cell has one.

    Raises:
      InputError: if the method's own optimizer takes no momentum.
    """
    own = make_method(cell.method, cell.groups).optimizer
    if not cell.momentum:
        return own
    if own is not sgd:
        raise InputError(f"method {cell.method!r} takes no momentum: drop one")
    return momentum_sgd(cell.momentum)


def equalizer(cell: Cell, image: Shape, classes: int) -> ENorm | None:
    """What rescales a cell's hidden units after each step.

    In a convolutional network the units are found in the network without its normalization
    layers, as both public codes do, so that ENorm balances the kernels around a normalization
    too, which changes the function; with `of_norms` in the network as it is, so that it balances
    the normalizations' scales and the function stays.

    Args:
      cell: the cell.
      image: shape of an image.
      classes: outputs of the network.

    Returns:
      The rescaling, or None; cells of equal networks get equal ones.

    Raises:
      InputError: as `build` does.
    """
    if make_method(cell.method, cell.groups).equalize is None:
        return None
    if cell.network == "fc":
        return ENorm(cell.order, cell.balance_last, cell.of_norms)
    model = plain(cell, classes)
    if not cell.of_norms:
        model = model.clone(norm=None)
    groups = _groups(model, input_shape(cell, image))
    return ENorm(cell.order, cell.balance_last, inferred=groups)


@functools.cache
def _groups(model: nn.Module, image: Shape) -> Groups:
    """The rescaling groups of a network in training."""
    x = jax.random.normal(jax.random.key(0), (2, *image), jnp.float32)
    variables = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(1))

    def apply(params: object, x: jax.Array) -> jax.Array:
        changed = variables | {"params": params}
        outputs, _ = model.apply(changed, x, train=True, mutable=["batch_stats"])
        return outputs

    return infer_groups(apply, variables["params"], x)


def normalized_channels(cell: Cell, image: Shape, classes: int) -> list[int]:
    """How many channels the layers have that a normalization of the cell's method follows.

    Args:
      cell: the cell, of a convolutional network.
      image: shape of an image.
      classes: outputs of the network.

    Returns:
      The different numbers, the smallest first.

    Raises:
      InputError: as `build` does.
    """
    model = build(cell, classes).clone(norm=BatchNorm)
    example = jax.ShapeDtypeStruct((1, *input_shape(cell, image)), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), example)
    return sorted({leaf.shape[-1] for leaf in jax.tree.leaves(shapes["batch_stats"])})
