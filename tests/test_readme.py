import re
from pathlib import Path

import chex
import jax
import optax
import pytest
from flax import nnx

from enorm_jax import data, enorm_step
from enorm_jax.cell import Cell
from enorm_jax.sweep import run_cell

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINING, MOMENTUM, OWN, OTHER, IN_NNX, READING = re.findall(
    r"```python\n(.*?)```", README, flags=re.DOTALL
)


@pytest.mark.slow
def test_the_python_examples_run():
    scope: dict = {}
    exec(TRAINING, scope)
    losses = scope["losses"]
    assert losses[-1] < losses[0] / 2

    before, plain = scope["params"], optax.sgd(0.05, momentum=0.9, nesterov=True)
    exec(MOMENTUM, scope)
    updates, _ = plain.update(scope["grads"], plain.init(before), before)
    expected = enorm_step(optax.apply_updates(before, updates), c=1.2)
    chex.assert_trees_all_close(scope["params"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_table_of_an_own_network_is_what_is_printed(capsys):
    (table,) = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)
    exec(OWN, {})
    assert capsys.readouterr().out == table


@pytest.mark.slow
def test_the_example_of_other_normalizations_trains_on_one_image():
    scope: dict = {}
    exec(OTHER, scope)
    assert scope["logits"].shape == (1, 10)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        scope["new"],
        {"batch_stats": scope["variables"]["batch_stats"]},
    )
    assert all(jax.tree.leaves(moved))

    exec(IN_NNX, scope)
    network, x = scope["network"], scope["x"]
    optimizer = nnx.Optimizer(network, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(network, optimizer):
        loss, grads = nnx.value_and_grad(lambda network: -network(x, True)[0, 3])(network)
        optimizer.update(network, grads)
        return loss

    losses = [float(step(network, optimizer)) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    estimates = nnx.to_flat_state(nnx.state(network, nnx.BatchStat))
    at_first = {"mean": 0.0, "var": 1.0}
    moved = {path[-1]: bool((x[...] != at_first[path[-1]]).any()) for path, x in estimates}
    assert moved == {"mean": True, "var": True}


@pytest.mark.slow
def test_what_a_sweep_left_is_read_as_it_says(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    cell = Cell(
        experiment="fc", dataset="digits", method="ws+bcn", depth=1, width=8, bias=False, epochs=3,
        learning_rate=0.1, c=None, batch_size=64, weight_decay=1e-3, precision="float32",
        restarts=0, seeds=(0, 7), groups=2,
    )  # fmt: skip
    digits = data.load("digits")
    result = run_cell(cell, digits, tmp_path, save_params=True)
    scope: dict = {}
    exec(
        READING.replace("experiments/runs/CELL.safetensors", str(cell.params_path(tmp_path))), scope
    )
    assert len(scope["accuracies"]) > 100
    for run, accuracy in enumerate(result["test_accuracy"]):
        variables = jax.tree.map(lambda leaf, run=run: leaf[run], scope["variables"])
        logits = scope["model"].apply(variables, scope["images"], train=False)
        right = (logits.argmax(axis=1) == digits.test_labels).mean()
        assert 100 * float(right) == pytest.approx(accuracy, abs=0.3)


def test_what_it_links_to_is_there():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        name, _, anchor = target.partition("#")
        path = ROOT / name
        assert path.exists(), target
        assert not anchor or f'id="{anchor}"' in path.read_text(), target
