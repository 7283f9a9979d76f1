import re
from pathlib import Path

import chex
import jax
import optax
import pytest
from flax import nnx

from enorm_jax import enorm_step

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_examples_run():
    training, momentum, *_ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    scope: dict = {}
    exec(training, scope)
    losses = scope["losses"]
    assert losses[-1] < losses[0] / 2

    before, plain = scope["params"], optax.sgd(0.05, momentum=0.9, nesterov=True)
    exec(momentum, scope)
    updates, _ = plain.update(scope["grads"], plain.init(before), before)
    expected = enorm_step(optax.apply_updates(before, updates), c=1.2)
    chex.assert_trees_all_close(scope["params"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_table_of_an_own_network_is_what_is_printed(capsys):
    _, _, own, *_ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (table,) = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)
    exec(own, {})
    assert capsys.readouterr().out == table


@pytest.mark.slow
def test_the_example_of_other_normalizations_trains_on_one_image():
    *_, other, in_nnx = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    scope: dict = {}
    exec(other, scope)
    assert scope["logits"].shape == (1, 10)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        scope["new"],
        {"batch_stats": scope["variables"]["batch_stats"]},
    )
    assert all(jax.tree.leaves(moved))

    exec(in_nnx, scope)
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


def test_what_it_links_to_is_there():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        name, _, anchor = target.partition("#")
        path = Path(__file__).parents[1] / name
        assert path.exists(), target
        assert not anchor or f'id="{anchor}"' in path.read_text(), target
