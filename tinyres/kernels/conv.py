"""Convolution by implicit im2col on the register tile: forward, input gradient, weight gradient.

In channels-last memory the KW * C numbers under one row of a window are neighbours. A window is
therefore KH runs of KW * C numbers, and a convolution is a matrix product whose rows are read where they
lie: no im2col matrix is ever built. All three convolutions are one tile, the register tile of `simd.py`, under
two loop nests, `_correlate` and `_weight_grad`:

=================  =======================  =========================  =======================
                   rows of the tile         columns                    summed over
=================  =======================  =========================  =======================
forward            8 output pixels          output channels            KH runs of KW * C
input gradient     8 input pixels           input channels             the same, for dy
weight gradient    8 of the KH * KW * C     output channels            rows of output pixels
=================  =======================  =========================  =======================

The input gradient of stride 1 is the forward kernel on flipped, transposed weights. With a larger stride
the input pixels of one residue see the same subset of the taps, so it is one small correlation for each
residue, written to every stride-th pixel: nothing is multiplied by zeros put between pixels.
"""

from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.compile import contiguous, jit
from tinyres.kernels.memory import empty, zeros
from tinyres.kernels.simd import TILE_ROWS, lanes, tile_columns, tile_of_one, tile_of_two, wide

STRIP_BYTES = 128 * 1024  # padded input of one strip: stays in L2 beside a block of weights
STRIP_PIXELS = 256  # output pixels of one strip of the weight gradient: one block of channels stays in L1
SLOT_BYTES = 32 * 1024 * 1024  # all partial weight gradients together
REDUCE_ROWS = 16  # rows of the weight gradient whose slots are added up at a time
ITEMS = 16  # work items there should be at least, for machines with more cores than images


