"""Why the normalizations work, measured: units that are off, smoothness, the halves of WS.

    python experiments/mechanisms.py elimination smoothness standardization

trains the convolutional network of ENorm's authors at a quarter of its channels, with a
normalization after each convolution but the last, on the first 5,120 images of CIFAR-10 for 5
epochs, and tests on 2,000: some minutes a method on 2 cores. `elimination`: after every epoch and
before every ReLU but the last, how many deviations units' means lie from its threshold, and how
many are active on less than 1 % of the positions of 256 test images. `smoothness`: how fast loss
and gradient change along the gradient of a training batch, with and without weight
standardization. `standardization`: accuracy with centring alone, scaling alone, both and neither,
all with GN. At another --batch-size the learning rate is in proportion, as in micro_batch.py. Each
leaves a JSON file in --out, which grows method by method, and by the seeds that are new: stopped,
the same command goes on with the next.
`figures/mechanism_curves.py` draws it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock
from rich.console import Console

from enorm_jax import cli, data, parse
from enorm_jax.cell import Cell, same_setting
from enorm_jax.compilation import keep_compiled
from enorm_jax.convolution import with_convolution
from enorm_jax.errors import InputError
from enorm_jax.fit import Epoch, fit
from enorm_jax.kernels import WeightStandardizedConv
from enorm_jax.methods import GROUPS, make_method
from enorm_jax.networks import CONV_LAYERS, CONV_WIDTH
from enorm_jax.program import compile_program
from enorm_jax.recipe import Recipe, TrainState
from enorm_jax.results import provenance, read_measured, rounded, write_json
from enorm_jax.singularities import activity, eliminated, relu_inputs
from enorm_jax.smoothness import Smoothness, along_gradient
from enorm_jax.storage import is_bucket
from enorm_jax.sweep import hyper_of, recipe_of
from enorm_jax.training import batch_loss
from fc_cells import HERE
from micro_batch import RATE_AT, at_batch
from train_cells import check

METHODS = {
    "elimination": ("baseline", "bn", "gn", "ln", "ws+gn", "bcn", "ws+bcn"),
    "smoothness": ("gn", "ws+gn", "bcn", "ws+bcn"),
    "standardization": ("ws+gn",),
}
HALVES = {  # whether to centre, whether to scale
    "neither": (False, False),
    "centring": (True, False),
    "scaling": (False, True),
    "both": (True, True),
}
TEST_IMAGES = 2000
SEEN = 256  # test images for units, training images for smoothness
STEPS = (0.5, 1.0, 1.5, 2.0)  # along the gradient, in learning rates

Measure = Callable[[TrainState], dict[str, Any]]


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument(
        "what",
        choices=list(METHODS),
        metavar="|".join(METHODS),
        nargs="+",
        help="which of them to measure",
    )
    p.add_argument(
        "--method",
        type=parse.methods,
        nargs="+",
        action=cli.Joined,
        help="instead of those of elimination, smoothness",
    )
    p.add_argument("--seeds", type=parse.seeds, default="1", help="3 (0, 1, 2), 1000-1002 or 5,7")
    p.add_argument(
        "--width",
        type=parse.positive_float,
        default=0.25,
        help="multiplies the published numbers of channels, 128 to 320",
    )
    p.add_argument(
        "--train-images",
        type=parse.positive_int,
        default=5120,
        metavar="N",
        help="train on the first N images",
    )
    p.add_argument("--epochs", type=parse.positive_int, default=5, help="epochs")
    p.add_argument("--batch-size", type=parse.positive_int, default=64, help="images in a step")
    p.add_argument(
        "--lr", type=parse.positive_float, default=0.01, help=f"learning rate at {RATE_AT} images"
    )
    p.add_argument(
        "--groups", type=parse.positive_int, default=8, help="of a layer's channels, in gn and bcn"
    )
    p.add_argument("--dataset", choices=data.DATASETS, default="cifar10", help="digits is embedded")
    p.add_argument("--data-dir", help="where TFDS prepared the data; default: TFDS_DATA_DIR")
    p.add_argument(
        "--out",
        type=parse.folder,
        default=HERE / "runs" / "mechanisms",
        metavar="DIR",
        help="folder",
    )
    p.set_defaults(save_params=False)
    return p


def cell_of(args: Any, method: str) -> Cell:
    """What is trained of a method."""
    its = make_method(name := at_batch(method, args.batch_size))
    return Cell(
        experiment="mechanisms",
        dataset=args.dataset,
        method=name,
        depth=CONV_LAYERS,
        width=max(1, round(args.width * CONV_WIDTH)),
        bias=False,
        epochs=args.epochs,
        learning_rate=args.lr * args.batch_size / RATE_AT,
        c=1.1 if its.equalize else None,
        batch_size=args.batch_size,
        weight_decay=1e-3,
        precision="float32",
        restarts=0,
        seeds=args.seeds,
        init="he_normal",
        train_images=args.train_images,
        groups=args.groups if its.grouped else GROUPS,
        network="conv",
        momentum=0.9,
        norm_after="all",
    )


def epochs_of(cell: Cell, its: Recipe, dataset: data.Dataset) -> Iterator[Epoch]:
    """Trains a cell's seeds, and yields after each epoch."""
    runs = len(cell.seeds)
    program = compile_program(its, dataset, runs)
    yield from fit(program, cell.seeds, hyper_of(cell, runs), cell.epochs)


