"""Functions of each element, and softmax."""

import math

import numpy as np

from tinyres import backend
from tinyres.kernels.launch import compute, formula
from tinyres.spelling import either_spelling
from tinyres.tensor import Tensor, as_tensor, record


def relu(x: Tensor) -> Tensor:
    """The larger of x and 0. NaN stays NaN.

        y = max(x, 0),   dy/dx = [x > 0],

    which is 1 where x > 0, else 0, also at x = 0.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.relu(tr.Tensor([-1.0, 2.0])).data
    array([0., 2.], dtype=float32)
    """
    x, kernels = as_tensor("x", x), backend.active
    y = kernels.relu(x.data)
    return record("relu", y, (x,), lambda dy: (kernels.relu_grad(dy, y),))


def sigmoid(x: Tensor) -> Tensor:
    """The logistic function, from 0 to 1.

        y = 1 / (1 + e^-x),   dy/dx = y (1 - y).

    The derivative is at most 1/4, so gradients shrink in deep networks. It is computed as

        y = (1 + tanh(x / 2)) / 2,

    which does not overflow.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.sigmoid(tr.Tensor([0.0])).data
    array([0.5], dtype=float32)
    """
    x = as_tensor("x", x)
    y = formula(_sigmoid, x.data)
    return record("sigmoid", y, (x,), lambda dy: (formula(lambda dy, y: dy * y * (1 - y), dy, y),))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    s: np.ndarray = 0.5 * (1 + np.tanh(0.5 * x))
    return s


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent, from -1 to 1.

        y = (e^x - e^-x) / (e^x + e^-x),   dy/dx = 1 - y^2.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.tanh(tr.Tensor([0.0])).data
    array([0.], dtype=float32)
    """
    x = as_tensor("x", x)
    y = np.tanh(x.data)
    return record("tanh", y, (x,), lambda dy: (dy * (1 - y * y),))


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), also called swish (Elfwing et al., "Sigmoid-weighted linear units", 2018).

    With s = sigmoid(x), whose derivative is s (1 - s),

        y = x s,   dy/dx = s + x s (1 - s) = s + y (1 - s).

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.silu(tr.Tensor([-1.0, 0.0, 1.0])).data.round(3)
    array([-0.269,  0.   ,  0.731], dtype=float32)
    """
    x = as_tensor("x", x)
    s = formula(_sigmoid, x.data)
    y = compute(np.multiply, x.data, s)
    return record("silu", y, (x,), lambda dy: (formula(lambda dy, y, s: dy * (s + y * (1 - s)), dy, y, s),))


def gelu(x: Tensor) -> Tensor:
    """x P(x), where P(x) is the probability that a standard normal variable is at most x.

    Hendrycks and Gimpel, "Gaussian error linear units", 2016. The derivative of P is the normal density, so

        P(x) = (1 + erf(x / sqrt(2))) / 2,   dy/dx = P(x) + x exp(-x^2 / 2) / sqrt(2 pi).

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.gelu(tr.Tensor([-1.0, 0.0, 1.0])).data.round(3)
    array([-0.159,  0.   ,  0.841], dtype=float32)
    """
    x = as_tensor("x", x)
    a = x.data
    below = 0.5 * (1 + backend.active.erf(a * a.dtype.type(math.sqrt(0.5))))
    density = np.exp(-0.5 * a * a) * a.dtype.type(1 / math.sqrt(2 * math.pi))
    return record("gelu", a * below, (x,), lambda dy: (dy * (below + a * density),))


@either_spelling
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Positive numbers that add up to 1 along `axis`: each exp(x_i) divided by their sum.

    Raises
    ------
    ValueError
        If x has no such axis, or its length is 0.

    Notes
    -----
    Along the axis,

        y_i = exp(x_i) / (sum_j exp(x_j)),   dy_i/dx_j = y_i ([i = j] - y_j),
        dL/dx_j = sum_i dL/dy_i dy_i/dx_j = y_j (dL/dy_j - sum_i dL/dy_i y_i).

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.softmax(tr.Tensor([1.0, 1.0])).data
    array([0.5, 0.5], dtype=float32)
    """
    x = as_tensor("x", x)
    _check_axis(x, axis)
    y = np.exp(_shifted(x.data, axis))
    y /= y.sum(axis, keepdims=True)
    return record("softmax", y, (x,), lambda dy: (y * (dy - (dy * y).sum(axis, keepdims=True)),), axis=axis)


@either_spelling
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Logarithm of `softmax`. It is computed without the softmax, so that small probabilities keep their precision.

    Raises
    ------
    ValueError
        If x has no such axis, or its length is 0.

    Notes
    -----
    With p = softmax(x),

        y_i = x_i - log sum_j exp(x_j),   dy_i/dx_j = [i = j] - p_j,
        dL/dx_j = sum_i dL/dy_i dy_i/dx_j = dL/dy_j - p_j sum_i dL/dy_i.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.log_softmax(tr.Tensor([0.0, 0.0])).data.round(3)
    array([-0.693, -0.693], dtype=float32)
    """
    x = as_tensor("x", x)
    _check_axis(x, axis)
    shifted = _shifted(x.data, axis)
    y = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
    return record("log_softmax", y, (x,), lambda dy: (dy - np.exp(y) * dy.sum(axis, keepdims=True),), axis=axis)


def _shifted(x: np.ndarray, axis: int) -> np.ndarray:
    """x minus its maximum along the axis: softmax stays the same, and exp cannot overflow."""
    return x - x.max(axis, keepdims=True)


def _check_axis(x: Tensor, axis: int) -> None:
    if not -x.ndim <= axis < x.ndim or x.shape[axis] == 0:
        raise ValueError(f"axis: got {axis} for shape {x.shape}, expected one of its axes, of length 1 or more")
