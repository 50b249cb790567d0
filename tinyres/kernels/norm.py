"""Batch norm in as few passes over memory as possible: one to measure, one to apply, two for the gradient.

Arrays are read as rows of C channels, one for each of the P = N * H * W pixels. If C is small, neighbouring pixels form
one row with more channels. A pass reads the rows in blocks, and within a block it handles one vector of channels after
the other, each as wide as several registers. So the constants of a channel (its mean, its scale, its sum) stay in
registers for all rows of the block, and memory is read nearly in order. With 512 channels and more, rows are kilobytes
apart, so blocks have few rows: more streams of memory would not fit the cache's ways and the prefetcher.

Sums over a span of rows are computed in the array's dtype, sums over a chunk of spans in float64, and chunks are added
in index order. Chunks depend on P and C only, so the result does not depend on the number of threads.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.arrays import check
from tinyres.kernels.compile import inner, jit
from tinyres.kernels.launch import assign, launch
from tinyres.kernels.layout import channels_last
from tinyres.kernels.memory import empty, zeros
from tinyres.kernels.moments import ORIGIN, SQUARES, merge
from tinyres.kernels.simd import (
    BROAD,
    address,
    broad,
    cache_line,
    fence,
    fma,
    lanes,
    load,
    maximum,
    prefetch,
    single,
    store,
    stream,
    where_positive,
)

BLOCK_BYTES = 4 * 1024  # of one array
SPAN = 64  # rows that are summed in the array's dtype
CHUNK_BYTES = 128 * 1024  # least size of a chunk, in bytes of one array
CHUNK_ROWS = 128  # least size of a chunk, in rows: with fewer, adding the chunks would cost more than reading them
STRETCH = 32  # blocks read in forward order, which prefetchers expect, in a pass that goes backwards
FAR_BYTES = 16 * 1024 * 1024  # larger results are written past the caches: no cache could hold them until they are read
AHEAD = 8  # distance of prefetching, in cache lines


def batch_norm_statistics(x):
    """Mean and (biased) variance of each channel, (C,) float64, of x (N, C, H, W)."""
    check("batch_norm_statistics", x)
    rows, channels = _rows(x), x.shape[1]
    chunks, width = _chunks(rows), rows.shape[1]
    parts = zeros((chunks, 3, width), np.float64)
    _statistics(rows, _block(rows), parts, get_num_threads())
    return merge(parts, np.diff(np.arange(chunks + 1) * len(rows) // max(1, chunks)), channels)


def batch_norm_apply(x, mean, scale, bias, residual=None, *, relu=False):
    """(x - mean) * scale + bias, then + residual, then ReLU, in one pass. x (N, C, H, W), the others (C,)."""
    check("batch_norm_apply", x, mean, scale, bias, residual)
    memory = channels_last(x)
    y = empty(memory.shape, x.dtype)
    rows, added = _rows(x), _rows(x if residual is None else residual)
    constants = _constants(3, rows, x)
    launch(assign, constants, mean, scale, bias)
    add = residual is not None
    forward = _Forward(rows, constants.reshape(3, -1), added, y.reshape(rows.shape), add, relu, _far(rows))
    _apply(forward, _block(rows), get_num_threads())
    return y.transpose(0, 3, 1, 2)


# the arrays of the forward pass, and what it did with them
def batch_norm_grad(dy, x, y, mean, inv_std, weight, bias, *, training, relu, residual, whole=None):
    """Gradients of batch norm (+ residual) (+ ReLU); see `tinyres.ops.batch_norm` for the derivation.

    With g = dy where y > 0 (or dy without ReLU), dbias = sum g, dweight = sum g (x - mean) inv_std, and
    dx = weight inv_std (g - dbias / P - (x - mean) inv_std dweight / P): one pass for the sums, one for dx. With a
    residual, g is its gradient: the first pass stores g, and the second reads it instead of dy. Without one, y is not
    read and may be None: its sign is computed from x, by the operations of the forward pass.

    If x is a part of the batch, `whole` is called with sum g, sum g (x - mean) and P of this part, and returns those of
    the whole batch, which dx needs. dweight and dbias are those of the part.

    Returns dx, dweight, dbias and dresidual (None without `residual`; dy itself without ReLU).
    """
    recompute, keep = relu and not residual, relu and residual
    check("batch_norm_grad", dy, x, x if y is None and not keep else y, mean, inv_std, weight, bias)
    n, channels, height, width = x.shape
    upstream, rows, workers = _rows(dy), _rows(x), get_num_threads()
    pixels, block = n * height * width, _block(rows)
    dx = empty(rows.shape, x.dtype)
    g = empty(rows.shape, x.dtype) if keep else upstream
    constants = _constants(5, rows, x)
    launch(_before, constants, mean, inv_std, weight, bias)
    flat, (dweight, dbias) = constants.reshape(5, -1), np.empty((2, channels), x.dtype)
    sums = zeros((2, _chunks(rows), rows.shape[1]), np.float64)
    measured = _Measured(upstream, rows, _rows(y) if keep else rows, flat, g, recompute, keep)
    _grad_sums(measured, block, sums, workers)
    launch(_between, sums, constants, inv_std, pixels, whole, training, dweight, dbias)
    _grad_apply(_Backward(g, rows, flat, dx, recompute, training, _far(rows)), block, workers)
    dx, g = (a.reshape(n, height, width, channels).transpose(0, 3, 1, 2) for a in (dx, g))
    return dx, dweight, dbias, g if residual else None


def _before(constants, mean, inv_std, weight, bias):
    """The constants of each channel that the sums of the gradient need."""
    constants[0], constants[1], constants[2] = mean, weight * inv_std, bias


def _between(sums, constants, inv_std, pixels, whole, training, dweight, dbias):
    """Results from the sums: dweight, dbias, and in training the mean of g and the slope of dx."""
    sums = sums.sum(axis=1).reshape(constants[:2].shape)  # chunks are added in index order
    total, moment = sums.sum(axis=1)  # sums of g and of g (x - mean)
    if training:
        of_all = whole(total, moment, pixels) if whole else (total, moment, pixels)
        constants[3], constants[4] = of_all[0] / of_all[2], of_all[1] / of_all[2] * inv_std.astype(np.float64) ** 2
    else:
        constants[3] = constants[4] = 0
    dweight[...], dbias[...] = moment * inv_std, total


def _rows(x):
    """(N, C, H, W) -> (P, C), channels-last, or (P / 2, 2 C), (P / 4, 4 C), ... until broad vectors fill a row."""
    channels = x.shape[1]
    pixels, step = x.size // max(1, channels), BROAD // x.itemsize
    if not pixels:
        return np.empty((0, channels), x.dtype)
    while channels % step and pixels % 2 == 0:
        pixels, channels = pixels // 2, channels * 2
    return channels_last(x).reshape(pixels, channels)


def _constants(count, rows, x):
    """Memory for constants of each channel, (count, pixels in a row, C): the same for all pixels in a row."""
    channels = x.shape[1]
    return np.empty((count, rows.shape[1] // max(1, channels), channels), x.dtype)


def _chunks(rows):
    """Number of chunks of nearly equal size: a multiple of four, so that two or four threads get equal shares."""
    chunks = min(rows.nbytes // CHUNK_BYTES, len(rows) // CHUNK_ROWS)
    return min(len(rows), chunks // 4 * 4 + 4)


def _far(rows):
    """Whether the result is written past the caches: if it is large, and each row is aligned to a register."""
    return rows.nbytes >= FAR_BYTES and rows.shape[1] * rows.itemsize % BROAD == 0


def _block(rows):
    """Rows in a block: at least two, so that the constants are read once for several rows."""
    return max(2, BLOCK_BYTES // max(1, rows.shape[1] * rows.itemsize))


# ---------------------------------------------------------------- kernels
# Each is a small parallel loop over workers that calls a serial function: this compiles several times as fast. The
# arrays that a pass reads and writes are one tuple; within a block, the tuple holds their addresses.
class _Forward(NamedTuple):
    """y = (x - mean) * scale + bias (+ residual) (then ReLU)."""

    x: Any
    constants: Any  # mean, scale and bias
    residual: Any
    y: Any
    add: bool
    relu: bool
    far: bool  # the result is written past the caches


class _Measured(NamedTuple):
    """Arrays for the sums of the gradient. `recompute`: ReLU's sign comes from x; `keep`: from y, and g is stored."""

    dy: Any
    x: Any
    y: Any
    constants: Any
    g: Any
    recompute: bool
    keep: bool


