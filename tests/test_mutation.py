"""Mutants of a project that is not tinyres: those that tests notice, those that they do not, and what is no verdict."""

import subprocess
import sys
import textwrap

import pytest

from tinyres.testing.mutation import Failure, Mutant, first_failure, try_mutants

CODE = """
    def half(n):
        return n // 2
"""
TESTS = """
    from half import half

    def test_four():
        assert half(4) == 2
"""


@pytest.fixture
def project(tmp_path):
    def make(**files):
        folder = tmp_path / "project"
        for name, text in {"half": CODE, "test_half": TESTS, **files}.items():
            path = folder / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return folder

    return make


def mutant(after, name="fault", file="half.py"):
    return Mutant(name, file, "n // 2", after)


def test_mutants_are_noticed_or_not_and_the_project_stays_as_it_is(project):
    folder = project()
    before = {path: path.read_text() for path in folder.rglob("*")}
    verdicts = list(try_mutants([mutant("n // 2 + 1"), mutant("(n + 1) // 2")], folder))
    seen = [v.failure and v.failure.test for v in verdicts]
    assert seen == ["test_half.py::test_four", None]
    assert "assert 3 == 2" in verdicts[0].failure.error
    assert all(v.seconds > 0 for v in verdicts)
    assert {path: path.read_text() for path in folder.rglob("*")} == before


def test_code_below_src_and_chosen_tests(project):
    folder = project(**{"src/half": CODE, "tests/test_other": "from half import half\ndef test_0(): half(0)"})
    (folder / "half.py").unlink()
    [verdict] = try_mutants([mutant("n", file="src/half.py")], folder, "tests")
    assert verdict.failure is None


def test_what_hangs_or_dies_has_been_noticed(project):
    folder = project(test_half="import time\ndef test(): time.sleep(60)")
    assert first_failure(folder, limit=2.0) == Failure("the tests", "still running after 2 s")
    if sys.platform != "win32":
        folder = project(test_half="import os\ndef test(): os.abort()")
        assert first_failure(folder) == Failure("the tests", "Python died of signal 6")


@pytest.mark.parametrize(
    ("tests", "mutants", "message"),
    [
        ("def test_it(): assert 1 == 2", [mutant("n")], r"test_half\.py::test_it fails without any mutant: assert 1"),
        ("", [mutant("n")], "(?s)tests: pytest ended with code 5.*no tests ran"),
        (TESTS, [Mutant("gone", "half.py", "n // 4", "n")], r"gone: half\.py holds its text 0 times, expected once"),
    ],
)
def test_what_is_no_verdict_is_an_error(project, tests, mutants, message):
    with pytest.raises(ValueError, match=message):
        list(try_mutants(mutants, project(test_half=tests)))


def test_it_needs_no_hypothesis():
    program = "import sys; sys.modules['hypothesis'] = None; import tinyres.testing.mutation, tinyres.testing.vjp"
    subprocess.run([sys.executable, "-c", program], check=True)
