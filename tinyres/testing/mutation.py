"""Mutation testing, for faults that somebody chose: put a fault into the code, and see whether the tests notice it.

A mutant replaces one piece of text in one file. It is applied to a copy, never to the project itself. The idea is
DeMillo, Lipton and Sayward's, "Hints on test data selection", 1978: tests that notice small faults notice large ones.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault: a piece of text in a file, and its replacement."""

    name: str
    file: str  # path in the project; for tinyres, in the package
    before: str  # occurs once in the file
    after: str
    tests: str = ""  # for tinyres: the test file that must notice it, and an expression for pytest -k
    op: str = ""  # for tinyres: operation in `tinyres.ops` whose gradcheck shows it; empty if none does

    def apply(self, folder: Path) -> None:
        """Put the fault into a copy of the project.

        Raises
        ------
        ValueError
            If the text to replace is not there exactly once.
        """
        path = folder / self.file
        path.write_text(self.edit(path.read_text()))

    def edit(self, source: str) -> str:
        """The file's text with the fault, from the text without it. Raises the errors of `apply`."""
        if source.count(self.before) != 1:
            raise ValueError(
                f"{self.name}: {self.file} holds its text {source.count(self.before)} times, expected once"
            )
        return source.replace(self.before, self.after)


class Failure(NamedTuple):
    """A failing test and its error. If Python died or hung: the tests that ran, and how they ended."""

    test: str
    error: str


class Verdict(NamedTuple):
    """The result for a mutant."""

    mutant: Mutant
    failure: Failure | None  # the first failure; None if no test noticed the mutant
    seconds: float


def try_mutants(
    mutants: Iterable[Mutant], project: str | Path, *arguments: str, limit: float = 300.0
) -> Iterator[Verdict]:
    r"""Put each mutant into a copy of a project, and run its tests there until one fails.

    Parameters
    ----------
    mutants : iterable of Mutant
    project : str or Path
        The folder with the code and its tests. It is copied, without names that begin with a dot. Python looks for
        modules first in the copy, and in its folder ``src``.
    *arguments : str
        Arguments of pytest, such as ``"tests/test_ops.py"`` or ``"-k", "gradient"``. By default all tests are run.
    limit : float
        Seconds for the tests. Tests that take longer hang, so the mutant counts as noticed.

    Yields
    ------
    Verdict
        One for each mutant, as soon as it is known.

    Raises
    ------
    ValueError
        If the tests fail without any mutant, since then they would fail with every one; if they cannot be run; or if a
        mutant does not fit its file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tinyres.testing.mutation import Mutant, try_mutants
    >>> mutants = [Mutant("one less", "half.py", "n // 2", "n // 2 - 1")]
    >>> mutants.append(Mutant("rounded up", "half.py", "n // 2", "(n + 1) // 2"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "half.py").write_text("def half(n): return n // 2")
    ...     _ = Path(folder, "test_half.py").write_text("import half\ndef test_4(): assert half.half(4) == 2")
    ...     for mutant, failure, _ in try_mutants(mutants, folder):
    ...         print(mutant.name + ":", failure.test if failure else "NOT NOTICED")
    one less: test_half.py::test_4
    rounded up: NOT NOTICED
    """
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "copy"

        def attempt() -> Failure | None:
            return first_failure(copy, arguments, limit=limit)

        _refresh(Path(project), copy)
        if failure := attempt():
            raise ValueError(f"tests: {failure.test} fails without any mutant: {failure.error}")
        for mutant in mutants:
            began = time.perf_counter()
            _refresh(Path(project), copy)
            mutant.apply(copy)
            yield Verdict(mutant, attempt(), time.perf_counter() - began)


def first_failure(
    folder: Path, arguments: Sequence[str] = (), settings: Mapping[str, str] | None = None, *, limit: float = 300.0
) -> Failure | None:
    """Run tests in a folder by pytest, in a process of its own, and return the first that fails.

    Parameters
    ----------
    folder : Path
        The folder of the code and its tests. Modules in it, and in its folder ``src``, come before all others.
    arguments : sequence of str
        Arguments of pytest.
    settings : mapping of str to str, optional
        Environment variables.
    limit : float
        Seconds.

    Returns
    -------
    Failure or None
        None if all tests pass.

    Raises
    ------
    ValueError
        If pytest cannot run the tests, or finds none.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from tinyres.testing.mutation import first_failure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "test_sum.py").write_text("def test_sum(): assert 1 + 1 == 3")
    ...     first_failure(Path(folder))
    Failure(test='test_sum.py::test_sum', error='assert (1 + 1) == 3')
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *arguments]
    path = os.pathsep.join([str(folder), str(folder / "src"), os.environ.get("PYTHONPATH", "")])
    around = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    process = subprocess.Popen(
        command,
        cwd=folder,
        # CI: pytest does not cut its summary; no bytecode: that of an edit in the same second could be used for this
        # one
        env={**around, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "CI": "1", **(settings or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, which contains the processes that the tests start
    )
    what = " ".join(arguments) or "the tests"
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        _kill(process)
        return Failure(what, f"still running after {limit:.0f} s")
    if process.returncode == 0:
        return None
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            test, _, error = line.partition(" ")[2].partition(" - ")
            return Failure(test, error)
    if process.returncode > 0:  # pytest could not run at all: this is not a verdict
        raise ValueError(f"tests: pytest ended with code {process.returncode}\n{output[-4000:]}")
    return Failure(what, f"Python died of signal {-process.returncode}")


def _kill(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:  # Windows has no groups
        process.kill()
    process.communicate()


def _refresh(project: Path, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