def measured(
    cell: Cell, its: Recipe, dataset: data.Dataset, measures: dict[str, Measure]
) -> dict[str, Any]:
    """What each measure finds of each seed after each epoch, beside the test accuracy."""
    every: dict[str, list[list[dict[str, Any]]]] = {
        what: [[] for _ in cell.seeds] for what in measures
    }
    for epoch in epochs_of(cell, its, dataset):
        for run in range(len(cell.seeds)):
            state = jax.tree.map(lambda leaf, run=run: leaf[run], epoch.states)
            # argmax over NaN would count as an accuracy of 10 %
            lost = not np.isfinite(epoch.test_loss[run])
            accuracy = {"test_accuracy": None if lost else rounded(epoch.test_accuracy[run])}
            for what, measure in measures.items():
                every[what][run].append(accuracy | measure(state))
    return {what: {"settings": cell.settings(), "runs": runs} for what, runs in every.items()}


def of_units(its: Recipe, dataset: data.Dataset) -> Measure:
    """Distances from elimination singularities, layer by layer."""
    inputs = its.standardization(dataset.test_images[:SEEN])

    @jax.jit
    @jax.default_matmul_precision("float32")
    def layers(variables: Any) -> dict[str, jax.Array]:
        signals = relu_inputs(lambda v: its.model.apply(v, inputs, train=False), variables)
        found = [activity(signal) for signal in signals[:-1]]  # the last is that of the outputs
        of_layers = {
            "eliminated": [eliminated(layer.active) for layer in found],
            "tenth_distance": [jnp.nanpercentile(layer.distance, 10) for layer in found],
            "median_distance": [jnp.nanmedian(layer.distance) for layer in found],
        }
        return {name: jnp.stack(values) for name, values in of_layers.items()}

    def measure(state: TrainState) -> dict[str, Any]:
        found = layers({"params": state.params, "batch_stats": state.batch_stats})
        return {name: rounded(values) for name, values in found.items()}

    return measure


def of_loss(its: Recipe, dataset: data.Dataset, rate: float) -> Measure:
    """Lipschitz estimates of the loss of a training batch and of its gradient."""
    inputs = its.standardization(dataset.train_images[:SEEN])
    labels = jnp.asarray(dataset.train_labels[:SEEN])
    steps = jnp.asarray(STEPS, jnp.float32) * rate

    @jax.jit  # as a whole: each call by itself would trace and lower its gradients anew
    @jax.default_matmul_precision("float32")  # differences of losses would drown in TF32
    def slopes(params: Any, stats: Any) -> Smoothness:
        return along_gradient(lambda p: batch_loss(its, p, stats, inputs, labels)[0], params, steps)

    def measure(state: TrainState) -> dict[str, Any]:
        found = slopes(state.params, state.batch_stats)
        return {"loss": rounded(found.loss), "gradient": rounded(found.gradient)}

    return measure


@dataclasses.dataclass(frozen=True)
class Training:
    """A network to train, and what to measure on the way.

    Attributes:
      name: in the files: the method, or half of weight standardization.
      cell: its settings.
      recipe: its program.
      measures: by question.
    """

    name: str
    cell: Cell
    recipe: Recipe
    measures: dict[str, Measure]


def methods_of(args: Any) -> dict[str, Sequence[str]]:
    """The methods to train for each question."""
    return {
        what: METHODS[what] if what == "standardization" else args.method or METHODS[what]
        for what in args.what
    }


