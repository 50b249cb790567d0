"""Gradients of plain NumPy, and of other libraries: right ones pass, wrong ones are told, in gradcheck's words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyres.testing import GradcheckError, check_vjp
from tinyres.testing.strategies import shapes, tensors


def scaled(x, w):
    return x * w


def scaled_vjp(x, w, dy):
    return dy * w, (dy * x).sum(0)


X, W = np.array([[0.5, -1.5, 2.0], [1.0, 0.25, -0.75]]), np.array([1.5, -0.5, 2.0])


@given(tensors(np.float64, shapes(1, 2, max_side=4)), st.data())
def test_a_cumulative_sum_in_any_memory(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))

    def vjp(x, dy):
        return np.flip(np.flip(dy, axis).cumsum(axis), axis)

    assert check_vjp(lambda x: x.cumsum(axis), vjp, x.data)
    if x.shape[axis] > 1:
        with pytest.raises(GradcheckError, match="dy/dx of input 0 at index"):
            check_vjp(lambda x: x.cumsum(axis), lambda x, dy: dy.cumsum(axis), x.data)


def test_arrays_come_as_they_lie_in_memory_and_options_are_gradchecks():
    seen = set()

    def fn(x):
        seen.add(x.strides)
        return np.exp(x)

    def off(x, dy):
        return dy * np.exp(x) * 1.001

    assert check_vjp(fn, lambda x, dy: dy * np.exp(x), X[::-1, ::2])
    assert X[::-1, ::2].strides in seen
    assert check_vjp(fn, off, X, rtol=1e-2)
    with pytest.raises(GradcheckError, match="random direction: analytic"):
        check_vjp(fn, off, X, full=False)


def test_several_inputs_numbers_and_gradients_that_are_nothing():
    assert check_vjp(scaled, scaled_vjp, X, W)
    assert check_vjp(scaled, lambda x, w, dy: list(scaled_vjp(x, w, dy)), X, W)
    assert check_vjp(lambda x: float((x * x).sum()), lambda x, dy: 2 * x * dy, X)
    assert check_vjp(lambda x, w: x * 2, lambda x, w, dy: (2 * dy, None), X, W)
    assert check_vjp(lambda x: x**2, lambda x, dy: dy * 2 * x, 3.0)
    with pytest.raises(GradcheckError, match=r"input 1 at index \(0,\).*analytic 0, numeric 0\.5"):
        check_vjp(scaled, lambda x, w, dy: (dy * w, None), X, W)


def test_a_function_may_give_the_same_memory_each_time():
    """As with NumPy's out=; what is given is copied, and stays its owner's to write to."""
    y = np.empty(3)

    def fn(x):
        y[...] = np.sin(x)
        return y

    assert check_vjp(fn, lambda x, dy: dy * np.cos(x), W)
    assert y.flags.writeable


@pytest.mark.parametrize(
    ("fn", "vjp", "error", "message"),
    [
        (scaled, lambda x, w, dy: (dy * w, dy * x), GradcheckError, r"input 1 has shape \(2, 3\), expected \(3,\)"),
        (scaled, lambda x, w, dy: (dy, dy, dy), ValueError, "vjp: returned 3 gradients, expected 2, one for each"),
        (scaled, lambda x, w, dy: dy * w, ValueError, "vjp: returned 1 gradients, expected 2"),
        (scaled, lambda x, w, dy: ((dy * w).astype("f4"), None), TypeError, "input 0 has dtype float32, expected"),
        (lambda x, w: (x * w).astype("f4"), scaled_vjp, TypeError, "fn: returned float32, expected float64"),
        (lambda x, w: None, scaled_vjp, TypeError, "fn: returned object, expected float64"),
        (lambda x, w: x * w + np.inf, scaled_vjp, GradcheckError, "fn gave inf at index"),
    ],
)
def test_what_does_not_fit_is_told(fn, vjp, error, message):
    with pytest.raises(error, match=message):
        check_vjp(fn, vjp, X, W)


def test_neither_function_may_write_to_what_it_is_given():
    def fn(x):
        x *= 2
        return x

    def vjp(x, dy):
        x *= dy
        return x

    for pair in ((fn, lambda x, dy: 2 * dy), (lambda x: x * x / 2, vjp)):
        with pytest.raises(GradcheckError, match="input 0 was changed at index"):
            check_vjp(*pair, X.copy())


def test_pytorchs_gradients():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")

    def fn(x, w):
        return torch.nn.functional.gelu(torch.tensor(x) @ torch.tensor(w)).numpy()

    def vjp(x, w, dy, factor=1):
        inputs = [torch.tensor(a, requires_grad=True) for a in (x, w)]
        y = torch.nn.functional.gelu(inputs[0] @ inputs[1])
        return tuple(factor * g.numpy() for g in torch.autograd.grad(y, inputs, torch.tensor(dy)))

    assert check_vjp(fn, vjp, X, X.T)
    with pytest.raises(GradcheckError, match="relative error"):
        check_vjp(fn, lambda x, w, dy: vjp(x, w, dy, 1.01), X, X.T)
