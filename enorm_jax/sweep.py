"""Runs a cell: seeds in parallel, saved as they train, restarted where they diverged."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from enorm_jax import networks
from enorm_jax.cell import SEED_LIMIT, Cell
from enorm_jax.checkpoint import load_arrays, read_metadata, save_arrays
from enorm_jax.data import Dataset, held_out, with_inputs
from enorm_jax.devices import batch_mesh
from enorm_jax.fit import Epoch, fit
from enorm_jax.history import History, final, new_history, record
from enorm_jax.locking import claim
from enorm_jax.program import Program, compile_program
from enorm_jax.recipe import Hyperparameters, Recipe, TrainState, hyperparameters, init_states
from enorm_jax.results import provenance, read_json, write_json
from enorm_jax.storage import Folder, remove_unfinished

# An epoch takes a GPU less time than a disk takes to write what it leaves.
SAVING = 0.1


def recipe_of(cell: Cell, dataset: Dataset, together: bool = False) -> Recipe:
    """The static part of a cell's program.

    Args:
      cell: the cell.
      dataset: its data.
      together: whether all devices of all processes share each batch.

    Returns:
      A `Recipe`; cells that differ only in learning rate, c, weight decay and seeds share it.
    """
    image = dataset.train_images.shape[1:]
    return Recipe(
        model=networks.build(cell, dataset.classes),
        equalize=networks.equalizer(cell, image, dataset.classes),
        standardization=with_inputs(dataset, cell.inputs).standardization,
        batch_size=cell.batch_size,
        epochs=cell.epochs,
        train_size=cell.train_images or len(dataset.train_labels),
        bias=cell.bias_handling,
        schedule=cell.schedule,
        optimizer=networks.optimizer(cell),
        softmax=cell.softmax,
        augmentation=networks.crops(cell, image),
        convolutional=cell.network != "fc",
        mesh=batch_mesh() if together else None,
    )


def hyper_of(cell: Cell, runs: int) -> Hyperparameters:
    """The traced part of a cell's program.

    Args:
      cell: the cell.
      runs: number of runs, fewer than the cell's where diverged ones train again.

    Returns:
      `Hyperparameters` with a leading axis of runs.
    """
    rates = [rate for rate in cell.rates or () for _ in cell.seeds]
    return hyperparameters(
        runs,
        learning_rate=rates if cell.rates else cell.learning_rate,
        c=1.0 if cell.c is None else cell.c,
        weight_decay=cell.weight_decay,
    )


def run_cell(
    cell: Cell,
    dataset: Dataset,
    folder: Folder,
    *,
    save_params: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    owner: str | None = None,
    inherits: bool = False,
    together: bool = False,
    on_claim: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Trains a cell's seeds in parallel and writes its file, going on where it was stopped.

    After epochs the states are written beside the file, as often as takes a tenth of the time: a
    killed run loses the epoch in progress, and where epochs take less than ten times as long as
    their writing, as on a GPU, those since the last one written. What it ends with is the same, bit
    by bit.

    Args:
      cell: the cell.
      dataset: its data.
      folder: where to write; a folder or a place in a bucket.
      save_params: whether to keep the parameters after the last epoch.
      on_epoch: called after each epoch, for display.
      owner: name of the sweep that gives the cell to one process at a time, as for `claim`.
      inherits: whether the owner's last process is dead for sure, as for `claim`.
      together: whether all devices of all processes share each batch; then every process must
        call this, as `enorm_jax.distributed.run_cell_together` does.
      on_claim: called before training, when no other process can write the cell's files.

    Returns:
      The content of the cell's file.

    Raises:
      TakenError: if another process is training the cell.
      OSError: if the folder cannot be written.
      InputError: if a checkpoint is damaged.
      ValueError: if the data set is not the cell's, there is no such precision, a cell of several
        learning rates asks for restarts, or one of the best epoch holds nothing out.
    """
    if cell.dataset != dataset.name:
        raise ValueError(f"cannot train {cell} on {dataset.name}")
    if cell.rates and cell.restarts:
        raise ValueError(f"several learning rates cannot be restarted: {cell}")
    if cell.select == "best" and not cell.fold:
        raise ValueError(
            f"the best epoch is chosen on a fold that is held out, and has none: {cell}"
        )
    if cell.fold:
        dataset = _held_out(dataset, cell.fold, keep_test=cell.select == "best")
    folder.mkdir(parents=True, exist_ok=True)
    with claim(cell.lock_path(folder), owner, inherits=inherits):
        if cell.result_path(folder).exists():
            cell.lock_path(folder).unlink(missing_ok=True)
            return read_json(cell.result_path(folder))
        remove_unfinished(folder, cell.stem)
        on_claim()
        result = _run(cell, dataset, folder, save_params, on_epoch, together)
        # Whoever opened it before finds the cell done.
        cell.lock_path(folder).unlink(missing_ok=True)
    return result


