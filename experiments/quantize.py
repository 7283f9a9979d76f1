"""What equalization is worth before weights are quantized.

    python experiments/quantize.py --params results/*.safetensors --data-dir DIR

rounds the kernels of trained networks (`fc_sweep.py --save-params`) to 8, 7, ... bits, one step
size per kernel, and measures test accuracy as they are and after cross-layer equalization, beside
one step size per output channel. Batch norm is folded into the kernels first. Without --params,
four small networks are trained on scikit-learn's digits on the spot. About a minute a network.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from enorm_jax import FullyConnected, cli, data, parse, published, rescale
from enorm_jax.checkpoint import load_variables
from enorm_jax.equalize import equalizing_scales
from enorm_jax.errors import InputError
from enorm_jax.evaluation import evaluate
from enorm_jax.methods import STUDY, make_method
from enorm_jax.quantization import fold_batch_norm, quantize_weights
from enorm_jax.recipe import Recipe, TrainState, hyperparameters, init_state
from enorm_jax.results import provenance
from enorm_jax.training import train_epoch

BITS = (8, 7, 6, 5, 4, 3)
Network = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]  # settings, params, batch_stats


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument("--params", type=Path, nargs="+", help="files of trained networks")
    p.add_argument("--data-dir", help="where TFDS prepared CIFAR-10; default: TFDS_DATA_DIR")
    p.add_argument("--out", type=parse.new_file, help="JSON file to write")
    return p


def recipe_for(dataset: data.Dataset, model: FullyConnected, **changes: Any) -> Recipe:
    """A recipe to evaluate a model on a data set."""
    settings = {
        "equalize": None, "standardization": dataset.standardization, "batch_size": 64,
        "epochs": 30, "train_size": len(dataset.train_labels),
    }  # fmt: skip
    return Recipe(model=model, **(settings | changes))


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of a sweep's file of networks that can be folded and quantized."""
    _, settings = load_variables(path)
    if settings.get("experiment") != "fc":
        raise InputError(f"{path} is no finished cell of fc_sweep.py --save-params: leave it out")
    if settings["method"] not in STUDY:
        raise InputError(
            f"{path} was trained with {settings['method']}: only networks of {', '.join(STUDY)} "
            "can be folded and quantized"
        )
    return settings


def saved(paths: list[Path], console: Console) -> Iterator[Network]:
    """The networks in a sweep's files, one per seed; says which diverged, and leaves them out."""
    for path in paths:
        variables, settings = load_variables(path)
        for run, seed in enumerate(settings["seeds"]):
            one = jax.tree.map(lambda leaf, run=run: jnp.asarray(leaf[run]), variables)
            if all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(one)):
                yield settings | {"seed": seed}, one["params"], one.get("batch_stats", {})
            else:
                console.print(f"{path.name}: seed {seed} diverged and is left out", soft_wrap=True)


def trained(dataset: data.Dataset, depth: int = 3, width: int = 64) -> Iterator[Network]:
    """Small networks of every method, trained on the spot."""
    images, labels = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    for name in STUDY:
        method = make_method(name)
        model = method.network(depth, width=width, classes=dataset.classes)
        recipe = recipe_for(dataset, model, equalize=method.equalize)
        rate = published.learning_rate(name, depth)
        hyper = hyperparameters(1, learning_rate=rate, c=1.2, weight_decay=1e-3)
        hyper = jax.tree.map(lambda leaf: leaf[0], hyper)
        state = init_state(recipe, jax.random.key(0), hyper, images[:2])
        epoch = jax.jit(lambda state, key, recipe=recipe: train_epoch(
            recipe, state, key, images, labels))  # fmt: skip
        for key in jax.random.split(jax.random.key(1), recipe.epochs):
            state, _ = epoch(state, key)
        settings = {"dataset": dataset.name, "method": name, "depth": depth, "width": width}
        yield settings | {"seed": 0}, state.params, state.batch_stats


def measured(network: Network, dataset: data.Dataset) -> dict[str, Any]:
    """Accuracies of one network, in percent, at every number of bits."""
    settings, params, batch_stats = network
    folded = fold_batch_norm(params, batch_stats)
    scales, cycles = equalizing_scales(folded)
    equal = rescale(folded, scales)
    model = FullyConnected(settings["depth"], settings["width"], dataset.classes, use_bias=True)
    accuracy = accuracy_on(data.with_inputs(dataset, settings.get("inputs", "published")), model)
    return {
        **{key: settings[key] for key in ("method", "depth", "width", "seed")},
        "float": accuracy(folded),
        "float_equalized": accuracy(equal),
        "equalization_cycles": int(cycles),
        "spread": spread(folded),
        "spread_equalized": spread(equal),
        "per_tensor": [accuracy(quantize_weights(folded, bits)) for bits in BITS],
        "per_tensor_equalized": [accuracy(quantize_weights(equal, bits)) for bits in BITS],
        "per_channel": [accuracy(quantize_weights(folded, bits, "channel")) for bits in BITS],
    }


def accuracy_on(dataset: data.Dataset, model: FullyConnected) -> Callable[[Any], float]:
    """Function from parameters to test accuracy in percent."""
    recipe = recipe_for(dataset, model)
    images, labels = jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels)

    @jax.jit
    @jax.default_matmul_precision("float32")
    def run(state: TrainState) -> jax.Array:
        return evaluate(recipe, state, images, labels)[1]

    def accuracy(params: Any) -> float:
        hyper = hyperparameters(1, learning_rate=0.0, c=1.0, weight_decay=0.0)
        return round(100 * float(run(TrainState(params, {}, (), hyper))), 2)

    return accuracy


def spread(params: dict[str, Any]) -> list[float]:
    """Per kernel, the largest range of an output channel over the median one."""
    ranges = [np.abs(np.asarray(layer["kernel"])).max(axis=0) for layer in params.values()]
    return [round(float(r.max() / max(np.median(r), 1e-30)), 2) for r in ranges]


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    name = "digits"
    if args.params:
        names = {settings_of(path)["dataset"] for path in args.params}
        if len(names) != 1:
            raise InputError(
                f"--params are of several data sets, {', '.join(sorted(names))}: give those of one"
            )
        name = names.pop()
    dataset = data.load(name, args.data_dir)
    found = {"experiment": "quantize", "dataset": name, "bits": BITS, **provenance()}
    console, networks = Console(), []
    table = Table("network", "weights", "float", *(f"{bits} bits" for bits in BITS))
    for network in saved(args.params, console) if args.params else trained(dataset):
        result = measured(network, dataset)
        networks.append(result)
        label = (
            f"{make_method(result['method']).label}, p = {result['depth']}, seed {result['seed']}"
        )
        for row, exact in (("per_tensor", "float"), ("per_tensor_equalized", "float_equalized"),
                           ("per_channel", "float")):  # fmt: skip
            values = [result[exact], *result[row]]
            table.add_row(label, row.replace("_", " "), *(f"{value:.2f}" for value in values))
            label = ""
    console.print(table)
    cli.save(args.out, found | {"networks": networks}, console)


if __name__ == "__main__":
    cli.run(main)
