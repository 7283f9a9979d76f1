"""Small sweeps that tests run by one engine or another, and what watches them."""

import collections
import dataclasses
import time

from enorm_jax.cell import Cell
from enorm_jax.jobs import Job
from enorm_jax.locking import claim
from enorm_jax.results import read_results

# What says how a result was computed, and not what it is.
VARYING = {"date", "seconds_per_epoch", "compile_seconds", "resumed_from", "device", "commit"}
CELL = Cell(
    experiment="fc", dataset="digits", method="enorm+bn", depth=1, width=8, bias=False, epochs=12,
    learning_rate=0.05, c=1.2, batch_size=256, weight_decay=1e-3, precision="float32",
    restarts=0, seeds=(0,),
)  # fmt: skip
CELLS = [CELL, dataclasses.replace(CELL, depth=2)]


def job(folder, **settings):
    return Job("digits", None, folder, compilation_cache=False, **settings)


class LongEpoch(Job):
    """Claims a cell, and then says nothing for a minute."""

    def run(self, cell, observer):
        with claim(cell.lock_path(self.out), self.sweep):
            time.sleep(60)


def content(folder):
    results = read_results(folder)
    return [{k: v for k, v in result.items() if k not in VARYING} for result in results]


class Log:
    """Remembers what it is told; `on_epoch(cell)` is called once for each epoch told of."""

    def __init__(self, on_epoch=lambda cell: None):
        self.told, self.on_epoch = collections.Counter(), on_epoch

    def __getattr__(self, name):
        def tell(cell, *arguments):
            self.told[name] += 1
            if name == "epoch":
                self.on_epoch(cell)

        return tell