class _Backward(NamedTuple):
    """dx = scale * ((g - mean of g) - (x - mean) * slope), or scale * g."""

    g: Any
    x: Any
    constants: Any  # mean, scale, bias, mean of g, slope
    dx: Any
    recompute: bool
    training: bool
    far: bool  # the result is written past the caches


@inner
def _whole(zero, channels):
    """Number of channels that whole vectors cover; the others are computed one by one."""
    return channels // lanes(zero) * lanes(zero)


@inner
def _read(zero, array, at):
    """Load a vector, and prefetch what follows it: the hardware's prefetcher stops at a page of 4 KiB."""
    step = lanes(cache_line(array))
    for i in range(0, lanes(zero), step):
        prefetch(array, at + AHEAD * step + i)
    return load(zero, array, at)


@jit(parallel=True)
def _statistics(x, block, parts, workers):
    """Mean of each column of x (P, C), 0, and sum M2 of squared distances, for each chunk: parts (chunks, 3, C).

    Spans merge as (n, mean, M2), Chan, Golub and LeVeque 1979. E[x^2] - E[x]^2 would lose all digits if the mean is
    large compared with the spread. So within a span it is computed from d, the distance from the first row of the span,
    which is one of the n values: sum d^2 is then at most (n + 1) M2, and the loss of digits is no larger than in a sum
    of n numbers. ::

        parallel for each chunk: for each span: for each block of rows: for each vector of channels: for each row

    Cost: reads x once.
    """
    for worker in prange(workers):
        _statistics_of_chunks(x, block, parts, np.int64(worker), workers)


