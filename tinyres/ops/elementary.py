"""The tensor's methods as functions: ``ops.exp(x)`` is ``x.exp()``."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres.tape import Array
from tinyres.tensor import Tensor, as_tensor, record


def exp(x: Tensor) -> Tensor:
    """The exponential function, which is its own derivative.

        y = e^x,   dy/dx = e^x = y.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.exp(tr.Tensor([0.0])).data
    array([1.], dtype=float32)
    """
    return as_tensor("x", x).exp()


def log(x: Tensor) -> Tensor:
    """Natural logarithm: -inf at 0, and NaN for negative numbers.

        y = log(x),   dy/dx = 1/x.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.log(tr.Tensor([1.0])).data
    array([0.], dtype=float32)
    """
    return as_tensor("x", x).log()


def sqrt(x: Tensor) -> Tensor:
    """Square root: NaN for negative numbers.

        y = sqrt(x),   dy/dx = 1 / (2 y).

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.sqrt(tr.Tensor([9.0])).data
    array([3.], dtype=float32)
    """
    return as_tensor("x", x).sqrt()


def matmul(a: Tensor, b: Any) -> Tensor:
    """Matrix product over the last two axes; the other axes are broadcast.

    Parameters
    ----------
    a : Tensor of shape (..., M, K)
    b : Tensor or array of shape (..., K, N)
        One axis is enough: a vector is one row of a, or one column of b, and the result does not have this axis.

    Returns
    -------
    Tensor of shape (..., M, N)

    Raises
    ------
    ValueError
        If one of them is a single number, they differ in K, or the other axes cannot be broadcast.
    TypeError
        If their dtypes differ.

    Notes
    -----
    Each element of a occurs in a row of y, and each of b in a column:

        y[m,n] = sum_k a[m,k] b[k,n],   dL/da[m,k] = sum_n dL/dy[m,n] b[k,n],   dL/db[k,n] = sum_m a[m,k] dL/dy[m,n].

    With matrices,

        y = a b,   dL/da = dL/dy b^T,   dL/db = a^T dL/dy,

    summed over the axes that were broadcast.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.matmul(tr.Tensor([[1.0, 2.0]]), tr.Tensor([[3.0], [4.0]])).data
    array([[11.]], dtype=float32)
    """
    return as_tensor("a", a) @ b


def abs(x: Tensor) -> Tensor:
    """Absolute value.

        y = |x|,   dy/dx = sign(x),

    which is 0 at 0.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.abs(tr.Tensor([-2.0, 3.0])).data
    array([2., 3.], dtype=float32)
    """
    return as_tensor("x", x).abs()


def clip(x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """Limit values to the range from `min` to `max`.

    The derivative is 1 in this range, ends included, else 0. With a = `min` and b = `max`,

        y = min(max(x, a), b),   dy/dx = [a <= x <= b].

    Raises
    ------
    ValueError
        If neither is given, or `min` is larger than `max`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.clip(tr.Tensor([-2.0, 0.5, 3.0]), 0, 1).data
    array([0. , 0.5, 1. ], dtype=float32)
    """
    return as_tensor("x", x).clip(min, max)


def astype(x: Tensor, dtype: Any) -> Tensor:
    """Convert to float32 or float64; dL/dx is dL/dy, converted back to the dtype of x.

    Raises
    ------
    TypeError
        If `dtype` is neither of the two.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.astype(tr.Tensor([0.5]), "float64").data
    array([0.5])
    """
    return as_tensor("x", x).astype(dtype)


def maximum(a: Tensor, b: Any) -> Tensor:
    """The larger of a and b, for each element, with broadcasting. Where they are equal, each gets half of the gradient.

        y = max(a, b),   dy/da = [a > b] + [a = b] / 2,   dy/db = [b > a] + [a = b] / 2.

    Raises
    ------
    TypeError
        If their dtypes differ.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.maximum(tr.Tensor([1.0, 5.0]), 3.0).data
    array([3., 5.], dtype=float32)
    """
    a = as_tensor("a", a)
    b = b if isinstance(b, Tensor) else Tensor(np.asarray(b, a.dtype))
    if a.dtype != b.dtype:
        raise TypeError(f"b: got dtype {b.dtype}, expected {a.dtype}, that of a")
    y = np.maximum(a.data, b.data)
    share_a = ((a.data > b.data) + 0.5 * (a.data == b.data)).astype(a.dtype)

    def pullback(dy: Array) -> Sequence[Array]:
        return dy * share_a, dy * (1 - share_a)

    return record("maximum", y, (a, b), pullback)
