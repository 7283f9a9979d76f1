"""The study's training in PyTorch, for the benchmark: written well, and as the study's text says.

Needs the extra ``bench`` (``pip install -e '.[bench]'``).
"""

import itertools
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from enorm_jax.data import CIFAR10_STANDARDIZATION, Dataset

MEAN, STD = CIFAR10_STANDARDIZATION.mean, CIFAR10_STANDARDIZATION.std
BATCH, RATE, DECAY, C = 256, 0.05, 1e-3, 1.2


def network(depth: int, width: int = 500) -> Sequential:
    """The study's network, without bias."""
    layers: list[torch.nn.Module] = []
    units = [3072] + [width] * (depth + 1)
    for fan_in, fan_out in itertools.pairwise(units):
        layers += [Linear(fan_in, fan_out, bias=False), ReLU()]
    layers.append(Linear(width, 10, bias=False))
    for layer in layers:
        if isinstance(layer, Linear):
            torch.nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    return Sequential(*layers)


def linears(model: Sequential) -> list[Linear]:
    """The layers that have weights."""
    return [layer for layer in model if isinstance(layer, Linear)]


@torch.no_grad()
def enorm(model: Sequential) -> None:
    """A cycle in place, by broadcasting."""
    weights = [layer.weight for layer in linears(model)]
    for into, out in itertools.pairwise(weights):
        d = (out.norm(dim=0) / (C * into.norm(dim=1))).sqrt_()
        into.mul_(d[:, None])
        out.div_(d)


@torch.no_grad()
def enorm_by_diagonals(model: Sequential) -> None:
    """A cycle by products with diagonal matrices, as the study writes it."""
    layers = linears(model)
    for into, out in itertools.pairwise(layers):
        d = torch.sqrt(out.weight.norm(dim=0) / (C * into.weight.norm(dim=1)))
        into.weight.copy_(torch.diag(d) @ into.weight)
        out.weight.copy_(out.weight @ torch.diag(1 / d))


def in_memory(
    dataset: Dataset, depth: int, *, with_enorm: bool, bfloat16: bool
) -> Iterator[tuple[float, float]]:
    """Epochs with the data in memory as uint8.

    Args:
      dataset: CIFAR-10.
      depth: p.
      with_enorm: whether ENorm follows each step.
      bfloat16: whether products are under autocast.

    Yields:
      Seconds of training and of the test pass.
    """
    torch.manual_seed(0)
    images, labels = torch.from_numpy(dataset.train_images), torch.from_numpy(dataset.train_labels)
    test = torch.from_numpy(dataset.test_images), torch.from_numpy(dataset.test_labels)
    mean, inverse = 255 * torch.tensor(MEAN), 1 / (255 * torch.tensor(STD))
    model = network(depth)
    optimizer = torch.optim.SGD(model.parameters(), RATE, weight_decay=DECAY, foreach=True)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)

    def logits(batch: torch.Tensor) -> torch.Tensor:
        inputs = ((batch.float() - mean) * inverse).flatten(1)
        with autocast:
            return model(inputs).float()

    while True:
        start = time.perf_counter()
        for index in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(logits(images[index]), labels[index].long()).backward()
            optimizer.step()
            if with_enorm:
                enorm(model)
        middle = time.perf_counter()
        with torch.no_grad():
            pairs = zip(*(part.split(1000) for part in test), strict=True)
            sum((logits(x).argmax(1) == y).sum() for x, y in pairs)
        yield middle - start, time.perf_counter() - middle


class PerImage(TorchDataset[tuple[torch.Tensor, int]]):
    """Images one by one: to a tensor of floats in [0, 1], channels first, then standardized."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels
        self.mean = torch.tensor(MEAN)[:, None, None]
        self.std = torch.tensor(STD)[:, None, None]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.images[index]).permute(2, 0, 1).contiguous().float().div(255)
        return image.sub_(self.mean).div_(self.std), int(self.labels[index])


def as_the_study(dataset: Dataset, depth: int) -> Iterator[tuple[float, float]]:
    """Epochs of ENorm with a data loader, transforms per image and diagonal matrices.

    Args:
      dataset: CIFAR-10.
      depth: p.

    Yields:
      Seconds of training and of the test pass.
    """
    torch.manual_seed(0)
    train = DataLoader(PerImage(dataset.train_images, dataset.train_labels), BATCH, shuffle=True)
    test = DataLoader(PerImage(dataset.test_images, dataset.test_labels), BATCH)
    model = network(depth)
    optimizer = torch.optim.SGD(model.parameters(), RATE, weight_decay=DECAY)
    while True:
        start = time.perf_counter()
        for images, labels in train:
            optimizer.zero_grad()
            cross_entropy(model(images.flatten(1)), labels).backward()
            optimizer.step()
            enorm_by_diagonals(model)
        middle = time.perf_counter()
        with torch.no_grad():
            for images, labels in test:
                (model(images.flatten(1)).argmax(1) == labels).sum()
        yield middle - start, time.perf_counter() - middle
