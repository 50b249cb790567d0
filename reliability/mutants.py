"""Break the gradients on purpose, one small edit at a time, and see that the tests notice each.

    python reliability/mutants.py                    # all of them, about half an hour
    python reliability/mutants.py --only pool        # those with this word in their names
    python reliability/mutants.py --list

The faults are those of `tinyres.testing.mutants`. Each is put into a copy of the package; the tests that should notice
run first, and all others only where they do not. A mutant that lives is a hole in the tests: the exit code is 1.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tinyres.testing.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="mutants with this in their names")
    parser.add_argument("--list", action="store_true", help="print their names only")
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.only in m.name]
    if options.list:
        print("\n".join(m.name for m in chosen))
        return
    if not chosen:
        parser.error(f"--only: no mutant has {options.only!r} in its name; see --list")
    results = {}
    for i, mutant in enumerate(chosen, 1):
        began = time.perf_counter()
        noticed = first_failure(mutant)
        results[mutant.name] = noticed
        print(
            f"{i:3}/{len(chosen)} {time.perf_counter() - began:5.0f} s  {mutant.name}: {noticed or 'LIVES'}", flush=True
        )
    killed = sum(noticed is not None for noticed in results.values())
    print(f"{killed} of {len(chosen)} mutants killed")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    sys.exit(killed < len(chosen))


def first_failure(mutant: Mutant) -> str | None:
    """The name of the first test that fails with a mutant, or None."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("tinyres", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        mutant.apply(copy / "tinyres")
        file, _, expression = mutant.tests.partition(" ")
        return pytest(copy, f"tests/{file}", *(("-k", expression) if expression else ())) or pytest(copy)


def pytest(folder: Path, *arguments: str) -> str | None:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if run.returncode == 0:
        return None
    failed = [line.split(" ")[1] for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not failed and run.returncode in (2, 3, 4, 5):  # pytest did not run at all: that is no verdict
        sys.exit(f"{' '.join(command)}: exit code {run.returncode}\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return failed[0] if failed else f"pytest died with exit code {run.returncode}"


if __name__ == "__main__":
    main()
