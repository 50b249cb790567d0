"""Batch norm in as few passes over memory as it takes: one to measure, one to apply, two to go back.

Arrays are read as (P, C): P = N * H * W pixels of C channels each. A pass goes block by block of pixels, each
small enough for L1, and within a block by vectors of channels, so that what belongs to a channel (its mean, its
scale, its sum) stays in a register while the pixels go by.

Sums are taken within a block in the array's dtype, over chunks of blocks in float64, and chunks are added in
index order. Chunks depend on P and C alone: the result does not depend on the number of threads.
"""

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.compile import jit
from tinyres.kernels.conv import channels_last
from tinyres.kernels.memory import empty
from tinyres.kernels.simd import fma, lanes, load, single, splat, store, where_negative, where_positive, wide

BLOCK_BYTES = 8 * 1024  # of one array: three of them fit L1
CHUNK_BLOCKS = 16


def batch_norm_statistics(x):
    """Mean and (biased) variance of each channel, (C,) float64, of x (N, C, H, W)."""
    x = channels_last(x)
    return _statistics(x.reshape(-1, x.shape[3]), get_num_threads())


def batch_norm_apply(x, mean, scale, bias, residual=None, *, relu=False):
    """(x - mean) * scale + bias, then + residual, then ReLU, in one pass. x (N, C, H, W), the others (C,)."""
    x = channels_last(x)
    y = empty(x.shape, x.dtype)
    added = x if residual is None else channels_last(residual)
    _apply(_rows(x), mean, scale, bias, _rows(added), residual is not None, relu, _rows(y), get_num_threads())
    return y.transpose(0, 3, 1, 2)


def batch_norm_grad(dy, x, y, mean, inv_std, weight, bias, *, training, relu, residual):
    """Gradients of batch norm (+ residual) (+ ReLU); see `tinyres.ops.batch_norm` for the derivation.

    Returns dx, dweight, dbias and dresidual (None without `residual`; dy itself without ReLU).
    """
    dy, x, y = channels_last(dy), channels_last(x), channels_last(y)
    dx = empty(x.shape, x.dtype)
    masked = empty(x.shape, x.dtype) if residual and relu else dy
    dweight, dbias = _grad(
        _rows(dy),
        _rows(x),
        _rows(y),
        mean,
        inv_std,
        weight,
        bias,
        training,
        relu,
        residual,
        _rows(masked),
        _rows(dx),
        get_num_threads(),
    )
    return dx.transpose(0, 3, 1, 2), dweight, dbias, masked.transpose(0, 3, 1, 2) if residual else None


def _rows(x):
    return x.reshape(-1, x.shape[3])


