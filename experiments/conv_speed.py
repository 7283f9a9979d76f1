"""How fast convolutions are: XLA's beside those of this library, layer by layer.

    python experiments/conv_speed.py --out experiments/results/conv-speed.json

times forward and backward pass of single 3 x 3 convolutions with the sizes of the networks here,
in turn and round after round, then a training step of ENorm's convolutional network at its
published size, on made-up images. Some 3 minutes on 2 cores; nothing else should run meanwhile.
Ratios are medians over rounds of ratios within one.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import conv_sweep
from enorm_jax import cli, parse
from enorm_jax.convolution import CONVOLUTIONS
from enorm_jax.data import Dataset
from enorm_jax.fit import fit
from enorm_jax.inputs import Standardization
from enorm_jax.layers import PRECISIONS
from enorm_jax.networks import plain
from enorm_jax.program import compile_program
from enorm_jax.recipe import hyperparameters
from enorm_jax.results import provenance
from enorm_jax.sweep import recipe_of
from enorm_jax.timing import clock, in_rounds, matmul_rate, within_rounds

# Positions along a side, channels in and out: of the published network, of the quarter of it that
# conv_sweep.py trains on a CPU, of the small residual network.
LAYERS = [
    (28, 128, 128), (14, 128, 256), (14, 256, 256), (7, 256, 320),
    (28, 32, 32), (14, 32, 64), (14, 64, 64), (7, 64, 80),
    (32, 16, 16), (16, 32, 32), (8, 64, 64),
]  # fmt: skip
KINDS: dict[str, Callable[..., jax.Array]] = {
    "XLA": jax.lax.conv_general_dilated,
    **{str(precision): conv for precision, conv in CONVOLUTIONS.items()},
}


def parser() -> cli.Parser:
    """The command's arguments."""
    p = cli.Parser(description=__doc__, formatter_class=cli.HelpFormatter)
    p.add_argument("--batch-size", type=parse.positive_int, default=64, help="images in a step")
    p.add_argument("--rounds", type=parse.positive_int, default=5)
    p.add_argument("--layers", type=parse.positive_int, help="only so many of the layers")
    p.add_argument(
        "--width", type=parse.positive_float, default=1.0, help="of the network, over the published"
    )
    p.add_argument("--out", type=parse.new_file, help="JSON file to write")
    return p


def layer(batch: int, size: int, inputs: int, outputs: int, kind: str) -> Callable[[], float]:
    """Function that times both passes of a convolution, in seconds."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, size, size, inputs))
    kernel = jax.random.normal(keys[1], (3, 3, inputs, outputs))
    g = jax.random.normal(keys[2], (batch, size, size, outputs))

    @jax.jit
    def both(x: jax.Array, kernel: jax.Array, g: jax.Array) -> Any:
        def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return KINDS[kind](
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        y, pullback = jax.vjp(conv, x, kernel)
        return y, pullback(g)

    return clock(both, x, kernel, g)


def network(batch: int, width: float, kind: str) -> Callable[[], float]:
    """Function that times a step of ENorm's convolutional network, in seconds."""
    arguments = ["--method", "enorm", "--batch-size", str(batch), "--width", f"{width:g}"]
    precision = kind if kind in PRECISIONS else "float32"
    (cell,) = conv_sweep.cells(
        conv_sweep.parser().parse_args([*arguments, "--precision", precision])
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, batch).astype(np.int32)
    scale = Standardization(255.0, mean=(0.5,) * 3, std=(0.25,) * 3)
    dataset = Dataset("cifar10", images, labels, images, labels, 10, scale)
    its = recipe_of(cell, dataset)
    if kind == "XLA":
        its = dataclasses.replace(its, model=plain(cell, dataset.classes))
    program = compile_program(its, dataset, 1)
    hyper = hyperparameters(1, learning_rate=1e-3, c=1.1, weight_decay=1e-3)
    steps = fit(program, (0,), hyper, epochs=1_000_000)
    return lambda: next(steps).seconds


def measure(build: Callable[[str], Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind, a round after a round that warms up."""
    rounds_of = list(in_rounds({kind: build(kind) for kind in KINDS}, rounds))
    return {kind: [of[kind] for of in rounds_of] for kind in KINDS}


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How many times as fast as XLA's in float32 each is."""
    return {
        kind: statistics.median(within_rounds(seconds["XLA"], seconds[kind])) for kind in PRECISIONS
    }


def main() -> None:
    """Runs the command."""
    args = parser().parse_args()
    console = Console()
    batch = args.batch_size
    found: dict[str, Any] = {"experiment": "conv_speed", **provenance(), "batch_size": batch}
    found["matmul_flops"] = {p: matmul_rate(precision=p) for p in PRECISIONS}
    found["layers"] = []
    over = [f"{precision} over XLA's" for precision in PRECISIONS]
    table = Table("convolution", *(f"{kind} (GFLOP/s)" for kind in KINDS), *over)
    for size, inputs, outputs in LAYERS[: args.layers]:
        timed = functools.partial(layer, batch, size, inputs, outputs)
        seconds = measure(timed, args.rounds)
        work = 3 * 2 * 9.0 * batch * size**2 * inputs * outputs
        found["layers"].append(
            {"size": size, "inputs": inputs, "outputs": outputs, "flops": work,
             "seconds": seconds, "ratios": ratios(seconds)}
        )  # fmt: skip
        rates = (f"{work / statistics.median(seconds[kind]) / 1e9:.0f}" for kind in KINDS)
        name = f"{batch} x {size} x {size} x {inputs} -> {outputs}"
        table.add_row(name, *rates, *(f"{ratio:.2f}" for ratio in ratios(seconds).values()))
    console.print(table)
    seconds = measure(functools.partial(network, batch, args.width), args.rounds)
    found["network"] = {"width": args.width, "seconds": seconds, "ratios": ratios(seconds)}
    medians = ", ".join(f"{kind} {statistics.median(seconds[kind]):.2f} s" for kind in KINDS)
    gains = ", ".join(f"{ratio:.2f} in {kind}" for kind, ratio in ratios(seconds).items())
    console.print(f"a step of the network: {medians}; over XLA's {gains}", highlight=False)
    cli.save(args.out, found, console)


if __name__ == "__main__":
    cli.run(main)
