"""Reductions: functions that combine the elements along some axes, or along all of them, into one."""

from tinyres.spelling import either_spelling
from tinyres.tensor import Tensor, as_tensor

_Axis = int | tuple[int, ...] | None


@either_spelling
def sum(x: Tensor, axis: _Axis = None, *, keepdims: bool = False) -> Tensor:
    """Sum over the given axes (all by default).

        y = sum_i x_i,   dy/dx_j = 1.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.sum(tr.Tensor([[1.0, 2.0], [3.0, 4.0]]), 0).data
    array([4., 6.], dtype=float32)
    """
    return as_tensor("x", x).sum(axis, keepdims=keepdims)


@either_spelling
def mean(x: Tensor, axis: _Axis = None, *, keepdims: bool = False) -> Tensor:
    """Mean over the given axes (all by default).

    With n values,

        y = 1/n sum_i x_i,   dy/dx_j = 1/n.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.mean(tr.Tensor([[1.0, 2.0], [3.0, 4.0]]), 0, keepdims=True).data
    array([[2., 3.]], dtype=float32)
    """
    return as_tensor("x", x).mean(axis, keepdims=keepdims)


@either_spelling
def max(x: Tensor, axis: _Axis = None, *, keepdims: bool = False) -> Tensor:
    """Maximum over the given axes (all by default); equal maxima share the gradient equally.

    If k elements are equal to the maximum,

        y = max_i x_i,   dy/dx_j = [x_j = y] / k.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.max(tr.Tensor([[1.0, 2.0], [3.0, 4.0]]), 1).data
    array([2., 4.], dtype=float32)
    """
    return as_tensor("x", x).max(axis, keepdims=keepdims)


@either_spelling
def min(x: Tensor, axis: _Axis = None, *, keepdims: bool = False) -> Tensor:
    """Minimum over the given axes (all by default); equal minima share the gradient equally.

    If k elements are equal to the minimum,

        y = min_i x_i,   dy/dx_j = [x_j = y] / k.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.min(tr.Tensor([[1.0, 2.0], [3.0, 4.0]]), 1).data
    array([1., 3.], dtype=float32)
    """
    return as_tensor("x", x).min(axis, keepdims=keepdims)


@either_spelling
def var(x: Tensor, axis: _Axis = None, *, correction: float = 1, keepdims: bool = False) -> Tensor:
    """Variance over the given axes (all by default).

    Parameters
    ----------
    x : Tensor
    axis : int or tuple of int, optional
    correction : float
        The sum of squares is divided by the number of values minus this. With 1, as in PyTorch, the estimate is
        unbiased. With 0, as in NumPy and in batch norm, it is the mean square.
    keepdims : bool

    Raises
    ------
    ValueError
        If `correction` is not less than the number of values.

    Notes
    -----
    With n values, m their mean and d = n - correction,

        y = 1/d sum_i (x_i - m)^2,   dy/dx_j = 2/d (x_j - m),

    since the derivative through m is -2/d sum_i (x_i - m) dm/dx_j = 0.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.var(tr.Tensor([[1.0, 3.0], [3.0, 9.0]]), dim=1).data
    array([ 2., 18.], dtype=float32)
    """
    return as_tensor("x", x).var(axis, correction=correction, keepdims=keepdims)


@either_spelling
def std(x: Tensor, axis: _Axis = None, *, correction: float = 1, keepdims: bool = False) -> Tensor:
    """Standard deviation, the square root of `var`.

    With m and d as there,

        y = sqrt(1/d sum_i (x_i - m)^2),   dy/dx_j = (x_j - m) / (d y),

    and 0 where all x are equal.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.std(tr.Tensor([1.0, 3.0, 5.0])).data
    array(2., dtype=float32)
    """
    return as_tensor("x", x).std(axis, correction=correction, keepdims=keepdims)
