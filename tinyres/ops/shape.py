"""Functions that only move elements: shapes, padding, joining and choosing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres.kernels.launch import launch
from tinyres.kernels.memory import empty
from tinyres.spelling import either_spelling
from tinyres.tape import Array
from tinyres.tensor import Tensor, as_tensor, record


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same elements in another shape. One length may be -1: it is computed from the others.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.reshape(tr.Tensor([[1.0, 2.0], [3.0, 4.0]]), (4, 1)).shape
    (4, 1)
    """
    return as_tensor("x", x).reshape(shape)


def permute(x: Tensor, axes: Sequence[int]) -> Tensor:
    """The axes in another order. Each axis is named once.

    The gradient takes the way back. For the axes (2, 0, 1),

        y[k,i,j] = x[i,j,k],   dL/dx[i,j,k] = dL/dy[k,i,j].

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.ops.permute(tr.Tensor(np.zeros((2, 3, 4))), (2, 0, 1)).shape
    (4, 2, 3)
    """
    return as_tensor("x", x).permute(axes)


def transpose(x: Tensor, axis0: int, axis1: int) -> Tensor:
    """Swap two axes; for all axes in a new order, see `permute`.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.ops.transpose(tr.Tensor(np.zeros((2, 3, 4))), 0, 2).shape
    (4, 3, 2)
    """
    return as_tensor("x", x).transpose(axis0, axis1)


def flatten(x: Tensor, start_dim: int = 1, end_dim: int = -1) -> Tensor:
    """Merge the axes from `start_dim` to `end_dim`: (N, C, H, W) -> (N, C * H * W).

    By default, axis 0 is kept, as in `nn.Flatten`. The method ``x.flatten()`` merges all axes, as in PyTorch.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.ops.flatten(tr.Tensor(np.zeros((2, 3, 4, 4)))).shape
    (2, 48)
    """
    return as_tensor("x", x).flatten(start_dim, end_dim)


