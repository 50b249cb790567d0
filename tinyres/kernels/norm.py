"""Batch norm in as few passes over memory as it takes: one to measure, one to apply, two to go back.

Arrays are read as (P, C): P = N * H * W pixels of C channels each. A pass goes block by block of pixels, each
small enough for L1, and within a block by vectors of channels, so that what belongs to a channel (its mean, its
scale, its sum) stays in a register while the pixels go by.

Sums are taken within a block in the array's dtype, over chunks of blocks in float64, and chunks are added in
index order. Chunks depend on P and C alone: the result does not depend on the number of threads.
"""

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.compile import inner, jit
from tinyres.kernels.conv import channels_last
from tinyres.kernels.memory import empty
from tinyres.kernels.simd import fma, lanes, load, maximum, single, splat, store, where_positive, wide

BLOCK_BYTES = 8 * 1024  # of one array: three of them fit L1
CHUNK_BLOCKS = 16


def batch_norm_statistics(x):
    """Mean and (biased) variance of each channel, (C,) float64, of x (N, C, H, W)."""
    x = _rows(x)
    pixels, block = len(x), _block(x)
    chunk = block * CHUNK_BLOCKS
    parts = np.zeros((-(-pixels // chunk), 2, x.shape[1]))  # mean and M2 of each chunk
    _statistics(x, block, parts, get_num_threads())
    means, squares = parts[:, 0], parts[:, 1]
    n = np.minimum(chunk, pixels - chunk * np.arange(len(parts)))[:, None]  # pixels of each chunk
    with np.errstate(invalid="ignore"):  # infinity less infinity is NaN, which is what should come out
        mean = (n * means).sum(axis=0) / pixels
        m2 = squares.sum(axis=0) + (n * (means - mean) ** 2).sum(axis=0)
    return mean, m2 / pixels


def batch_norm_apply(x, mean, scale, bias, residual=None, *, relu=False):
    """(x - mean) * scale + bias, then + residual, then ReLU, in one pass. x (N, C, H, W), the others (C,)."""
    memory = channels_last(x)
    y = empty(memory.shape, x.dtype)
    constants = np.array([mean, scale, bias], x.dtype)
    rows, added = _rows(x), _rows(x if residual is None else residual)
    add = residual is not None
    _apply(rows, constants, _block(rows), added, add, relu, y.reshape(rows.shape), get_num_threads())
    return y.transpose(0, 3, 1, 2)


def batch_norm_grad(dy, x, y, mean, inv_std, weight, bias, *, training, relu, residual):
    """Gradients of batch norm (+ residual) (+ ReLU); see `tinyres.ops.batch_norm` for the derivation.

    With g = dy where y > 0 (or dy without ReLU), dbias = sum g, dweight = sum g (x - mean) inv_std, and
    dx = weight inv_std (g - dbias / P - (x - mean) inv_std dweight / P): one pass for the sums, one for dx. With a
    shortcut, g is its gradient: the first pass stores it, and the second reads it instead of dy. Without one, y is not
    read and may be None: its sign comes from x again, by the operations of the forward pass.

    Returns dx, dweight, dbias and dresidual (None without `residual`; dy itself without ReLU).
    """
    recompute, keep = relu and not residual, relu and residual
    n, channels, height, width = x.shape
    upstream, rows, workers = _rows(dy), _rows(x), get_num_threads()
    pixels, block = len(rows), _block(rows)
    dx = empty(rows.shape, x.dtype)
    g = empty(rows.shape, x.dtype) if keep else upstream
    constants = np.zeros((5, channels), x.dtype)
    constants[:3] = mean, weight * inv_std, bias
    sums = np.zeros((-(-pixels // (block * CHUNK_BLOCKS)), 2, channels))
    _grad_sums(upstream, rows, _rows(y) if keep else rows, constants, block, recompute, keep, g, sums, workers)
    total, moment = sums.sum(axis=0)  # of g and of g (x - mean): chunks in index order
    if training:
        constants[3:] = total / pixels, moment / pixels * inv_std.astype(np.float64) ** 2
    _grad_apply(g, rows, constants, block, recompute, dx, workers)
    dweight, dbias = (moment * inv_std).astype(x.dtype), total.astype(x.dtype)
    dx, g = (a.reshape(n, height, width, channels).transpose(0, 3, 1, 2) for a in (dx, g))
    return dx, dweight, dbias, g if residual else None


def _rows(x):
    """(N, C, H, W) -> (P, C), channels-last."""
    return channels_last(x).reshape(-1, x.shape[1]) if x.size else np.empty((0, x.shape[1]), x.dtype)


def _block(rows):
    """Pixels in a block."""
    return max(8, BLOCK_BYTES // max(1, rows.shape[1] * rows.itemsize))


# ---------------------------------------------------------------- kernels
# Each is a thin parallel loop over workers around a serial function, which compiles several times as fast.
@inner
def _whole(zero, channels):
    """Channels that whole vectors cover; the rest are done one by one."""
    return channels // lanes(zero) * lanes(zero)


@jit(parallel=True)
def _statistics(x, block, parts, workers):
    """Mean of each column of x (P, C) and squared distances M2 from it, for each chunk: parts (chunks, 2, C).

    Two passes over each block while it is in L1, one for its sum and one for its M2; blocks merge as (n, mean, M2),
    Chan, Golub and LeVeque 1979. E[x^2] - E[x]^2 would lose all digits where the mean is large beside the spread. ::

        parallel for each chunk: for each block of pixels: for each vector of channels: for each pixel, twice

    Cost: reads x once.
    """
    for worker in prange(workers):
        _statistics_of_chunks(x, block, parts, np.int64(worker), workers)


@inner
def _statistics_of_chunks(x, block, parts, worker, workers):
    pixels, channels = x.shape
    chunks, chunk = parts.shape[0], block * CHUNK_BLOCKS
    whole = _whole(wide(x), channels)
    sums, m2 = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    for k in range(worker * chunks // workers, (worker + 1) * chunks // workers):
        seen = 0
        for start in range(k * chunk, min(pixels, (k + 1) * chunk), block):
            stop = min(pixels, start + block)
            _moments(wide(x), x, start, stop, 0, whole, sums, m2)
            _moments(single(x), x, start, stop, whole, channels, sums, m2)
            n = stop - start
            for c in range(channels):
                delta = x[start, c] + sums[c] / np.float64(n) - parts[k, 0, c]
                parts[k, 0, c] += delta * n / (seen + n)
                parts[k, 1, c] += m2[c] + delta * delta * seen * n / (seen + n)
            seen += n


@inner
def _moments(zero, x, start, stop, first, last, sums, m2):
    """Sum of the pixels' distances from the first of them, and squared distances from their mean, from start to stop.

    Distances, since a float32 sum of values loses the digits in which they differ. Channels first to last.
    """
    channels = x.shape[1]
    for c in range(first, last, lanes(zero)):
        total, origin = zero, load(zero, x, start * channels + c)
        for p in range(start, stop):
            total = total + (load(zero, x, p * channels + c) - origin)
        mean = total * splat(zero, 1 / (stop - start))
        square = zero
        for p in range(start, stop):
            distance = (load(zero, x, p * channels + c) - origin) - mean
            square = fma(distance, distance, square)
        store(sums, c, total)
        store(m2, c, square)


@jit(parallel=True)
def _apply(x, constants, block, residual, add, relu, y, workers):
    """y = (x - mean) * scale + bias (+ residual) (then ReLU). Cost: reads x (and residual), writes y."""
    for worker in prange(workers):
        _apply_blocks(x, constants, block, residual, add, relu, y, np.int64(worker), workers)


@inner
def _apply_blocks(x, constants, block, residual, add, relu, y, worker, workers):
    pixels, channels = x.shape
    blocks = -(-pixels // block)
    whole = _whole(wide(x), channels)
    for k in range(worker * blocks // workers, (worker + 1) * blocks // workers):
        start, stop = k * block, min(pixels, (k + 1) * block)
        _apply_block(wide(x), x, constants, residual, add, relu, y, start, stop, 0, whole)
        _apply_block(single(x), x, constants, residual, add, relu, y, start, stop, whole, channels)


@inner
def _apply_block(zero, x, constants, residual, add, relu, y, start, stop, first, last):
    channels = x.shape[1]
    for c in range(first, last, lanes(zero)):
        mean, scale, bias = _three(zero, constants, c)
        for p in range(start, stop):
            at = p * channels + c
            value = fma(load(zero, x, at) - mean, scale, bias)
            if add:
                value = value + load(zero, residual, at)
            if relu:
                value = maximum(value, zero)
            store(y, at, value)


@inner
def _three(zero, constants, c):
    """Mean, scale and bias of the channels from c on."""
    channels = constants.shape[1]
    return load(zero, constants, c), load(zero, constants, channels + c), load(zero, constants, 2 * channels + c)


@jit(parallel=True)
def _grad_sums(dy, x, y, constants, block, recompute, keep, masked, sums, workers):
    """Sums of g and of g (x - mean) over the pixels of each chunk: sums (chunks, 2, C), float64.

    `recompute`: the ReLU's sign from x; `keep`: from y, and g is stored in `masked`.

    Cost: reads dy and x (and y), writes nothing else (or masked).
    """
    for worker in prange(workers):
        _grad_sums_of_chunks(dy, x, y, constants, block, recompute, keep, masked, sums, np.int64(worker), workers)


@inner
def _grad_sums_of_chunks(dy, x, y, constants, block, recompute, keep, masked, sums, worker, workers):
    pixels, channels = x.shape
    chunks, chunk = sums.shape[0], block * CHUNK_BLOCKS
    whole = _whole(wide(x), channels)
    part = np.empty((2, channels), x.dtype)
    for k in range(worker * chunks // workers, (worker + 1) * chunks // workers):
        for start in range(k * chunk, min(pixels, (k + 1) * chunk), block):
            ends = start, min(pixels, start + block)
            _grad_sums_block(wide(x), dy, x, y, constants, recompute, keep, masked, ends, 0, whole, part)
            _grad_sums_block(single(x), dy, x, y, constants, recompute, keep, masked, ends, whole, channels, part)
            for c in range(channels):
                sums[k, 0, c] += part[0, c]
                sums[k, 1, c] += part[1, c]


@inner
def _grad_sums_block(zero, dy, x, y, constants, recompute, keep, masked, ends, first, last, part):
    channels = x.shape[1]
    for c in range(first, last, lanes(zero)):
        mean, scale, bias = _three(zero, constants, c)
        total, moment = zero, zero
        for p in range(ends[0], ends[1]):
            at = p * channels + c
            g, distance = load(zero, dy, at), load(zero, x, at) - mean
            if recompute:
                g = where_positive(fma(distance, scale, bias), g, zero)
            if keep:
                g = where_positive(load(zero, y, at), g, zero)
                store(masked, at, g)
            total = total + g
            moment = fma(g, distance, moment)
        store(part, c, total)
        store(part, channels + c, moment)


@jit(parallel=True)
def _grad_apply(g, x, constants, block, recompute, dx, workers):
    """dx = scale * ((g - mean of g) - (x - mean) * slope). Cost: reads g and x, writes dx."""
    for worker in prange(workers):
        _grad_apply_blocks(g, x, constants, block, recompute, dx, np.int64(worker), workers)


@inner
def _grad_apply_blocks(g, x, constants, block, recompute, dx, worker, workers):
    pixels, channels = x.shape
    blocks = -(-pixels // block)
    whole = _whole(wide(x), channels)
    for k in range(worker * blocks // workers, (worker + 1) * blocks // workers):
        start, stop = k * block, min(pixels, (k + 1) * block)
        _grad_apply_block(wide(x), g, x, constants, recompute, dx, start, stop, 0, whole)
        _grad_apply_block(single(x), g, x, constants, recompute, dx, start, stop, whole, channels)


@inner
def _grad_apply_block(zero, g, x, constants, recompute, dx, start, stop, first, last):
    channels = x.shape[1]
    for c in range(first, last, lanes(zero)):
        mean, scale, bias = _three(zero, constants, c)
        mean_g, slope = load(zero, constants, 3 * channels + c), load(zero, constants, 4 * channels + c)
        for p in range(start, stop):
            at = p * channels + c
            value, distance = load(zero, g, at), load(zero, x, at) - mean
            if recompute:
                value = where_positive(fma(distance, scale, bias), value, zero)
            store(dx, at, scale * ((value - mean_g) - distance * slope))