def conv2d(x, weight, bias=None, *, stride, padding):
    """y[n, o, i, j] = bias[o] + sum over c, k, l of x[n, c, i * sh + k - ph, j * sw + l - pw] * weight[o, c, k, l].

    x (N, C, H, W), weight (O, C, KH, KW), bias (O,); y (N, O, OH, OW).
    """
    (sh, sw), (ph, pw) = stride, padding
    n, _, height, width = x.shape
    o, c, kh, kw = weight.shape
    oh, ow = (height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1
    y = empty((n, oh, ow, o), x.dtype)
    if bias is not None:
        y[...] = bias
    taps = _Taps(contiguous(weight).reshape(-1), (o, c, kh, kw), 0, (c * kh * kw, kh * kw, kw, 1))
    _launch(channels_last(x), taps, y, (kh, kw, sh, sw, -ph, -pw), (0, 0, 1, 1, oh, ow), accumulate=bias is not None)
    return y.transpose(0, 3, 1, 2)


def conv2d_input_grad(dy, weight, x_shape, *, stride, padding):
    """Gradient of `conv2d` with respect to x, of shape `x_shape`.

    Input row i * sh + a meets tap k in output row (i * sh + a + ph - k) / sh, where that is whole: for the
    taps k0, k0 + sh, ... in output rows i + q, i + q - 1, ..., with q, k0 = divmod(a + ph, sh).
    """
    (sh, sw), (ph, pw) = stride, padding
    n, c, height, width = x_shape
    o, _, kh, kw = weight.shape
    dy, flat = channels_last(dy), contiguous(weight).reshape(-1)
    some_meet_no_tap = sh > kh or sw > kw
    dx = (zeros if some_meet_no_tap else empty)((n, height, width, c), dy.dtype)
    for a, b in np.ndindex(min(sh, height), min(sw, width)):
        (qh, kh0), (qw, kw0) = divmod(a + ph, sh), divmod(b + pw, sw)
        taps_h, taps_w = len(range(kh0, kh, sh)), len(range(kw0, kw, sw))
        if taps_h and taps_w:  # in descending order, since the window goes up as the tap goes down
            last = (kh0 + (taps_h - 1) * sh) * kw + kw0 + (taps_w - 1) * sw
            taps = _Taps(flat, (c, o, taps_h, taps_w), last, (kh * kw, c * kh * kw, -sh * kw, -sw))
            window = (taps_h, taps_w, 1, 1, qh - taps_h + 1, qw - taps_w + 1)
            place = (a, b, sh, sw, -(-(height - a) // sh), -(-(width - b) // sw))
            _launch(dy, taps, dx, window, place)
    return dx.transpose(0, 3, 1, 2)


def conv2d_weight_grad(dy, x, weight_shape, *, stride, padding):
    """Gradient of `conv2d` with respect to weight, of shape `weight_shape`."""
    n, (o, c, kh, kw) = x.shape[0], weight_shape
    columns = tile_columns(dy.dtype, o)
    size = kh * kw * c * -(-o // columns) * columns
    slots = max(1, min(n, max(4, min(16, SLOT_BYTES // (size * dy.itemsize)))))
    dw = empty(weight_shape, dy.dtype)
    window = (*stride, -padding[0], -padding[1])
    _weight_grad(
        channels_last(x), channels_last(dy), dw, empty((slots, size), dy.dtype), columns, window, get_num_threads()
    )
    return dw


def channels_last(x):
    """(N, C, H, W) with any strides -> C-contiguous (N, H, W, C), copied only if it is not that already."""
    return contiguous(x.transpose(0, 2, 3, 1))


class _Taps(NamedTuple):
    """A view of a weight array, written out, so that one compiled kernel serves all of its transpositions."""

    flat: np.ndarray
    shape: tuple[int, int, int, int]  # (output channels, input channels, KH, KW)
    start: int
    strides: tuple[int, int, int, int]  # in elements, for the same axes


def _launch(x, taps, y, window, place, *, accumulate=False):
    o, c, kh, kw = taps.shape
    columns = tile_columns(x.dtype, o)
    packed = empty((-(-o // columns), kh * kw * c * columns), x.dtype)
    _correlate(x, *taps, packed, columns, y, window, place, accumulate, get_num_threads())


# ---------------------------------------------------------------- forward and input gradient
@jit(parallel=True)
def _correlate(
    x, weight, weight_shape, weight_start, weight_strides, packed, columns, y, window, place, accumulate, workers
):
    """y[n, top + i * step, left + j * step] = x, in the window from (i * sh + dh, j * sw + dw), times the weights.

    x (N, H, W, C) and y (N, OH, OW, O), contiguous; window = (kh, kw, sh, sw, dh, dw), place = (top, left,
    row step, column step, rows, columns) in y; `accumulate` adds to what y holds. ::

        pack the weights into blocks of the tile's columns, in the order in which the tile reads them
        parallel for each strip: some rows of an image, or a few small images
            copy it, padded, to this thread's scratch (unless no window leaves the image)
            for each block of output channels
                for each tile of 8 pixels

    Cost: 2 * N * rows * columns * O * kh * kw * C floating-point operations.
    """
    kh, kw, sh, sw, dh, dw = window
    top, left, y_sh, y_sw, rows, cols = place
    n, height, width, c = x.shape
    oh, ow, o = y.shape[1:]
    blocks = packed.shape[0]
    w = packed.reshape(packed.size)
    for block in prange(blocks):
        _pack(weight, weight_shape, weight_start, weight_strides, block * columns, columns, packed[block])

    inside = dh >= 0 and dw >= 0 and dh + (rows - 1) * sh + kh <= height and dw + (cols - 1) * sw + kw <= width
    in_cols = width if inside else (cols - 1) * sw + kw
    in_rows = height if inside else (rows - 1) * sh + kh
    row_bytes = in_cols * c * x.itemsize
    strip = max(1, min(rows, STRIP_BYTES // (row_bytes * sh), -(-rows * n // ITEMS)))
    group = max(1, min(STRIP_BYTES // (row_bytes * in_rows), n // ITEMS)) if strip == rows else 1
    strips, groups = -(-rows // strip), -(-n // group)

    strip_rows = in_rows if inside or strip == rows else (strip - 1) * sh + kh
    pitch = in_cols * c
    a_rows = np.empty(group * strip * cols, np.intp)
    y_rows = np.empty_like(a_rows)
    partial_rows = np.empty_like(a_rows)
    p = 0
    for g in range(group):
        for i in range(strip):
            for j in range(cols):
                a_rows[p] = g * strip_rows * pitch + i * sh * pitch + j * sw * c
                y_rows[p] = (g * oh + i * y_sh) * ow * o + j * y_sw * o
                partial_rows[p] = p * columns
                p += 1
    a_runs = np.empty(kh, np.intp)
    w_runs = np.empty(kh, np.intp)
    for k in range(kh):
        a_runs[k] = k * pitch
        w_runs[k] = k * kw * c * columns

    items = groups * strips
    scratch = np.empty((workers, 0 if inside else group * strip_rows * pitch), x.dtype)
    partial = np.empty((workers, 0 if o % columns == 0 else p * columns), x.dtype)
    x_flat, y_flat = x.reshape(x.size), y.reshape(y.size)
    for worker in prange(workers):
        for item in range(worker * items // workers, (worker + 1) * items // workers):
            image, first = item // strips * group, item % strips * strip
            images, count = min(group, n - image), min(strip, rows - first)
            pixels = images * count * cols
            if inside:
                a = x_flat[((image * height + dh + first * sh) * width + dw) * c :]
            else:
                a = scratch[worker]
                for g in range(images):
                    _copy_window(
                        x[image + g], dh + first * sh, dw, (count - 1) * sh + kh, in_cols, a[g * strip_rows * pitch :]
                    )
            out = y_flat[((image * oh + top + first * y_sh) * ow + left) * o :]
            for block in range(blocks):
                start, left_over = block * packed.shape[1], o - block * columns
                if left_over >= columns:
                    _pixel_tiles(
                        columns,
                        a,
                        a_rows,
                        pixels,
                        a_runs,
                        kw * c,
                        w,
                        start,
                        w_runs,
                        out[block * columns :],
                        y_rows,
                        accumulate,
                    )
                else:  # a tile wider than the channels that are left: by way of a buffer
                    buffer = partial[worker]
                    _pixel_tiles(
                        columns, a, a_rows, pixels, a_runs, kw * c, w, start, w_runs, buffer, partial_rows, False
                    )
                    for p in range(pixels):
                        for channel in range(left_over):
                            at = y_rows[p] + block * columns + channel
                            out[at] = buffer[p * columns + channel] + (out[at] if accumulate else 0)


@jit
def _pack(weight, shape, start, strides, first, columns, out):
    """out[k, l, c, :] = the weights of output channels first, first + 1, ... (zero past the last one)."""
    o, c, kh, kw = shape
    for channel in range(c):
        for k in range(kh):
            for l in range(kw):
                at = start + first * strides[0] + channel * strides[1] + k * strides[2] + l * strides[3]
                row = ((k * kw + l) * c + channel) * columns
                for column in range(columns):
                    out[row + column] = weight[at + column * strides[0]] if first + column < o else 0


@jit
def _pixel_tiles(columns, a, a_rows, pixels, a_runs, length, w, start, w_runs, y, y_rows, accumulate):
    """All tiles of some pixels and one block of output channels. Steps that are constants make the loop tight."""
    zero = wide(a)
    one, two = lanes(zero), 2 * lanes(zero)
    for first in range(0, pixels, TILE_ROWS):
        if columns == two:
            tile_of_two(
                zero,
                a,
                a_rows,
                first,
                pixels - 1,
                a_runs,
                1,
                w,
                start,
                w_runs,
                two,
                w_runs.size,
                length,
                y,
                y_rows,
                accumulate,
            )
        else:
            tile_of_one(
                zero,
                a,
                a_rows,
                first,
                pixels - 1,
                a_runs,
                1,
                w,
                start,
                w_runs,
                one,
                w_runs.size,
                length,
                y,
                y_rows,
                accumulate,
            )


@jit
def _copy_window(x, top, left, rows, columns, out):
    """out[r, c] = x[top + r, left + c], and zero outside the image. x (H, W, C), out flat."""
    height, width, channels = x.shape
    first = max(0, -left) * channels
    stop = max(0, min(columns, width - left)) * channels
    for r in range(rows):
        row = out[r * columns * channels : (r + 1) * columns * channels]
        if 0 <= top + r < height and first < stop:
            source = x[top + r].reshape(width * channels)
            row[:first] = 0
            row[first:stop] = source[left * channels + first : left * channels + stop]
            row[stop:] = 0
        else:
            row[:] = 0


# ---------------------------------------------------------------- weight gradient
@jit
def _weight_tiles(columns, a, a_rows, rows, a_runs, a_step, length, dy, start, dy_runs, dy_step, out, out_rows):
    """All tiles of one block of output channels, added to `out`."""
    zero = wide(a)
    for first in range(0, rows, TILE_ROWS):
        if columns == lanes(zero):
            tile_of_one(
                zero,
                a,
                a_rows,
                first,
                rows - 1,
                a_runs,
                a_step,
                dy,
                start,
                dy_runs,
                dy_step,
                dy_runs.size,
                length,
                out,
                out_rows,
                True,
            )
        else:
            tile_of_two(
                zero,
                a,
                a_rows,
                first,
                rows - 1,
                a_runs,
                a_step,
                dy,
                start,
                dy_runs,
                dy_step,
                dy_runs.size,
                length,
                out,
                out_rows,
                True,
            )


@jit(parallel=True)
def _weight_grad(x, dy, dw, total, columns, window, workers):
    """dw[o, c, k, l] = sum over n, i, j of dy[n, i, j, o] * x[n, i * sh + k + dh, j * sw + l + dw, c].

    x (N, H, W, C), dy (N, OH, OW, O), dw (O, C, KH, KW), contiguous. Images are dealt to slots, by shapes
    alone, and slots are added in index order: the result does not depend on the number of threads. ::

        parallel for each slot: some images
            for each strip: some rows of an image, or a few small images
                copy it, padded, to this thread's scratch (unless no window leaves the image)
                for each block of output channels
                    for each tile of 8 of the KH * KW * C rows
        parallel for some of the KH * KW * C rows: add up the slots

    Cost: 2 * N * OH * OW * O * KH * KW * C floating-point operations.
    """
    sh, sw, dh, dw_ = window
    n, height, width, c = x.shape
    oh, ow, o = dy.shape[1:]
    kh, kw = dw.shape[2:]
    k_size = kh * kw * c
    slots, o_size = total.shape[0], total.shape[1] // k_size

    inside = dh >= 0 and dw_ >= 0 and dh + (oh - 1) * sh + kh <= height and dw_ + (ow - 1) * sw + kw <= width
    in_cols = width if inside else (ow - 1) * sw + kw
    pitch = in_cols * c
    strip = max(1, min(oh, STRIP_PIXELS // ow))
    group = max(1, STRIP_PIXELS // (oh * ow)) if strip == oh else 1
    strip_rows = height if inside else (strip - 1) * sh + kh

    a_rows = np.empty(k_size, np.intp)
    total_rows = np.arange(k_size) * o_size
    for k in range(kh):
        for j in range(kw * c):
            a_rows[k * kw * c + j] = k * pitch + j
    a_runs = np.empty(group * strip, np.intp)
    dy_runs = np.arange(group * strip) * ow * o_size
    for g in range(group):
        for i in range(strip):
            a_runs[g * strip + i] = (g * strip_rows + i * sh) * pitch

    scratch = np.empty((workers, 0 if inside else group * strip_rows * pitch), x.dtype)
    wider = np.zeros((workers, 0 if o == o_size else group * strip * ow * o_size), x.dtype)
    x_flat, dy_flat = x.reshape(x.size), dy.reshape(dy.size)
    for worker in prange(workers):
        for slot in range(worker * slots // workers, (worker + 1) * slots // workers):
            stop = (slot + 1) * n // slots
            total[slot] = 0
            for image in range(slot * n // slots, stop, group):
                images = min(group, stop - image)
                for first in range(0, oh, strip):
                    count = min(strip, oh - first)
                    if inside:
                        a = x_flat[((image * height + dh + first * sh) * width + dw_) * c :]
                    else:
                        a = scratch[worker]
                        for g in range(images):
                            _copy_window(
                                x[image + g],
                                dh + first * sh,
                                dw_,
                                (count - 1) * sh + kh,
                                in_cols,
                                a[g * strip_rows * pitch :],
                            )
                    b = dy_flat[(image * oh + first) * ow * o :]
                    if o != o_size:  # the tile reads whole vectors of channels
                        for p in range(images * count * ow):
                            wider[worker, p * o_size : p * o_size + o] = b[p * o : (p + 1) * o]
                        b = wider[worker]
                    for start in range(0, o_size, columns):
                        _weight_tiles(
                            columns,
                            a,
                            a_rows,
                            k_size,
                            a_runs,
                            sw * c,
                            ow,
                            b,
                            start,
                            dy_runs[: images * count],
                            o_size,
                            total[slot][start:],
                            total_rows,
                        )

    for part in prange(-(-k_size // REDUCE_ROWS)):
        first, stop = part * REDUCE_ROWS, min((part + 1) * REDUCE_ROWS, k_size)
        for slot in range(1, slots):
            for i in range(first * o_size, stop * o_size):
                total[0, i] += total[slot, i]
        for row in range(first, stop):
            tap, channel = divmod(row, c)
            for out in range(o):
                dw[out, channel, tap // kw, tap % kw] = total[0, row * o_size + out]
