"""The gym: every level fails and can be solved, what only looks solved is refused, and nobody's work is lost."""

import importlib
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_mutants import functions
from test_study import command, good

from tinyres.study import exam, gym
from tinyres.study.problems import Problem
from tinyres.testing.mutants import MUTANTS, PACKAGE

pytestmark = pytest.mark.usefixtures("one_thread")  # the arrays are tiny

each_level = pytest.mark.parametrize("level", gym.LEVELS, ids=lambda level: level.name)
SQRT, BATCH_NORM = gym.find("sqrt"), gym.find("20")


def original(level):
    return (PACKAGE / level.mutant.file).read_text()


def edited(level, edits):
    source = original(level)
    for old, new in edits.items():
        assert source.count(old) == 1
        source = source.replace(old, new)
    return source


# ---------------------------------------------------------------- levels
def test_every_fault_that_gradcheck_shows_is_a_level():
    assert sorted(level.mutant.name for level in gym.LEVELS) == sorted(m.name for m in MUTANTS if m.op)
    assert [level.number for level in gym.LEVELS] == list(range(1, len(gym.LEVELS) + 1))
    assert {level.op for level in gym.LEVELS} == set(exam.FORMS)


@each_level
def test_levels_are_found_by_number_and_name_and_do_not_tell_their_fault(level, tmp_path):
    assert gym.find(str(level.number)) == gym.find(level.name) == level
    path, _ = gym.start(tmp_path, level)
    text = (path.parent / "README.md").read_text()
    assert f"`tinyres/{level.mutant.file}`" in text
    assert level.hint not in text
    assert level.mutant.name not in text
    assert path.read_text() == level.mutant.edit(original(level))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "1 to 23"),
        ("24", "1 to 23"),
        ("relu", ".*such as 01-sqrt"),
        ("where", "one of 04-where, 18-where, 19-where"),
    ],
)
def test_other_levels_are_refused(text, message):
    with pytest.raises(ValueError, match=rf"level: got '{text}', expected {message}"):
        gym.find(text)


@each_level
def test_solution_mends_the_file(level):
    """Read as a diff is: what is marked by - goes, what is marked by + comes."""
    lines = [line for line in gym.solution(level).splitlines() if not line.startswith(("---", "+++", "@@"))]
    before, after = ("\n".join(line[1:] for line in lines if line[:1] in (" ", sign)) for sign in "-+")
    assert before != after
    broken = level.mutant.edit(original(level))
    assert broken.count(before) == 1
    assert broken.replace(before, after) == original(level)


# ---------------------------------------------------------------- the exam, in this process
@pytest.fixture
def put_in(monkeypatch):
    """The package as it is in this process, but its functions run the code of another source."""

    def replace(level, source):
        module = importlib.import_module("tinyres." + level.mutant.file.removesuffix(".py").replace("/", "."))
        names = {"__name__": module.__name__}
        exec(compile(source, level.file, "exec"), names)
        for name, function in functions(vars(module)).items():
            monkeypatch.setattr(function, "__code__", functions(names)[name].__code__)

    return replace


@pytest.fixture(scope="module")
def before():
    """What the package gives as it is."""
    return exam.originals("sqrt")


@each_level
def test_level_fails_on_a_small_case(level, put_in):
    put_in(level, level.mutant.edit(original(level)))
    fault = exam.check_gradients(level.op)
    assert fault.size <= 6
    assert fault.case.startswith(f"{level.op}(")
    assert " + " not in fault.case.splitlines()[0]  # once is enough
    assert "strides" not in fault.case or "permute" in level.op
    if fault.verdict == f"The gradient of {level.op} is wrong.":
        assert "analytic" in fault.message
    else:
        assert fault.verdict == f"{level.op} fails."
        assert "gave a gradient of shape" in fault.message


@pytest.mark.parametrize("op", exam.FORMS)
def test_the_package_passes(op, before):
    assert exam.check_gradients(op, 25) is None
    assert exam.compare(op, before) is None


@given(st.sampled_from(sorted(exam.FORMS)).flatmap(exam.problems))
def test_problems_are_small_and_legal(problem):
    assert 1 <= sum(a.size for a in problem.inputs) <= 200  # so that the whole Jacobian is checked
    y, *gradients = problem.results()
    assert np.isfinite(y).all()
    assert [g.shape for g in gradients] == [a.shape for a in problem.inputs]
    text = str(problem)
    assert all(f"of shape {a.shape}" in text for a in problem.inputs)
    assert (" + " in text.splitlines()[0]) == problem.twice


