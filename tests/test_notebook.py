import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from enorm_jax import data
from enorm_jax.cell import Cell
from enorm_jax.sweep import run_cell

NOTEBOOK = Path(__file__).parents[1] / "experiments" / "inspect_params.ipynb"


def test_the_notebook_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)


# jupyter_client warns about its own event loop and sockets when the kernel ends
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("method", [None, "ws+gn"], ids=["trained-there", "saved"])
def test_the_notebook_runs_on_digits(method, monkeypatch, tmp_path):
    monkeypatch.delenv("ENORM_PARAMS", raising=False)
    if method:  # with layers and groups of its own
        cell = Cell(
            experiment="fc", dataset="digits", method=method, depth=2, width=20, bias=False,
            epochs=10, learning_rate=0.1, c=None, batch_size=64, weight_decay=1e-3,
            precision="float32", restarts=0, seeds=(3,), groups=4, inputs="image", fold="1/5",
        )  # fmt: skip
        run_cell(cell, data.load("digits"), tmp_path, save_params=True)
        monkeypatch.setenv("ENORM_PARAMS", str(cell.params_path(tmp_path)))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    text = "".join(output.get("text", "") for output in shown)
    (training,) = re.findall(r"training accuracy of these images: ([\d.]+) %", text)
    assert float(training) > 90
    ((test, saved),) = re.findall(r"test accuracy: ([\d.]+) %, in the cell's file ([\d.]+) %", text)
    assert float(test) == pytest.approx(float(saved), abs=0.3)
