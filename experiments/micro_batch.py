"""Test accuracy over batch size, from 1 to 64 images: which normalizations stand small batches.

    python experiments/micro_batch.py

trains a residual network of 8 layers and 16 to 64 channels on the first 5,120 images of CIFAR-10
for 5 epochs, 3 seeds: some hours on 2 cores (--dry-run tells). The learning rate is proportional
to the batch size (Goyal et al., 2017): --lr at 64 images, a 64th of it at one. Batch
normalization takes a batch of one image as PyTorch does: in training it normalizes by the mean and
variance of that image's positions, in testing by running estimates. BCN goes by running estimates
in training too at fewer than 16 images, as its authors do for micro-batches, and by the batch's
own statistics from there. Stopped at any moment, the same command goes on. Every cell leaves a
JSON file in --out; a table and a figure close the run.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from conv_sweep import conv_arguments, fastest
from enorm_jax import cli, parse
from enorm_jax.cell import Cell
from enorm_jax.methods import make_method
from enorm_jax.results import read_results
from enorm_jax.summary import conv_summary
from fc_cells import of_method, run_arguments
from train_cells import train

RATE_AT = 64  # images in the batch that --lr is for
ESTIMATES_BELOW = 16  # images, for BCN


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument(
        "--method",
        type=parse.methods,
        nargs="+",
        action=cli.Joined,
        default="bn,gn,ws+gn,bcn,ws+bcn,ln",
        help="one or several, as for fc_sweep.py",
    )
    p.add_argument(
        "--batch-sizes", type=parse.positive_ints, default="1,2,4,8,64", help="images in a step"
    )
    p.add_argument("--seeds", type=parse.seeds, default="3", help="3 (0, 1, 2), 1000-1002 or 5,7")
    p.add_argument("--depth", type=parse.positive_int, default=8, help="layers: 8, 14, 20, ...")
    p.add_argument(
        "--width", type=parse.positive_int, default=16, help="channels of the first of three stages"
    )
    p.add_argument(
        "--train-images",
        type=parse.positive_int,
        default=5120,
        metavar="N",
        help="train on the first N images",
    )
    p.add_argument(
        "--epochs", type=parse.positive_int, default=5, help="epochs, over which the rate decays"
    )
    p.add_argument(
        "--lr",
        type=parse.positive_float,
        default=0.1,
        help=f"initial learning rate at {RATE_AT} images, proportional to the batch size",
    )
    p.add_argument(
        "--weight-decay", type=parse.non_negative_float, default=1e-4, help="on all parameters"
    )
    p.add_argument(
        "--c", type=parse.positive_float, default=1.1, help="ratio of norms that ENorm aims at"
    )
    p.add_argument(
        "--groups", type=parse.positive_int, default=4, help="of a layer's channels, in gn and bcn"
    )
    conv_arguments(p)
    run_arguments(p, out="runs/micro_batch")
    return p


def cells(args: Any) -> list[Cell]:
    """The cells asked for, small batches first."""
    return [
        Cell(
            experiment="micro_batch",
            dataset=args.dataset,
            method=name,
            depth=args.depth,
            width=args.width,
            bias=False,
            epochs=args.epochs,
            learning_rate=args.lr * batch_size / RATE_AT,
            batch_size=batch_size,
            weight_decay=args.weight_decay,
            precision=args.precision,
            restarts=0,
            seeds=args.seeds,
            init="he_normal",
            train_images=args.train_images,
            network="resnet",
            momentum=args.momentum,
            augment=args.augment,
            **of_method(its, args),
        )
        for batch_size in args.batch_sizes
        for name in dict.fromkeys(at_batch(method, batch_size) for method in args.method)
        for its in [make_method(name)]
    ]


def at_batch(method: str, batch_size: int) -> str:
    """The method at a batch size: BCN by estimates where batches are small."""
    if method.endswith("bcn") and batch_size < ESTIMATES_BELOW:
        return f"{method}-micro"
    return method


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    if any(cell.batch_size == 1 and make_method(cell.method).whole_batch for cell in cells(args)):
        console.print("at batch size 1, BN normalizes by one image's positions", highlight=False)
    middle = fastest(2 * args.width, max(args.batch_sizes))
    wanted = train(args, cells, console, one_image=True, fastest=middle)
    if args.dry_run:
        return
    console.print(conv_summary(wanted, args.out))
    from enorm_jax.conv_plots import accuracy_over_batch  # a second that workers need not spend

    stem: Path = args.out / f"micro_batch_{args.dataset}"
    paths = accuracy_over_batch(wanted, read_results(args.out), stem)
    console.print(f"figure: {paths[1]}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(main, again=cli.GOES_ON)
