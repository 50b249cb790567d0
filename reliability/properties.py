"""Break the gradients on purpose, one small edit at a time, and find the properties that notice it.

    python reliability/properties.py                    # faults of tape, tensors and operations
    python reliability/properties.py --kernels          # those of kernels and of replay too, which have to be compiled
    python reliability/properties.py --only softmax     # those with this word in their names

`reliability/mutants.py` checks whether any test notices a fault; this program finds which tests do. The properties are
those of `tests/support/properties.py`. Each property runs a sample of its tests; if one of these fails, the property
has noticed the mutant. A blank means that the sample has not. Results are written, mutant by mutant, to
benchmarks/results/properties.json; those of other mutants stay in the file. `python tests/support/properties.py` puts
them on the page.
"""

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from mutants import ROOT, refresh

from tinyres.machine import processor, simd
from tinyres.testing.mutants import MUTANTS
from tinyres.testing.mutation import Mutant

sys.path.insert(0, str(ROOT / "tests"))
from support.properties import EXAMPLES, PROPERTIES

FILES = sorted({f"tests/test_{test.partition('.')[0]}.py" for p in PROPERTIES for test in p.tests})
BELOW = ("kernels/", "reference")  # tests of kernels run no code above these
NOT_OF_KERNELS = [file for file in FILES if file != "tests/test_kernels.py"]
RESULT = ROOT / "benchmarks" / "results" / "properties.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="mutants with this in their names")
    parser.add_argument("--kernels", action="store_true", help="faults of kernels and of replay too")
    parser.add_argument("--missing", action="store_true", help="only mutants that are not in the file of results")
    parser.add_argument("--folder", type=Path, help="keep the copy and compiled kernels there, for the next run")
    parser.add_argument("--json", type=Path, default=RESULT, help="file of results, which is extended")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.only in m.name]
    chosen = [m for m in chosen if options.kernels or not m.file.startswith(("kernels/", "replay"))]
    if not chosen:
        parser.error(f"--only: no mutant has {options.only!r} in its name; see mutants.py --list")
    known = json.loads(options.json.read_text())["mutants"] if options.json.exists() else []
    results = {m["name"]: m for m in known}
    chosen = [m for m in chosen if not (options.missing and m.name in results)]
    with tempfile.TemporaryDirectory() as temporary:
        copy = (options.folder or Path(temporary)).absolute() / "0"
        refresh(copy)
        if failed := [where for where in failures(copy, FILES).values() if where]:
            sys.exit(f"fails without any mutant: {failed[0]}")
        for i, mutant in enumerate(chosen, 1):
            began = time.perf_counter()
            with fault(mutant, copy / "tinyres"):
                noticed = failures(copy, FILES if mutant.file.startswith(BELOW) else NOT_OF_KERNELS)
            results[mutant.name] = {"name": mutant.name, "file": mutant.file, "noticed": noticed}
            there = [results[m.name] for m in MUTANTS if m.name in results]
            options.json.parent.mkdir(exist_ok=True)
            options.json.write_text(json.dumps({**surroundings(), "mutants": there}, indent=1) + "\n")
            seen = ", ".join(name for name, where in noticed.items() if where) or "NONE OF THEM"
            print(f"{i:3}/{len(chosen)} {time.perf_counter() - began:5.0f} s  {mutant.name}: {seen}", flush=True)


@contextlib.contextmanager
def fault(mutant: Mutant, package: Path) -> Iterator[None]:
    """Put the fault in, and take it out again: all other files stay compiled."""
    path = package / mutant.file
    right, compiled = path.read_text(), Path(importlib.util.cache_from_source(str(path)))
    mutant.apply(package)
    compiled.unlink(missing_ok=True)
    try:
        yield
    finally:
        path.write_text(right)
        compiled.unlink(missing_ok=True)


def failures(copy: Path, files: list[str]) -> dict[str, list[str] | None]:
    """For each property, the first test that fails, with its error; None if all pass."""
    found = copy.parent / "found.json"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "support.properties"]
    settings = {"PYTHONPATH": f"{copy}{os.pathsep}{copy / 'tests'}", "HYPOTHESIS_PROFILE": "sample"}
    settings |= {"TINYRES_CACHE": str(copy.parent / "cache")}
    process = subprocess.run(
        [*command, "--properties", found, *files],
        cwd=copy,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if process.returncode not in (0, 1):  # 1: tests have failed
        sys.exit(f"pytest: exit code {process.returncode}\n{process.stdout[-4000:]}")
    return json.loads(found.read_text())


def surroundings() -> dict[str, object]:
    """The settings and versions of the measurement."""
    packages = {name: version(name) for name in ("numpy", "numba", "hypothesis")}
    return {
        "command": "python reliability/properties.py",
        "date": datetime.date.today().isoformat(),
        "processor": f"{processor()}, {simd()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **packages,
        "examples": EXAMPLES,
        "seed": "that of the derandomised profile, the same each time",
    }


if __name__ == "__main__":
    main()
