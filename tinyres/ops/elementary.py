"""The tensor's own arithmetic as functions, for those who prefer ``ops.exp(x)`` to ``x.exp()``."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres.tape import Array
from tinyres.tensor import Tensor, as_tensor, record

_Axis = int | tuple[int, ...] | None


def exp(x: Tensor) -> Tensor:
    """e^x; its own derivative.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.exp(tr.Tensor([0.0])).data
    array([1.], dtype=float32)
    """
    return as_tensor("x", x).exp()


def log(x: Tensor) -> Tensor:
    """Natural logarithm; derivative 1 / x.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.log(tr.Tensor([1.0])).data
    array([0.], dtype=float32)
    """
    return as_tensor("x", x).log()


def sqrt(x: Tensor) -> Tensor:
    """Square root y; derivative 1 / (2 y).

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.sqrt(tr.Tensor([9.0])).data
    array([3.], dtype=float32)
    """
    return as_tensor("x", x).sqrt()


def matmul(a: Tensor, b: Any) -> Tensor:
    """Matrix product of the last two axes, the others broadcast.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.matmul(tr.Tensor([[1.0, 2.0]]), tr.Tensor([[3.0], [4.0]])).data
    array([[11.]], dtype=float32)
    """
    return as_tensor("a", a) @ b


def sum(x: Tensor, axis: _Axis = None, *, keepdims: bool = False) -> Tensor:
    """Sum over the given axes (all by default).

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.sum(tr.Tensor([[1.0, 2.0], [3.0, 4.0]]), 0).data
    array([4., 6.], dtype=float32)
    """
    return as_tensor("x", x).sum(axis, keepdims=keepdims)


def mean(x: Tensor, axis: _Axis = None, *, keepdims: bool = False) -> Tensor:
    """Mean over the given axes (all by default).

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.mean(tr.Tensor([[1.0, 2.0], [3.0, 4.0]]), 0, keepdims=True).data
    array([[2., 3.]], dtype=float32)
    """
    return as_tensor("x", x).mean(axis, keepdims=keepdims)


def max(x: Tensor, axis: _Axis = None, *, keepdims: bool = False) -> Tensor:
    """Maximum over the given axes (all by default); equal maxima share the gradient.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.max(tr.Tensor([[1.0, 2.0], [3.0, 4.0]]), 1).data
    array([2., 4.], dtype=float32)
    """
    return as_tensor("x", x).max(axis, keepdims=keepdims)


def maximum(a: Tensor, b: Any) -> Tensor:
    """The larger of two, element by element, broadcast. Where they are equal, each gets half of the gradient.

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
