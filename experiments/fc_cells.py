"""The arguments of fc_sweep.py, and the cells that they ask for."""

import dataclasses
from pathlib import Path
from typing import Any

from enorm_jax import cli, parse
from enorm_jax.cell import Cell
from enorm_jax.data import DATASETS
from enorm_jax.inputs import INPUTS
from enorm_jax.layers import PRECISIONS
from enorm_jax.methods import GROUPS, METHODS, Method, make_method
from enorm_jax.models import INITIALIZERS
from enorm_jax.optimizer import SCHEDULES
from enorm_jax.rates import learning_rate, read_winners
from enorm_jax.state_rescaling import StateBias

HERE = Path(__file__).parent
RATES = HERE / "learning_rates.json"


def of_method(its: Method, args: Any) -> dict[str, Any]:
    """The fields of a cell that its method decides: c if it balances, groups if it has some."""
    return {
        "c": args.c if its.equalize else None,
        "groups": args.groups if its.grouped else GROUPS,
    }


def bias_handling(its: Method, bias: StateBias | None) -> StateBias:
    """How a method treats biases, if there are some."""
    return bias or "scale" if its.equalize else "scale"


def parser(description: str | None) -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=description, formatter_class=cli.HelpFormatter)
    network_arguments(p, depths="1-19")
    p.add_argument("--seeds", type=parse.seeds, default="1", help="3 (0, 1, 2), 1000-1002 or 5,7")
    p.add_argument(
        "--epochs", type=parse.positive_int, default=60, help="epochs, over which the rate decays"
    )
    p.add_argument(
        "--lr",
        type=parse.floats,
        help="initial learning rate, one or several; default: the published one, or where the "
        "study has none, that of the nearest depth in experiments/learning_rates.json",
    )
    p.add_argument(
        "--rates",
        type=Path,
        metavar="FILE",
        help="take the rates of all methods from this file of lr_search.py",
    )
    variants(p)
    run_arguments(p, out="runs")
    p.add_argument(
        "--restarts",
        type=parse.count,
        default=0,
        metavar="N",
        help="start a diverged seed again with another, up to N times",
    )
    p.add_argument(
        "--save-params",
        action="store_true",
        help="keep the parameters after the last epoch, as safetensors",
    )
    return p


def network_arguments(p: cli.Parser, depths: str) -> None:
    """Arguments that say which networks to train; `depths` is what depths are by default."""
    p.add_argument(
        "--method",
        type=parse.methods,
        nargs="+",
        action=cli.Joined,
        required=True,
        help=f"one or several of {', '.join(METHODS)}; study for the four of the study, "
        "original for the seven of the original paper, or all; other combinations of their parts "
        "work where they make sense",
    )
    p.add_argument(
        "--depths",
        type=parse.depths,
        default=depths,
        help="1-19 (1, 3, ..., 19), 1-19:1 (every one) or 1,9,19",
    )
    p.add_argument(
        "--bias",
        choices=["scale", "keep", "gauge"],
        nargs="?",
        const="scale",
        help="give every layer a bias; ENorm multiplies it with its unit (scale), leaves it "
        "(keep), or lets it train as in the network that was never rescaled (gauge), which deep "
        "networks need at c > 1",
    )
    p.add_argument(
        "--c",
        type=parse.positive_float,
        default=1.2,
        help="ratio of outgoing to incoming norms that ENorm aims at",
    )
    p.add_argument("--batch-size", type=parse.positive_int, default=256, help="images in a step")
    p.add_argument(
        "--weight-decay", type=parse.non_negative_float, default=1e-3, help="on all parameters"
    )
    precision_argument(p)
    p.add_argument(
        "--groups",
        type=parse.positive_int,
        default=GROUPS,
        help="of a layer's units, in gn and bcn; divides the width",
    )
    p.add_argument("--width", type=parse.positive_int, default=500, help="units of a hidden layer")


def precision_argument(p: cli.Parser) -> None:
    """In which precision matrix products are."""
    p.add_argument(
        "--precision",
        choices=[*PRECISIONS, "auto"],
        default="auto",
        help="of the products' operands; auto goes on in that of what --out holds, else takes "
        "what this device is faster at, or float32 if others train",
    )