def _run(
    cell: Cell,
    dataset: Dataset,
    folder: Folder,
    save_params: bool,
    on_epoch: Callable[[Epoch], None],
    together: bool,
) -> dict[str, Any]:
    """Trains a cell that no other process is training."""
    attempts, origins, states = _load_checkpoint(cell, dataset, folder)
    # Of the code that runs, whatever happens to its files meanwhile.
    origins.append(provenance())
    lost = list(range(cell.runs))
    for number in range(cell.restarts + 1):
        if number == len(attempts):
            seeds = [cell.seeds[i % len(cell.seeds)] + number * SEED_LIMIT for i in lost]
            attempts.append(new_history(seeds))
            states = None
        if number == len(attempts) - 1:
            program = functools.partial(_program, recipe_of(cell, dataset, together), dataset)
            states = _train(cell, program, folder, attempts, origins, states, on_epoch)
            # Between attempts in any case, since who goes on may want the parameters.
            again = number < cell.restarts and any(attempts[number]["diverged"])
            if (save_params or again) and (not together or jax.process_index() == 0):
                _save_params(cell, folder, states, lost)
        lost = [i for i, d in zip(lost, attempts[number]["diverged"], strict=True) if d]
        if not lost:
            break
    if not save_params:
        cell.params_path(folder).unlink(missing_ok=True)
    result = final(cell, attempts) | origins[-1] | {"resumed_from": origins[:-1]}
    write_json(cell.result_path(folder), result)
    cell.checkpoint_path(folder).unlink(missing_ok=True)
    return result


def progress(cell: Cell, folder: Folder) -> int:
    """The number of epochs that a cell in progress has behind it.

    Args:
      cell: the cell.
      folder: where it is written.

    Returns:
      Epochs of its current attempt; 0 if there is no checkpoint.

    Raises:
      InputError: if the checkpoint is damaged.
    """
    path = cell.checkpoint_path(folder)
    if not path.exists():
        return 0
    try:
        metadata = read_metadata(path)
    except FileNotFoundError:  # another sweep has just finished it
        return 0
    return len(metadata["attempts"][-1]["seconds"])


def _train(
    cell: Cell,
    compile_for: Callable[[int], Program],
    folder: Folder,
    attempts: list[History],
    origins: list[dict[str, Any]],
    states: TrainState | None,
    on_epoch: Callable[[Epoch], None],
) -> TrainState:
    """Trains the last attempt to its end, saving as it goes; returns the final states."""
    history = attempts[-1]
    done = len(history["seconds"])
    if states is not None and (done == cell.epochs or all(history["diverged"])):
        return states
    runs = len(history["seeds"])
    start = time.perf_counter()
    program = compile_for(runs)
    history["compile_seconds"] = time.perf_counter() - start
    hyper = hyper_of(cell, runs)
    resume = None if states is None else (done, states)
    metadata = {"attempts": attempts, "origins": origins}  # grows with the history
    saver = _Saver(lambda states: save_arrays(cell.checkpoint_path(folder), states, metadata))
    for epoch in fit(program, history["seeds"], hyper, cell.epochs, resume=resume):
        record(history, epoch)
        states = epoch.states
        last = epoch.index + 1 == cell.epochs or all(history["diverged"])
        saved = saver.offer(states, last)
        try:
            on_epoch(epoch)
        except BaseException:  # an interruption, most of all
            if not saved:
                saver.save(states)
            raise
        if last:
            break
    assert states is not None
    return states


class _Saver:
    """Saves states as often as takes a share `SAVING` of the time, the first ones at once."""

    def __init__(self, save: Callable[[Any], None]):
        self._save = save
        self._cost, self._since = 0.0, 0.0

    def offer(self, states: Any, now: bool) -> bool:
        """Saves them if enough time has passed, or in any case; tells whether it did."""
        due = self._cost == 0 or (time.perf_counter() - self._since) * SAVING >= self._cost
        if due or now:
            self.save(states)
        return due or now

    def save(self, states: Any) -> None:
        """Saves them, and keeps in mind how long that took."""
        start = time.perf_counter()
        self._save(states)
        self._since = time.perf_counter()
        self._cost = self._since - start


_kept: dict[Any, Program] = {}


def _program(recipe: Recipe, dataset: Dataset, runs: int) -> Program:
    """The program; cells that differ only in what is traced share it.

    One is kept, which goes before the next is compiled: each holds its data on the device.
    """
    key = recipe, dataset, runs
    if key not in _kept:
        _kept.clear()
        _kept[key] = compile_program(*key)
    return _kept[key]


_held_out = functools.lru_cache(maxsize=1)(held_out)


def _load_checkpoint(
    cell: Cell, dataset: Dataset, folder: Folder
) -> tuple[list[History], list[dict[str, Any]], TrainState | None]:
    path = cell.checkpoint_path(folder)
    if not path.exists():
        return [], [], None
    metadata = read_metadata(path)
    attempts, origins = metadata["attempts"], metadata["origins"]
    runs = len(attempts[-1]["seeds"])
    example = jax.ShapeDtypeStruct((1, *dataset.train_images.shape[1:]), np.uint8)
    like = jax.eval_shape(
        functools.partial(init_states, recipe_of(cell, dataset)),
        jax.ShapeDtypeStruct((runs,), np.uint32),
        hyper_of(cell, runs),
        example,
    )
    states, _ = load_arrays(path, like)
    return attempts, origins, states


def _save_params(cell: Cell, folder: Folder, states: TrainState, lost: Sequence[int]) -> None:
    """Writes the runs' variables; those of restarted runs replace the diverged ones'."""
    path = cell.params_path(folder)
    variables = {"params": states.params, "batch_stats": states.batch_stats}
    variables = jax.device_get(variables)
    if len(lost) < cell.runs:
        old, _ = load_arrays(path, jax.tree.map(lambda leaf: _grown(leaf, cell), variables))
        variables = jax.tree.map(lambda a, b: _with_rows(a, lost, b), old, variables)
    save_arrays(path, variables, cell.settings())


def _grown(leaf: np.ndarray, cell: Cell) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((cell.runs, *leaf.shape[1:]), leaf.dtype)


def _with_rows(leaf: np.ndarray, rows: Sequence[int], values: np.ndarray) -> np.ndarray:
    leaf = leaf.copy()
    leaf[list(rows)] = values
    return leaf
