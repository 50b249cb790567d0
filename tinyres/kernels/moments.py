"""Mean and variance of each channel, merged from parts that were measured while they were in cache.

A part is some pixels. For each channel of a part, three numbers are stored: an origin, which is one of its values or
close to them, the sum of all distances d from the origin, and the sum of their squares. E[x^2] - E[x]^2 would lose all
digits if the mean is large compared with the spread. The method uses d in place of x. If the origin is one of n values,
the sum of d^2 is at most n + 1 times that of the squared deviations from the mean, and the loss of digits is no larger
than in a sum of n numbers.
"""

import numpy as np

from tinyres.kernels.compile import inner, jit
from tinyres.kernels.launch import launch
from tinyres.kernels.simd import fma, lanes, load, load_as, loads, maximum, single, splat, store, wide

ORIGIN, SUM, SQUARES = 0, 1, 2


def merge(parts, counts, channels):
    """Mean and (biased) variance, (C,) float64, of parts (K, 3, G C); `counts` has the pixels of each of the K parts.

    In `parts`, G neighbouring pixels are stored as one pixel with G C channels. The order of the sums depends on the
    shape only.
    """
    mean, var = np.zeros((2, channels))
    if parts.size:
        launch(_merge, parts, counts, mean, var)
    return mean, var


@jit
def _merge(parts, counts, mean, var):
    """Chan, Golub and LeVeque 1979: mean = sum n m / P, var = sum (M2 + n (m - mean)^2) / P. In float64. ::

    for each vector of channels: for each part: for each of the G pixels; once for mean, once for var
    """
    whole = mean.size // lanes(wide(mean)) * lanes(wide(mean))
    _merge_channels(wide(mean), parts, counts, mean, var, 0, whole)
    _merge_channels(single(mean), parts, counts, mean, var, whole, mean.size)


@inner
def _merge_channels(zero, parts, counts, mean, var, first, last):
    (many, _, width), channels, flat = parts.shape, mean.size, parts.reshape(parts.size)
    pixels = splat(zero, np.float64(counts.sum() * (width // channels)))
    for c in range(first, last, lanes(zero)):
        total, squares = zero, zero
        for k in range(many):
            n = splat(zero, np.float64(counts[k]))
            for at in range(3 * k * width + c, (3 * k + 1) * width, channels):
                total = total + fma(n, load_as(zero, flat, at), load_as(zero, flat, at + width))
        centre = total / pixels
        for k in range(many):
            n, share = splat(zero, np.float64(counts[k])), splat(zero, 1 / np.float64(counts[k]))
            for at in range(3 * k * width + c, (3 * k + 1) * width, channels):
                distances = load_as(zero, flat, at + width)  # distances of the part from its origin
                distance = distances * share
                m2 = load_as(zero, flat, at + 2 * width) - distances * distance
                delta = (load_as(zero, flat, at) + distance) - centre
                squares = squares + fma(n * delta, delta, maximum(m2, zero))  # m2 < 0: a square underflowed
        store(mean, c, centre)
        store(var, c, squares / pixels)


@inner
def measure(zero, y, at, size, steps, parts, to, fresh):
    """Add the pixels of a rectangle to the three numbers of a part, for as many channels as `zero` has lanes.

    The rectangle has `size` (rows, columns), `steps` are the distances between them in flat y, and its first number is
    at `at`. The three numbers are in flat `parts`, starting at `to`; their distance is that of neighbouring columns in
    y. If the part is `fresh`, it has no values yet.
    """
    (rows, columns), (down, right) = size, steps
    origin, whole = load(zero, y, at) if fresh else load(zero, parts, to), rows // 4 * 4
    t0, t1, t2, t3, s0, s1, s2, s3 = zero, zero, zero, zero, zero, zero, zero, zero  # independent sums, for speed
    for i in range(0, whole, 4):
        for j in range(columns):
            y0, y1, y2, y3 = loads(zero, y, at + i * down + j * right, down, 4)
            d0, d1, d2, d3 = y0 - origin, y1 - origin, y2 - origin, y3 - origin
            t0, t1, t2, t3 = t0 + d0, t1 + d1, t2 + d2, t3 + d3
            s0, s1, s2, s3 = fma(d0, d0, s0), fma(d1, d1, s1), fma(d2, d2, s2), fma(d3, d3, s3)
    for i in range(whole, rows):
        for j in range(columns):
            distance = load(zero, y, at + i * down + j * right) - origin
            t0, s0 = t0 + distance, fma(distance, distance, s0)
    total, squares = (t0 + t1) + (t2 + t3), (s0 + s1) + (s2 + s3)
    if not fresh:
        total, squares = load(zero, parts, to + right) + total, load(zero, parts, to + 2 * right) + squares
    store(parts, to, origin)
    store(parts, to + right, total)
    store(parts, to + 2 * right, squares)
