"""Hypothesis strategies: shapes, tensors in every memory layout, and whole problems for the larger operations.

Shapes, strides and memory orders are drawn by Hypothesis, and shrink. The numbers come from a generator whose seed is
drawn: it rarely matters which random numbers fail, and drawing large arrays number by number is slow.

Examples
--------
>>> from hypothesis import given
>>> from tinyres.testing import gradcheck
>>> from tinyres.testing.strategies import shapes, tensors
>>> import numpy as np, tinyres as tr
>>> @given(tensors(np.float64, shapes(max_side=3), values="distinct"))
... def test_maximum(x):
...     assert gradcheck(lambda x: tr.ops.maximum(x, 0.0), x)
>>> test_maximum()
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np

from tinyres.extras import missing

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError(missing("tinyres.testing.strategies needs Hypothesis", "testing")) from error

from tinyres.tape import Array
from tinyres.tensor import Tensor

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]

ORDERS = ("contiguous", "channels-last", "strided", "broadcast")
VALUES = ("normal", "distinct", "positive")


def shapes(min_dims: int = 0, max_dims: int = 4, *, min_side: int = 1, max_side: int = 5) -> st.SearchStrategy[Shape]:
    """Draw shapes of arrays.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(shapes(), lambda shape: len(shape) == 2 and shape[0] > 2)
    (3, 1)
    """
    return st.lists(st.integers(min_side, max_side), min_size=min_dims, max_size=max_dims).map(tuple)


def in_order(array: Array, order: str) -> Array:
    """The same numbers in another memory layout.

    Parameters
    ----------
    array : ndarray
    order : {"contiguous", "channels-last", "strided", "broadcast", "read-only"}
        "contiguous": C order. "channels-last": axis 1 is innermost. "strided": every second element of a larger array,
        backwards along the first axis. "broadcast": the first element of the first axis longer than 1 is repeated with
        stride 0, so the numbers change, and the array is read-only. "read-only": C order and not writable.

    Returns
    -------
    ndarray
        An array of the same shape and dtype.

    Examples
    --------
    >>> import numpy as np
    >>> in_order(np.zeros((2, 3, 4, 5)), "channels-last").strides
    (480, 8, 120, 24)
    >>> in_order(np.zeros((2, 3)), "strided").strides
    (-48, 16)
    """
    if order == "channels-last":
        return np.moveaxis(np.moveaxis(array, 1, -1).copy(order="C"), -1, 1) if array.ndim > 1 else array.copy()
    if order == "strided":
        if not array.ndim:
            return array.copy()
        larger = np.full([*array.shape[:-1], 2 * array.shape[-1]], np.nan, array.dtype)
        view = larger[::-1, ..., ::2] if array.ndim > 1 else larger[::-2]
        view[...] = array
        return view
    if order == "broadcast":
        axis = next((i for i, n in enumerate(array.shape) if n > 1), None)
        first = array.copy() if axis is None else array.take([0], axis)
        return np.broadcast_to(first, array.shape)
    copy = array.copy(order="C")
    if order == "read-only":
        copy.flags.writeable = False
    elif order != "contiguous":
        raise ValueError(f"order: got {order!r}, expected one of {', '.join(map(repr, (*ORDERS, 'read-only')))}")
    return copy


def numbers(rng: np.random.Generator, shape: Shape, dtype: Any = np.float64, values: str = "normal") -> Array:
    """An array of random numbers.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape, dtype
    values : {"normal", "distinct", "positive"}
        "normal": standard normal. "distinct": multiples of 0.1, shifted by half of that and shuffled, so that no two
        are closer than 0.1 to each other, or 0.05 to 0 (away from the kinks of ReLU and max). "positive": from 0.5 to
        2.

    Examples
    --------
    >>> import numpy as np
    >>> sorted(numbers(np.random.default_rng(0), (4,), values="distinct").round(2).tolist())
    [-0.15, -0.05, 0.05, 0.15]
    """
    if values == "normal":
        return rng.standard_normal(shape).astype(dtype)
    if values == "positive":
        return rng.uniform(0.5, 2, shape).astype(dtype)
    if values != "distinct":
        raise ValueError(f"values: got {values!r}, expected one of {', '.join(map(repr, VALUES))}")
    size = int(np.prod(shape))
    return (0.1 * (rng.permutation(size) - size // 2 + 0.5)).astype(dtype).reshape(shape)


@st.composite
def tensors(
    draw: st.DrawFn,
    dtype: Any = np.float32,
    shape: Shape | st.SearchStrategy[Shape] | None = None,
    *,
    requires_grad: bool = True,
    values: str = "normal",
    orders: Sequence[str] = ORDERS,
) -> Tensor:
    """Draw tensors of random numbers.

    Parameters
    ----------
    dtype : float32 or float64
    shape : tuple of int, or strategy for one
        Shape, or a strategy for shapes; `shapes()` by default.
    requires_grad : bool
    values : {"normal", "distinct", "positive"}
        See `numbers`.
    orders : sequence of str
        Memory layouts to choose from, see `in_order`. "broadcast" repeats numbers, so it is not used for "distinct".

    Examples
    --------
    >>> from hypothesis import find
    >>> find(tensors(np.float64), lambda t: t.size == 2)
    Tensor([ 0.12573022, -0.13210486], dtype=float64, requires_grad=True)
    """
    size = draw(shapes()) if shape is None else shape if isinstance(shape, tuple) else draw(shape)
    tensor = Tensor._wrap(draw(_arrays(dtype, size, values, orders)))
    tensor.requires_grad = requires_grad
    return tensor


@st.composite
def _arrays(draw: st.DrawFn, dtype: Any, shape: Shape, values: str, orders: Sequence[str]) -> Array:
    allowed = [o for o in orders if o != "broadcast" or values != "distinct"]
    rng = np.random.default_rng(draw(_seeds))
    return in_order(numbers(rng, shape, dtype, values), draw(st.sampled_from(allowed)))


_seeds = st.integers(0, 2**32 - 1)


# ---------------------------------------------------------------- problems
class _Problem:
    """Base class of the problems. It keeps the text that Hypothesis prints for a failure short."""

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        texts = (
            f"{name}={v.dtype}{v.shape} strides {v.strides}" if isinstance(v, np.ndarray) else f"{name}={v!r}"
            for name, v in values.items()
        )
        return f"{type(self).__name__}({', '.join(texts)})"


@dataclass(frozen=True, repr=False)
class ConvProblem(_Problem):
    """Arguments of a convolution. x (N, C, H, W), weight (O, C / groups, KH, KW), bias (O,) or None; dy (N, O, OH, OW).

    `options` are those of the kernels, which derive the number of groups from the shapes; `ops.conv2d` gets it too.
    """

    x: Array
    weight: Array
    bias: Array | None
    dy: Array
    stride: Pair
    padding: Pair
    groups: int

    @property
    def options(self) -> dict[str, Pair]:
        """The keyword arguments."""
        return {"stride": self.stride, "padding": self.padding}


@dataclass(frozen=True, repr=False)
class PoolProblem(_Problem):
    """Arguments of a pooling. x (N, C, H, W); dy (N, C, OH, OW)."""

    x: Array
    dy: Array
    kernel_size: Pair
    stride: Pair
    padding: Pair

    @property
    def options(self) -> dict[str, Pair]:
        """The keyword arguments."""
        return {"stride": self.stride, "padding": self.padding}


@dataclass(frozen=True, repr=False)
class BatchNormProblem(_Problem):
    """Arguments of a batch norm. x, residual (or None) and dy (N, C, H, W); the others (C,), variance positive."""

    x: Array
    residual: Array | None
    dy: Array
    running_mean: Array
    running_var: Array
    weight: Array
    bias: Array
    training: bool
    relu: bool


# 1, one lane less and one more than vectors have, and the tile's two vectors, with and without a remainder
_channels = st.sampled_from([1, 2, 3, 5, 7, 8, 9, 16, 17, 33])
_groups = st.sampled_from([1, 1, 1, 2, 3])


@st.composite
def _windows(draw: st.DrawFn, max_size: int, *, half: bool) -> tuple[Pair, Pair, Pair, Pair, Pair]:
    """Draw sizes of image, kernel, stride, padding and result, vertical and horizontal."""
    axes = []
    for _ in range(2):
        kernel = draw(st.integers(1, min(4, max_size)))
        padding = draw(st.integers(0, kernel // 2 if half else 3))
        size = draw(st.integers(max(1, kernel - 2 * padding), max_size))
        stride = draw(st.integers(1, 4))
        axes.append((size, kernel, stride, padding, (size + 2 * padding - kernel) // stride + 1))
    (a, b, c, d, e), (f, g, h, i, j) = axes
    return (a, f), (b, g), (c, h), (d, i), (e, j)


@st.composite
def conv_problems(
    draw: st.DrawFn,
    dtype: Any = np.float32,
    *,
    min_batch: int = 1,
    max_batch: int = 3,
    max_size: int = 9,
    channels: st.SearchStrategy[int] = _channels,
    groups: st.SearchStrategy[int] = _groups,
    orders: Sequence[str] = ORDERS,
) -> ConvProblem:
    """Draw convolutions with rectangular images, kernels, strides and paddings, some of them grouped.

    Parameters
    ----------
    dtype : float32 or float64
    min_batch, max_batch : int
    max_size : int
        Largest number of rows and columns.
    channels : strategy for int
        Input and output channels; with several groups, the channels of each group. By default they are often close to
        the number of lanes of a vector.
    groups : strategy for int
        By default it is 1 in most cases.
    orders : sequence of str
        Memory layouts of x, weight and dy, see `in_order`.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(conv_problems(), lambda problem: problem.stride[1] > 1 and problem.weight.shape[0] > 3)
    ConvProblem(x=float32(1, 1, 1, 1) strides (4, 4, 4, 4), weight=float32(5, 1, 1, 1) strides (4, 4, 4, 4), bias=None,
        dy=float32(1, 5, 1, 1) strides (20, 4, 4, 4), stride=(1, 2), padding=(0, 0), groups=1)
    """
    size, kernel, stride, padding, out = draw(_windows(max_size, half=False))
    n, c, o, g = draw(st.integers(min_batch, max_batch)), draw(channels), draw(channels), draw(groups)
    every = (n, g * c, *size), (g * o, c, *kernel), (n, g * o, *out)
    arrays = (draw(_arrays(dtype, s, "normal", orders)) for s in every)
    x, weight, dy = arrays
    bias = draw(_arrays(dtype, (g * o,), "normal", orders)) if draw(st.booleans()) else None
    return ConvProblem(x, weight, bias, dy, stride, padding, g)


@st.composite
def pool_problems(
    draw: st.DrawFn,
    dtype: Any = np.float32,
    *,
    min_batch: int = 1,
    max_batch: int = 3,
    max_size: int = 9,
    values: str = "distinct",
    orders: Sequence[str] = ORDERS,
) -> PoolProblem:
    """Draw poolings with rectangular images, kernels, strides and paddings; padding is at most half of the kernel.

    Parameters are those of `conv_problems`; `values` are those of `tensors`.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(pool_problems(), lambda problem: problem.padding == (1, 1)).kernel_size
    (2, 2)
    """
    size, kernel, stride, padding, out = draw(_windows(max_size, half=True))
    n, c = draw(st.integers(min_batch, max_batch)), draw(_channels)
    x = draw(_arrays(dtype, (n, c, *size), values, orders))
    dy = draw(_arrays(dtype, (n, c, *out), "normal", orders))
    return PoolProblem(x, dy, kernel, stride, padding)


@st.composite
def batch_norm_problems(
    draw: st.DrawFn,
    dtype: Any = np.float32,
    *,
    max_batch: int = 4,
    max_size: int = 6,
    orders: Sequence[str] = ORDERS,
) -> BatchNormProblem:
    """Draw batch norms with and without training, residual and ReLU, with at least two values per channel.

    Parameters are those of `conv_problems`.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(batch_norm_problems(), lambda problem: problem.training and problem.relu).x.shape
    (2, 1, 1, 1)
    """
    n, c, height, width = (draw(s) for s in (st.integers(1, max_batch), _channels, *[st.integers(1, max_size)] * 2))
    n += n * height * width == 1
    shape = (n, c, height, width)
    # no stride 0 for x: a channel whose values are all equal cannot be normalised
    x = draw(_arrays(dtype, shape, "normal", [o for o in orders if o != "broadcast"]))
    residual = draw(_arrays(dtype, shape, "normal", orders)) if draw(st.booleans()) else None
    dy = draw(_arrays(dtype, shape, "normal", orders))
    mean, weight, bias = (draw(_arrays(dtype, (c,), "normal", orders)) for _ in range(3))
    var = draw(_arrays(dtype, (c,), "positive", orders))
    return BatchNormProblem(x, residual, dy, mean, var, weight, bias, draw(st.booleans()), draw(st.booleans()))
