"""Weights of convolutions, rearranged in the order in which kernels read them: vectors of output channels."""

from typing import NamedTuple

import numpy as np

from tinyres.kernels.compile import inner
from tinyres.kernels.simd import copy, lanes, load, loads_turned, store, stores, wide


class Taps(NamedTuple):
    """A view of a weight array, described by numbers, so that one compiled kernel serves all its transpositions."""

    flat: np.ndarray
    start: int
    o: int  # output channels,
    c: int  # input channels,
    kh: int
    kw: int
    o_step: int  # elements from one to the next
    c_step: int
    kh_step: int
    kw_step: int


@inner
def filter_size(taps):
    """Numbers in a whole filter, of which a view may contain only some. Filters are stored one after the other."""
    return min(taps.o_step, taps.c_step)


@inner
def room_for_filters(taps, array):
    """Memory for `turn_filters` to read from and write to."""
    n = lanes(wide(array))
    size = filter_size(taps)
    return np.empty((size * n + 1) * n, array.dtype), np.empty((size + n) * n * n, array.dtype)


@inner
def turn_filters(taps, first, channel, room):
    """Vectors of the output channels from `first` on, for a vector's number of input channels from `channel` on.

    In memory the numbers of a filter are neighbours. The filters of one output channel are neighbours too (in a forward
    pass), or those of one input channel (for an input gradient). These runs of filters are first copied to `near`, and
    transposed there: their distances are often powers of two, so in their own places they would all use the same cache
    set. Vector `i * filter_size(taps) + j` of the result contains number j of the filters of input channel
    `channel + i`.
    """
    near, turned = room
    size, zero = filter_size(taps), wide(turned)
    n = lanes(zero)
    at = taps.start - taps.start % size + first * taps.o_step + channel * taps.c_step
    for i in range(n):
        copy(near, i * size * n, taps.flat, at + i * max(taps.o_step, taps.c_step), size * n)
    if taps.o_step >= taps.c_step:
        for j in range(0, size * n, n):
            stores(turned, j * n, n, loads_turned(zero, near, j, size * n))
    else:
        for i in range(n):
            for j in range(0, size, n):
                stores(turned, (i * size + j) * n, n, loads_turned(zero, near, i * size * n + j, size))
    return turned


@inner
def pack_filters(taps, columns, packed, blocks):
    """packed[block, k, l, c, :] = the weights of the block's output channels, zero after the last.

    It packs the blocks (begin, end).
    """
    start, o, c, kh, kw = taps.start % filter_size(taps), taps.o, taps.c, taps.kh, taps.kw
    out, zero, room = packed.reshape(packed.size), wide(packed), room_for_filters(taps, packed)
    n = lanes(zero)
    for block in range(blocks[0], blocks[1]):
        first, count = block * columns, min(columns, o - block * columns)
        if count < columns:
            packed[block] = 0
        vectors = c // n * n if count == columns else 0  # channels that are packed in whole vectors
        for channel in range(0, vectors, n):
            for column in range(0, columns, n):
                to = block * packed.shape[1] + channel * columns + column
                if filter_size(taps) > 1:
                    turned = turn_filters(taps, first + column, channel, room)
                    for i in range(n):
                        for k in range(kh):
                            for l in range(kw):
                                j = i * filter_size(taps) + start + k * taps.kh_step + l * taps.kw_step
                                at = to + ((k * kw + l) * c + i) * columns
                                store(out, at, load(zero, turned, j * n))
                    continue
                at = taps.start + (first + column) * taps.o_step + channel * taps.c_step
                if taps.c_step == 1:
                    stores(out, to, columns, loads_turned(zero, taps.flat, at, taps.o_step))
                else:
                    for i in range(n):
                        store(out, to + i * columns, load(zero, taps.flat, at + i * taps.c_step))
        for channel in range(vectors, c):
            for k in range(kh):
                for l in range(kw):
                    at = taps.start + first * taps.o_step + channel * taps.c_step + k * taps.kh_step + l * taps.kw_step
                    to = block * packed.shape[1] + ((k * kw + l) * c + channel) * columns
                    for column in range(count):
                        out[to + column] = taps.flat[at + column * taps.o_step]
