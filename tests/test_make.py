"""`make` finds a Python, says what is missing, and goes on where it was stopped; tests need no PyTorch.

Python is played by scripts that say of themselves what the test wants, and pip by one that only notes its calls.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKE = shutil.which("make")
needs_make = pytest.mark.skipif(
    MAKE is None or not (ROOT / "Makefile").exists(), reason="there is no make, or no Makefile"
)

# `-c CODE` is run by a real Python, made to look like another; `-m venv [--clear] FOLDER` makes what the test will see.
PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then
    exec {real} -ISc 'import sys; sys.version_info = {version}; {without}; exec(sys.argv[1])' "$2"
fi
for folder in "$@"; do :; done
[ "$3" = --clear ] && rm -rf "$folder"
mkdir -p "$folder/bin" && {interrupted}
[ -e "$folder/broken" ] && exit
echo {name} >"$folder/made-by"
printf '#!/bin/sh\\necho "$@" >>pip-calls\\n[ ! -e no-network ]' >"$folder/bin/pip"
printf '#!/bin/sh\\necho tinyres "$@"' >"$folder/bin/tinyres"
chmod +x "$folder"/bin/*
"""


class Newcomer:
    """A clone with a Makefile, and a machine with the commands that `python` puts there."""

    def __init__(self, folder):
        self.folder, self.clone = folder, folder / "clone"
        (folder / "bin").mkdir()
        self.clone.mkdir()
        shutil.copy(ROOT / "Makefile", self.clone)
        (self.clone / "pyproject.toml").touch()
        for tool in ("sh", "touch", "mkdir", "rm", "chmod"):
            (folder / "bin" / tool).symlink_to(shutil.which(tool))

    def python(self, name, version=(3, 12), venv=True, interrupted=False):
        path = self.folder / "bin" / name
        without = "pass" if venv else 'sys.modules["ensurepip"] = None'
        stop = "exit 1" if interrupted else ":"
        path.write_text(
            PYTHON.format(real=sys.executable, version=version, without=without, interrupted=stop, name=name)
        )
        path.chmod(0o755)
        return path

    def make(self, *arguments):
        environment = {"PATH": str(self.folder / "bin")}
        command = [MAKE, "train", *arguments]
        return subprocess.run(command, cwd=self.clone, env=environment, capture_output=True, text=True)

    def made_by(self, *arguments):
        done = self.make(*arguments)
        assert done.returncode == 0, done.stderr
        assert "tinyres train --epochs 3\n" in done.stdout
        return (self.clone / ".venv" / "made-by").read_text().strip()

    def refused(self, *arguments):
        """The one line that is said."""
        done = self.make(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert not (self.clone / ".venv").exists()
        (line,) = done.stderr.splitlines()
        return line


@pytest.fixture
def newcomer(tmp_path):
    return Newcomer(tmp_path)


@needs_make
@pytest.mark.parametrize("name", ["python3.11", "python3.12", "python3.13", "python3.14", "python3", "python"])
def test_any_python_is_found(newcomer, name):
    newcomer.python(name)
    assert newcomer.made_by() == name


@needs_make
def test_a_python_that_will_not_do_is_passed_by(newcomer):
    newcomer.python("python3.11").write_text("#!/bin/sh\necho 'pyenv: python3.11: command not found' >&2; exit 127\n")
    newcomer.python("python3.12", venv=False)
    newcomer.python("python3", version=(3, 10))
    newcomer.python("python", version=(3, 13))
    assert newcomer.made_by() == "python"


@needs_make
def test_what_is_missing_is_said_in_one_line(newcomer):
    assert "Python 3.11 or newer is needed" in newcomer.refused()
    newcomer.python("python3", version=(3, 10))
    assert "Python 3.11 or newer is needed" in newcomer.refused()
    newcomer.python("python3.13", venv=False)
    assert "python3.13 has no venv: install it (apt install python3-venv)" in newcomer.refused()


@needs_make
def test_python_can_be_named(newcomer):
    newcomer.python("python3.11")
    mine = newcomer.python("mine")
    old = newcomer.python("old", version=(3, 9))
    assert f'none of "{old}" is' in newcomer.refused(f"PYTHON={old}")
    assert newcomer.made_by(f"PYTHON={mine}") == "mine"


@needs_make
@pytest.mark.parametrize("broken", [False, True], ids=["empty", "broken"])
def test_an_environment_that_was_begun_is_made_whole(newcomer, broken):
    newcomer.python("python3", interrupted=True)
    assert newcomer.make().returncode == 2
    if broken:  # so that venv ends well and brings no pip: files of a pip half unpacked do that
        (newcomer.clone / ".venv" / "broken").touch()
    newcomer.python("python3")
    assert newcomer.made_by() == "python3"


@needs_make
def test_an_installation_that_failed_is_done_again_and_one_that_did_not_is_not(newcomer):
    newcomer.python("python3")
    (newcomer.clone / "no-network").touch()
    assert newcomer.make().returncode == 2
    (newcomer.clone / "no-network").unlink()
    for _ in range(2):
        assert newcomer.made_by() == "python3"
    assert (newcomer.clone / "pip-calls").read_text().splitlines() == ["install --quiet --editable .[plot]"] * 2


# Not by None in sys.modules: SciPy would take that for the module, and look for its Tensor.
WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(lambda cls, name, *rest: None if name == "torch" else find(name, *rest))
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="there is no PyTorch: this run itself shows it")
def test_tests_are_collected_without_pytorch():
    command = [sys.executable, "-c", WITHOUT_TORCH, "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "tests/test_parity.py" in done.stdout
    assert "compares with PyTorch, which is not installed" in done.stdout
