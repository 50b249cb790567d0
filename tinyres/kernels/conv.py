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

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.compile import contiguous, inner, jit
from tinyres.kernels.memory import empty, zeros
from tinyres.kernels.simd import TILE_ROWS, clear, copy, lanes, tile_columns, tile_of_one, tile_of_two, wide

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
    """Gradient of `conv2d` with respect to weight, of shape `weight_shape`.

    Images are dealt to slots, by shapes alone, and slots are added in index order: the result does not depend on the
    number of threads.
    """
    x, dy = channels_last(x), channels_last(dy)
    n, (o, c, kh, kw) = len(x), weight_shape
    columns = tile_columns(dy.dtype, o)
    size = kh * kw * c * -(-o // columns) * columns
    slots = max(1, min(n, max(4, min(16, SLOT_BYTES // (size * dy.itemsize)))))
    plan = _plan_weight_grad(x.shape, dy.shape, (kh, kw, *stride, -padding[0], -padding[1]), columns)
    dw = empty(weight_shape, dy.dtype)
    _weight_grad(x, dy, dw, empty((slots, size), dy.dtype), columns, plan, get_num_threads())
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
    plan = _plan_correlation(x.shape, y.shape, x.itemsize, window, place, columns)
    _correlate(x, *taps, packed, columns, y, plan, accumulate, get_num_threads())


# ---------------------------------------------------------------- how the work is cut
class _Plan(NamedTuple):
    """Strips of a convolution, and where everything lies in them. All offsets and steps count elements.

    A strip is some rows of an image, or some whole images. What it reads is copied, with its padding, to a scratch
    array of the thread's own, unless no window leaves the image (`inside`).
    """

    inside: bool
    group: int  # images of a strip
    rows: int  # output rows of a strip
    all_rows: int  # output rows of an image
    columns: int  # output columns
    stride: int  # input rows from one output row to the next
    column_stride: int
    kernel: int  # input rows of a window
    top: int  # first input row and column of the first window
    left: int
    in_rows: int  # rows of each image in the strip's input
    in_columns: int
    y_start: int  # first output element of an image
    y_row_step: int  # from one output row to the next
    a_rows: np.ndarray  # of each row of the tile: where it starts in the strip's input,
    y_rows: np.ndarray  # where its result goes,
    partial_rows: np.ndarray  # and where in a buffer of one block of columns
    a_runs: np.ndarray  # of each run of the sum: where it starts in the strip's input,
    b_runs: np.ndarray  # and in the other factor
    length: int  # of a run


@lru_cache(maxsize=1024)
def _plan_correlation(x_shape, y_shape, itemsize, window, place, columns):
    """Windows (kh, kw, sh, sw, top, left) of x (N, H, W, C), to place (top, left, row step, column step, rows, columns)
    of y (N, OH, OW, O)."""
    kh, kw, sh, sw, top, left = window
    y_top, y_left, y_sh, y_sw, rows, cols = place
    n, height, width, c = x_shape
    _, oh, ow, o = y_shape
    inside, in_rows, in_cols = _input_of(window, (rows, cols), (height, width))
    row_bytes = in_cols * c * itemsize
    strip = max(1, min(rows, STRIP_BYTES // (row_bytes * sh), -(-rows * n // ITEMS)))
    group = max(1, min(STRIP_BYTES // (row_bytes * in_rows), n // ITEMS)) if strip == rows else 1
    if not inside:
        in_rows = (strip - 1) * sh + kh
    pitch = in_cols * c
    g, i, j = np.indices((group, strip, cols)).reshape(3, -1)
    return _Plan(
        inside, group, strip, rows, cols, sh, sw, kh, top, left, in_rows, in_cols,
        y_start=(y_top * ow + y_left) * o,
        y_row_step=y_sh * ow * o,
        a_rows=(g * in_rows + i * sh) * pitch + j * sw * c,
        y_rows=((g * oh + i * y_sh) * ow + j * y_sw) * o,
        partial_rows=np.arange(len(g)) * columns,
        a_runs=np.arange(kh) * pitch,
        b_runs=np.arange(kh) * kw * c * columns,
        length=kw * c,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _plan_weight_grad(x_shape, dy_shape, window, columns):
    """The same for dw: rows of the tile are taps x channels, and the sum runs over the strip's output pixels."""
    kh, kw, sh, sw, top, left = window
    _, height, width, c = x_shape
    _, oh, ow, o = dy_shape
    inside, in_rows, in_cols = _input_of(window, (oh, ow), (height, width))
    strip = max(1, min(oh, STRIP_PIXELS // ow))
    group = max(1, STRIP_PIXELS // (oh * ow)) if strip == oh else 1
    if not inside:
        in_rows = (strip - 1) * sh + kh
    pitch, o_size = in_cols * c, -(-o // columns) * columns
    k, j = np.indices((kh, kw * c)).reshape(2, -1)
    g, i = np.indices((group, strip)).reshape(2, -1)
    return _Plan(
        inside, group, strip, oh, ow, sh, sw, kh, top, left, in_rows, in_cols, 0, 0,
        a_rows=k * pitch + j,
        y_rows=np.arange(len(k)) * o_size,
        partial_rows=np.arange(0),
        a_runs=(g * in_rows + i * sh) * pitch,
        b_runs=np.arange(len(g)) * ow * o_size,
        length=ow,
    )  # fmt: skip


def _input_of(window, out_size, in_size):
    """Whether all windows stay inside the image; rows and columns of input that they span (the image's own if so)."""
    kernel, stride, first = window[:2], window[2:4], window[4:]
    spans = [(n - 1) * s + k for n, s, k in zip(out_size, stride, kernel, strict=True)]
    inside = all(f >= 0 and f + span <= size for f, span, size in zip(first, spans, in_size, strict=True))
    return (True, *in_size) if inside else (False, *spans)


# ---------------------------------------------------------------- forward and input gradient
@jit(parallel=True)
def _correlate(x, weight, shape, start, strides, packed, columns, y, plan, accumulate, workers):
    """Each window of x that the plan names, times the weights, to its place in y (added to y with `accumulate`). ::

        pack the weights into blocks of the tile's columns, in the order in which the tile reads them
        parallel for each strip
            copy its input, padded, to this thread's scratch
            for each block of output channels: for each tile of 8 pixels

    Cost: 2 * (pixels of y) * O * KH * KW * C floating-point operations.
    """
    for block in prange(packed.shape[0]):
        _pack(weight, shape, start, strides, np.int64(block), columns, packed)
    for worker in prange(workers):
        _correlate_strips(x, packed, columns, y, plan, accumulate, np.int64(worker), workers)


@inner
def _pack(weight, shape, start, strides, block, columns, packed):
    """packed[block, k, l, c, :] = the weights of the block's output channels (zero past the last one)."""
    o, c, kh, kw = shape
    first = block * columns
    for channel in range(c):
        for k in range(kh):
            for l in range(kw):
                at = start + first * strides[0] + channel * strides[1] + k * strides[2] + l * strides[3]
                row = ((k * kw + l) * c + channel) * columns
                for column in range(columns):
                    packed[block, row + column] = weight[at + column * strides[0]] if first + column < o else 0


@inner
def _correlate_strips(x, packed, columns, y, plan, accumulate, worker, workers):
    n, height, width, c = x.shape
    image_size, o = y.shape[1] * y.shape[2] * y.shape[3], y.shape[3]
    strips = -(-plan.all_rows // plan.rows)
    items = -(-n // plan.group) * strips
    x_flat, y_flat, w_flat = x.reshape(x.size), y.reshape(y.size), packed.reshape(packed.size)
    scratch = np.empty(0 if plan.inside else plan.group * plan.in_rows * plan.in_columns * c, x.dtype)
    partial = np.empty(0 if o % columns == 0 else plan.partial_rows.size * columns, x.dtype)
    for item in range(worker * items // workers, (worker + 1) * items // workers):
        image, first = item // strips * plan.group, item % strips * plan.rows
        images, rows = min(plan.group, n - image), min(plan.rows, plan.all_rows - first)
        pixels = images * rows * plan.columns
        a, a_start = _strip_input(x_flat, height, width, c, plan, image, images, first, rows, scratch)
        y_start = image * image_size + plan.y_start + first * plan.y_row_step
        for block in range(packed.shape[0]):
            w_start, left_over = block * packed.shape[1], o - block * columns
            if left_over >= columns:
                out, out_rows, out_start = y_flat, plan.y_rows, y_start + block * columns
            else:  # a tile wider than the channels that are left, by way of a buffer
                out, out_rows, out_start = partial, plan.partial_rows, 0
            add = accumulate and left_over >= columns
            _pixel_tiles(columns, a, a_start, plan, pixels, w_flat, w_start, out, out_start, out_rows, add)
            if left_over < columns:
                for p in range(pixels):
                    for channel in range(left_over):
                        at = y_start + plan.y_rows[p] + block * columns + channel
                        y_flat[at] = partial[p * columns + channel] + (y_flat[at] if accumulate else 0)


@inner
def _pixel_tiles(columns, a, a_start, plan, pixels, w, w_start, out, out_start, out_rows, add):
    """All tiles of some pixels and one block of output channels. Steps that are constants make the loop tight."""
    zero, last = wide(a), pixels - 1
    one, two = lanes(zero), 2 * lanes(zero)
    a_rows, a_runs, w_runs, n = plan.a_rows, plan.a_runs, plan.b_runs, plan.a_runs.size
    for r in range(0, pixels, TILE_ROWS):
        if columns == two:
            tile_of_two(
                zero, a, a_start, a_rows, r, last, a_runs, 1,
                w, w_start, w_runs, two, n, plan.length, out, out_start, out_rows, add,
            )  # fmt: skip
        else:
            tile_of_one(
                zero, a, a_start, a_rows, r, last, a_runs, 1,
                w, w_start, w_runs, one, n, plan.length, out, out_start, out_rows, add,
            )  # fmt: skip


@inner
def _strip_input(x, height, width, c, plan, image, images, first, rows, scratch):
    """The array that the plan's offsets refer to, and where the strip starts in it: x, or a padded copy of its rows."""
    top = plan.top + first * plan.stride
    if plan.inside:
        return x, ((image * height + top) * width + plan.left) * c
    before = min(max(0, -plan.left), plan.in_columns) * c  # padding, then image, then padding
    stop = max(before, min(plan.in_columns, width - plan.left) * c)
    pitch = plan.in_columns * c
    for g in range(images):
        for r in range((rows - 1) * plan.stride + plan.kernel):
            row = (g * plan.in_rows + r) * pitch
            if 0 <= top + r < height:
                source = (((image + g) * height + top + r) * width + plan.left) * c
                clear(scratch, row, before)
                copy(scratch, row + before, x, source + before, stop - before)
                clear(scratch, row + stop, pitch - stop)
            else:
                clear(scratch, row, pitch)
    return scratch, 0


# ---------------------------------------------------------------- weight gradient
@jit(parallel=True)
def _weight_grad(x, dy, dw, total, columns, plan, workers):
    """dw (O, C, KH, KW) from x (N, H, W, C) and dy (N, OH, OW, O), by way of total (slots, KH * KW * C * columns). ::

        parallel for each slot, which holds some images: for each strip
            copy its input, padded, to this thread's scratch
            for each block of output channels: for each tile of 8 of the KH * KW * C rows
        parallel for some of the rows: add up the slots

    Cost: 2 * N * OH * OW * O * KH * KW * C floating-point operations.
    """
    for worker in prange(workers):
        _weight_grad_slots(x, dy, total, columns, plan, np.int64(worker), workers)
    for part in prange(-(-plan.a_rows.size // REDUCE_ROWS)):
        _add_slots(total, plan.a_rows.size, np.int64(part), dw)


@inner
def _weight_grad_slots(x, dy, total, columns, plan, worker, workers):
    n, height, width, c = x.shape
    oh, ow, o = dy.shape[1:]
    slots, size = total.shape
    o_size = size // plan.a_rows.size
    step = plan.column_stride * c
    x_flat, dy_flat, total_flat = x.reshape(x.size), dy.reshape(dy.size), total.reshape(total.size)
    scratch = np.empty(0 if plan.inside else plan.group * plan.in_rows * plan.in_columns * c, x.dtype)
    wider = np.zeros(0 if o == o_size else plan.group * plan.rows * ow * o_size, x.dtype)
    for slot in range(worker * slots // workers, (worker + 1) * slots // workers):
        clear(total_flat, slot * size, size)
        stop = (slot + 1) * n // slots
        for image in range(slot * n // slots, stop, plan.group):
            images = min(plan.group, stop - image)
            for first in range(0, oh, plan.rows):
                rows = min(plan.rows, oh - first)
                a, a_start = _strip_input(x_flat, height, width, c, plan, image, images, first, rows, scratch)
                b, b_start = dy_flat, (image * oh + first) * ow * o
                if o != o_size:  # the tile reads whole vectors of channels
                    for p in range(images * rows * ow):
                        copy(wider, p * o_size, dy_flat, b_start + p * o, o)
                    b, b_start = wider, 0
                for column in range(0, o_size, columns):
                    out_start = slot * size + column
                    _weight_tiles(
                        columns,
                        a,
                        a_start,
                        plan,
                        step,
                        images * rows,
                        b,
                        b_start + column,
                        o_size,
                        total_flat,
                        out_start,
                    )


@inner
def _weight_tiles(columns, a, a_start, plan, step, n, b, b_start, b_step, out, out_start):
    """All tiles of one block of output channels and `n` rows of pixels, added to `out`."""
    zero, last = wide(a), plan.a_rows.size - 1
    a_rows, a_runs, b_runs, out_rows = plan.a_rows, plan.a_runs, plan.b_runs, plan.y_rows
    for r in range(0, last + 1, TILE_ROWS):
        if columns == lanes(zero):
            tile_of_one(
                zero, a, a_start, a_rows, r, last, a_runs, step,
                b, b_start, b_runs, b_step, n, plan.length, out, out_start, out_rows, True,
            )  # fmt: skip
        else:
            tile_of_two(
                zero, a, a_start, a_rows, r, last, a_runs, step,
                b, b_start, b_runs, b_step, n, plan.length, out, out_start, out_rows, True,
            )  # fmt: skip


@inner
def _add_slots(total, k_size, part, dw):
    """Sum of all slots, in index order, to its place in dw, for some of the KH * KW * C rows."""
    o, c, _, kw = dw.shape
    slots, size = total.shape
    o_size = size // k_size
    first, stop = part * REDUCE_ROWS, min((part + 1) * REDUCE_ROWS, k_size)
    for slot in range(1, slots):
        for i in range(first * o_size, stop * o_size):
            total[0, i] += total[slot, i]
    for row in range(first, stop):
        tap, channel = row // c, row % c
        for out in range(o):
            dw[out, channel, tap // kw, tap % kw] = total[0, row * o_size + out]
