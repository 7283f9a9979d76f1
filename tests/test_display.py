import dataclasses
import io
from types import SimpleNamespace

import numpy as np
from rich.console import Console
from sweeps import CELLS

from enorm_jax.cost import epoch_work
from enorm_jax.data import load
from enorm_jax.display import Display


def epoch(index, accuracy=50.0):
    return SimpleNamespace(
        index=index, losses=np.ones((1, 2)), test_loss=np.ones(1),
        test_accuracy=np.array([accuracy]), seconds=1.0,
    )  # fmt: skip


def test_the_bar_of_all_cells_counts_epochs_that_are_trained_again_once():
    one, two = CELLS
    console = Console(file=io.StringIO(), force_terminal=True)
    with Display(console, CELLS, lambda cell: 2.0 if cell == one else 3.0) as display:
        whole = display._bars.tasks[0]
        display.start(one, 4)
        assert whole.completed == 4 * 2.0
        for index in (4, 5, 6, 0, 1):  # diverged after its seventh epoch, and restarted
            display.epoch(one, epoch(index))
        assert whole.completed == 2 * 2.0
        display.died(one)
        display.start(one, 1)  # its checkpoint is of the epoch before
        display.epoch(one, epoch(1))
        assert whole.completed == 2 * 2.0
        display.done(one, {"test_accuracy": [50.0], "diverged": [None], "restarted": [[]]})
        assert whole.completed == 12 * 2.0
        display.start(two, 0)
        display.taken(two)
        assert whole.completed == whole.total == 12 * 5.0


def test_images_that_are_held_out_are_no_work():
    digits = load("digits", None)
    folded = dataclasses.replace(CELLS[0], fold="0/5")
    share = epoch_work(folded, digits) / epoch_work(CELLS[0], digits)
    assert abs(share - 0.8) < 1e-3