def test_originals_come_back_from_a_file(before, tmp_path):
    exam.save(tmp_path / "a.npz", before)
    found = exam.load(tmp_path / "a.npz")
    assert len(found) == len(before) > 100
    for a, b in zip(found, before, strict=True):
        assert (a.problem.op, a.problem.options, a.problem.twice) == (b.problem.op, b.problem.options, b.problem.twice)
        arrays = [[*o.problem.inputs, *o.results["float64"], *o.results["float32"]] for o in (a, b)]
        for x, y in zip(*arrays, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


SOFTMAX_SUM = "y /= y.sum(axis, keepdims=True)"
TANH = "(dy * (1 - y * y),)"
ROOT, ROOT_GRADIENT = "y = np.sqrt(self._data)", "(dy / (y + y),)"
CHEATS = {  # what gradcheck is content with, and is still wrong
    "the forward broken to fit the pullback": (
        SQRT,
        {ROOT: "y = 2 * np.sqrt(self._data)", ROOT_GRADIENT: "(2 * dy / y,)"},
        "sqrt: the result is not that of",
    ),
    "an operation that does nothing": (
        SQRT,
        {ROOT: "y = 0 * self._data", ROOT_GRADIENT: "(0 * dy,)"},
        "sqrt: the result is not that of",
    ),
    "right in float64 only": (
        gym.find("tanh"),
        {TANH: "(dy * (1 - y * y) * (1 + (y.dtype == np.float32)),)"},
        "tanh: the gradient of input 0 is not that of",
    ),
    "of another dtype in float32": (gym.find("tanh"), {TANH: "(np.float64(1) * dy * (1 - y * y),)"}, "tanh fails"),
    "another operation of the file broken": (
        gym.find("tanh"),
        {SOFTMAX_SUM: "y /= 2 * y.sum(axis, keepdims=True)"},
        "softmax: the result",
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_what_only_looks_right_is_refused(name, put_in, before):
    level, edits, verdict = CHEATS[name]
    put_in(level, edited(level, edits))
    assert exam.check_gradients(level.op, 25) is None
    fault = exam.compare(level.op, before)
    assert fault.verdict.startswith(verdict)
    assert fault.size <= 30


@pytest.mark.parametrize(
    ("op", "old", "new"),
    [
        ("tanh", TANH, "(dy.__imul__(1 - y * y),)"),  # writes to dL/dy
        ("tanh", TANH, "(dy * (1 - y * y).clip(0.9),)"),  # right near 0
        ("tanh", TANH, "(dy * (1 - y * y) * (1 + 1e-4 * (y.ndim == 3)),)"),  # off for some shapes
        ("tanh", TANH, "(dy * (1 - y * y) * (y.strides[-1:] > (-1,)),)"),  # off for some strides
        ("softmax", "(y * (dy - (dy * y).sum(axis, keepdims=True)),)", "(y * (dy - (dy * y).sum(axis)),)"),
        ("where", "np.where(chosen, dy, 0)", "np.where(chosen, dy, 0) * (dy.size != 1)"),  # off for one number
    ],
)
def test_wrong_repairs_are_refused(op, old, new, put_in):
    level = gym.find({"where": "4"}.get(op, op))
    put_in(level, edited(level, {old: new}))
    assert exam.check_gradients(op) is not None


def test_what_is_printed_on_the_smallest_case_is_kept_and_not_more(put_in):
    level = gym.find("tanh")
    put_in(level, edited(level, {"np.tanh(x.data)": "(print('shape', x.shape), np.tanh(x.data))[1]**2"}))
    fault = exam.check_gradients("tanh")
    assert set(fault.printed.splitlines()) == {"shape ()"}
    put_in(level, edited(level, {"np.tanh(x.data)": "(print('a' * 9999), np.tanh(x.data))[1]**2"}))
    assert len(exam.check_gradients("tanh").printed) == exam.PRINTED


def test_large_problems_are_written_short():
    assert len(str(Problem("relu", (np.zeros((30, 40)),)))) < 500


# ---------------------------------------------------------------- progress
def test_a_learners_file_is_left_as_it_is(tmp_path):
    path, new = gym.start(tmp_path, SQRT)
    assert new
    broken = path.read_text()
    path.write_text("mine")
    assert gym.start(tmp_path, SQRT) == (path, False)
    assert path.read_text() == "mine"
    assert gym.start(tmp_path, SQRT, again=True) == (path, True)
    assert path.read_text() == broken
    assert (path.parent / "tensor.py.before").read_text() == "mine"


def test_progress_is_kept_in_order_and_names_the_level_begun_last(tmp_path):
    assert gym.progress(tmp_path) == gym.Progress()
    with pytest.raises(ValueError, match="no level was begun"):
        gym.current_level(gym.progress(tmp_path))
    gym.start(tmp_path, gym.LEVELS[2])
    gym.start(tmp_path, gym.LEVELS[0])
    assert gym.current_level(gym.progress(tmp_path)) == gym.LEVELS[0]
    content = {"solved": ["03-sigmoid", "01-sqrt", "01-sqrt", "99-new"], "current": "99-new"}
    (tmp_path / "progress.json").write_text(json.dumps(content))
    done = gym.progress(tmp_path)
    assert done == gym.Progress(("01-sqrt", "03-sigmoid"))
    assert gym.next_level(done) == gym.LEVELS[1]
    assert gym.next_level(gym.Progress(tuple(level.name for level in gym.LEVELS))) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"{}", b'{"solved": 3, "current": null}', b'{"solved": [[]]}']
)
def test_damaged_progress_is_set_aside(tmp_path, content):
    (tmp_path / "progress.json").write_bytes(content)
    done = gym.progress(tmp_path)
    assert done == gym.Progress(damaged=True)
    with pytest.raises(ValueError, match=r"progress\.json is damaged: say which level"):
        gym.current_level(done)
    assert "progress.json is damaged" in good("gym", "--folder", tmp_path)
    gym.start(tmp_path, SQRT)
    assert gym.progress(tmp_path) == gym.Progress((), SQRT.name)
    assert (tmp_path / "progress.damaged.json").read_bytes() == content


def test_check_of_what_was_not_begun(tmp_path):
    with pytest.raises(ValueError, match=r"tensor\.py: no such file; `tinyres study gym start 1` makes it"):
        gym.check(tmp_path, SQRT)


# ---------------------------------------------------------------- all of it, in a process
def test_a_level_from_start_to_solved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = {path: path.read_bytes() for path in PACKAGE.rglob("*.py")}
    assert "Broken: gym/01-sqrt/tensor.py" in good("gym", "start")
    run = command("gym", "check")
    assert run.exit_code == 1
    assert "sqrt(x)\n  x = " in run.output
    assert "relative error 0.5" in run.output
    assert SQRT.hint in good("gym", "hint").replace("\n", " ")
    assert "+        return record" in good("gym", "solution")
    assert "0 of 23 solved. Next: tinyres study gym start 1" in good("gym")
    path = tmp_path / "gym" / SQRT.name / SQRT.file
    path.write_text(original(SQRT))
    text = good("gym", "check")
    assert "Right: sqrt passes gradcheck on 200 cases" in text
    assert "Next: tinyres study gym start 2" in text
    assert "1 of 23 solved. Next: tinyres study gym start 2" in good("gym")
    assert {path: path.read_bytes() for path in package} == package
    assert sorted(os.listdir(tmp_path)) == ["gym"]
    assert sorted(os.listdir(path.parent)) == ["README.md", "tensor.py"]  # no bytecode, which could be out of date


@pytest.mark.parametrize("level", [gym.find("18"), gym.find("21")], ids=lambda level: level.file)
def test_files_of_every_floor_can_be_taken_from_elsewhere(level, tmp_path):
    path = tmp_path / level.file
    path.write_text(level.mutant.edit(original(level)))
    report = gym.examine(path, level)
    assert not report.solved
    assert "analytic" in report.message
    assert 1 <= report.size <= 6


PULLBACK = "    def pullback(dy: Array) -> Sequence[Array | None]:\n"
LOOP = edited(BATCH_NORM, {PULLBACK: PULLBACK + "        while True:\n            pass\n"})


@pytest.mark.parametrize(
    ("source", "verdict", "message"),
    [
        ("def batch_norm(:\n", "The file cannot be imported.", 'norm.py", line 1'),
        ("import os\nos._exit(7)\n", "Python ended with code 7, without a result.", ""),
        (LOOP, "Stopped after 5 seconds: is there a loop without an end?", "in pullback"),
    ],
    ids=["syntax", "death", "loop"],
)  # fmt: skip
def test_what_is_no_module_is_told(source, verdict, message, tmp_path):
    path = tmp_path / BATCH_NORM.file
    path.write_text(source)
    report = gym.examine(path, BATCH_NORM, limit=5.0 if source == LOOP else gym.LIMIT)
    assert report.verdict == verdict
    assert message in report.message


def test_the_folder_may_be_told_before_the_command_and_behind_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good("gym", "--folder", "a", "start", "2")
    good("gym", "start", "3", "--folder", "b")
    good("gym", "--folder", "c", "start", "--folder", "d")
    assert {path.parent.name: path.name for path in tmp_path.glob("*/*-*")} == {
        "a": "02-tanh", "b": "03-sigmoid", "d": "01-sqrt",
    }  # fmt: skip


def test_wrong_words():
    run = command("gym", "start", "relu")
    assert run.exit_code == 1
    assert "level: got 'relu', expected 1 to 23" in run.output
