import runpy
from pathlib import Path

import numpy as np
import pytest

from enorm_jax import cli
from enorm_jax.curves import comparable, curves
from enorm_jax.results import write_json

FIGURES = Path(__file__).parents[1] / "figures"


def cell(method, seeds=(0,), depth=9, level=50.0, lost=None, **changes):
    """A cell of four epochs and three layers."""
    epochs = np.arange(4)
    accuracy = [[level + seed + epoch for epoch in epochs.tolist()] for seed in seeds]
    loss = [[float(np.exp(-epoch)) for epoch in epochs] for _ in seeds]
    norms = [[[3.0 - epoch / 9, 4.0, 9.0] for epoch in epochs.tolist()] for _ in seeds]
    return {
        "experiment": "fc", "dataset": "cifar10", "method": method, "depth": depth, "width": 500,
        "bias": False, "epochs": 4, "learning_rate": {"bn": 0.1, "enorm+bn": 0.1}.get(method, 0.05),
        "c": 1.2 if "enorm" in method else None, "batch_size": 256, "weight_decay": 1e-3,
        "precision": "float32", "restarts": 0, "seeds": list(seeds),
        "diverged": [lost] * len(seeds),
        "test_accuracy": [None if lost else row[-1] for row in accuracy],
        "curves": {"test_accuracy": accuracy, "train_loss": loss, "kernel_norms": norms},
    } | changes  # fmt: skip


def test_methods_are_drawn_together_only_at_one_setting():
    cells = [
        cell("baseline"), cell("bn", precision="bfloat16"), cell("enorm"),
        cell("enorm", (1,)), cell("enorm", (2, 3, 4), c=1.1),
        cell("enorm", (5, 6, 7), schedule="notebook"), cell("bn", (5, 6, 7), schedule="notebook"),
        cell("bn", depth=1), cell("bn", bias=True), cell("baseline", (1, 2, 3), learning_rate=0.1),
    ]  # fmt: skip
    found = comparable(cells, 9, bias=False)
    assert {m: [r["seeds"] for r in own] for m, own in found.items()} == {
        "baseline": [[0]], "enorm": [[0], [1]],
    }  # fmt: skip
    assert comparable(cells, 3, bias=False) == {}


def test_each_seed_has_one_curve_the_restarted_one_and_none_from_where_it_diverged():
    lost = cell("enorm", (0, 1), lost={"epoch": 2, "step": 1})
    lost["curves"]["test_accuracy"] = [[50.0, 51.0, None]] * 2
    again = cell("enorm", (1,), level=60.0, restarts=1)
    for order in ([lost, again], [again, lost]):
        found = curves(order, "test_accuracy")
        np.testing.assert_array_equal(found, [[50, 51, np.nan, np.nan], [61, 62, 63, 64]])
    assert curves([again], "kernel_norms").shape == (1, 4, 3)


@pytest.mark.parametrize(
    ("script", "arguments", "drawing", "texts"),
    [
        ("learning_curves", ["--depths", "1,9"], "learning_curves_cifar10",
         ("p = 9, float32", "Baseline, n = 2", "ENorm, n = 0, 1 diverged", "training loss")),
        ("kernel_norms", ["--depth", "9"], "kernel_norms_cifar10_p09",
         ("Baseline, n = 2", "ENorm, n = 0, 1 diverged", "norm of the kernel")),
    ],
)  # fmt: skip
def test_the_scripts_draw_and_answer_faults_with_one_line(
    script, arguments, drawing, texts, tmp_path, monkeypatch, capsys
):
    main = runpy.run_path(str(FIGURES / f"{script}.py"))["main"]

    def run(*more):
        monkeypatch.setattr("sys.argv", [script, str(tmp_path), *more])
        cli.run(main)

    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    write_json(tmp_path / "0.json", cell("baseline", (0, 1)))
    write_json(tmp_path / "1.json", cell("enorm", lost={"epoch": 1, "step": 0}))
    run(*arguments)
    text = (tmp_path / f"{drawing}.svg").read_text()
    for part in texts:
        assert f"<!-- {part} -->" in text, part
    assert (tmp_path / f"{drawing}.png").stat().st_size > 10_000
