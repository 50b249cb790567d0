"""Is an operation right? Run gradcheck on problems that Hypothesis draws and shrinks, and compare with the original.

The gym uses this for a learner's copy of a file, see `tinyres.study.gym`. Everything runs on the reference kernels: a
learner can read all the code that runs, and nothing has to be compiled.
"""

import contextlib
import io
import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from tinyres.backend import use_backend
from tinyres.study.problems import POSITIVE, Problem
from tinyres.tape import Array
from tinyres.testing import GradcheckError, gradcheck
from tinyres.testing.mutants import PACKAGE
from tinyres.testing.strategies import ORDERS, in_order, numbers, shapes

EXAMPLES = 200
PRINTED = 2000  # number of last characters that are kept of the output of a learner's file
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}  # of differences from the original, relative to its largest element


class Fault(NamedTuple):
    """An error, shown on the smallest problem that was found."""

    verdict: str
    case: str  # the problem, with all its numbers
    size: int  # count of these numbers
    message: str  # the message of gradcheck or Python, or both values
    printed: str  # output of the operation on this problem


# ---------------------------------------------------------------- problems
_side = st.integers(1, 3)
_any_shape = shapes(max_dims=3, max_side=3)
_Form = tuple[tuple[tuple[int, ...], ...], dict[str, Any]]  # shapes of the inputs, and options


@st.composite
def _permuted(draw: st.DrawFn) -> _Form:
    shape = draw(_any_shape)
    return (shape,), {"axes": tuple(draw(st.permutations(range(len(shape)))))}


@st.composite
def _along_axis(draw: st.DrawFn) -> _Form:
    shape = draw(shapes(1, 3, max_side=3))
    return (shape,), {"axis": draw(st.integers(-len(shape), len(shape) - 1))}


@st.composite
def _multiplied(draw: st.DrawFn) -> _Form:
    n, k, m = draw(_side), draw(_side), draw(_side)
    stacks = draw(mutually_broadcastable_shapes(num_shapes=2, min_dims=0, max_dims=1, max_side=2)).input_shapes
    a, b = (*stacks[0], n, k), (*stacks[1], k, m)
    return (a if draw(st.booleans()) else (k,), b if draw(st.booleans()) else (k,)), {}


@st.composite
def _padded(draw: st.DrawFn) -> _Form:
    shape = draw(shapes(1, 3, max_side=2))
    pairs = draw(st.lists(st.tuples(*[st.integers(0, 2)] * 2), max_size=len(shape)))
    return (shape,), {"padding": tuple(n for pair in pairs for n in pair)}


@st.composite
def _joined(draw: st.DrawFn) -> _Form:
    shape, lengths = draw(shapes(1, 3, max_side=2)), draw(st.lists(_side, min_size=1, max_size=4))
    axis = draw(st.integers(0, len(shape) - 1))
    return tuple((*shape[:axis], n, *shape[axis + 1 :]) for n in lengths), {"axis": axis}


