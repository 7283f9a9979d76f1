from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "experiments" / "inspect_params.ipynb"


def test_the_notebook_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)


# jupyter_client warns about its own event loop and sockets when the kernel ends
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_on_digits(monkeypatch, tmp_path):
    monkeypatch.delenv("ENORM_PARAMS", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    text = "".join(output.get("text", "") for output in shown)
    accuracy = float(text.rsplit("images: ", 1)[1].removesuffix(" %\n"))
    assert accuracy > 90