# ---------------------------------------------------------------- kernels
@jit
def _block(x):
    """Pixels in a block."""
    return max(8, BLOCK_BYTES // (x.shape[1] * x.itemsize))


@jit
def _whole(zero, channels):
    """Channels that whole vectors cover; the rest are done one by one."""
    return channels // lanes(zero) * lanes(zero)


@jit(parallel=True)
def _statistics(x, workers):
    """Mean and biased variance of each column of x (P, C), in float64.

    Two passes over each block while it is in L1, one for its sum and one for its squared distances M2 from
    its own mean; blocks merge as (n, mean, M2), Chan, Golub and LeVeque 1979. E[x^2] - E[x]^2 would lose
    all digits where the mean is large beside the spread. ::

        parallel for each chunk: for each block of pixels: for each vector of channels: for each pixel, twice

    Cost: reads x once.
    """
    pixels, channels = x.shape
    block = _block(x)
    chunk = block * CHUNK_BLOCKS
    chunks = -(-pixels // chunk)
    means = np.zeros((chunks, channels), np.float64)
    squares = np.zeros((chunks, channels), np.float64)
    for worker in prange(workers):
        sums, m2 = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
        for k in range(worker * chunks // workers, (worker + 1) * chunks // workers):
            seen = 0
            for start in range(k * chunk, min(pixels, (k + 1) * chunk), block):
                stop = min(pixels, (k + 1) * chunk, start + block)
                whole = _whole(wide(x), channels)
                _moments(wide(x), x, start, stop, 0, whole, sums, m2)
                _moments(single(x), x, start, stop, whole, channels, sums, m2)
                _merge(means[k], squares[k], seen, sums, m2, stop - start)
                seen += stop - start
    mean, m2 = means[0].copy(), squares[0].copy()
    for k in range(1, chunks):
        n = min(chunk, pixels - k * chunk)
        for c in range(channels):
            delta = means[k, c] - mean[c]
            mean[c] += delta * n / (k * chunk + n)
            m2[c] += squares[k, c] + delta * delta * k * chunk * n / (k * chunk + n)
    return mean, m2 / pixels


@jit
def _moments(zero, x, start, stop, first, last, sums, m2):
    """Sum and squared distances from the mean of the pixels from start to stop, channels first to last."""
    channels = x.shape[1]
    for c in range(first, last, lanes(zero)):
        total = zero
        for p in range(start, stop):
            total = total + load(zero, x, p * channels + c)
        mean = total * splat(zero, 1 / (stop - start))
        square = zero
        for p in range(start, stop):
            distance = load(zero, x, p * channels + c) - mean
            square = fma(distance, distance, square)
        store(sums, c, total)
        store(m2, c, square)


@jit
def _merge(mean, m2, seen, sums, block_m2, n):
    for c in range(mean.size):
        delta = sums[c] / np.float64(n) - mean[c]
        mean[c] += delta * n / (seen + n)
        m2[c] += block_m2[c] + delta * delta * seen * n / (seen + n)


@jit(parallel=True)
def _apply(x, mean, scale, bias, residual, add, relu, y, workers):
    """y = (x - mean) * scale + bias (+ residual) (then ReLU). Cost: reads x (and residual), writes y."""
    pixels, channels = x.shape
    block = _block(x)
    blocks = -(-pixels // block)
    for worker in prange(workers):
        whole = _whole(wide(x), channels)
        for k in range(worker * blocks // workers, (worker + 1) * blocks // workers):
            start, stop = k * block, min(pixels, (k + 1) * block)
            _apply_block(wide(x), x, mean, scale, bias, residual, add, relu, y, start, stop, 0, whole)
            _apply_block(single(x), x, mean, scale, bias, residual, add, relu, y, start, stop, whole, channels)


@jit
def _apply_block(zero, x, mean, scale, bias, residual, add, relu, y, start, stop, first, last):
    channels = x.shape[1]
    for c in range(first, last, lanes(zero)):
        m, s, b = load(zero, mean, c), load(zero, scale, c), load(zero, bias, c)
        for p in range(start, stop):
            at = p * channels + c
            value = fma(load(zero, x, at) - m, s, b)
            if add:
                value = value + load(zero, residual, at)
            if relu:
                value = where_negative(value, zero, value)
            store(y, at, value)


@jit(parallel=True)
def _grad(dy, x, y, mean, inv_std, weight, bias, training, relu, residual, masked, dx, workers):
    """Two passes: the sums over pixels that the gradient needs, then the gradient.

    With g = dy where y > 0 (or dy without ReLU), dbias = sum g, dweight = sum g (x - mean) inv_std, and
    dx = weight inv_std (g - dbias / P - (x - mean) inv_std dweight / P). With a shortcut, g is its gradient:
    the first pass stores it in `masked`, and the second reads it instead of dy. Without one, y is not read at all: its
    sign comes from x again, by the operations of the forward pass.

    Cost: reads dy and x twice (and y once), writes dx (and masked).
    """
    keep, mask = residual and relu, relu and not residual
    pixels, channels = x.shape
    block = _block(x)
    chunk = block * CHUNK_BLOCKS
    chunks = -(-pixels // chunk)
    sums = np.zeros((chunks, 2, channels), np.float64)
    scale = np.empty(channels, x.dtype)
    for c in range(channels):
        scale[c] = weight[c] * inv_std[c]
    for worker in prange(workers):
        whole = _whole(wide(x), channels)
        g_sum, gx_sum = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
        for k in range(worker * chunks // workers, (worker + 1) * chunks // workers):
            for start in range(k * chunk, min(pixels, (k + 1) * chunk), block):
                stop = min(pixels, (k + 1) * chunk, start + block)
                _sums(wide(x), dy, x, y, mean, scale, bias, mask, keep, masked, start, stop, 0, whole, g_sum, gx_sum)
                _sums(
                    single(x),
                    dy,
                    x,
                    y,
                    mean,
                    scale,
                    bias,
                    mask,
                    keep,
                    masked,
                    start,
                    stop,
                    whole,
                    channels,
                    g_sum,
                    gx_sum,
                )
                for c in range(channels):
                    sums[k, 0, c] += g_sum[c]
                    sums[k, 1, c] += gx_sum[c]

    dbias, dweight = np.zeros(channels, x.dtype), np.zeros(channels, x.dtype)
    mean_g, slope = np.zeros(channels, x.dtype), np.zeros(channels, x.dtype)
    for c in range(channels):
        total, moment = 0.0, 0.0
        for k in range(chunks):
            total += sums[k, 0, c]
            moment += sums[k, 1, c]
        dbias[c] = total
        dweight[c] = moment * inv_std[c]
        if training:
            mean_g[c] = total / pixels
            slope[c] = moment / pixels * inv_std[c] * inv_std[c]

    blocks = -(-pixels // block)
    for worker in prange(workers):
        whole = _whole(wide(x), channels)
        g = masked if keep else dy
        for k in range(worker * blocks // workers, (worker + 1) * blocks // workers):
            start, stop = k * block, min(pixels, (k + 1) * block)
            _grad_block(wide(x), g, x, mean, scale, bias, mean_g, slope, mask, dx, start, stop, 0, whole)
            _grad_block(single(x), g, x, mean, scale, bias, mean_g, slope, mask, dx, start, stop, whole, channels)
    return dweight, dbias


@jit
def _sums(zero, dy, x, y, mean, scale, bias, mask, keep, masked, start, stop, first, last, g_sum, gx_sum):
    """Sums of g and of g (x - mean) over the pixels from start to stop."""
    channels = x.shape[1]
    for c in range(first, last, lanes(zero)):
        m, s, b, total, moment = load(zero, mean, c), load(zero, scale, c), load(zero, bias, c), zero, zero
        for p in range(start, stop):
            at = p * channels + c
            g, distance = load(zero, dy, at), load(zero, x, at) - m
            if mask:
                g = where_positive(fma(distance, s, b), g, zero)
            if keep:
                g = where_positive(load(zero, y, at), g, zero)
                store(masked, at, g)
            total = total + g
            moment = fma(g, distance, moment)
        store(g_sum, c, total)
        store(gx_sum, c, moment)


@jit
def _grad_block(zero, g, x, mean, scale, bias, mean_g, slope, mask, dx, start, stop, first, last):
    """dx = scale * ((g - mean_g) - (x - mean) * slope)."""
    channels = x.shape[1]
    for c in range(first, last, lanes(zero)):
        m, s, b, shift, k = (
            load(zero, mean, c),
            load(zero, scale, c),
            load(zero, bias, c),
            load(zero, mean_g, c),
            load(zero, slope, c),
        )
        for p in range(start, stop):
            at = p * channels + c
            value, distance = load(zero, g, at), load(zero, x, at) - m
            if mask:
                value = where_positive(fma(distance, s, b), value, zero)
            store(dx, at, s * ((value - shift) - distance * k))
