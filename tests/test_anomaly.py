"""`detect_anomaly` names what gives the first NaN or infinity: every operation, forward and backward, and the rest."""

import operator
import re
import sys
import tracemalloc
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from support.registry import REGISTRY, Entry, backends_of, case

import tinyres as tr
from tinyres import Tensor, tape
from tinyres.tape import scope
from tinyres.testing.strategies import numbers

F4 = np.float32
BAD = cycle([np.nan, np.inf, -np.inf])
MODULES = [m for name, m in sys.modules.items() if name.startswith("tinyres.") and getattr(m, "record", None)]
TWO = [case((2, 3), (2, 3)), case((3,), (2, 1))]
OPERATIONS = REGISTRY | {
    "+": Entry(operator.add, TWO, []),
    "-": Entry(operator.sub, TWO, []),
    "*": Entry(operator.mul, TWO, []),
    "/": Entry(operator.truediv, TWO, [], "positive"),
    "**": Entry(operator.pow, TWO, [], "positive"),
    "negative": Entry(operator.neg, [case((2, 3))], []),
    "[]": Entry(lambda x: x[1:, [0, 0, 2]], [case((2, 3))], []),
}
every_case = pytest.mark.parametrize(
    ("name", "case", "backend"),
    [(name, case, b) for name, entry in OPERATIONS.items() for case in entry.cases for b in backends_of(name)],
    ids=str,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def recording(change):
    """Let `change` see, and replace, the arguments of each `record` in the block."""
    original = tr.record

    def changed(name, y, parents, pullback, **options):
        return original(*change(name, np.asarray(y), parents, pullback), **options)

    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(module, "record", changed)
        yield


def spoilt(array, seed):
    """A copy with one element that is not finite, and the index of that."""
    array, index = np.array(array), tuple(int(np.random.default_rng(seed).integers(n)) for n in array.shape)
    array[index] = next(BAD)
    return array, index


def run(name, case):
    """Call an operation of the registry in a module; the result and its leaves."""
    entry, rng = OPERATIONS[name], np.random.default_rng(0)
    leaves = [Tensor(numbers(rng, shape, F4, entry.values), requires_grad=True) for shape in case.shapes]
    with scope("net"), scope("layer1.0"):
        return entry.call(*leaves, **case.options), leaves


def records(name, case):
    """Names of what an operation is made of, and how many parents each has."""
    found = []
    with recording(lambda *arguments: found.append((arguments[0], arguments[1].size, len(arguments[2]))) or arguments):
        run(name, case)
    return found


def spans(*arrays):
    return ", ".join(f"[{a.min():.4g}, {a.max():.4g}]" for a in arrays if a.size) or "none"


def test_nothing_is_left_out():
    """The cases record each operation that there is in the package; what `testing` records is the user's own."""
    package = Path(tape.__file__).parent
    sources = [path.read_text() for path in package.rglob("*.py") if "testing" not in path.relative_to(package).parts]
    there_are = {name for source in sources for name in re.findall(r'[^.]\brecord\(\s*"(\w+)"', source)}
    ran = {part for name, entry in OPERATIONS.items() for case in entry.cases for part, *_ in records(name, case)}
    assert there_are == ran


def anomaly(function):
    """What is said of the first anomaly in a call, or nothing."""
    try:
        with tr.detect_anomaly():
            function()
    except FloatingPointError as error:
        return str(error)
    return ""


def spoil_result(k, seen):
    """A change for `recording`: of the k-th result."""

    def change(name, y, parents, pullback):
        index = None
        if len(seen) == k and y.size:
            y, index = spoilt(y, k)
        seen.append((y, index, parents))
        return name, y, parents, pullback

    return change


@every_case
def test_every_operation_is_named_forward(name, case, backend):
    for k, (part, size, _) in enumerate(records(name, case)):
        seen = []
        with tr.use_backend(backend), recording(spoil_result(k, seen)):
            message = anomaly(lambda: run(name, case))
        y, index, parents = seen[k]
        if not size:
            assert not message
            continue
        what = f"forward of '{part}' in net.layer1.0 gave {y[index]} at index {index} of an output of shape {y.shape}; "
        assert message.startswith(what + "its inputs: " + spans(*(p.data for p in parents)))


def spoil_gradient(k, i, seen):
    """A change for `recording`: of what the k-th pullback gives the i-th parent."""
    calls = []

    def change(name, y, parents, pullback):
        def bad(dy, *totals):
            parts = list(pullback(dy, *totals))
            if parents[i].requires_grad and parts[i] is not None and parts[i].size:
                parts[i], index = spoilt(parts[i], k)
                seen.append((parts[i], index, parents[i], dy))
            return parts

        calls.append(name)
        return name, y, parents, bad if len(calls) == k + 1 else pullback

    return change


@every_case
def test_every_operation_is_named_backward(name, case, backend):
    found = 0
    for k, (part, _, count) in enumerate(records(name, case)):
        for i in range(count):
            seen = []
            with tr.use_backend(backend), recording(spoil_gradient(k, i, seen)):
                y, _ = run(name, case)
                message = anomaly(lambda y=y: y.backward(np.ones_like(y.data)))
            assert bool(message) == bool(seen)
            if seen:
                found += 1
                bad, index, parent, dy = seen[0]
                start = f"backward of '{part}' in net.layer1.0 gave "
                if bad.shape == parent.shape:  # else the tape has summed it up
                    start += f"{bad[index]} at index {index} of a gradient"
                assert message.startswith(start)
                assert f" of a gradient of shape {parent.shape}; its inputs: {spans(dy)}" in message
    assert found or not all(np.prod(shape) for shape in case.shapes)


# ---------------------------------------------------------------- what is no operation
def leaf(*values):
    return Tensor(np.array(values, F4), requires_grad=True)


def test_the_gradient_given_to_backward():
    x = leaf(1, 2)
    with scope("net"):
        y = x * 3
    assert anomaly(lambda: y.backward([1, np.inf])) == (
        "the caller of backward gave inf at index (1,) of a gradient, that of 'mul' in net, of shape (2,); "
        "its inputs: none"
    )


def test_a_hook():
    def my_hook(gradient):
        return gradient / 0

    x = leaf(1, 2)
    with scope("net"):
        y = x * 3
    y.register_hook(my_hook)
    with np.errstate(divide="ignore"):
        message = anomaly(lambda: y.sum().backward())
    assert message == (
        "gradient hook 'my_hook' gave inf at index (0,) of a gradient, that of 'mul' in net, of shape (2,); "
        "its inputs: [1, 1]"
    )


def test_a_sum_of_gradients_that_are_finite_themselves():
    x = leaf(1, 1)
    with scope("net"):
        h = x * 1
        with np.errstate(over="ignore"):
            y = h * 3e38 + h * 2e38
    with np.errstate(over="ignore"):
        message = anomaly(lambda: y.backward([0, 1]))
    assert message.startswith("the sum of gradients gave inf at index (1,) of a gradient, that of 'mul' in net, of ")
    assert "of shape (2,); its inputs: [0, " in message


def test_a_sum_over_several_calls():
    x = leaf(1, 1)
    with np.errstate(over="ignore"):
        (x * 3e38).sum().backward()
        message = anomaly(lambda: (x * 3e38).backward([0, 1]))
    assert message == (
        "the sum of gradients over several calls of backward gave inf at index (1,) of a gradient, that of a leaf, of "
        "shape (2,); its inputs: [3e+38, 3e+38], [0, 3e+38]"
    )


# ---------------------------------------------------------------- what the message says of inputs
def test_an_input_that_is_not_finite_is_told_from_one_that_is():
    """A leaf may be: no operation gave it. The first one that it reaches is named, and says so."""
    x, y = leaf(np.nan, 2, -1, np.inf), leaf(1, 1, 1, 5)
    message = anomaly(lambda: x * y)
    assert message.endswith("gave nan at index (0,) of an output of shape (4,); its inputs: [-1, 2] and 2 of 4 not "
                            "finite, [1, 5]")  # fmt: skip
    assert anomaly(lambda: leaf(np.nan) + 1).endswith("its inputs: 1 of 1 not finite, [1, 1]")


def test_backward_tells_of_what_was_saved():
    x = leaf(0, 4)
    y = x.sqrt()
    with np.errstate(divide="ignore"):
        message = anomaly(lambda: y.sum().backward())
    assert message.startswith("backward of 'sqrt' gave inf at index (0,) of a gradient of shape (2,); ")
    assert message.endswith("its inputs: [1, 1], [0, 2]"), "dL/dy, and y = sqrt(x)"


def test_batch_norm_tells_of_its_statistics():
    net = tr.nn.BatchNorm2d(2).eval()
    net.running_var[1] = -1
    with np.errstate(invalid="ignore"):
        message = anomaly(lambda: net(Tensor(np.ones((2, 2, 3, 3), F4))))
    assert message.endswith("[1, 1], [1, 1], [0, 0], [0, 0], [1, 1] and 1 of 2 not finite")


@pytest.mark.parametrize("backend", tr.backend.BACKENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_batch_norm_keeps_its_running_statistics(bad, backend):
    net = tr.nn.BatchNorm2d(2)
    x = np.ones((2, 2, 3, 3), F4)
    x[1, 0, 2, 2] = bad
    with tr.use_backend(backend), np.errstate(invalid="ignore"):
        assert "forward of 'batch_norm'" in anomaly(lambda: net(Tensor(x)))
    np.testing.assert_array_equal([net.running_mean, net.running_var], [[0, 0], [1, 1]])


def test_it_is_found_without_a_graph():
    with tr.no_grad():
        assert anomaly(lambda: leaf(0).log()).startswith("forward of 'log' gave -inf")


# ---------------------------------------------------------------- what is none, and the cost
def test_large_numbers_are_no_anomaly():
    x = leaf(3e38, 3e38, 3e38)
    assert not anomaly(lambda: (-x).backward(np.full(3, 3e38)))


def test_it_takes_no_memory():
    images = np.ones((32, 256, 32, 16), F4).transpose(0, 3, 1, 2)  # 16 MiB
    tracemalloc.start()
    try:
        tape.check_finite("test", images, "an output", [images])
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_outside_nothing_is_checked():
    x = leaf(0)
    y = x.log()
    assert anomaly(lambda: None) == ""
    with np.errstate(divide="ignore"):
        y.sum().backward()
    assert re.match("-?inf", str(x.grad[0]))
    assert not tape.state.anomaly
