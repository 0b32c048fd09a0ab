"""The notebooks run from start to end, and the repository keeps them without outputs."""

import nbformat
import pytest
from documentation.pages import ROOT
from nbclient import NotebookClient

from maft.data.miniature import ensure_miniature

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs: the site executes notebooks"
    ensure_miniature(tmp_path / "datasets/miniature", {"train": 24, "val": 4})
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert pictures


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3
