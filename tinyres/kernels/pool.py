"""Pooling: the maximum or the mean of each window. The innermost loop runs over channels, which are neighbours.

Shapes in the kernels are channels-last: x (N, H, W, C), y (N, OH, OW, C).
"""

import numpy as np
from numba import prange

from tinyres.kernels.arrays import check, out_size
from tinyres.kernels.compile import inner, jit
from tinyres.kernels.layout import channels_last
from tinyres.kernels.memory import empty


def max_pool2d(x, kernel_size, *, stride, padding):
    """Maximum of each window (the first of equal ones), NaN if the window contains NaN. x (N, C, H, W).

    Returns y (N, C, OH, OW), and the tap of the window that each maximum came from (int32), for the gradient.
    """
    check("max_pool2d", x, kernel_size, stride, padding)
    x = channels_last(x)
    shape = (x.shape[0], *out_size(x.shape[1:3], kernel_size, stride, padding), x.shape[3])
    y, taps = empty(shape, x.dtype), empty(shape, np.int32)
    _max_pool(x, y, taps, kernel_size, stride, padding)
    return y.transpose(0, 3, 1, 2), taps.transpose(0, 3, 1, 2)


def max_pool2d_grad(dy, taps, x_shape, kernel_size, *, stride, padding):
    """Gradient of `max_pool2d` with respect to x, of shape `x_shape`."""
    check("max_pool2d_grad", dy, taps, x_shape, kernel_size, stride, padding)
    n, c, height, width = x_shape
    dx = empty((n, height, width, c), dy.dtype)
    outside = np.zeros(n, np.int64)  # number of such taps in each image
    _max_pool_grad(channels_last(dy), channels_last(taps), dx, outside, kernel_size, stride, padding)
    if outside.any():
        raise ValueError(f"max_pool2d_grad: taps: got {outside.sum()} outside of their window or of the image")
    return dx.transpose(0, 3, 1, 2)


def avg_pool2d(x, kernel_size, *, stride, padding):
    """Mean of each window; padding counts as zeros. x (N, C, H, W) -> (N, C, OH, OW)."""
    check("avg_pool2d", x, kernel_size, stride, padding)
    x = channels_last(x)
    y = empty((x.shape[0], *out_size(x.shape[1:3], kernel_size, stride, padding), x.shape[3]), x.dtype)
    _avg_pool(x, y, kernel_size, stride, padding)
    return y.transpose(0, 3, 1, 2)


def avg_pool2d_grad(dy, x_shape, kernel_size, *, stride, padding):
    """Gradient of `avg_pool2d` with respect to x, of shape `x_shape`."""
    check("avg_pool2d_grad", dy, x_shape, kernel_size, stride, padding)
    n, c, height, width = x_shape
    dx = empty((n, height, width, c), dy.dtype)
    _avg_pool_grad(channels_last(dy), dx, kernel_size, stride, padding)
    return dx.transpose(0, 3, 1, 2)


# ---------------------------------------------------------------- kernels
@jit(parallel=True)
def _max_pool(x, y, taps, kernel_size, stride, padding):
    """parallel for each image: for each output pixel: for each tap inside the image: for each channel."""
    for image in prange(len(x)):
        _max_pool_image(x, y, taps, kernel_size, stride, padding, np.int64(image))


@inner
def _max_pool_image(x, y, taps, kernel_size, stride, padding, image):
    (kh, kw), (sh, sw), (ph, pw) = kernel_size, stride, padding
    _, height, width, channels = x.shape
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            best, tap = y[image, i, j], taps[image, i, j]
            best[:] = -np.inf
            tap[:] = -1
            for k in range(kh):
                for l in range(kw):
                    row, column = i * sh + k - ph, j * sw + l - pw
                    if 0 <= row < height and 0 <= column < width:
                        values = x[image, row, column]
                        for c in range(channels):
                            # NaN is larger than everything, and stays; the first tap is larger than the start value
                            if values[c] > best[c] or tap[c] < 0 or (values[c] != values[c] and best[c] == best[c]):
                                best[c] = values[c]
                                tap[c] = k * kw + l


@jit(parallel=True)
def _max_pool_grad(dy, taps, dx, outside, kernel_size, stride, padding):
    """parallel for each image: for each output pixel: add dy to the pixel where its maximum came from."""
    for image in prange(len(dy)):
        outside[image] = _max_pool_grad_image(dy, taps, dx, kernel_size, stride, padding, np.int64(image))


@inner
def _max_pool_grad_image(dy, taps, dx, kernel_size, stride, padding, image):
    (kh, kw), (sh, sw), (ph, pw) = kernel_size, stride, padding
    _, height, width, channels = dx.shape
    dx[image] = 0
    flat, places, outside = dx.reshape(dx.size), np.empty(kh * kw, np.int64), 0  # for each tap of a window
    for i in range(dy.shape[1]):
        for j in range(dy.shape[2]):
            for k in range(kh):
                for l in range(kw):
                    row, column = i * sh + k - ph, j * sw + l - pw
                    inside = 0 <= row < height and 0 <= column < width
                    places[k * kw + l] = ((image * height + row) * width + column) * channels if inside else -1
            tap, gradient = taps[image, i, j], dy[image, i, j]
            for c in range(channels):
                if 0 <= tap[c] < kh * kw and places[tap[c]] >= 0:
                    flat[places[tap[c]] + c] += gradient[c]
                else:
                    outside += 1
    return outside


@jit(parallel=True)
def _avg_pool(x, y, kernel_size, stride, padding):
    """parallel for each image: for each output pixel: for each tap inside the image: for each channel."""
    for image in prange(len(x)):
        _avg_pool_image(x, y, kernel_size, stride, padding, np.int64(image))


@inner
def _avg_pool_image(x, y, kernel_size, stride, padding, image):
    (kh, kw), (sh, sw), (ph, pw) = kernel_size, stride, padding
    _, height, width, channels = x.shape
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            total = y[image, i, j]
            total[:] = 0
            for row in range(max(0, i * sh - ph), min(height, i * sh - ph + kh)):
                for column in range(max(0, j * sw - pw), min(width, j * sw - pw + kw)):
                    for c in range(channels):
                        total[c] += x[image, row, column, c]
            for c in range(channels):
                total[c] /= kh * kw


@jit(parallel=True)
def _avg_pool_grad(dy, dx, kernel_size, stride, padding):
    """parallel for each image: for each output pixel: give each tap inside the image its share of dy."""
    for image in prange(len(dy)):
        _avg_pool_grad_image(dy, dx, kernel_size, stride, padding, np.int64(image))


@inner
def _avg_pool_grad_image(dy, dx, kernel_size, stride, padding, image):
    (kh, kw), (sh, sw), (ph, pw) = kernel_size, stride, padding
    _, height, width, channels = dx.shape
    dx[image] = 0
    for i in range(dy.shape[1]):
        for j in range(dy.shape[2]):
            for row in range(max(0, i * sh - ph), min(height, i * sh - ph + kh)):
                for column in range(max(0, j * sw - pw), min(width, j * sw - pw + kw)):
                    for c in range(channels):
                        dx[image, row, column, c] += dy[image, i, j, c] / (kh * kw)
