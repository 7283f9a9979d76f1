r"""Test accuracy of convolutional networks, by method: that of ENorm's authors, and ResNets.

    python experiments/conv_sweep.py --width 0.25 --train-images 10240 --epochs 10 \
        --batch-size 128 --lr 0.01 --seeds 3 --precision auto

trains it at a quarter of its channels on the first 10,240 images, an hour or two on 2 cores, at a
rate at which it learns under every method. Without these flags it is the published network and
protocol (128 epochs of 50,000 random crops, batches of 256, momentum 0.9, rate 0.05), which wants a
GPU; --dry-run tells operations and time of either. ENorm rescales the momentum with the weights, at
c = 1.1. ResNets have --network resnet for CIFAR-10 and imagenet-resnet for ImageNet. Stopped at any
moment, the same command goes on. Every cell leaves a JSON file in --out; a table and a figure close
the run.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from enorm_jax import cli, parse
from enorm_jax.cell import Cell, Network
from enorm_jax.conv_models import SKIPS
from enorm_jax.cost import fastest_conv_precision
from enorm_jax.layers import PRECISIONS, Precision
from enorm_jax.methods import make_method
from enorm_jax.models import INITIALIZERS
from enorm_jax.networks import CONV_LAYERS, CONV_WIDTH
from enorm_jax.results import read_results
from enorm_jax.summary import conv_summary
from fc_cells import cycle_arguments, cycles, of_method, run_arguments
from train_cells import train

# Layers, and channels of the first, as published.
SIZES: dict[Network, tuple[int, int]] = {
    "conv": (CONV_LAYERS, CONV_WIDTH),
    "resnet": (20, 16),
    "imagenet-resnet": (50, 64),
}


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument(
        "--method",
        type=parse.methods,
        nargs="+",
        action=cli.Joined,
        default="baseline,bn,gn,enorm,enorm+bn",
        help="one or several, as for fc_sweep.py; ws+gn and its like want --norm-after all",
    )
    p.add_argument("--seeds", type=parse.seeds, default="1", help="3 (0, 1, 2), 1000-1002 or 5,7")
    p.add_argument(
        "--network",
        choices=[*SIZES],
        default="conv",
        help="that of ENorm's authors, or residual ones for CIFAR-10 and for ImageNet",
    )
    p.add_argument(
        "--depth",
        type=parse.positive_int,
        help="layers: 9 of conv, 20 or 8, 14, 26, ... of resnet, 50, 18 or 101 of imagenet-resnet",
    )
    p.add_argument(
        "--width",
        type=parse.positive_float,
        default=1.0,
        help="multiplies the published numbers of channels: from 128 of conv, 16 of resnet, 64 of "
        "imagenet-resnet",
    )
    p.add_argument(
        "--train-images", type=parse.positive_int, metavar="N", help="train on the first N images"
    )
    p.add_argument(
        "--epochs", type=parse.positive_int, default=128, help="epochs, over which the rate decays"
    )
    p.add_argument("--batch-size", type=parse.positive_int, default=256, help="images in a step")
    p.add_argument(
        "--lr", type=parse.floats, default=(0.05,), help="initial learning rate, one or several"
    )
    p.add_argument(
        "--weight-decay", type=parse.non_negative_float, default=1e-3, help="on all parameters"
    )
    p.add_argument(
        "--c",
        type=parse.positive_float,
        default=1.1,
        help="ratio of outgoing to incoming norms that ENorm aims at",
    )
    p.add_argument(
        "--groups", type=parse.positive_int, default=8, help="of a layer's channels, in gn and bcn"
    )
    p.add_argument(
        "--norm-after",
        choices=["published", "all"],
        default="published",
        help="which convolutions of conv a normalization follows: the third and the sixth, or all "
        "but the last",
    )
    p.add_argument(
        "--skip",
        choices=["published", *SKIPS],
        default="published",
        help="of residual networks: as He et al. have them, or one kind; learned, a convolution in "
        "every block, is that of ENorm's authors",
    )
    cycle_arguments(p)
    p.add_argument(
        "--init", choices=[*INITIALIZERS], default="he_normal", help="distribution of kernels"
    )
    conv_arguments(p)
    run_arguments(p, out="runs/conv")
    return p


def conv_arguments(p: cli.Parser) -> None:
    """Arguments that the sweeps of convolutional networks share."""
    p.add_argument("--momentum", type=parse.non_negative_float, default=0.9, help="of SGD")
    p.add_argument(
        "--precision",
        choices=[*PRECISIONS, "auto"],
        default="float32",
        help="of the operands of convolutions; sums and all else are float32; auto takes bfloat16 "
        "where a convolution as in the middle of the network is faster in it on this device",
    )
    p.add_argument(
        "--no-augment",
        dest="augment",
        action="store_false",
        default=True,
        help="whole images, without random crops and flips",
    )
    p.add_argument(
        "--save-params",
        action="store_true",
        help="keep the parameters after the last epoch, as safetensors",
    )


def fastest(channels: int, batch: int) -> Callable[[], Precision]:
    """What finds the precision in which convolutions are faster."""
    return functools.partial(fastest_conv_precision, channels, min(batch, 64))


def cells(args: Any) -> list[Cell]:
    """The cells asked for, in the order of the methods."""
    layers, channels = SIZES[args.network]
    width = round(args.width * channels)
    if width < 1:
        least = 1 / channels
        raise cli.InputError(f"--width {args.width:g} leaves no channel: choose at least {least:g}")
    if args.norm_after != "published" and args.network != "conv":
        raise cli.InputError(
            f"--norm-after {args.norm_after} is of --network conv: residual networks have "
            "normalization everywhere; leave it out"
        )
    if args.skip != "published" and args.network == "conv":
        raise cli.InputError(f"--skip {args.skip}: conv has no skips; choose --network resnet")
    if args.leave_last and args.network != "conv" and args.skip != "learned":
        raise cli.InputError(
            "--leave-last: without --skip learned all stages of a residual network feed its last "
            "layer; add it, or leave this out"
        )
    cycle = cycles(args)
    return [
        Cell(
            experiment="conv",
            dataset=args.dataset,
            method=method,
            depth=args.depth or layers,
            width=width,
            bias=False,
            epochs=args.epochs,
            learning_rate=rate,
            batch_size=args.batch_size,
            weight_decay=args.weight_decay,
            precision=args.precision,
            restarts=0,
            seeds=args.seeds,
            init=args.init,
            train_images=args.train_images,
            network=args.network,
            momentum=args.momentum,
            augment=args.augment,
            norm_after=args.norm_after if its.norm else "published",
            skip=args.skip,
            **of_method(its, args),
            **cycle[method],
        )
        for method in args.method
        for its in [make_method(method)]
        for rate in args.lr
    ]


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    # In the middle of the network.
    channels = max(1, round(2 * args.width * SIZES[args.network][1]))
    wanted = train(args, cells, console, fastest=fastest(channels, args.batch_size))
    if args.dry_run:
        return
    console.print(conv_summary(wanted, args.out))
    from enorm_jax.conv_plots import accuracy_over_epochs  # a second that workers need not spend

    stem: Path = args.out / f"{wanted[0].size}_{args.dataset}"
    paths = accuracy_over_epochs(wanted, read_results(args.out), stem)
    console.print(f"figure: {paths[1]}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
