"""Every kernel again in plain NumPy, a few lines each: the definition, and the expected result in tests.

Shapes are those of PyTorch: images (N, C, H, W), weights (O, C, KH, KW). Names, arguments and results are those of
`tinyres.kernels`. Choose this backend with ``tr.use_backend("reference")``.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinyres.kernels.arrays import check, check_each, check_in_place


def _windows(x, kernel_size, stride):
    """(N, C, H, W) -> (N, C, OH, OW, KH, KW): a view of every window."""
    return sliding_window_view(x, kernel_size, axis=(2, 3))[:, :, :: stride[0], :: stride[1]]


def _split(x, axis, groups):
    """Split an axis of channels into (groups, channels of each)."""
    return x.reshape(*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])


def _padded(x, padding, value=0):
    (ph, pw) = padding
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=value)


def _scatter(parts, x_shape, kernel_size, stride, padding):
    """Transpose of `_windows` of `_padded`: add parts (N, C, OH, OW, KH, KW) to the pixels that they came from."""
    (kh, kw), (sh, sw), (ph, pw) = kernel_size, stride, padding
    n, c, height, width = x_shape
    oh, ow = parts.shape[2:4]
    padded = np.zeros((n, c, height + 2 * ph, width + 2 * pw), parts.dtype)
    for k in range(kh):
        for l in range(kw):
            padded[:, :, k : k + oh * sh : sh, l : l + ow * sw : sw] += parts[..., k, l]
    return padded[:, :, ph : ph + height, pw : pw + width]


def conv2d(x, weight, bias=None, residual=None, *, stride, padding, relu=False):
    check("conv2d", x, weight, bias, residual, stride, padding)
    windows = _windows(_padded(x, padding), weight.shape[2:], stride)
    groups = x.shape[1] // weight.shape[1]
    y = np.einsum("ngcijkl,gockl->ngoij", _split(windows, 1, groups), _split(weight, 0, groups))
    y = y.reshape(len(x), len(weight), *windows.shape[2:4])
    y = y if bias is None else y + bias[:, None, None]
    y = y if residual is None else y + residual
    return np.maximum(y, 0) if relu else y


def conv2d_and_statistics(x, weight, *, stride, padding):
    check("conv2d_and_statistics", x, weight, stride, padding)
    y = conv2d(x, weight, stride=stride, padding=padding)
    return y, *batch_norm_statistics(y)


def measures(*shapes, **window):
    return False


def takes_pending(*shapes, **window):
    return False


def conv2d_input_grad(dy, weight, x_shape, total=None, *, stride, padding):
    check("conv2d_input_grad", dy, weight, x_shape, total, stride, padding)
    if total is not None:
        check_in_place("conv2d_input_grad", "total", total, dy=dy, weight=weight)
    groups = x_shape[1] // weight.shape[1]
    parts = np.einsum("ngoij,gockl->ngcijkl", _split(dy, 1, groups), _split(weight, 0, groups))
    parts = parts.reshape(*x_shape[:2], *parts.shape[3:])
    dx = _scatter(parts, x_shape, weight.shape[2:], stride, padding)
    return dx if total is None else np.add(total, dx, out=total)


def conv2d_weight_grad(dy, x, weight_shape, *, stride, padding):
    check("conv2d_weight_grad", dy, x, weight_shape, stride, padding)
    windows = _windows(_padded(x, padding), weight_shape[2:], stride)[:, :, : dy.shape[2], : dy.shape[3]]
    groups = x.shape[1] // weight_shape[1]
    dw = np.einsum("ngoij,ngcijkl->gockl", _split(dy, 1, groups), _split(windows, 1, groups))
    return dw.reshape(weight_shape)


def batch_norm_statistics(x):
    check("batch_norm_statistics", x)
    x = x.astype(np.float64)
    return x.mean((0, 2, 3)), x.var((0, 2, 3))


def batch_norm_apply(x, mean, scale, bias, residual=None, *, relu=False):
    check("batch_norm_apply", x, mean, scale, bias, residual)
    y = (x - _per_channel(mean)) * _per_channel(scale) + _per_channel(bias)
    if residual is not None:
        y = y + residual
    return np.maximum(y, 0) if relu else y


# the arrays of the forward pass, and what it did with them
def batch_norm_grad(dy, x, y, mean, inv_std, weight, bias, *, training, relu, residual, whole=None):
    known = x if y is None and not (relu and residual) else y
    check("batch_norm_grad", dy, x, known, mean, inv_std, weight, bias)
    if relu and y is None:
        y = batch_norm_apply(x, mean, weight * inv_std, bias)
    g = relu_grad(dy, y) if relu else dy
    distance = x - _per_channel(mean)
    dbias, moment = g.sum((0, 2, 3)), (g * distance).sum((0, 2, 3))
    dweight = moment * inv_std
    dx = g
    if training:
        sums = dbias, moment, x.size // x.shape[1]
        total, moment, pixels = whole(*sums) if whole else sums
        dx = g - (_per_channel(total) + distance * _per_channel(moment * inv_std**2)) / pixels
        dx = dx.astype(x.dtype, copy=False)
    return dx * _per_channel(weight * inv_std), dweight, dbias, g if residual else None


def _per_channel(v):
    return v[:, None, None]


def add_to(total, part):
    check("add_to", total, part)
    check_in_place("add_to", "total", total)
    total += part


def relu(x):
    check("relu", x)
    return np.maximum(x, 0)


def relu_grad(dy, y):
    check("relu_grad", dy, y)
    return np.where(y <= 0, 0, dy)


def erf(x):
    check("erf", x)
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def max_pool2d(x, kernel_size, *, stride, padding):
    check("max_pool2d", x, kernel_size, stride, padding)
    windows = _windows(_padded(x, padding, -np.inf), kernel_size, stride)
    y = windows.max((4, 5))
    hit = _inside(x.shape, kernel_size, stride, padding) & (
        (windows == y[..., None, None]) | np.isnan(windows)
    )  # padding is never the maximum, not even if all are -inf
    return y, hit.reshape(*y.shape, kernel_size[0] * kernel_size[1]).argmax(-1).astype(np.int32)


def _inside(x_shape, kernel_size, stride, padding):
    """Which taps of each window are inside the image, (1, 1, OH, OW, KH, KW)."""
    return _windows(_padded(np.ones((1, 1, *x_shape[2:]), bool), padding), kernel_size, stride)


def max_pool2d_grad(dy, taps, x_shape, kernel_size, *, stride, padding):
    check("max_pool2d_grad", dy, taps, x_shape, kernel_size, stride, padding)
    chosen = taps[..., None] == np.arange(kernel_size[0] * kernel_size[1])
    outside = ~(chosen & _inside(x_shape, kernel_size, stride, padding).reshape(1, 1, *dy.shape[2:], -1)).any(-1)
    if outside.any():
        raise ValueError(f"max_pool2d_grad: taps: got {outside.sum()} outside of their window or of the image")
    parts = np.where(chosen, dy[..., None], 0)
    return _scatter(parts.reshape(*dy.shape, *kernel_size), x_shape, kernel_size, stride, padding)


def avg_pool2d(x, kernel_size, *, stride, padding):
    check("avg_pool2d", x, kernel_size, stride, padding)
    return _windows(_padded(x, padding), kernel_size, stride).mean((4, 5))


def avg_pool2d_grad(dy, x_shape, kernel_size, *, stride, padding):
    check("avg_pool2d_grad", dy, x_shape, kernel_size, stride, padding)
    share = dy / (kernel_size[0] * kernel_size[1])
    parts = np.broadcast_to(share[..., None, None], (*dy.shape, *kernel_size))
    return _scatter(parts, x_shape, kernel_size, stride, padding)


def sgd_update(p, g, v, *, lr, momentum, weight_decay, nesterov):
    check_each("sgd_update", ("p", "v"), p=p, g=g, v=v)
    for weight, gradient, velocity in zip(p, g, v, strict=True):
        number = weight.dtype.type
        gradient = gradient + number(weight_decay) * weight
        velocity[...] = number(momentum) * velocity + gradient
        weight -= number(lr) * (gradient + number(momentum) * velocity if nesterov else velocity)


# every number of the paper's algorithm, by name
def adamw_update(p, g, m, v, *, lr, beta1, beta2, eps, weight_decay, step):
    check_each("adamw_update", ("p", "m", "v"), p=p, g=g, m=m, v=v)
    for weight, gradient, mean, square in zip(p, g, m, v, strict=True):
        number = weight.dtype.type
        mean += number(1 - beta1) * (gradient - mean)
        square += number(1 - beta2) * (gradient * gradient - square)
        way = mean / (np.sqrt(square) / number(np.sqrt(1 - beta2**step)) + number(eps))
        weight[...] = number(1 - lr * weight_decay) * weight - number(lr / (1 - beta1**step)) * way
