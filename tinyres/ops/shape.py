"""Functions that move elements and compute nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres.tape import Array
from tinyres.tensor import Tensor, as_tensor, record


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same elements in another shape; one length may be -1.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.reshape(tr.Tensor([[1.0, 2.0], [3.0, 4.0]]), (4, 1)).shape
    (4, 1)
    """
    return as_tensor("x", x).reshape(shape)


def transpose(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Permute the axes; reverse them by default.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.ops.transpose(tr.Tensor(np.zeros((2, 3, 4))), (2, 0, 1)).shape
    (4, 2, 3)
    """
    return as_tensor("x", x).transpose(*axes or ())


def flatten(x: Tensor, start: int = 1) -> Tensor:
    """Merge all axes from `start` on: (N, C, H, W) -> (N, C * H * W).

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.ops.flatten(tr.Tensor(np.zeros((2, 3, 4, 4)))).shape
    (2, 48)
    """
    x = as_tensor("x", x)
    if not 0 <= start < max(x.ndim, 1):
        raise ValueError(f"start: got {start}, expected 0 to {x.ndim - 1} for shape {x.shape}")
    return x.reshape(*x.shape[:start], int(np.prod(x.shape[start:])))


def pad(x: Tensor, padding: Sequence[int], value: float = 0.0) -> Tensor:
    """Put `value` around x.

    Parameters
    ----------
    x : Tensor
    padding : sequence of int
        Before and after the last axis, before and after the one before it, and so on, as in PyTorch:
        ``(left, right, top, bottom)`` for images.
    value : float

    Returns
    -------
    Tensor
        Its gradient is that of the part where x is.

    Raises
    ------
    ValueError
        Where `padding` is not a pair for each of some of the last axes, or negative.

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
    if x.ndim == 4:  # stay channels-last
        y = np.full([shape[i] for i in (0, 2, 3, 1)], value, x.dtype).transpose(0, 3, 1, 2)
    else:
        y = np.full(shape, value, x.dtype)
    y[inner] = x.data
    return record("pad", y, (x,), lambda dy: (dy[inner],), before=before, after=after, value=value)


def concat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors along an axis. The gradient is cut at the same places.

    Raises
    ------
    ValueError
        Where there is none, or they differ in another axis.
    TypeError
        Where their dtypes differ.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.concat([tr.Tensor([1.0]), tr.Tensor([2.0, 3.0])]).data
    array([1., 2., 3.], dtype=float32)
    """
    tensors = [as_tensor("tensors", t) for t in tensors]
    shapes = [t.shape for t in tensors]
    if not tensors or not -len(shapes[0]) <= axis < len(shapes[0]):
        raise ValueError(
            f"tensors: got shapes {shapes} and axis {axis}, expected one or more tensors that have this axis"
        )
    others = {(*s[: axis % len(s)], *s[axis % len(s) + 1 :]) if s else () for s in shapes}
    if len(others) > 1 or len({len(s) for s in shapes}) > 1:
        raise ValueError(f"tensors: got shapes {shapes}, expected them to agree in all axes but {axis}")
    if len({t.dtype for t in tensors}) > 1:
        raise TypeError(f"tensors: got dtypes {[str(t.dtype) for t in tensors]}, expected one dtype")
    cuts = np.cumsum([s[axis] for s in shapes])[:-1]
    y = np.concatenate([t.data for t in tensors], axis)
    return record("concat", y, tensors, lambda dy: np.split(dy, cuts, axis), axis=axis)


def where(condition: Any, a: Tensor, b: Tensor) -> Tensor:
    """a where `condition` (an array of bool) holds, else b, broadcast together; so is the gradient.

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
