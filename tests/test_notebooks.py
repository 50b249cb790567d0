"""The notebooks of the site: what is committed has no outputs, and the code of each runs from top to bottom."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code(path):
    """The source of each cell of code, without lines that are IPython's own, such as %matplotlib inline."""
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "code":
            yield re.sub("^%.*", "", "".join(cell["source"]), flags=re.M)


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {"train", "look", "own_operation"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_was_written(path):
    """Outputs are made where the site is built: committed ones would grow old, and differ from machine to machine."""
    notebook = read(path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
        assert cell["metadata"] == {}
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"  # not that of somebody's environment
    assert notebook["metadata"]["language_info"] == {"name": "python"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_the_form_that_jupyter_reads(path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbformat.validate(nbformat.from_dict(read(path)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_of_a_notebook_runs(path, one_thread):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    pyplot.switch_backend("agg")
    names = {"__name__": path.stem}
    try:
        for i, source in enumerate(code(path)):
            exec(compile(source, f"{path.name}, cell {i + 1} of code", "exec"), names)
    finally:
        pyplot.close("all")


def test_only_lines_of_ipython_are_left_out(tmp_path):
    cells = [{"cell_type": "markdown", "source": ["text"]}]
    cells += [{"cell_type": "code", "source": ["%magic\n", "x = 5\n", "assert x % 3 == 2"]}]
    (path := tmp_path / "one.ipynb").write_text(json.dumps({"cells": cells}))
    assert list(code(path)) == ["\nx = 5\nassert x % 3 == 2"]