def trainings(args: Any, dataset: data.Dataset) -> Iterator[Training]:
    """What is asked for; each method is trained once for all questions."""
    of = methods_of(args)
    halves = of.pop("standardization", ())
    for method in dict.fromkeys(itertools.chain(*of.values())):
        cell = cell_of(args, method)
        its = recipe_of(cell, dataset)
        measures: dict[str, Measure] = {}
        if method in of.get("elimination", ()):
            measures["elimination"] = of_units(its, dataset)
        if method in of.get("smoothness", ()):
            measures["smoothness"] = of_loss(its, dataset, cell.learning_rate)
        yield Training(method, cell, its, measures)
    for method in halves:
        cell = cell_of(args, method)
        its = recipe_of(cell, dataset)
        for half, (center, scale) in HALVES.items():
            conv = functools.partial(WeightStandardizedConv, center=center, scale=scale)
            model = its.model.clone(conv=with_convolution(conv, cell.precision))
            one = dataclasses.replace(its, model=model)
            yield Training(half, cell, one, {"standardization": lambda state: {}})


def path_of(args: Any, what: str) -> Path:
    """The file of a question."""
    path: Path = args.out / f"mechanisms_{what}_{args.dataset}_batch{args.batch_size}.json"
    return path


def measured_before(args: Any, what: str) -> dict[str, Any]:
    """What the file of a question holds, by method or half; all at the settings asked for."""
    path = path_of(args, what)
    if not path.exists():
        return {}
    series: dict[str, Any] = read_measured(path, "mechanisms")["series"]
    for entry in series.values():
        settings = entry["settings"]
        if not same_setting(cell_of(args, settings["method"]), settings):
            raise InputError(f"{path} holds runs at other settings: choose another --out")
    return series


def keep(args: Any, what: str, name: str, entry: dict[str, Any]) -> None:
    """Puts runs of a method, or half, into the file of a question, beside those of other seeds."""
    path = path_of(args, what)
    with FileLock(f"{path}.lock"):  # another method may end at the same time
        series = measured_before(args, what)
        series[name] = joined(series[name], entry) if name in series else entry
        content = {"experiment": "mechanisms", "what": what, "dataset": args.dataset}
        write_json(path, content | {"series": series})


def joined(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """An entry with the runs of two; what the earlier one was made by stays beside its seeds."""
    of_seeds = {
        seed: run
        for entry in (new, before)
        for seed, run in zip(entry["settings"]["seeds"], entry["runs"], strict=True)
    }
    seeds = sorted(of_seeds)
    of_runs = ("settings", "runs", "earlier")
    source = {name: value for name, value in before.items() if name not in of_runs}
    return new | {
        "settings": new["settings"] | {"seeds": seeds},
        "runs": [of_seeds[seed] for seed in seeds],
        "earlier": [
            *before.get("earlier", []),
            {"seeds": before["settings"]["seeds"]} | source,
        ],
    }


def left(one: Training, args: Any) -> dict[tuple[int, ...], dict[str, Measure]]:
    """What remains to be measured of a network, by the seeds that lack it."""
    found: dict[tuple[int, ...], dict[str, Measure]] = {}
    for what, measure in one.measures.items():
        entry = measured_before(args, what).get(one.name)
        done = entry["settings"]["seeds"] if entry else ()
        if seeds := tuple(seed for seed in one.cell.seeds if seed not in done):
            found.setdefault(seeds, {})[what] = measure
    return found


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    if is_bucket(args.out):
        raise InputError(f"--out {args.out}: not into a bucket; choose a folder")
    if args.method and set(args.what) == {"standardization"}:
        raise InputError("--method: standardization has halves of WS, not methods; leave it out")
    console = Console()
    keep_compiled(True)
    dataset = data.load(args.dataset, args.data_dir)
    wanted = [cell_of(args, method) for method in sorted(set().union(*methods_of(args).values()))]
    check(args, wanted, dataset, one_image=True)
    dataset = dataclasses.replace(
        dataset,
        test_images=dataset.test_images[:TEST_IMAGES],
        test_labels=dataset.test_labels[:TEST_IMAGES],
    )
    for what in args.what:  # before any training
        measured_before(args, what)
    for one in trainings(args, dataset):
        todo = left(one, args)
        if not todo:
            console.print(f"{one.name}: measured before", highlight=False)
        for seeds, measures in todo.items():
            cell = dataclasses.replace(one.cell, seeds=seeds)
            for what, entry in measured(cell, one.recipe, dataset, measures).items():
                keep(args, what, one.name, entry | provenance())
                ends = [run[-1]["test_accuracy"] or np.nan for run in entry["runs"]]
                console.print(
                    f"{what}: {one.name}: test accuracy {np.mean(ends):.2f} %", highlight=False
                )
    for what in args.what:
        console.print(f"{path_of(args, what)}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(main, again="finished methods are kept: run the same command to go on")
