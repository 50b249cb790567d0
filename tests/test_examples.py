"""Each example runs from an empty folder, and says something."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

import tinyres

ROOT = Path(tinyres.__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {"explain": r"linear +fc .* -> reshape\n(.*\n)*conv2d +conv1 .* -> image\n"}


@pytest.mark.skipif(not EXAMPLES, reason="no examples beside the package: it is installed")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path, monkeypatch, capsys):
    """As a program of its own, but with kernels that other tests have compiled, and fewer pictures to draw."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    monkeypatch.setattr(importlib.import_module("tinyres.data.shapes"), "SIZES", {"train": 400, "test": 200})
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(SAYS.get(path.stem, r"\S"), printed)
    written = [line.removeprefix("Written: ") for line in printed.splitlines() if line.startswith("Written: ")]
    assert all((tmp_path / name).stat().st_size for name in written)
