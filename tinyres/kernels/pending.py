"""An argument of kernels that is not computed yet: the result of a batch norm with ReLU.

Between two convolutions, a batch norm costs a pass that reads its input and writes its output, and an array for the
output. A convolution can do the same arithmetic on each number that it loads, and then neither is needed (Jung et al.,
"Restructuring batch normalization to accelerate CNN training", MLSys 2019). The result has the same bits in both cases,
since the operations and their order are the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinyres.kernels.compile import inner
from tinyres.kernels.launch import assign, launch
from tinyres.kernels.layout import channels_last
from tinyres.kernels.simd import fma, inside, load, maximum


class Pending:
    """relu((x - mean) * scale + bias), with x (N, C, H, W) and the others (C,), computed only when it is needed.

    `x` must not change afterwards. Other code sees the shape and dtype of an array, and NumPy can convert it to one.
    """

    __slots__ = ("apply", "constants", "x", "y")

    def __init__(self, apply: Callable[..., np.ndarray], x: np.ndarray, mean: Any, scale: Any, bias: Any) -> None:
        self.apply, self.x = apply, x
        self.constants = np.empty((3, x.shape[1]), x.dtype)
        launch(assign, self.constants, mean, scale, bias)  # copies, since the bias is a parameter, and will change
        self.y: np.ndarray | None = None

    def array(self) -> np.ndarray:
        """The values. They are computed in the first call."""
        if self.y is None:
            self.y = self.apply(self.x, *self.constants, relu=True)
        return self.y

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array(), dtype=dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.x.dtype

    @property
    def ndim(self) -> int:
        return self.x.ndim

    @property
    def size(self) -> int:
        return self.x.size

    @property
    def itemsize(self) -> int:
        return self.x.itemsize

    @property
    def nbytes(self) -> int:
        return self.x.nbytes


def known(x: "np.ndarray | Pending") -> np.ndarray:
    """The array that exists: x itself, or the input of a pending batch norm."""
    return x.x if isinstance(x, Pending) else x


class Loading(NamedTuple):
    """The array that a kernel reads, and the operation on each number after it was read."""

    x: np.ndarray  # (N, H, W, C)
    constants: np.ndarray  # mean, scale and bias, each of C numbers, flat; not read unless
    pending: bool  # they are to be applied

    @classmethod
    def of(cls, x: np.ndarray | Pending) -> "Loading":
        """From x (N, C, H, W), which may be pending."""
        constants = x.constants.reshape(-1) if isinstance(x, Pending) else np.empty(0, x.dtype)
        return cls(channels_last(known(x)), constants, isinstance(x, Pending))


@inner
def constants_of(zero, loading, channels, channel):
    """Mean, scale and bias for a vector of channels; arbitrary values if nothing is pending."""
    if not loading.pending:
        return zero, zero, zero
    c = loading.constants
    return load(zero, c, channel), load(zero, c, channels + channel), load(zero, c, 2 * channels + channel)


@inner
def loaded(zero, values, constants, row, stop):
    """Six vectors of x, of rows `row`, `row + 1`, ..., after batch norm and ReLU.

    Rows outside 0 to `stop` are zeros, since padding is added after ReLU.
    """
    a, b, c, d, e, f = values
    return (
        inside(row, stop, _normalised(zero, a, constants)),
        inside(row + 1, stop, _normalised(zero, b, constants)),
        inside(row + 2, stop, _normalised(zero, c, constants)),
        inside(row + 3, stop, _normalised(zero, d, constants)),
        inside(row + 4, stop, _normalised(zero, e, constants)),
        inside(row + 5, stop, _normalised(zero, f, constants)),
    )


@inner
def _normalised(zero, x, constants):
    mean, scale, bias = constants
    return maximum(fma(x - mean, scale, bias), zero)
