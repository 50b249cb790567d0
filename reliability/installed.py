"""Install the wheel as users do, for each Python, with the lowest and the highest allowed packages, and use it.

    python reliability/installed.py dist/*.whl --python 3.11 3.12 3.13 3.14 --versions lowest highest

Each environment is new and has only the wheel and what it and its tests require. It is made by uv, which knows for each
Python the lowest versions that can be installed. There, outside of the clone: `import tinyres` takes less than half a
second, byte code being there as pip leaves it, and loads no optional package; a short training and its evaluation; some
files of the tests; and, with the highest versions, `mypy --strict` on the examples. A Python that uv does not find is
left out, with a line that says so.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
SECONDS = 0.5
TESTS = [f"test_{name}.py" for name in ("tensor", "checkpoints", "formats", "recipes", "optim", "schedule", "extras")]
MYPY = "mypy==2.4.1"

IMPORT = """
import sys, time
before = time.perf_counter()
import tinyres
print(time.perf_counter() - before, tinyres.__file__)
optional = {"hypothesis", "jinja2", "matplotlib", "mpi4py", "onnx", "pooch", "rich", "sklearn", "torch", "typer"}
assert not optional & sys.modules.keys()
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command without anything of this environment, and return what it prints. If it fails, so do we."""
    hidden = ("PYTHON", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def check_contents(wheel: Path) -> None:
    """What is shipped says what it may be used for: our licence, and in the source archive that of the site's font."""
    with zipfile.ZipFile(wheel) as file:
        inside = set(file.namelist())
    for name in ("tinyres/py.typed", f"{wheel.stem.removesuffix('-py3-none-any')}.dist-info/licenses/LICENSE"):
        assert name in inside, f"{wheel}: no {name}"
    for archive in wheel.parent.glob("*.tar.gz"):
        with tarfile.open(archive) as source:
            names = {name.partition("/")[2] for name in source.getnames()}
        for name in ("LICENSE", "CITATION.cff", "SECURITY.md", "docs/_static/stix-two-math-licence.txt"):
            assert name in names, f"{archive}: no {name}"


def make(folder: Path, python: str, versions: str, wheel: Path) -> Path | None:
    """An environment with the wheel, or None if there is no such Python."""
    if subprocess.run([UV, "venv", "--quiet", "--python", python, folder], capture_output=True).returncode:
        return None
    inside = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = (UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", folder, "--only-binary", ":all:")
    resolution = "lowest-direct" if versions == "lowest" else "highest"
    run(*install, "--resolution", resolution, "-r", ROOT / "pyproject.toml", "--extra", "testing")
    run(*install, "--no-deps", wheel)
    run(UV, "pip", "check", "--python", folder)
    return inside


def use(python: Path, folder: Path) -> float:
    """Import, train, evaluate and test in an empty folder; the median of nine imports, in seconds."""
    imports = [run(python, "-c", IMPORT, cwd=folder).split() for _ in range(9)]
    assert all("site-packages" in where for _, where in imports), imports
    tinyres = (python, "-m", "tinyres")
    training = "train --dataset shapes --model slim_resnet9 --epochs 1 --subset 500 --validation 100 --out run"
    run(*tinyres, *training.split(), cwd=folder)
    assert "accuracy" in run(*tinyres, "eval", "run/best.safetensors", cwd=folder)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    # without pyproject.toml: there, warnings are errors, and old packages warn
    run(python, "-m", "pytest", "-q", "-c", os.devnull, *[f"tests/{name}" for name in TESTS], cwd=folder)
    return statistics.median(float(seconds) for seconds, _ in imports)


def check_types(environment: Path, folder: Path) -> None:
    """A user's strict type check of programs that use the installed package."""
    python = folder / "mypy" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(UV, "venv", "--quiet", folder / "mypy")
    run(UV, "pip", "install", "--quiet", "--python", folder / "mypy", MYPY)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    run(python, "-m", "mypy", "--strict", "--python-executable", environment, "examples", cwd=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", nargs="+", default=["3.11"], help="versions, or paths of interpreters")
    parser.add_argument("--versions", nargs="+", choices=["lowest", "highest"], default=["lowest", "highest"])
    args = parser.parse_args()
    if not UV.exists():
        parser.error("uv is not installed here: pip install uv")
    check_contents(args.wheel)
    tried, slow = 0, 0
    for python in args.python:
        for versions in args.versions:
            with tempfile.TemporaryDirectory() as folder:
                made = make(Path(folder) / "environment", python, versions, args.wheel.resolve())
                if made is None:
                    print(f"Python {python}: not found, so nothing is tried with it", flush=True)
                    break
                seconds = use(made, Path(folder))
                if versions == "highest":
                    check_types(made, Path(folder))
                print(f"Python {python}, {versions} versions: works; import {seconds:.2f} s", flush=True)
                tried, slow = tried + 1, slow + (seconds > SECONDS)
    if not tried:
        raise SystemExit("no environment was tried")
    if slow:
        raise SystemExit(f"import tinyres: more than {SECONDS} s in {slow} of {tried} environments")


if __name__ == "__main__":
    main()
