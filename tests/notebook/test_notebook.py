"""The example notebook, executed in a kernel of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The code cells of the notebook with their outputs."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(Path(__file__).with_name("example.ipynb"), as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        client.execute()
    assert (folder / "runs/digits/report.html").exists()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def result(cell: Any) -> Any:
    """Returns the data of a cell's result by MIME type."""
    (data,) = [each.data for each in cell.outputs if each.output_type == "execute_result"]
    return data


def streams(cell: Any) -> str:
    return "".join(each.text for each in cell.outputs if each.output_type == "stream")


@pytest.mark.long
def test_training_shows_its_progress_once_and_nothing_else(cells: list[Any]) -> None:
    training, *others = cells
    start, epoch, end = streams(training).splitlines()
    assert start.startswith("training mlp on mnist, ")
    assert epoch.startswith("epoch 1/1  loss ")
    assert end.startswith("test accuracy ")
    assert [streams(cell) for cell in others if streams(cell)] == [
        "Unknown setting 'modle'. Did you mean model?\n"
    ]


@pytest.mark.long
def test_cells_show_the_results(cells: list[Any]) -> None:
    training, metrics, history, loaded, prediction, _, report = cells
    assert result(training)["text/plain"].startswith("Run('/")
    assert "test accuracy 9" in result(training)["text/plain"]
    assert "'accuracy': 0.9" in result(metrics)["text/plain"]
    assert "'epoch': 1" in result(history)["text/plain"]
    assert result(loaded)["text/plain"] == "128"
    assert result(prediction)["text/plain"] == "('1', True)"
    assert result(report)["text/html"].startswith("<iframe srcdoc=")
    assert result(report)["text/plain"].endswith("runs/digits/report.html'")
