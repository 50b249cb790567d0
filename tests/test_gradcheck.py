"""The checker itself: wrong gradients fail, with their place named; right ones pass; what is not a gradient is told."""

import subprocess
import sys

import numpy as np
import pytest

import tinyres as tr
from tinyres import tape
from tinyres.testing import GradcheckError, gradcheck

A = np.array([[0.5, -1.5, 2.0], [1.0, 0.25, -0.75]])
B = np.array([[1.5, 0.5], [-1.0, 2.0], [0.75, -0.25]])


def unary(y, pullback):
    """An operation that computes y(x) and sends dL/dy back as pullback(dy, x)."""

    def fn(x):
        a = x.data
        return tr.record("op", y(a), (x,), lambda dy: (pullback(dy, a),))

    return fn


def binary(y, pullback):
    def fn(a, b):
        x, w = a.data, b.data
        return tr.record("op", y(x, w), (a, b), lambda dy: pullback(dy, x, w))

    return fn


def cumulative(dy, x):
    return np.cumsum(dy[..., ::-1], -1)[..., ::-1]


WRONG = {
    "factor of 2": (
        unary(np.square, lambda dy, x: dy * x),
        (A,),
        r"input 0 at index \(0, 0\).*analytic 0\.5, numeric (1|0\.9999).*error 0\.5",
    ),
    "sign": (unary(np.sin, lambda dy, x: -dy * np.cos(x)), (A,), r"input 0 at index \(0, 0\).*relative error 2"),
    "missing term": (unary(lambda x: x * np.exp(x), lambda dy, x: dy * np.exp(x)), (A,), r"input 0 at index \(0, 0\)"),
    "wrong at one index": (
        unary(np.exp, lambda dy, x: dy * np.exp(x) * (1 + 1e-4 * (x == 0.25))),
        (A,),
        r"dy/dx of input 0 at index \(1, 1\), output index \(1, 1\): analytic .* numeric .* relative error 0\.0001",
    ),
    "wrong index": (
        unary(lambda x: x[:, [0, 2]], lambda dy, x: np.stack([dy[:, 0], dy[:, 1], 0 * dy[:, 0]], 1)),
        (A,),
        r"input 0 at index \(0, 1\), output index \(0, 1\): analytic 1, numeric 0.*\(2 of",
    ),
    "shifted": (unary(lambda x: x**3, lambda dy, x: 3 * np.roll(x, 1, 1) ** 2 * dy), (A,), r"input 0 at index"),
    "transposed": (
        binary(lambda a, b: a @ b, lambda dy, a, b: (dy @ b.T, (dy.T @ a).reshape(b.shape))),
        (A, B),
        r"input 1 at index",
    ),
    "of the other input": (binary(np.multiply, lambda dy, a, b: (dy * a, dy * b)), (A, 2 * A), r"input 0 at index"),
    "none": (binary(np.multiply, lambda dy, a, b: (dy * b, None)), (A, 2 * A), r"input 1 .* analytic 0, numeric 0\.5"),
    "detached": (lambda x: tr.Tensor(np.sin(x.data)), (A,), r"input 0 at index \(0, 0\).* analytic 0"),
    "dropped accumulation": (
        unary(lambda x: x[[0, 0, 1]], lambda dy, x: dy[1:]),
        (A,),
        r"input 0 at index \(0, 0\), output index \(0, 0\): analytic 0, numeric 1",
    ),
    "mean for sum": (unary(np.sum, lambda dy, x: np.full(x.shape, dy / x.size)), (A,), r"input 0 .* output index \(\)"),
    "normalisation held constant": (
        unary(lambda x: x / x.sum(1, keepdims=True), lambda dy, x: dy / x.sum(1, keepdims=True)),
        (A,),
        r"input 0 at index \(0, 0\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_gradient_is_found_and_its_place_named(name):
    fn, inputs, message = WRONG[name]
    with pytest.raises(GradcheckError, match=message):
        gradcheck(fn, *inputs)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_gradient_is_found_along_a_random_direction(name):
    fn, inputs, _ = WRONG[name]
    for seed in range(5):
        with pytest.raises(GradcheckError, match=r"random direction: analytic \S+, numeric \S+, relative error"):
            gradcheck(fn, *inputs, full=False, seed=seed)


def test_one_wrong_element_among_many_is_found_along_a_random_direction():
    x = np.random.default_rng(0).standard_normal((50, 200))
    factor = np.ones(x.shape)
    factor[31, 7] = 1.1
    with pytest.raises(GradcheckError, match="random direction"):
        gradcheck(unary(np.sin, lambda dy, x: dy * np.cos(x) * factor), x)


@pytest.mark.parametrize("full", [True, False])
def test_tolerance_is_a_millionth(full):
    """The value is 1 or more, so that the absolute tolerance, 1e-8, hardly counts."""
    x = np.random.default_rng(0).uniform(1, 2, (3, 4))
    for off in (1.5e-6, -1.5e-6):
        with pytest.raises(GradcheckError, match=r"relative error 1\.\d*e-06"):
            gradcheck(unary(np.exp, lambda dy, x, off=off: dy * np.exp(x) * (1 + off)), x, full=full)
        assert gradcheck(unary(np.exp, lambda dy, x, off=off: dy * np.exp(x) * (1 + off / 3)), x, full=full)


RIGHT = {
    "square": (unary(np.square, lambda dy, x: 2 * dy * x), (A,)),
    "far from 0": (unary(np.square, lambda dy, x: 2 * dy * x), (A * 1e3,), {"atol": 1e-3}),
    "cumsum": (unary(lambda x: np.cumsum(x, -1), cumulative), (A,)),
    "matmul": (binary(lambda a, b: a @ b, lambda dy, a, b: (dy @ b.T, a.T @ dy)), (A, B)),
    "broadcast": (lambda a, b: a * b + b, (A, A[0])),
    "scalar": (lambda x: x * x, (3.0,)),
    "integers": (lambda x: x * x, ([1, 2],)),
    "empty": (lambda x: x * 2, (np.zeros((0, 3)),)),
    "constant": (lambda x: tr.Tensor(np.ones(3)), (A,)),
    "an input that is not used": (lambda a, b: a * 2, (A, B)),
    "the same tensor twice": (lambda x: (x * x).exp() + x, (A,)),
    "float32 comes as float64": (lambda x: x.exp(), (A.astype(np.float32),)),
    "tensor": (lambda x: x.exp(), (tr.Tensor(A),)),
}


@pytest.mark.parametrize("full", [None, True, False])
@pytest.mark.parametrize("name", RIGHT)
def test_right_gradient_passes(name, full):
    fn, inputs, *options = RIGHT[name]
    assert gradcheck(fn, *inputs, full=full, **dict(*options))


def test_full_is_chosen_by_size():
    calls = []

    def fn(x):
        calls.append(x.shape)
        return x * 2

    for shape, full, expected in [((10,), None, 2 * 10), ((201,), None, 0), ((201,), True, 402), ((10,), False, 0)]:
        calls.clear()
        gradcheck(fn, np.ones(shape), full=full)
        assert expected + 5 <= len(calls) <= expected + 6


@pytest.mark.parametrize(
    ("fn", "inputs", "error", "message"),
    [
        (lambda: tr.Tensor(1.0), (), ValueError, "inputs: got none"),
        (lambda x: x.data, (A,), TypeError, "fn: returned ndarray, expected a Tensor"),
        (lambda x: x, (A * 1j,), TypeError, "inputs: input 0 has dtype complex128"),
        (lambda a, b: a, (A, ["x"]), TypeError, "inputs: input 1 has dtype <U1"),
        (lambda x: x, ([1.0, np.nan],), GradcheckError, r"got nan at index \(1,\) of input 0, of shape \(2,\)"),
        (lambda x: x.log(), ([1.0, 0.0],), GradcheckError, r"fn gave -inf at index \(1,\) of its output, of shape"),
        (
            lambda x: (x - 1.0).sqrt() if x.data[0] == 1 else (x - 1.0).sqrt() * np.inf,
            ([1.0],),
            GradcheckError,
            r"backward gave inf at index \(0,\) of the gradient of input 0",
        ),
        (
            lambda x: tr.record("op", np.where(x.data > 1, np.inf, 1), (x,), lambda dy: (dy,)),
            ([0.5, 1.0],),
            GradcheckError,
            r"fn gave inf at index \(1,\) of its output, a step of \+1e-06 away",
        ),
        (unary(lambda x: x, lambda dy, x: dy[0]), (A,), ValueError, r"pullback of <op\(2, 3\)>"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_is_no_gradient_is_told(fn, inputs, error, message):
    with pytest.raises(error, match=message):
        gradcheck(fn, *inputs)


def test_gradient_that_differs_the_second_time():
    factors = iter([2.0, 2.0, 2.1])

    def fn(x):
        factor = next(factors)
        return tr.record("op", x.data * 2, (x,), lambda dy: (dy * factor,))

    with pytest.raises(GradcheckError, match=r"input 0: a second forward and backward gave another gradient"):
        gradcheck(fn, A)


def test_pullback_that_changes_what_it_holds():
    held = {"total": np.zeros(A.shape)}

    def fn(x):
        def pullback(dy):
            held["total"] += dy
            return (held["total"].copy(),)

        return tr.record("op", x.data.copy(), (x,), pullback)

    with pytest.raises(GradcheckError, match="does its pullback change what it holds"):
        gradcheck(fn, A)


def test_input_that_is_changed():
    def forward(a, b):
        b.data[1, 0] += 1
        return a * 2

    def backward(a, b):
        x = b.data

        def pullback(dy):
            x.flags.writeable = True
            x[1, 0] += 1
            return dy, dy

        return tr.record("op", a.data + x, (a, b), pullback)

    for fn in (forward, backward):
        with pytest.raises(GradcheckError, match=r"input 1 was changed at index \(1, 0\), from 1\.0 to 2\.0"):
            gradcheck(fn, A, A.copy())


@pytest.mark.parametrize("wrong", [np.zeros((3, 2)), np.zeros((2, 3), np.float32)])
def test_gradient_of_wrong_shape_or_dtype(monkeypatch, wrong):
    """The tape does not let one pass, so it is taken out of the way."""
    monkeypatch.setattr(tape, "conform", lambda gradient, target, source, node: wrong)
    with pytest.raises(GradcheckError, match=r"input 0: gradient has shape .* expected \(2, 3\) and float64"):
        gradcheck(unary(np.square, lambda dy, x: dy), A)


def test_inputs_keep_their_memory_and_can_be_written_afterwards():
    seen = set()

    def fn(x):
        seen.add(x.data.strides)
        return x * x

    x = A.copy().T
    gradcheck(fn, x)
    assert x.strides in seen
    x[0, 0] = 7
    frozen = np.broadcast_to(A[:1], (2, 3))
    gradcheck(fn, frozen)
    assert not frozen.flags.writeable


def test_does_not_need_hypothesis():
    program = """
import sys
sys.modules["hypothesis"] = None  # not installed
from tinyres.testing import gradcheck
assert gradcheck(lambda x: x * x, [1.0])
try:
    import tinyres.testing.strategies
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "needs Hypothesis: pip install 'tinyres[testing]'" in result.stdout
