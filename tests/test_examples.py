"""Each example runs from an empty folder, and says something."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinyres

ROOT = Path(tinyres.__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {"explain": r"linear +fc .* -> reshape\n(.*\n)*conv2d +conv1 .* -> image\n"}


@pytest.mark.skipif(not EXAMPLES, reason="no examples beside the package: it is installed")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, path], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.search(SAYS.get(path.stem, r"\S"), run.stdout)
    written = [line.removeprefix("Written: ") for line in run.stdout.splitlines() if line.startswith("Written: ")]
    assert all((tmp_path / name).stat().st_size for name in written)
