"""Notebooks: in step with their text, without outputs, and they run, with every figure."""

from typing import Any

import pytest

from experiments import notebooks
from experiments.notebooks import FOLDER, main, notebook_names, read_notebook, run_notebook

nbformat = pytest.importorskip("nbformat")

FIGURES = {
    "checkpoints": 1,
    "quickstart": 4,
    "transformer_cssm_interpretability": 15,
    "transformer_cssm_iterative_attention": 9,
    "vision_into_language": 6,
}
"""Pictures that each notebook draws."""

QUICK = "checkpoints"
"""Runs in 15 s of processor time."""

each_notebook = pytest.mark.parametrize("name", FIGURES)


def test_every_notebook_is_known_here():
    assert set(notebook_names()) == set(FIGURES)
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == set(FIGURES)


@each_notebook
def test_the_notebook_is_its_text_without_outputs(name):
    """If this fails: python -m experiments.notebooks sync."""
    kept = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(kept)
    assert kept == read_notebook(name)
    assert all(not c.outputs and c.execution_count is None for c in code_cells(kept))


@each_notebook
def test_the_notebook_is_short_and_opens_in_colab(name):
    notebook = read_notebook(name)
    assert len(notebook.cells) <= 25
    text = notebook.cells[0].source
    assert "colab-badge.svg" in text and "**Question:**" in text
    assert "IN_COLAB" in notebook.cells[2].source
    assert "is_relative_to(ROOT)" in notebook.cells[3].source


@pytest.mark.parametrize(
    "name", [QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in FIGURES if n != QUICK)]
)
def test_the_notebook_runs_and_draws(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CSSM_LAB_WORKDIR", str(tmp_path / "run"))
    done = run_notebook(name, fast=True)
    assert [c.execution_count for c in code_cells(done)] == [
        i + 1 for i in range(len(code_cells(done)))
    ]
    drawn = [o for c in code_cells(done) for o in c.outputs if pictures(o)]
    assert len(drawn) == FIGURES[name]


def test_an_unknown_notebook_ends_in_one_line(capsys, monkeypatch):
    assert main(["render", "poetry"]) == 2
    assert "no notebook 'poetry'; there are checkpoints" in capsys.readouterr().err
    monkeypatch.setattr(notebooks.importlib, "import_module", missing)
    assert main(["sync"]) == 2
    assert "pip install -e '.[notebooks]'" in capsys.readouterr().err


def missing(name: str) -> Any:
    raise ImportError(name)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(output: Any) -> bool:
    data = output.get("data", {})
    return "<img" in data.get("text/html", "") or any(kind.startswith("image/") for kind in data)
