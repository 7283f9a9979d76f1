"""A cell: one setting of an experiment with all its seeds, and the names of its files."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from enorm_jax.conv_models import NormAfter
from enorm_jax.enorm import Order
from enorm_jax.errors import InputError
from enorm_jax.inputs import Inputs
from enorm_jax.layers import Precision
from enorm_jax.methods import GROUPS
from enorm_jax.models import Initializer
from enorm_jax.optimizer import Schedule
from enorm_jax.state_rescaling import StateBias
from enorm_jax.storage import Folder

Select = Literal["last", "best"]
Network = Literal["fc", "conv", "resnet", "imagenet-resnet"]
Skips = Literal["published", "identity", "projection", "learned"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One setting with all its seeds.

    Attributes:
      experiment: name of the experiment, such as ``"fc"``.
      dataset: as for `enorm_jax.data.load`.
      method: its name, as `make_method` reads it.
      depth: number of hidden-to-hidden layers p; of a convolutional network, all its layers.
      width: hidden units per layer; of a convolutional network, channels of the first.
      bias: whether layers have a bias.
      epochs: number of epochs.
      learning_rate: initial rate.
      c: ratio of norms that ENorm aims at; None for a method without ENorm.
      batch_size: images in a step.
      weight_decay: λ on all parameters.
      precision: of the matrix products' operands, ``"float32"`` or ``"bfloat16"``.
      restarts: how often a diverged seed starts again with another one.
      seeds: one per run.
      bias_handling: what ENorm does with biases: ``"scale"``, ``"keep"`` or ``"gauge"``.
      order: in which ENorm takes norms, ``"sequential"`` or ``"simultaneous"``.
      balance_last: whether ENorm balances the last hidden layer against the output layer.
      init: of kernels, a key of `enorm_jax.models.INITIALIZERS`.
      inputs: how pixels become inputs, one of `enorm_jax.inputs.INPUTS`.
      schedule: of the learning rate, one of `enorm_jax.optimizer.SCHEDULES`.
      train_images: how many images to train on, the first ones; None for all.
      softmax: whether the outputs pass a softmax before the loss, which takes one itself.
      groups: into how many groups group normalization divides a layer's units.
      rates: several initial rates, with each of which every seed is trained; None for
        `learning_rate` alone. Results come rate by rate.
      fold: ``"0/5"`` holds the first fifth of the training images out, every fifth image, and
        puts it in the place of the test images, which are then not used; None for none.
      of_norms: whether ENorm balances the scales of normalization layers instead of the kernels
        before them, which leaves the network's function as it is.
      select: which epoch's network counts: the ``"last"``, or that which is ``"best"`` on the
        fold; then the test images are used, and the fold is held out for this alone. A run that
        diverges after its best epoch counts with it.
      network: ``"fc"`` for the study's, ``"conv"`` for `FullyConvolutional`, ``"resnet"`` for
        `ResNet` of three stages, ``"imagenet-resnet"`` for that of four.
      momentum: of SGD; ENorm rescales what it accumulates with the units.
      augment: whether training images are cropped at random and flipped, as networks.crops says.
      norm_after: which convolutions of `FullyConvolutional` a normalization follows.
      skip: that of every block of a `ResNet`; ``"published"`` as in the network's paper: identity
        of a ``"resnet"``, projection of an ``"imagenet-resnet"``.
    """

    experiment: str
    dataset: str
    method: str
    depth: int
    width: int
    bias: bool
    epochs: int
    learning_rate: float
    c: float | None
    batch_size: int
    weight_decay: float
    precision: Precision
    restarts: int
    seeds: tuple[int, ...]
    bias_handling: StateBias = "scale"
    order: Order = "sequential"
    balance_last: bool = True
    init: Initializer = "he_uniform"
    inputs: Inputs = "published"
    schedule: Schedule = "linear"
    train_images: int | None = None
    softmax: bool = False
    groups: int = GROUPS
    rates: tuple[float, ...] | None = None
    fold: str | None = None
    of_norms: bool = False
    select: Select = "last"
    network: Network = "fc"
    momentum: float = 0.0
    augment: bool = False
    norm_after: NormAfter = "published"
    skip: Skips = "published"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Cell":
        """The cell that a sweep's file is of.

        Args:
          settings: content of a result, as `read_results` gives it, or settings from
            `load_variables`; what was not yet a setting when the file was written is as it was.

        Returns:
          The cell.

        Raises:
          InputError: if a setting is missing.

        Example:
          >>> from enorm_jax.cell import Cell
          >>> cell = Cell("fc", "digits", "bn", 3, 100, False, 10, 0.1, None, 64, 1e-3, "float32",
          ...             0, (0, 1))
          >>> Cell.of(cell.settings() | {"test_accuracy": [97.0, 98.0]}) == cell
          True
        """
        known = LATER | dict(settings)
        missing = [field.name for field in dataclasses.fields(cls) if field.name not in known]
        if missing:
            raise InputError(f"these are no cell's settings, which have {', '.join(missing)} too")
        known |= {name: known[name] and tuple(known[name]) for name in ("seeds", "rates")}
        return cls(**{field.name: known[field.name] for field in dataclasses.fields(cls)})

    def settings(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        rates = self.rates and list(self.rates)
        return vars(self) | {"seeds": list(self.seeds), "rates": rates}

    @property
    def runs(self) -> int:
        """How many networks the cell trains: seeds times rates."""
        return len(self.seeds) * len(self.rates or (self.learning_rate,))

    @property
    def variants(self) -> list[str]:
        """What differs from the study, in words: ``["gauge", "he_normal"]``."""
        differing = {k: getattr(self, k) for k in LATER if getattr(self, k) != LATER[k]}
        words = {
            "balance_last": "last_left_out",
            "softmax": "softmax",
            "of_norms": "of_norms",
            "select": "best_epoch",
            "groups": f"{self.groups}_groups",
            "rates": f"{len(self.rates or ())}_rates",
            "fold": f"fold{(self.fold or '').replace('/', 'of')}",
            "momentum": f"momentum{self.momentum:g}",
            "augment": "crops",
            "norm_after": f"norms_after_{self.norm_after}",
            "skip": f"{self.skip}_skips",
        }
        named = {key: value for key, value in differing.items() if key != "network"}
        return [words.get(key, str(value)) for key, value in named.items()]

    @property
    def size(self) -> str:
        """Network and size: ``p09``, ``resnet08``."""
        return f"{'p' if self.network == 'fc' else self.network}{self.depth:02d}"

    @property
    def stem(self) -> str:
        """Name of the cell's files: readable, and unique to its settings."""
        # Settings that came later count only where they are used, so that names stay.
        named = {k: v for k, v in self.settings().items() if k not in LATER or v != LATER[k]}
        digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()
        bias = "-bias" if self.bias else ""
        bias += "".join(f"-{text}" for text in self.variants)
        seeds = self.seeds
        spread = f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
        return (
            f"{self.experiment}-{self.dataset}-{self.method}-{self.size}{bias}"
            f"-seed{spread}-{digest[:8]}"
        )

    def result_path(self, folder: Folder) -> Folder:
        """The cell's file; that it is there says that the cell is done."""
        return folder / f"{self.stem}.json"

    def params_path(self, folder: Folder) -> Folder:
        """Where the parameters after the last epoch are kept, if asked for."""
        return folder / f"{self.stem}.safetensors"

    def checkpoint_path(self, folder: Folder) -> Folder:
        """Where the cell in progress is kept, epoch by epoch."""
        return folder / f"{self.stem}.checkpoint.safetensors"

    def lock_path(self, folder: Folder) -> Folder:
        """What a process holds while it trains the cell; freed by its death."""
        return folder / f"{self.stem}.lock"


# Seeds that a user can ask for lie below it: a seed restarted once is seed + SEED_LIMIT.
SEED_LIMIT = 1_000_000

# What settings were before they could be chosen; files of that time lack them.
LATER: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(Cell)
    if field.default is not dataclasses.MISSING
}

# A run is the same whoever ran beside it, and however often it might have been restarted.
POOLED = ("seeds", "restarts")


def same_setting(cell: Cell, result: dict[str, Any]) -> bool:
    """Whether a result was made at the cell's settings, whatever the seeds and restarts.

    Args:
      cell: the cell.
      result: content of a cell's file.

    Returns:
      True if all other settings agree.
    """
    settings = cell.settings()
    result = LATER | result
    return all(result.get(key) == settings[key] for key in settings if key not in POOLED)


def without_done_seeds(cell: Cell, results: Iterable[dict[str, Any]]) -> Cell | None:
    """The cell with the seeds that no result has yet, or None if all are done.

    A seed that diverged is done if it was restarted as often as is asked for now.

    Args:
      cell: a cell as asked for.
      results: finished cells, from `read_results`.

    Returns:
      The cell that is left to run.
    """
    done = {
        seed
        for result in results
        if same_setting(cell, result)
        for place, seed in enumerate(result["seeds"])
        if result["restarts"] >= cell.restarts
        or not any(result["diverged"][place :: len(result["seeds"])])  # at any of the rates
    }
    left = tuple(seed for seed in cell.seeds if seed not in done)
    return dataclasses.replace(cell, seeds=left) if left else None
