"""Functions whose derivative needs more than one line of code: each returns its value and its pullback.

They compute on arrays. `Tensor` records them on the tape. Shorter derivatives are written in `Tensor` itself.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres.kernels.launch import add_up, launch
from tinyres.kernels.memory import empty_like
from tinyres.tape import Array, Pullback

Rule = tuple[Array, Pullback]
Axis = int | Sequence[int] | None


def power(a: Array, b: Array, *, needs_b: bool) -> Rule:
    """d(a ** b) = b a^(b - 1) da + a^b log(a) db, and no gradient to b where a = 0."""
    y = a**b

    def pullback(dy: Array) -> Sequence[Array | None]:
        da = dy * np.where(b == 0, 0, b * a ** np.where(b == 0, 1, b - 1))
        if not needs_b:
            return da.astype(dy.dtype, copy=False), None
        return da, dy * np.where(a == 0, 0, y * np.log(np.where(a == 0, 1, a)))

    return y, pullback


def matmul(a: Array, b: Array) -> Rule:
    """For y = a b: da = dy b^T, db = a^T dy."""
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[max(b.ndim - 2, 0)]:
        raise ValueError(
            f"matmul: shapes {a.shape} and {b.shape} do not fit; the last axis of the first must be as long as "
            "the second to last (or only) axis of the second"
        )

    def pullback(dy: Array) -> Sequence[Array]:
        # a vector is a matrix of one row (left) or one column (right)
        rows, columns = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
        dy = np.expand_dims(dy, -1) if b.ndim == 1 else dy
        dy = np.expand_dims(dy, -2) if a.ndim == 1 else dy
        da, db = dy @ columns.swapaxes(-1, -2), rows.swapaxes(-1, -2) @ dy
        return (da[..., 0, :] if a.ndim == 1 else da), (db[..., 0] if b.ndim == 1 else db)

    return np.asarray(a @ b), pullback


def getitem(x: Array, index: Any) -> Rule:
    """Each element gets the sum of the gradients of all its copies: dx[index] += dy."""
    parts = index if isinstance(index, tuple) else (index,)
    basic = all(i is None or i is ... or isinstance(i, int | slice) for i in parts)  # takes each element once

    def pullback(dy: Array) -> Sequence[Array]:
        dx = empty_like(x)
        launch(_scatter, dx, index, basic, dy)
        return (dx,)

    if not basic:
        return np.array(x[index]), pullback
    view = x[index] if any(i is ... for i in parts) else x[(*parts, ...)]  # of a single number, too
    y = empty_like(view)
    launch(np.copyto, y, view)
    return y, pullback


def _scatter(dx: Array, index: Any, basic: bool, dy: Array) -> None:
    dx[...] = 0
    if basic:
        dx[index] = dy
    else:
        np.add.at(dx, index, dy)  # an element taken twice gets both gradients


def largest(x: Array, axis: Axis, *, keepdims: bool) -> Rule:
    """dx_i = dy [x_i = y] / k, if k elements are equal to the maximum y: they share the gradient equally."""
    count("maximum", x.shape, axis)
    axes = axes_of(axis, x.ndim)
    top = np.asarray(x.max(axes, keepdims=True))

    def pullback(dy: Array) -> Sequence[Array]:
        hit = (x == top).astype(x.dtype)
        return (hit / hit.sum(axes, keepdims=True) * with_axes(dy, axes, x.ndim),)

    return (top if keepdims else top.squeeze(axes)), pullback


def variance(x: Array, axis: Axis, *, correction: float, keepdims: bool) -> Rule:
    """y = sum_i (x_i - m)^2 / d with the mean m and d = n - correction, so dx_j = dy 2 (x_j - m) / d.

    m depends on x, too, but the derivative through m is -2 / d sum_i (x_i - m) dm/dx_j = 0, since this sum is 0.
    """
    n, axes = count("variance", x.shape, axis), axes_of(axis, x.ndim)
    if not correction < n:
        raise ValueError(f"correction: got {correction}, expected less than the {n} values")
    degrees = n - correction
    centred = x - add_up(x, axes, keepdims=True) / x.dtype.type(n)
    y = np.asarray(add_up(centred * centred, axes, keepdims=keepdims) / x.dtype.type(degrees))
    return y, lambda dy: (with_axes(dy, axes, x.ndim) * (2 / degrees) * centred,)


def deviation(x: Array, axis: Axis, *, correction: float, keepdims: bool) -> Rule:
    """y = sqrt(variance), so dx_j = dy (x_j - m) / (d y). If all x are equal there is no derivative, and dx is 0."""
    square, pull = variance(x, axis, correction=correction, keepdims=keepdims)
    y = np.sqrt(square)
    return y, lambda dy: pull(dy * np.where(y == 0, 0, 0.5 / np.where(y == 0, 1, y)).astype(x.dtype, copy=False))


def clip(x: Array, low: float | None, high: float | None) -> Rule:
    """dx = dy where low <= x <= high, else 0."""
    if (low is None and high is None) or (low is not None and high is not None and not low <= high):
        raise ValueError(f"clip: got min {low} and max {high}, expected one of them or both, the smaller first")
    inside = (x >= (-np.inf if low is None else low)) & (x <= (np.inf if high is None else high))
    return np.clip(x, low, high), lambda dy: (np.where(inside, dy, 0),)


def with_axes(dy: Array, axes: tuple[int, ...], ndim: int) -> Array:
    """Restore the axes that a reduction removed, with length 1."""
    return dy if dy.ndim == ndim else np.expand_dims(dy, axes)


def axes_of(axis: Axis, ndim: int, name: str = "axis") -> tuple[int, ...]:
    """The axes that an argument names, each from 0 on; all of them for None."""
    axes = tuple(range(ndim)) if axis is None else tuple(axis) if isinstance(axis, Sequence) else (axis,)
    for a in axes:
        if isinstance(a, bool) or not isinstance(a, int | np.integer):
            raise TypeError(f"{name}: got {a!r}, expected an int, or a tuple of them")
        if not -ndim <= a < ndim:
            raise ValueError(f"{name}: got {a}, expected one from {-ndim} to {ndim - 1} for {ndim} dimensions")
    return tuple(int(a) % ndim for a in axes)


def count(of: str, shape: tuple[int, ...], axis: Axis) -> int:
    """How many values a reduction combines into one; ValueError if there is none."""
    found = int(np.prod([shape[a] for a in axes_of(axis, len(shape))]))
    if found == 0:
        raise ValueError(f"{of}: axis of length 0 in shape {shape}; an empty set has no {of}")
    return found