@st.composite
def _convolved(draw: st.DrawFn) -> _Form:
    n, groups, c, o = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, stride, padding = (draw(st.tuples(*[st.integers(low, 2)] * 2)) for low in (1, 1, 0))
    size = [draw(st.integers(max(1, k - 2 * p), 3)) for k, p in zip(kernel, padding, strict=True)]
    out = [(s + 2 * p - k) // t + 1 for s, k, t, p in zip(size, kernel, stride, padding, strict=True)]
    every = (n, groups * c, *size), (groups * o, c, *kernel), (groups * o,), (n, groups * o, *out)
    options = {"stride": stride, "padding": padding, "groups": groups, "relu": draw(st.booleans())}
    plain = {"stride": (1, 1), "padding": (0, 0), "groups": 1, "relu": False}
    return every[: 4 if draw(st.booleans()) else 3], {k: v for k, v in options.items() if v != plain[k]}


@st.composite
def _affine(draw: st.DrawFn) -> _Form:
    n, i, o = draw(_side), draw(_side), draw(_side)
    return ((n, i), (o, i), (o,))[: 3 if draw(st.booleans()) else 2], {}


@st.composite
def _classified(draw: st.DrawFn) -> _Form:
    smoothing = draw(st.sampled_from([0.0, 0.1, 0.5]))
    return ((draw(_side), draw(st.integers(1, 4))),), {"label_smoothing": smoothing} if smoothing else {}


@st.composite
def _normalised(draw: st.DrawFn) -> _Form:
    n, c, h, w = draw(_side), draw(_side), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    n += n * h * w == 1
    options = {"training": draw(st.booleans())} | ({"relu": True} if draw(st.booleans()) else {})
    return ((n, c, h, w), (c,), (c,), (n, c, h, w))[: 4 if draw(st.booleans()) else 3], options


_alone: st.SearchStrategy[_Form] = _any_shape.map(lambda shape: ((shape,), {}))
_stretched: st.SearchStrategy[_Form] = mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3).map(
    lambda both: (both[0], {})
)
FORMS: dict[str, st.SearchStrategy[_Form]] = {
    "batch_norm": _normalised(),
    "concat": _joined(),
    "conv2d": _convolved(),
    "cross_entropy": _classified(),
    "linear": _affine(),
    "log_softmax": _along_axis(),
    "matmul": _multiplied(),
    "pad": _padded(),
    "permute": _permuted(),
    "sigmoid": _alone,
    "softmax": _along_axis(),
    "sqrt": _alone,
    "tanh": _alone,
    "where": _stretched,
}
"""Shapes and options for each operation that can be examined. They shrink to few numbers and default options."""


@st.composite
def problems(draw: st.DrawFn, op: str) -> Problem:
    """Draw small problems of an operation, in all memory layouts; some use their inputs twice.

    Examples
    --------
    >>> from hypothesis import find
    >>> print(find(problems("softmax"), lambda problem: problem.inputs[0].size > 1))
    softmax(x, axis=0)
      x = [ 0.1257 -0.1321]  of shape (2,)
    """
    every, options = draw(FORMS[op])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # a channel whose values are all equal cannot be normalised
    orders = [order for order in ORDERS if op != "batch_norm" or order != "broadcast"]
    values = "positive" if op in POSITIVE else "normal"
    inputs = tuple(in_order(numbers(rng, shape, np.float64, values), draw(st.sampled_from(orders))) for shape in every)
    return Problem(op, inputs, options, twice=draw(st.booleans()))


def _settings(count: int, *phases: Phase) -> settings:
    """The same examples in every run, in every Hypothesis profile. Nothing is written."""
    checks = list(HealthCheck)
    return settings(
        max_examples=count, phases=phases, derandomize=True, database=None, deadline=None,
        report_multiple_bugs=False, suppress_health_check=checks,
    )  # fmt: skip


# ---------------------------------------------------------------- gradients
def check_gradients(op: str, examples: int = EXAMPLES) -> Fault | None:
    """Run gradcheck on this number of problems; return the smallest on which it fails, or None.

    Examples
    --------
    >>> check_gradients("tanh", 10) is None
    True
    """
    fault: list[Fault] = []

    @_settings(examples, Phase.generate, Phase.shrink)
    @given(problems(op))
    def passes(problem: Problem) -> None:
        printed = _Tail()
        try:
            with contextlib.redirect_stdout(printed), np.errstate(all="ignore"):
                gradcheck(problem, *problem.inputs)
        except Exception as error:
            fault[:] = [_fault(problem, error, printed.text)]  # the last one is the smallest
            raise

    with use_backend("reference"):
        try:
            passes()
        except Exception:  # any error of the examined file, on the smallest problem; `fault` describes it
            if not fault:  # then it is an error in Hypothesis itself
                raise
    return fault[0] if fault else None


def _fault(problem: Problem, error: Exception, printed: str) -> Fault:
    size = sum(a.size for a in problem.inputs)
    if isinstance(error, GradcheckError):
        return Fault(f"The gradient of {problem.op} is wrong.", str(problem), size, str(error), printed)
    message = f"{type(error).__name__}: {error}{_place(error)}"
    return Fault(f"{problem.op} fails.", str(problem), size, message, printed)