@either_spelling
def squeeze(x: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Remove axes of length 1: all of them, or only those in `axis`. Those in `axis` must have length 1.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.ops.squeeze(tr.Tensor(np.zeros((1, 3, 1))), 0).shape
    (3, 1)
    """
    return as_tensor("x", x).squeeze(axis)


@either_spelling
def unsqueeze(x: Tensor, axis: int) -> Tensor:
    """Insert an axis of length 1 at position `axis`; -1 puts it at the end.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.unsqueeze(tr.Tensor([1.0, 2.0]), -1).shape
    (2, 1)
    """
    return as_tensor("x", x).unsqueeze(axis)


def pad(x: Tensor, padding: Sequence[int], value: float = 0.0) -> Tensor:
    """Put `value` around x.

    Parameters
    ----------
    x : Tensor
    padding : sequence of int
        Number of elements before and after the last axis, then before and after the second to last, and so on, as in
        PyTorch: ``(left, right, top, bottom)`` for images.
    value : float
        0 by default.

    Raises
    ------
    ValueError
        If `padding` has an odd length, more pairs than x has axes, or a negative number.

    Notes
    -----
    dL/dx is the part of dL/dy where x is. With p elements before x, along each axis,

        y[p + i] = x[i],   dL/dx[i] = dL/dy[p + i].

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.pad(tr.Tensor([1.0, 2.0]), (1, 2)).data
    array([0., 1., 2., 0., 0.], dtype=float32)
    """
    x = as_tensor("x", x)
    widths = [int(p) for p in padding]
    if len(widths) % 2 or len(widths) > 2 * x.ndim or any(w < 0 for w in widths):
        raise ValueError(
            f"padding: got {tuple(padding)}, expected pairs >= 0 for at most the {x.ndim} axes of x, last axis first"
        )
    widths += [0] * (2 * x.ndim - len(widths))
    before, after = widths[-2::-2], widths[::-2]
    inner = tuple(slice(b, b + n) for b, n in zip(before, x.shape, strict=True))
    shape = tuple(b + n + a for b, n, a in zip(before, x.shape, after, strict=True))
    if x.ndim == 4:  # keep images channels-last
        y = empty(tuple(shape[i] for i in (0, 2, 3, 1)), x.dtype).transpose(0, 3, 1, 2)
    else:
        y = empty(shape, x.dtype)
    launch(_padded, y, inner, x.data, value)
    return record("pad", y, (x,), lambda dy: (dy[inner],), before=before, after=after, value=value)


def _padded(y: Array, inner: tuple[slice, ...], x: Array, value: float) -> None:
    y[...] = value
    y[inner] = x


@either_spelling
def concat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along an axis. The gradient is cut into the same parts.

    For a tensor x that begins at position s,

        y[s + i] = x[i],   dL/dx[i] = dL/dy[s + i].

    Raises
    ------
    ValueError
        If there is no tensor, or their lengths along another axis differ.
    TypeError
        If their dtypes differ.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.concat([tr.Tensor([1.0]), tr.Tensor([2.0, 3.0])]).data
    array([1., 2., 3.], dtype=float32)
    """
    tensors, shapes = _of_one_dtype(tensors)
    if not tensors or not -len(shapes[0]) <= axis < len(shapes[0]):
        raise ValueError(
            f"tensors: got shapes {shapes} and axis {axis}, expected one or more tensors that have this axis"
        )
    others = {(*s[: axis % len(s)], *s[axis % len(s) + 1 :]) if s else () for s in shapes}
    if len(others) > 1 or len({len(s) for s in shapes}) > 1:
        raise ValueError(f"tensors: got shapes {shapes}, expected them to agree in all axes but {axis}")
    cuts = np.cumsum([s[axis] for s in shapes])[:-1]
    y = np.concatenate([t.data for t in tensors], axis)
    return record("concat", y, tensors, lambda dy: np.split(dy, cuts, axis), axis=axis)


@either_spelling
def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors of the same shape along a new axis. Each gets its part of the gradient.

    For tensor number i, x_i,

        y[i] = x_i,   dL/dx_i = dL/dy[i].

    Raises
    ------
    ValueError
        If there is no tensor, their shapes differ, or `axis` is out of range.
    TypeError
        If their dtypes differ.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.stack([tr.Tensor([1.0, 2.0]), tr.Tensor([3.0, 4.0])], axis=1).data
    array([[1., 3.],
           [2., 4.]], dtype=float32)
    """
    tensors, shapes = _of_one_dtype(tensors)
    if len(set(shapes)) != 1:
        raise ValueError(f"tensors: got shapes {shapes}, expected one or more tensors of one shape")
    most = len(shapes[0])
    if not -most - 1 <= axis <= most:
        raise ValueError(f"axis: got {axis}, expected one from {-most - 1} to {most} for tensors of {most} dimensions")
    y = np.stack([t.data for t in tensors], axis)
    return record("stack", y, tensors, lambda dy: list(np.moveaxis(dy, axis, 0)), axis=axis)


def _of_one_dtype(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[tuple[int, ...]]]:
    """The tensors of a sequence as a list, and their shapes."""
    if isinstance(tensors, Tensor):
        raise TypeError("tensors: got a single Tensor, expected a list of tensors")
    tensors = [as_tensor("tensors", t) for t in tensors]
    if len({t.dtype for t in tensors}) > 1:
        raise TypeError(f"tensors: got dtypes {[str(t.dtype) for t in tensors]}, expected one dtype")
    return tensors, [t.shape for t in tensors]


def where(condition: Any, a: Tensor, b: Tensor) -> Tensor:
    """a where `condition` (an array of bool) is True, else b, with broadcasting.

    The gradient goes to the one that was chosen. With c = 1 where the condition is True, else 0,

        dL/da = c dL/dy,   dL/db = (1 - c) dL/dy.

    Raises
    ------
    TypeError
        If the dtypes of a and b differ.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.where([True, False], tr.Tensor([1.0, 2.0]), tr.Tensor([3.0, 4.0])).data
    array([1., 4.], dtype=float32)
    """
    a, b = as_tensor("a", a), as_tensor("b", b)
    if a.dtype != b.dtype:
        raise TypeError(f"b: got dtype {b.dtype}, expected {a.dtype}, that of a")
    chosen = np.asarray(condition, bool)

    def pullback(dy: Array) -> Sequence[Array]:
        return np.where(chosen, dy, 0), np.where(chosen, 0, dy)

    return record("where", np.where(chosen, a.data, b.data), (a, b), pullback)
