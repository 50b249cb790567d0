"""Break the gradients on purpose, one small edit at a time, and check that the tests notice each.

    python reliability/mutants.py                    # all of them, 10 to 30 minutes
    python reliability/mutants.py --only pool        # those with this word in their names
    python reliability/mutants.py --list

The faults are those of `tinyres.testing.mutants`. Each is put into a copy of the package. There, the tests that should
notice it run until one fails, hangs, or ends Python. Before that, the copy is tested without faults, since a test that
always fails would notice everything. A mutant that no test notices shows a gap in the tests: the exit code is 1. One
that does not compile is a mistake in the table, and ends the run.
"""

import argparse
import queue
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import report

from tinyres.testing.mutants import MUTANTS
from tinyres.testing.mutation import Failure, Mutant, first_failure

ROOT = Path(__file__).parents[1]
LIMIT = 5 * 60  # seconds: tests that take longer hang
NO_FAULT = ("numba.core.errors", "SyntaxError", "IndentationError", "NameError", "ImportError")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="mutants with this in their names")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at once, on a core each")
    parser.add_argument("--folder", type=Path, help="keep copies and compiled kernels there, for the next run")
    parser.add_argument("--list", action="store_true", help="print their names only")
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.only in m.name]
    if options.list:
        print("\n".join(m.name for m in chosen))
        return
    if not chosen:
        parser.error(f"--only: no mutant has {options.only!r} in its name; see --list")
    with tempfile.TemporaryDirectory() as temporary:
        tried = try_all(chosen, (options.folder or Path(temporary)).absolute(), options.jobs)
    killed = sum(result["test"] is not None for result in tried)
    print(f"{killed} of {len(chosen)} mutants killed, in {sum(result['seconds'] for result in tried):.0f} s")
    report.write(options.json, {"mutants": tried})
    sys.exit(killed < len(chosen))


def try_all(mutants: list[Mutant], folder: Path, jobs: int) -> list[dict]:
    """Each job has a fixed folder, since Numba finds its compiled code by the path of the source."""
    free, tried = queue.SimpleQueue[Path](), []
    for job in range(jobs):
        free.put(folder / str(job))

    def attempt(mutant: Mutant) -> tuple[Failure | None, float]:
        copy, began = free.get(), time.perf_counter()
        try:
            refresh(copy)
            mutant.apply(copy / "tinyres")
            return failure_of(copy, mutant.tests), time.perf_counter() - began
        finally:
            free.put(copy)

    copy = folder / "0"
    refresh(copy)
    for tests in sorted({m.tests for m in mutants}):
        if failure := failure_of(copy, tests):
            sys.exit(f"{failure.test} fails without any mutant: {failure.error}")
    print("the tests pass without any mutant", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        for i, (mutant, (failure, seconds)) in enumerate(zip(mutants, pool.map(attempt, mutants), strict=True), 1):
            if failure and failure.error.startswith(NO_FAULT):
                pool.shutdown(cancel_futures=True)
                sys.exit(f"{mutant.name}: does not compile, {failure.error}")
            test, error = failure or (None, None)
            tried.append(
                {"name": mutant.name, "file": mutant.file, "test": test, "error": error, "seconds": round(seconds, 1)}
            )
            seen = test or f"LIVES, unseen by {mutant.tests}"
            print(f"{i:3}/{len(mutants)} {seconds:5.0f} s  {mutant.name}: {seen}", flush=True)
    return tried


def refresh(copy: Path) -> None:
    """Copy the package and its tests again."""
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("tinyres", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)


def failure_of(copy: Path, tests: str) -> Failure | None:
    """The first test that fails, or None."""
    file, _, expression = tests.partition(" ")
    cache = copy.parent / "cache"  # for all copies: each version of the kernels has its own folder in it
    try:
        return first_failure(copy, [f"tests/{file}", "-k", expression], {"TINYRES_CACHE": str(cache)}, limit=LIMIT)
    except ValueError as error:
        sys.exit(f"tests/{file} -k {expression!r}: {error}")


if __name__ == "__main__":
    main()