def _place(error: Exception) -> str:
    """The line of the learner's file where the error was raised, if it passed through this file."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module, file = str(frame.f_globals.get("__name__")), Path(frame.f_code.co_filename)
        if module.startswith("tinyres.") and not file.is_relative_to(PACKAGE):
            return f"\n  {file.name}, line {line}, in {frame.f_code.co_name}"
    return ""


class _Tail(io.TextIOBase):
    """Keeps only the end of the output, since a loop may print without end."""

    text = ""

    def write(self, text: str, /) -> int:
        self.text = (self.text + text)[-PRINTED:]
        return len(text)


# ---------------------------------------------------------------- the original
class Original(NamedTuple):
    """The results of an operation with the original file."""

    problem: Problem
    results: dict[str, list[Array]]  # for each dtype: the result and the gradients


def originals(op: str) -> list[Original]:
    """The results of every operation that can be examined, on some problems; on more of them for `op`."""
    found: list[Original] = []
    for name in FORMS:

        @_settings(60 if name == op else 10, Phase.generate)
        @given(problems(name))
        def collect(problem: Problem) -> None:
            found.append(Original(problem, _results(problem)))

        collect()
    return found


def _results(problem: Problem) -> dict[str, list[Array]]:
    with use_backend("reference"), np.errstate(all="ignore"):
        return {dtype: problem.results(dtype) for dtype in TOLERANCE}


def save(path: str | Path, found: Sequence[Original]) -> None:
    """Write originals to an ``.npz`` file for another process, where Hypothesis would draw other problems."""
    arrays, texts = {}, []
    for i, (problem, by_dtype) in enumerate(found):
        texts.append([problem.op, problem.options, problem.twice])
        for group, content in {"inputs": problem.inputs, **by_dtype}.items():
            arrays.update({f"{i} {group} {k}": array for k, array in enumerate(content)})
    np.savez(path, problems=np.array(json.dumps(texts)), **arrays)  # type: ignore[arg-type]


def load(path: str | Path) -> list[Original]:
    """Read what `save` wrote."""
    found = []
    with np.load(path) as file:
        arrays: dict[tuple[str, str], list[Array]] = {}
        for name in file.files[1:]:
            i, group, _ = name.split()
            arrays.setdefault((i, group), []).append(file[name])
        for i, (op, options, twice) in enumerate(json.loads(str(file["problems"]))):
            options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
            problem = Problem(op, tuple(arrays[str(i), "inputs"]), options, twice)
            found.append(Original(problem, {dtype: arrays[str(i), dtype] for dtype in TOLERANCE}))
    return found


def compare(op: str, expected: Sequence[Original]) -> Fault | None:
    """Compare results and gradients with the original; return the smallest problem with a difference, or None.

    Examples
    --------
    >>> compare("tanh", originals("tanh")) is None
    True
    """
    faults = [fault for original in expected if (fault := _difference(original)) is not None]
    # first the operation of the level, then the smallest problems
    return min(faults, key=lambda fault: (not fault.case.startswith(f"{op}("), fault.size), default=None)


def _difference(original: Original) -> Fault | None:
    problem, printed = original.problem, _Tail()
    try:
        with contextlib.redirect_stdout(printed):
            found = _results(problem)
    except Exception as error:
        return _fault(problem, error, printed.text)
    for dtype, tolerance in TOLERANCE.items():
        for i, (a, b) in enumerate(zip(found[dtype], original.results[dtype], strict=True)):
            if not _agree(a, b, tolerance):
                what = f"gradient of input {i - 1}" if i else "result"
                verdict = f"{problem.op}: the {what} is not that of the original any more."
                message = f"{dtype}: the {what} is {_short(a)}, expected {_short(b)}"
                return Fault(verdict, str(problem), sum(x.size for x in problem.inputs), message, printed.text)
    return None


def _agree(a: Array, b: Array, tolerance: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    scale = max(1.0, float(np.abs(b).max(initial=0)))
    return bool(np.all(np.abs(a - b) <= tolerance * scale))  # False if a is NaN


def _short(array: Array) -> str:
    with np.printoptions(precision=5, suppress=True, threshold=20):
        text = " ".join(np.array2string(array, separator=", ").split())
    return f"{text} of shape {array.shape}, {array.dtype}"