def run_arguments(p: cli.Parser, out: str) -> None:
    """Arguments that say where and how to train; `out` is the folder beside this script."""
    p.add_argument("--dataset", choices=DATASETS, default="cifar10", help="digits is embedded")
    p.add_argument("--data-dir", help="where TFDS prepared the data; default: TFDS_DATA_DIR")
    p.add_argument(
        "--out",
        type=parse.folder,
        default=HERE / out,
        metavar="DIR",
        help="folder for cells and figures, also gs://bucket/... or s3://bucket/...",
    )
    p.add_argument(
        "--workers",
        type=parse.positive_int,
        metavar="N",
        help="cells trained side by side; default on this machine, where each has a process with "
        "its own cores: as many as cores on a CPU, one on a GPU, where several are faster and take "
        "memory as they need it; elsewhere: as many as fit",
    )
    p.add_argument(
        "--executor",
        type=parse.executor,
        default="local",
        metavar="ENGINE[:WHERE]",
        help="what trains the cells: local, this machine; ray, a Ray cluster (of this machine, or "
        "that in RAY_ADDRESS), ray:HOST:PORT or ray:auto; slurm, an array job",
    )
    p.add_argument(
        "--cpus-per-cell",
        type=parse.positive_int,
        default=1,
        metavar="N",
        help="cores that a cell takes, with ray and slurm",
    )
    p.add_argument(
        "--gpus-per-cell",
        type=parse.non_negative_float,
        default=0.0,
        metavar="X",
        help="GPUs that a cell takes, likewise; with ray a fraction shares one",
    )
    p.add_argument(
        "--data-parallel",
        action="store_true",
        help="share each batch out among all devices, instead of seeds: for one large network",
    )
    p.add_argument(
        "--distributed",
        metavar="HOST:PORT,PROCESSES,RANK",
        help="likewise among the devices of several processes, each of which runs this command "
        "with its own rank; auto under Slurm, Open MPI or Kubernetes",
    )
    p.add_argument(
        "--slurm",
        type=parse.option,
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options of sbatch: partition=gpu time=600 (minutes)",
    )
    p.add_argument(
        "--no-compilation-cache",
        dest="compilation_cache",
        action="store_false",
        default=True,
        help="compile every program anew",
    )
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="list the cells, their state and an estimate of the time",
    )


def variants(p: cli.Parser) -> None:
    """Arguments by which a run differs from the study's."""
    cycle_arguments(p)
    p.add_argument(
        "--init", choices=[*INITIALIZERS], default="he_uniform", help="distribution of kernels"
    )
    p.add_argument(
        "--inputs",
        choices=INPUTS,
        default="published",
        help="mean and deviation of pixels: the published, the true, or each image's own",
    )
    p.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default="linear",
        help="of the learning rate; notebook falls by 0.1 in all, below 0 if it starts lower",
    )
    p.add_argument(
        "--train-images", type=parse.positive_int, metavar="N", help="train on the first N images"
    )
    p.add_argument(
        "--select",
        choices=["last", "best"],
        default="last",
        help="which epoch's network counts: the last, or the best on a fifth of the training "
        "images, which is held out",
    )
    p.add_argument(
        "--softmax", action="store_true", help="put a softmax before the loss, which has its own"
    )


def cycle_arguments(p: cli.Parser) -> None:
    """Arguments by which ENorm's cycle differs from the study's."""
    p.add_argument(
        "--order",
        choices=["sequential", "simultaneous"],
        default="sequential",
        help="in which ENorm takes norms",
    )
    p.add_argument(
        "--leave-last", action="store_true", help="ENorm leaves the last hidden layer out"
    )
    p.add_argument(
        "--of-norms",
        action="store_true",
        help="ENorm balances the scales of normalization layers, not the kernels before them",
    )


def cycles(args: Any) -> dict[str, dict[str, Any]]:
    """By method the fields of its cells that say how ENorm's cycle differs; none without ENorm."""
    of_norms = of_norms_in(args)
    return {
        method: {
            "of_norms": method in of_norms,
            "order": args.order,
            "balance_last": not args.leave_last,
        }
        if make_method(method).equalize
        else {}
        for method in args.method
    }


def of_norms_in(args: Any) -> list[str]:
    """The methods whose ENorm is to balance normalization layers: none without `--of-norms`."""
    found = [m for m in args.method if make_method(m).equalize and make_method(m).norm]
    if args.of_norms and not found:
        raise cli.InputError(
            f"--of-norms: no ENorm with normalization layers among {', '.join(args.method)}: add "
            "enorm+bn"
        )
    return found if args.of_norms else []


def cells(args: Any) -> list[Cell]:
    """The cells asked for, shallow networks first."""
    cycle = cycles(args)
    if args.rates and args.lr:
        raise cli.InputError("--rates and --lr both give learning rates: give one of them")
    if args.rates and not args.rates.exists():
        raise cli.InputError(f"no file {args.rates}: make it with experiments/lr_search.py")
    winners = read_winners(args.rates or RATES)
    wanted = [
        Cell(
            experiment="fc",
            dataset=args.dataset,
            method=method,
            depth=depth,
            width=args.width,
            bias=args.bias is not None,
            epochs=args.epochs,
            learning_rate=0.0,
            batch_size=args.batch_size,
            weight_decay=args.weight_decay,
            precision=args.precision,
            restarts=args.restarts,
            seeds=args.seeds,
            init=args.init,
            inputs=args.inputs,
            schedule=args.schedule,
            train_images=args.train_images,
            softmax=args.softmax,
            fold="0/5" if args.select == "best" else None,
            select=args.select,
            bias_handling=bias_handling(its, args.bias),
            **of_method(its, args),
            **cycle[method],
        )
        for depth in args.depths
        for method in args.method
        for its in [make_method(method)]
    ]
    return [
        dataclasses.replace(cell, learning_rate=rate)
        for cell in wanted
        for rate in args.lr or (learning_rate(cell, winners, tuned=args.rates is not None),)
    ]
