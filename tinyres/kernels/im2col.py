"""Convolution as in textbooks: copy the windows to the columns of a matrix, then multiply matrices.

The matrix is KH * KW times as large as the image, so `conv.py` never builds it. No loop here depends on the vector
width: it is the fallback, and the form to read first. Choose it with ``tr.use_algorithm("im2col")``. Chellapilla, Puri
and Simard, "High performance convolutional neural networks for document processing", 2006, section 3.
"""

import numpy as np
from numba import prange

from tinyres.kernels.arrays import check, check_in_place, out_size
from tinyres.kernels.compile import jit
from tinyres.kernels.groups import groups_of
from tinyres.kernels.layout import channels_last
from tinyres.kernels.memory import empty, zeros


def im2col(x, kernel_size, *, stride, padding):
    """Windows of x (N, C, H, W) as a matrix (N * OH * OW, KH * KW * C), with zeros outside the image."""
    check("im2col", x, kernel_size, stride, padding)
    x = channels_last(x)
    oh, ow = out_size(x.shape[1:3], kernel_size, stride, padding)
    columns = zeros((x.shape[0], oh, ow, *kernel_size, x.shape[3]), x.dtype)
    _im2col(x, columns, stride, padding)
    return columns.reshape(x.shape[0] * oh * ow, kernel_size[0] * kernel_size[1] * x.shape[3])


def col2im(columns, x_shape, kernel_size, *, stride, padding):
    """The transpose of `im2col`: add each element of each window to the pixel that it came from."""
    check("col2im", columns, x_shape, kernel_size, stride, padding)
    n, c, height, width = x_shape
    oh, ow = out_size(x_shape[2:], kernel_size, stride, padding)
    x = zeros((n, height, width, c), columns.dtype)
    _col2im(np.ascontiguousarray(columns).reshape(n, oh, ow, *kernel_size, c), x, stride, padding)
    return x.transpose(0, 3, 1, 2)


def conv2d(x, weight, bias=None, residual=None, *, stride, padding, relu=False):
    """As `conv.conv2d`: in each group, columns (P, K) times weights (K, O)."""
    check("conv2d", x, weight, bias, residual, stride, padding)
    o, _, kh, kw = weight.shape
    oh, ow = out_size(x.shape[2:], (kh, kw), stride, padding)
    y = empty((len(x), oh, ow, o), x.dtype)
    rows = y.reshape(-1, o)
    for reads, writes in _ranges(x.shape[1], weight.shape):
        columns = im2col(x[:, reads], (kh, kw), stride=stride, padding=padding)
        rows[:, writes] = columns @ _matrix(weight[writes]).T
    if bias is not None:
        y += bias
    if residual is not None:
        y += channels_last(residual)
    return (np.maximum(y, 0, out=y) if relu else y).transpose(0, 3, 1, 2)


def conv2d_input_grad(dy, weight, x_shape, total=None, *, stride, padding):
    """As `conv.conv2d_input_grad`: in each group, dy (P, O) times weights (O, K), then `col2im`."""
    check("conv2d_input_grad", dy, weight, x_shape, total, stride, padding)
    if total is not None:
        check_in_place("conv2d_input_grad", "total", total, dy=dy, weight=weight)
    n, channels, height, width = x_shape
    rows = channels_last(dy).reshape(-1, weight.shape[0])
    dx = empty((n, height, width, channels), dy.dtype).transpose(0, 3, 1, 2)
    for reads, writes in _ranges(channels, weight.shape):
        columns = rows[:, writes] @ _matrix(weight[writes])
        shape = n, weight.shape[1], height, width
        dx[:, reads] = col2im(columns, shape, weight.shape[2:], stride=stride, padding=padding)
    return dx if total is None else np.add(total, dx, out=total)


def conv2d_weight_grad(dy, x, weight_shape, *, stride, padding):
    """As `weight_grad.conv2d_weight_grad`: in each group, dy (O, P) times columns (P, K)."""
    check("conv2d_weight_grad", dy, x, weight_shape, stride, padding)
    o, c, kh, kw = weight_shape
    rows = channels_last(dy).reshape(-1, o)
    dw = empty((o, kh, kw, c), dy.dtype)
    for reads, writes in _ranges(x.shape[1], weight_shape):
        columns = im2col(x[:, reads], (kh, kw), stride=stride, padding=padding)
        dw[writes] = (rows[:, writes].T @ columns).reshape(-1, kh, kw, c)
    return np.ascontiguousarray(dw.transpose(0, 3, 1, 2))


def _ranges(channels, weight_shape):
    """For each group, its ranges of channels of x and y."""
    for g in groups_of(channels, weight_shape):
        yield slice(g.x_channel, g.x_channel + g.c), slice(g.y_channel, g.y_channel + g.o)


def _matrix(weight):
    """(O, C, KH, KW) -> (O, KH * KW * C), in the order of a column."""
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(weight.shape[0], -1)


# ---------------------------------------------------------------- kernels
@jit(parallel=True)
def _im2col(x, columns, stride, padding):
    """columns (N, OH, OW, KH, KW, C), zeros at first. parallel for each image, output pixel, tap: copy C numbers."""
    n, oh, ow, kh, kw, _ = columns.shape
    for image in prange(n):
        for i, j, k, l in np.ndindex(oh, ow, kh, kw):
            row, column = i * stride[0] + k - padding[0], j * stride[1] + l - padding[1]
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                columns[image, i, j, k, l] = x[image, row, column]


@jit(parallel=True)
def _col2im(columns, x, stride, padding):
    """The same loops, but they add to x. Images are independent, so no two threads add to the same number."""
    n, oh, ow, kh, kw, _ = columns.shape
    for image in prange(n):
        for i, j, k, l in np.ndindex(oh, ow, kh, kw):
            row, column = i * stride[0] + k - padding[0], j * stride[1] + l - padding[1]
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                x[image, row, column] += columns[image, i, j, k, l]