@inner
def _statistics_of_chunks(x, block, parts, worker, workers):
    rows, channels = x.shape
    whole = _whole(broad(x), channels)
    chunks = parts.shape[0]
    part = np.zeros((2, channels), x.dtype)
    for k in range(worker * chunks // workers, (worker + 1) * chunks // workers):
        first, seen = k * rows // chunks, 0
        last = (k + 1) * rows // chunks
        for start in range(first, last, SPAN):
            stop = min(last, start + SPAN)
            for p in range(start, stop, block):
                ends = p, min(stop, p + block)
                _moments(broad(x), x, start, ends, 0, whole, part)
                _moments(single(x), x, start, ends, whole, channels, part)
            n = stop - start
            one, share = 1 / np.float64(n), n / np.float64(seen + n)  # only once, since division is slow
            for c in range(channels):
                distance = part[0, c] * one
                m2 = part[1, c] - part[0, c] * distance
                delta = x[start, c] + distance - parts[k, ORIGIN, c]
                parts[k, ORIGIN, c] += delta * share
                m2 = 0.0 if m2 < 0 else m2  # m2 < 0: d^2 underflowed
                parts[k, SQUARES, c] += m2 + delta * delta * seen * share
                part[0, c] = part[1, c] = 0
            seen += n


@inner
def _moments(zero, x, start, ends, first, last, part):
    """Add the rows' distances from row `start`, and their squares, to part (2, C), for channels `first` to `last`."""
    channels = x.shape[1]
    for c in range(first, last, lanes(zero)):
        total, square = load(zero, part, c), load(zero, part, channels + c)
        origin = load(zero, x, start * channels + c)
        for p in range(ends[0], ends[1]):
            distance = _read(zero, x, p * channels + c) - origin
            total = total + distance
            square = fma(distance, distance, square)
        store(part, c, total)
        store(part, channels + c, square)


@jit(parallel=True)
def _apply(forward, block, workers):
    """Cost: reads x (and residual), writes y."""
    for worker in prange(workers):
        _apply_blocks(forward, block, np.int64(worker), workers)


@inner
def _apply_blocks(forward, block, worker, workers):
    x, constants, residual, y, add, relu, far = forward
    rows, channels = x.shape
    whole = _whole(broad(x), channels)
    memory = _Forward(address(x, 0), address(constants, 0), address(residual, 0), address(y, 0), add, relu, far)
    last = (worker + 1) * rows // workers
    for start in range(worker * rows // workers, last, block):
        ends = start, min(last, start + block)
        _apply_block(broad(x), memory, channels, ends, 0, whole)
        _apply_block(single(x), memory, channels, ends, whole, channels)
    if far:
        fence()


@inner
def _apply_block(zero, memory, channels, ends, first, last):
    x, constants, residual, y, add, relu, far = memory
    for c in range(first, last, lanes(zero)):
        mean, scale, bias = _three(zero, constants, channels, c)
        for p in range(ends[0], ends[1]):
            at = p * channels + c
            value = fma(_read(zero, x, at) - mean, scale, bias)
            if add:
                value = value + _read(zero, residual, at)
            if relu:
                value = maximum(value, zero)
            if far:
                stream(y, at, value)
            else:
                store(y, at, value)


@inner
def _three(zero, constants, channels, c):
    """Mean, scale and bias of a vector of channels, from c on."""
    return load(zero, constants, c), load(zero, constants, channels + c), load(zero, constants, 2 * channels + c)


@jit(parallel=True)
def _grad_sums(measured, block, sums, workers):
    """Sums of g and of g (x - mean) over the pixels of each chunk: sums (2, chunks, C), float64.

    Cost: reads dy and x (and y), writes nothing else (or g).
    """
    for worker in prange(workers):
        _grad_sums_of_chunks(measured, block, sums, np.int64(worker), workers)


@inner
def _grad_sums_of_chunks(measured, block, sums, worker, workers):
    dy, x, y, constants, g, recompute, keep = measured
    rows, channels = x.shape
    whole = _whole(broad(x), channels)
    chunks = sums.shape[1]
    part = np.zeros((2, channels), x.dtype)
    memory = _Measured(
        address(dy, 0), address(x, 0), address(y, 0), address(constants, 0), address(g, 0), recompute, keep
    )
    for k in range(worker * chunks // workers, (worker + 1) * chunks // workers):
        last = (k + 1) * rows // chunks
        for start in range(k * rows // chunks, last, SPAN):
            stop = min(last, start + SPAN)
            for p in range(start, stop, block):
                ends = p, min(stop, p + block)
                _grad_sums_block(broad(x), memory, channels, ends, 0, whole, part)
                _grad_sums_block(single(x), memory, channels, ends, whole, channels, part)
            for c in range(channels):
                sums[0, k, c] += part[0, c]
                sums[1, k, c] += part[1, c]
                part[0, c] = part[1, c] = 0


@inner
def _grad_sums_block(zero, memory, channels, ends, first, last, part):
    dy, x, y, constants, masked, recompute, keep = memory
    for c in range(first, last, lanes(zero)):
        mean, scale, bias = _three(zero, constants, channels, c)
        total, moment = load(zero, part, c), load(zero, part, channels + c)
        for p in range(ends[0], ends[1]):
            at = p * channels + c
            g, distance = _read(zero, dy, at), _read(zero, x, at) - mean
            if recompute:
                g = where_positive(fma(distance, scale, bias), g, zero)
            if keep:
                g = where_positive(_read(zero, y, at), g, zero)
                store(masked, at, g)
            total = total + g
            moment = fma(g, distance, moment)
        store(part, c, total)
        store(part, channels + c, moment)


@jit(parallel=True)
def _grad_apply(backward, block, workers):
    """Cost: reads g and x, writes dx."""
    for worker in prange(workers):
        _grad_apply_blocks(backward, block, np.int64(worker), workers)


@inner
def _grad_apply_blocks(backward, block, worker, workers):
    g, x, constants, dx, recompute, training, far = backward
    rows, channels = x.shape
    whole = _whole(broad(x), channels)
    memory = _Backward(address(g, 0), address(x, 0), address(constants, 0), address(dx, 0), recompute, training, far)
    first, last = worker * rows // workers, (worker + 1) * rows // workers
    stretch = STRETCH * block
    for k in range((last - first) // stretch, -1, -1):  # backwards: the last rows of the first pass are in cache
        end = min(last, first + (k + 1) * stretch)
        for start in range(first + k * stretch, end, block):
            ends = start, min(end, start + block)
            _grad_apply_block(broad(x), memory, channels, ends, 0, whole)
            _grad_apply_block(single(x), memory, channels, ends, whole, channels)
    if far:
        fence()


@inner
def _grad_apply_block(zero, memory, channels, ends, first, last):
    g, x, constants, dx, recompute, training, far = memory
    for c in range(first, last, lanes(zero)):
        mean, scale, bias = _three(zero, constants, channels, c)
        mean_g, slope = load(zero, constants, 3 * channels + c), load(zero, constants, 4 * channels + c)
        for p in range(ends[0], ends[1]):
            at = p * channels + c
            value, distance = _read(zero, g, at), _read(zero, x, at) - mean
            if recompute:
                value = where_positive(fma(distance, scale, bias), value, zero)
            if training:  # else the slope is 0, and a NaN in x times 0 would give a NaN in dx
                value = (value - mean_g) - distance * slope
            if far:
                stream(dx, at, scale * value)
            else:
                store(dx, at, scale * value)
