import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_examples_run():
    """The second: trace times parameter, the step's share of the loss, is invariant."""
    training, momentum, _ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    scope: dict = {}
    exec(training, scope)
    losses = scope["losses"]
    assert losses[-1] < losses[0] / 2

    scope["opt_state"] = optax.sgd(0.05, momentum=0.9).init(scope["params"])
    scope["opt_state"] = jax.tree.map(lambda leaf: leaf + 1, scope["opt_state"])
    before = scope["params"]
    exec(momentum, scope)
    product = [
        float(jnp.vdot(trace, param))
        for trace, param in zip(
            jax.tree.leaves(scope["opt_state"]), jax.tree.leaves(scope["params"]), strict=True
        )
    ]
    np.testing.assert_allclose(product, [leaf.sum() for leaf in jax.tree.leaves(before)], rtol=1e-2)


def test_the_table_of_an_own_network_is_what_is_printed(capsys):
    *_, own = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (table,) = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)
    exec(own, {})
    assert capsys.readouterr().out == table


def test_what_it_links_to_is_there():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
