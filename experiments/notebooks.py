"""Notebooks: made from their text, run, and shown as HTML pages with what they print and draw.

The text of a notebook is colab/NAME.py, in jupytext's percent format; colab/NAME.ipynb is made from
it and holds no outputs.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError

FOLDER = Path(__file__).parents[1] / "colab"
FAST = "CSSM_LAB_FAST"
"""Environment variable under which notebooks do little of everything, for tests."""

SECONDS = 3600
"""The longest that one cell may take."""


def notebook_names() -> list[str]:
    """Returns the names of all notebooks."""
    return sorted(file.stem for file in FOLDER.glob("*.py"))


def read_notebook(name: str) -> Any:
    """Makes a notebook of its text, the same one every time.

    Raises:
        UserError: there is none of this name, or jupytext is missing.
    """
    file = FOLDER / f"{name}.py"
    if not file.is_file():
        raise UserError(f"no notebook {name!r}; there are {', '.join(notebook_names())}")
    jupytext = _required("jupytext")
    notebook = jupytext.read(file)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
    return notebook


def write_notebooks() -> list[Path]:
    """Writes the .ipynb files whose text has changed; returns them."""
    nbformat = _required("nbformat")
    changed = []
    for name in notebook_names():
        file, text = FOLDER / f"{name}.ipynb", nbformat.writes(read_notebook(name)) + "\n"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed


def run_notebook(name: str, fast: bool = False) -> Any:
    """Runs a notebook in a process of its own and returns it with its outputs.

    Args:
        name: of the notebook.
        fast: do little of everything.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    client = _required("nbclient").NotebookClient(
        read_notebook(name),
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    )
    environment = {**os.environ, FAST: "1" if fast else "", "MPLBACKEND": ""}
    return client.execute(env=environment)


def render(name: str, folder: Path, fast: bool = False) -> Path:
    """Runs a notebook and writes it as one HTML file; returns its path."""
    exporter = _required("nbconvert").HTMLExporter()
    page, _ = exporter.from_notebook_node(run_notebook(name, fast))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.html"
    path.write_text(page, encoding="utf-8")
    return path


def _required(module: str) -> Any:
    """Imports what only the notebooks need.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{module} is missing; pip install -e '.[notebooks]'") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 for a mistake that one line on stderr names."""
    parser = argparse.ArgumentParser(prog="python -m experiments.notebooks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("sync", help="make the .ipynb files of their texts")
    page = commands.add_parser("render", help="run notebooks and write them as HTML pages")
    page.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    page.add_argument("--out", type=Path, default=Path("runs/notebooks"), metavar="DIR")
    page.add_argument("--fast", action="store_true", help="do little of everything")
    flags = parser.parse_args(argv)
    try:
        if flags.command == "sync":
            for file in write_notebooks():
                print("written:", file.relative_to(FOLDER.parent))
            return 0
        for name in flags.names or notebook_names():
            print("running", name, file=sys.stderr, flush=True)
            print("written:", render(name, flags.out, flags.fast))
    except UserError as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
