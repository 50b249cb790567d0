"""Pooling: windows of an image reduced to their largest element or their mean."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres import backend
from tinyres.ops import _check
from tinyres.tape import Array
from tinyres.tensor import Tensor, as_tensor, record

_Size = int | tuple[int, int]


def max_pool2d(
    x: Tensor,
    kernel_size: _Size,
    *,
    stride: _Size | None = None,
    padding: _Size = 0,
) -> Tensor:
    """Largest element of each window.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
    kernel_size : int or pair of int
    stride : int or pair of int, optional
        `kernel_size` by default, so that windows touch and do not overlap.
    padding : int or pair of int
        Padding is never the maximum. It is at most half of `kernel_size`, so that no window has only padding.

    Returns
    -------
    Tensor of shape (N, C, OH, OW)

    Raises
    ------
    ValueError
        If the window does not fit into the image, or `padding` is more than half of `kernel_size`.

    Notes
    -----
    In each channel, with stride s, padding p, and k and l over the elements of a window,

        y[i,j] = max_{k,l} x[s i + k - p, s j + l - p],
        dL/dx[h,v] = sum_{i,j} dL/dy[i,j]      (over the windows whose maximum is at h, v).

    If elements are equal, the first one in reading order counts as the maximum and gets all of the gradient.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.ops.max_pool2d(tr.Tensor(np.arange(16.0).reshape(1, 1, 4, 4)), 2).data[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    x = as_tensor("x", x)
    kernel, options = _window(x, kernel_size, stride, padding)
    shape, kernels = x.shape, backend.active
    y, taps = kernels.max_pool2d(x.data, kernel, **options)

    def pullback(dy: Array) -> Sequence[Array]:
        return (kernels.max_pool2d_grad(dy, taps, shape, kernel, **options),)

    return record("max_pool2d", y, (x,), pullback, kernel_size=kernel, **options)


def avg_pool2d(
    x: Tensor,
    kernel_size: _Size,
    *,
    stride: _Size | None = None,
    padding: _Size = 0,
) -> Tensor:
    """Mean of each window. Padding counts as zeros. Parameters and errors are those of `max_pool2d`.

    Notes
    -----
    In each channel, with stride s, padding p, and x = 0 outside the image,

        y[i,j] = 1 / (KH KW) sum_{k,l} x[s i + k - p, s j + l - p],
        dL/dx[h,v] = 1 / (KH KW) sum_{i,j} dL/dy[i,j]      (over the windows that contain h, v).

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.ops.avg_pool2d(tr.Tensor(np.arange(16.0).reshape(1, 1, 4, 4)), 2).data[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    x = as_tensor("x", x)
    kernel, options = _window(x, kernel_size, stride, padding)
    shape, kernels = x.shape, backend.active
    y = kernels.avg_pool2d(x.data, kernel, **options)

    def pullback(dy: Array) -> Sequence[Array]:
        return (kernels.avg_pool2d_grad(dy, shape, kernel, **options),)

    return record("avg_pool2d", y, (x,), pullback, kernel_size=kernel, **options)


def global_avg_pool2d(x: Tensor) -> Tensor:
    """Mean over all pixels of each channel: (N, C, H, W) -> (N, C, 1, 1) (Lin et al., "Network in network", 2013).

    In each channel,

        y = 1 / (H W) sum_{h,v} x[h,v],   dL/dx[h,v] = 1 / (H W) dL/dy.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.ops.global_avg_pool2d(tr.Tensor(np.arange(4.0).reshape(1, 1, 2, 2))).data.ravel()
    array([1.5])
    """
    x = as_tensor("x", x)
    _check.images(x)
    if 0 in x.shape[2:]:
        raise ValueError(f"x: got shape {x.shape}, expected one pixel or more: nothing has no mean")
    return avg_pool2d(x, (x.shape[2], x.shape[3]))


def adaptive_avg_pool2d(x: Tensor, output_size: _Size) -> Tensor:
    """Mean over windows of nearly equal size that cover the image: (N, C, H, W) -> (N, C, OH, OW).

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
    output_size : int or pair of int
        (OH, OW).

    Raises
    ------
    ValueError
        If `x` does not have the shape of images with one pixel or more, or `output_size` is not positive.

    Notes
    -----
    Window i of an axis of length H goes from floor(i H / OH) to ceil((i + 1) H / OH), as in PyTorch. The mean over rows
    is a product with a matrix A. Its row i has 1 / length within window i, and 0 elsewhere. The mean over columns is a
    product with such a matrix B, too:

        y = A x B^T,   dL/dx = A^T dL/dy B.

    If all windows have the same size, it is `avg_pool2d`.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.ops.adaptive_avg_pool2d(tr.Tensor(np.arange(9.0).reshape(1, 1, 3, 3)), (1, 2)).data[0, 0]
    array([[3.5, 4.5]])
    """
    x = as_tensor("x", x)
    size = _check.pair("output_size", output_size, 1)
    _check.images(x)
    height, width = x.shape[2:]
    if 0 in (height, width):
        raise ValueError(f"x: got shape {x.shape}, expected one pixel or more: nothing has no mean")
    if height % size[0] == 0 and width % size[1] == 0:
        return avg_pool2d(x, (height // size[0], width // size[1]))
    rows, columns = (Tensor(_means(n, k).astype(x.dtype)) for n, k in zip((height, width), size, strict=True))
    return rows @ x @ columns.transpose(0, 1)


def _means(length: int, windows: int) -> Array:
    """(windows, length): the matrix that takes the mean of each window."""
    i, place = np.arange(windows)[:, None], np.arange(length)
    inside = (place >= i * length // windows) & (place < -(-(i + 1) * length // windows))
    return inside / inside.sum(1, keepdims=True)


def _window(
    x: Tensor, kernel_size: _Size, stride: _Size | None, padding: _Size
) -> tuple[tuple[int, int], dict[str, Any]]:
    """The checked arguments: kernel size, and a dict of stride and padding."""
    kernel, pad = _check.pair("kernel_size", kernel_size, 1), _check.pair("padding", padding, 0)
    _check.images(x)
    _check.window(x, kernel, pad)
    if any(2 * p > k for p, k in zip(pad, kernel, strict=True)):
        raise ValueError(f"padding: got {padding}, expected at most half of kernel_size {kernel_size}")
    return kernel, {"stride": kernel if stride is None else _check.pair("stride", stride, 1), "padding": pad}
