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

Grouped convolutions (Krizhevsky et al. 2012; Xie et al. 2017) connect each group of output channels to its own
group of input channels: each group is a convolution from one range of channels to another. How many there are follows
from the shapes: the C channels of x, over the C / groups of the weight.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.compile import contiguous, inner, jit
from tinyres.kernels.memory import empty, made_of, zeros
from tinyres.kernels.simd import (
    TILE_ROWS,
    clear,
    copy,
    lanes,
    load,
    loads_within,
    maximum,
    single,
    splat,
    store,
    tile_columns,
    tile_of_one,
    tile_of_two,
    wide,
)

STRIP_BYTES = 128 * 1024  # padded input of one strip: stays in L2 beside a block of weights
STRIP_PIXELS = 512  # output pixels of one strip of the weight gradient: beside its input, one block of channels fits L2
SLOTS, SLOT_BYTES = 16, 4 * 1024 * 1024  # of partial weight gradients: so many, or so large, at most
FEW = 8  # channels whose weights are put in another order at a time, in L1
ITEMS = 16  # work items there should be at least, for machines with more cores than images


def conv2d(x, weight, bias=None, residual=None, *, stride, padding, relu=False):
    """y[n, o, i, j] = bias[o] + sum over c, k, l of x[n, c, i * sh + k - ph, j * sw + l - pw] * weight[o, c, k, l].

    x (N, C, H, W), weight (O, C / groups, KH, KW), bias (O,); y (N, O, OH, OW). c runs over the channels of o's group.
    A residual (N, O, OH, OW) is added, and ReLU applied, while the sums are in cache.
    """
    (sh, sw), (ph, pw) = stride, padding
    n, _, height, width = x.shape
    o, _, kh, kw = weight.shape
    oh, ow = (height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1
    y = empty((n, oh, ow, o), x.dtype)
    finish = Finish.of(bias, None if residual is None else channels_last(residual), relu, y)
    x, flat = channels_last(x), contiguous(weight).reshape(-1)
    window, place = (kh, kw, sh, sw, -ph, -pw), (0, 0, 1, 1, oh, ow)
    for group in groups_of(x.shape[3], weight.shape):
        taps = Taps(flat, (group.o, group.c, kh, kw), group.tap, (group.c * kh * kw, kh * kw, kw, 1))
        _launch(x, weight, taps, y, window, place, (group.x_channel, group.y_channel), finish)
    return y.transpose(0, 3, 1, 2)


def conv2d_input_grad(dy, weight, x_shape, total=None, *, stride, padding):
    """Gradient of `conv2d` with respect to x, of shape `x_shape`; added to `total`, if that is given, and returned.

    Input row i * sh + a meets tap k in output row (i * sh + a + ph - k) / sh, where that is whole: for the
    taps k0, k0 + sh, ... in output rows i + q, i + q - 1, ..., with q, k0 = divmod(a + ph, sh).
    """
    (sh, sw), (ph, pw) = stride, padding
    n, channels, height, width = x_shape
    kh, kw = weight.shape[2:]
    dy, flat = channels_last(dy), contiguous(weight).reshape(-1)
    if total is None:
        some_meet_no_tap = sh > kh or sw > kw
        dx = (zeros if some_meet_no_tap else empty)((n, height, width, channels), dy.dtype)
    else:
        dx = in_channels_last(total)
    finish = Finish.of(None, None, False, dx)
    for a, b in np.ndindex(min(sh, height), min(sw, width)):
        (qh, kh0), (qw, kw0) = divmod(a + ph, sh), divmod(b + pw, sw)
        taps_h, taps_w = len(range(kh0, kh, sh)), len(range(kw0, kw, sw))
        if taps_h and taps_w:  # in descending order, since the window goes up as the tap goes down
            last = (kh0 + (taps_h - 1) * sh) * kw + kw0 + (taps_w - 1) * sw
            window = (taps_h, taps_w, 1, 1, qh - taps_h + 1, qw - taps_w + 1)
            place = (a, b, sh, sw, -(-(height - a) // sh), -(-(width - b) // sw))
            for group in groups_of(channels, weight.shape):
                strides = (kh * kw, group.c * kh * kw, -sh * kw, -sw)
                taps = Taps(flat, (group.c, group.o, taps_h, taps_w), group.tap + last, strides)
                channels_of = group.y_channel, group.x_channel
                _launch(dy, weight, taps, dx, window, place, channels_of, finish, accumulate=total is not None)
    return dx.transpose(0, 3, 1, 2) if total is None else total


def conv2d_weight_grad(dy, x, weight_shape, *, stride, padding):
    """Gradient of `conv2d` with respect to weight, of shape `weight_shape`.

    Images are dealt to slots, by shapes alone, and slots are added in index order: the result does not depend on the
    number of threads. Where there are more threads than slots, they share out the output channels of a slot.
    """
    x, dy = channels_last(x), channels_last(dy)
    n, (_, c, kh, kw) = len(x), weight_shape
    if n == 0:
        return zeros(weight_shape, dy.dtype)
    groups = groups_of(x.shape[3], weight_shape)
    columns = tile_columns(dy.dtype, groups[0].o)
    size = kh * kw * c * -(-groups[0].o // columns) * columns
    slots = max(1, min(n, SLOTS, SLOT_BYTES // (size * dy.itemsize)))
    total, dw = empty((slots, size), dy.dtype), empty(weight_shape, dy.dtype)
    window = (kh, kw, *stride, -padding[0], -padding[1])
    for group in groups:
        plan = _plan_weight_grad(x.shape, dy.shape, window, group, columns)
        part = dw[group.y_channel : group.y_channel + group.o]
        _weight_grad(x, dy, part, total, columns, plan, get_num_threads())
    return dw


def channels_last(x):
    """(N, C, H, W) with any strides -> C-contiguous (N, H, W, C), copied only if it is not that already."""
    return contiguous(x.transpose(0, 2, 3, 1))


def in_channels_last(total):
    """The memory of an array (N, C, H, W) that is channels-last, to be added to in place."""
    memory = total.transpose(0, 2, 3, 1)
    if not (memory.flags.c_contiguous and memory.flags.writeable):
        raise ValueError(f"total: got strides {total.strides} of shape {total.shape}, expected channels-last memory")
    return memory


class Finish(NamedTuple):
    """What is done to a sum before it is stored: + bias, + residual, ReLU."""

    bias: np.ndarray  # of each output channel
    residual: np.ndarray  # flat, of y's size
    residuals: int  # that are added: with 0 it is not read
    floor: float  # what is less becomes this: 0 for ReLU, else -infinity
    needed: bool  # any of it

    @classmethod
    def of(cls, bias, residual, relu, y):
        add, needed = residual is not None, relu or not (bias is None and residual is None)
        bias = np.zeros(y.shape[3], y.dtype) if bias is None else contiguous(bias)
        return cls(bias, (residual if add else y).reshape(-1), int(add), 0.0 if relu else -np.inf, needed)


class _Group(NamedTuple):
    """Part of a grouped convolution: from `c` channels of x to `o` channels of y; the whole of one without groups."""

    c: int
    o: int
    x_channel: int  # first of the c
    y_channel: int  # first of the o
    tap: int  # first element of its weights


@lru_cache(maxsize=1024)
def groups_of(channels, weight_shape):
    """The groups of a convolution of images with so many channels."""
    o, c, kh, kw = weight_shape
    groups = channels // c
    o //= groups
    return [_Group(c, o, g * c, g * o, g * o * c * kh * kw) for g in range(groups)]


class Taps(NamedTuple):
    """A view of a weight array, written out, so that one compiled kernel serves all of its transpositions."""

    flat: np.ndarray
    shape: tuple[int, int, int, int]  # (output channels, input channels, KH, KW)
    start: int
    strides: tuple[int, int, int, int]  # in elements, for the same axes


def _launch(x, weight, taps, y, window, place, first_channels, finish, *, accumulate=False):
    o, c, kh, kw = taps.shape
    columns = tile_columns(x.dtype, o)
    packed, ready = made_of(weight, ("packed", *taps[1:]), (-(-o // columns), kh * kw * c * columns))
    plan = _plan_correlation(x.shape, y.shape, x.itemsize, window, place, (c, *first_channels), columns)
    _correlate(x, *taps, packed, ready, columns, y, plan, finish, accumulate, get_num_threads())


# ---------------------------------------------------------------- how the work is cut
class _Plan(NamedTuple):
    """Strips of a convolution, and where everything lies in them. All offsets and steps count elements.

    A strip is some rows of an image, or some whole images. What it reads is copied, with its padding, to a scratch
    array of the thread's own, unless no window leaves the image (`inside`).
    """

    inside: bool
    channels: int  # of x that are read,
    x_channel: int  # from this one on
    group: int  # images of a strip
    rows: int  # output rows of a strip
    all_rows: int  # output rows of an image
    columns: int  # output columns
    stride: int  # input rows from one output row to the next
    column_step: int  # from one output column to the next, in the strip's input
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
def _plan_correlation(x_shape, y_shape, itemsize, window, place, channels, columns):
    """Windows (kh, kw, sh, sw, top, left) of x (N, H, W, C), to place (top, left, row step, column step, rows, columns)
    of y (N, OH, OW, O). Channels are (how many are read, the first of x, the first of y)."""
    kh, kw, sh, sw, top, left = window
    y_top, y_left, y_sh, y_sw, rows, cols = place
    c, x_channel, y_channel = channels
    n, (_, oh, ow, o) = x_shape[0], y_shape
    inside, in_rows, in_cols, pixel = _input_of(window, (rows, cols), x_shape, c)
    row_bytes = in_cols * c * itemsize
    strip = max(1, min(rows, STRIP_BYTES // (row_bytes * sh), -(-rows * n // ITEMS)))
    group = max(1, min(STRIP_BYTES // (row_bytes * in_rows), n // ITEMS)) if strip == rows else 1
    if not inside:
        in_rows = (strip - 1) * sh + kh
    pitch = in_cols * pixel
    g, i, j = np.indices((group, strip, cols)).reshape(3, -1)
    return _Plan(
        inside, c, x_channel, group, strip, rows, cols, sh, sw * pixel, kh, top, left, in_rows, in_cols,
        y_start=(y_top * ow + y_left) * o + y_channel,
        y_row_step=y_sh * ow * o,
        a_rows=(g * in_rows + i * sh) * pitch + j * sw * pixel,
        y_rows=((g * oh + i * y_sh) * ow + j * y_sw) * o,
        partial_rows=np.arange(len(g)) * columns,
        a_runs=np.arange(kh) * pitch,
        b_runs=np.arange(kh) * kw * c * columns,
        length=kw * c,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _plan_weight_grad(x_shape, dy_shape, window, channels, columns):
    """The same for dw: rows of the tile are taps x channels, and the sum runs over the strip's output pixels."""
    kh, kw, sh, sw, top, left = window
    c, o, x_channel, y_channel, _ = channels
    _, oh, ow, _ = dy_shape
    inside, in_rows, in_cols, pixel = _input_of(window, (oh, ow), x_shape, c)
    strip = max(1, min(oh, STRIP_PIXELS // ow))
    group = max(1, STRIP_PIXELS // (oh * ow)) if strip == oh else 1
    if not inside:
        in_rows = (strip - 1) * sh + kh
    pitch, o_size = in_cols * pixel, -(-o // columns) * columns
    k, j = np.indices((kh, kw * c)).reshape(2, -1)
    g, i = np.indices((group, strip)).reshape(2, -1)
    return _Plan(
        inside, c, x_channel, group, strip, oh, ow, sh, sw * pixel, kh, top, left, in_rows, in_cols,
        y_start=y_channel,
        y_row_step=0,
        a_rows=k * pitch + j,
        y_rows=np.arange(len(k)) * o_size,
        partial_rows=np.arange(0),
        a_runs=(g * in_rows + i * sh) * pitch,
        b_runs=np.arange(len(g)) * ow * o_size,
        length=ow,
    )  # fmt: skip


def _input_of(window, out_size, x_shape, channels):
    """Whether the windows can be read where they lie: all stay inside the image, and the numbers under a row of one are
    neighbours. And the rows and columns of input that they span (the image's own if so), and the step from one pixel
    to the next."""
    kernel, stride, first, in_size = window[:2], window[2:4], window[4:], x_shape[1:3]
    spans = [(n - 1) * s + k for n, s, k in zip(out_size, stride, kernel, strict=True)]
    inside = all(f >= 0 and f + span <= size for f, span, size in zip(first, spans, in_size, strict=True))
    neighbours = channels == x_shape[3] or kernel[1] == 1
    return (True, *x_shape[1:]) if inside and neighbours else (False, *spans, channels)


# ---------------------------------------------------------------- forward and input gradient
@jit(parallel=True)
def _correlate(x, weight, shape, start, strides, packed, ready, columns, y, plan, finish, accumulate, workers):
    """Each window of x that the plan names, times the weights, to its place in y (added to y with `accumulate`). ::

        unless they are `ready`: pack the weights into blocks of the tile's columns, in the order in which it reads them
        parallel for each strip
            copy its input, padded, to this thread's scratch
            for each block of output channels: for each tile of 8 pixels

    Cost: 2 * (pixels of y) * O * KH * KW * C floating-point operations.
    """
    for block in prange(0 if ready else packed.shape[0]):
        _pack(weight, shape, start, strides, np.int64(block), columns, packed)
    for worker in prange(workers):
        _correlate_strips(x, packed, columns, shape[0], y, plan, finish, accumulate, np.int64(worker), workers)


@inner
def _pack(weight, shape, start, strides, block, columns, packed):
    """packed[block, k, l, c, :] = the weights of the block's output channels (zero past the last one)."""
    o, c, kh, kw = shape
    first, out = block * columns, packed.reshape(packed.size)
    if first + columns > o:
        packed[block] = 0
    for k in range(kh):
        for l in range(kw):
            at = start + first * strides[0] + k * strides[2] + l * strides[3]
            to = block * packed.shape[1] + (k * kw + l) * c * columns
            for channel in range(0, c - FEW + 1, FEW):  # so that neither what is read nor what is written leaves L1
                for column in range(min(columns, o - first)):
                    for few in range(FEW):
                        value = weight[at + column * strides[0] + (channel + few) * strides[1]]
                        out[to + (channel + few) * columns + column] = value
            for channel in range(c // FEW * FEW, c):
                for column in range(min(columns, o - first)):
                    out[to + channel * columns + column] = weight[at + column * strides[0] + channel * strides[1]]


@inner
def _correlate_strips(x, packed, columns, o, y, plan, finish, accumulate, worker, workers):
    n, image_size = x.shape[0], y.shape[1] * y.shape[2] * y.shape[3]
    strips = -(-plan.all_rows // plan.rows)
    items = -(-n // plan.group) * strips
    x_flat, y_flat, w_flat = x.reshape(x.size), y.reshape(y.size), packed.reshape(packed.size)
    scratch = np.empty(0 if plan.inside else plan.group * plan.in_rows * plan.in_columns * plan.channels, x.dtype)
    partial = np.empty(0 if o % columns == 0 else plan.partial_rows.size * columns, x.dtype)
    for item in range(worker * items // workers, (worker + 1) * items // workers):
        image, first = item // strips * plan.group, item % strips * plan.rows
        images, rows = min(plan.group, n - image), min(plan.rows, plan.all_rows - first)
        pixels = images * rows * plan.columns
        a, a_start = _strip_input(x_flat, x.shape, plan, image, images, first, rows, scratch)
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
        if finish.needed:
            for p in range(pixels):
                _finish_pixel(y_flat, y_start + plan.y_rows[p], o, plan.y_start % y.shape[3], finish)


@inner
def _finish_pixel(y, at, o, channel, finish):
    """Bias, residual and ReLU of o channels, from `channel` on: they have just been stored, and are in cache."""
    zero = wide(y)
    whole = o // lanes(zero) * lanes(zero)
    for c in range(0, whole, lanes(zero)):
        _finish_in(zero, y, at + c, channel + c, finish)
    for c in range(whole, o):
        _finish_in(single(y), y, at + c, channel + c, finish)


@inner
def _finish_in(zero, y, at, channel, finish):
    value = load(zero, y, at) + load(zero, finish.bias, channel)
    (residual,) = loads_within(zero, finish.residual, at, 0, 1, 0, finish.residuals)
    store(y, at, maximum(value + residual, splat(zero, finish.floor)))


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
def _strip_input(x, shape, plan, image, images, first, rows, scratch):
    """The array that the plan's offsets refer to, and where the strip starts in it: x, or a padded copy of its rows."""
    _, height, width, all_channels = shape
    c, top = plan.channels, plan.top + first * plan.stride
    if plan.inside:
        return x, ((image * height + top) * width + plan.left) * all_channels + plan.x_channel
    before = min(max(0, -plan.left), plan.in_columns) * c  # padding, then image, then padding
    stop = max(before, min(plan.in_columns, width - plan.left) * c)
    pitch = plan.in_columns * c
    for g in range(images):
        for r in range((rows - 1) * plan.stride + plan.kernel):
            row = (g * plan.in_rows + r) * pitch
            if 0 <= top + r < height:
                source = ((image + g) * height + top + r) * width + plan.left
                clear(scratch, row, before)
                if c == all_channels:
                    copy(scratch, row + before, x, source * c + before, stop - before)
                else:
                    for j in range(before // c, stop // c):
                        copy(scratch, row + j * c, x, (source + j) * all_channels + plan.x_channel, c)
                clear(scratch, row + stop, pitch - stop)
            else:
                clear(scratch, row, pitch)
    return scratch, 0


# ---------------------------------------------------------------- weight gradient
@jit(parallel=True)
def _weight_grad(x, dy, dw, total, columns, plan, workers):
    """dw (O, C, KH, KW) from x (N, H, W, C) and dy (N, OH, OW, O), by way of total (slots, KH * KW * C * columns). ::

        parallel for each slot, which holds some images, and share of its output channels: for each strip
            copy its input, padded, to this thread's scratch
            for each block of output channels: for each tile of 8 of the KH * KW * C rows
        parallel for a few channels: add up the slots

    Cost: 2 * N * OH * OW * O * KH * KW * C floating-point operations.
    """
    for worker in prange(workers):
        _weight_grad_slots(x, dy, dw.shape[0], total, columns, plan, np.int64(worker), workers)
    for part in prange(-(-dw.shape[1] // FEW)):
        _add_slots(total, np.int64(part), dw)


@inner
def _weight_grad_slots(x, dy, o, total, columns, plan, worker, workers):
    n, (oh, ow, all_channels) = x.shape[0], dy.shape[1:]
    slots, size = total.shape
    o_size = size // plan.a_rows.size
    shares = min(-(-workers // slots), o_size // columns)
    x_flat, dy_flat, total_flat = x.reshape(x.size), dy.reshape(dy.size), total.reshape(total.size)
    scratch = np.empty(0 if plan.inside else plan.group * plan.in_rows * plan.in_columns * plan.channels, x.dtype)
    wider = np.zeros(0 if all_channels == o_size else plan.group * plan.rows * ow * o_size, x.dtype)
    for item in range(worker * slots * shares // workers, (worker + 1) * slots * shares // workers):
        slot, share = item // shares, item % shares
        start, stop = slot * n // slots, (slot + 1) * n // slots
        begin = share * (o_size // columns) // shares * columns
        end = (share + 1) * (o_size // columns) // shares * columns
        for image in range(start, stop, plan.group):
            images = min(plan.group, stop - image)
            for first in range(0, oh, plan.rows):
                rows = min(plan.rows, oh - first)
                a, a_start = _strip_input(x_flat, x.shape, plan, image, images, first, rows, scratch)
                b, b_start = dy_flat, (image * oh + first) * ow * all_channels + plan.y_start
                if all_channels != o_size:  # the tile reads whole vectors of channels, one pixel after the other
                    for p in range(images * rows * ow):
                        copy(wider, p * o_size, dy_flat, b_start + p * all_channels, o)
                    b, b_start = wider, 0
                add = image > start or first > 0
                for column in range(begin, end, columns):
                    _weight_tiles(
                        columns, a, a_start, plan, images * rows,
                        b, b_start + column, o_size, total_flat, slot * size + column, add,
                    )  # fmt: skip


@inner
def _weight_tiles(columns, a, a_start, plan, n, b, b_start, b_step, out, out_start, add):
    """All tiles of one block of output channels and `n` rows of pixels, stored in `out`, or added to it."""
    zero, last = wide(a), plan.a_rows.size - 1
    a_rows, a_runs, b_runs, out_rows = plan.a_rows, plan.a_runs, plan.b_runs, plan.y_rows
    for r in range(0, last + 1, TILE_ROWS):
        if columns == lanes(zero):
            tile_of_one(
                zero, a, a_start, a_rows, r, last, a_runs, plan.column_step,
                b, b_start, b_runs, b_step, n, plan.length, out, out_start, out_rows, add,
            )  # fmt: skip
        else:
            tile_of_two(
                zero, a, a_start, a_rows, r, last, a_runs, plan.column_step,
                b, b_start, b_runs, b_step, n, plan.length, out, out_start, out_rows, add,
            )  # fmt: skip


@inner
def _add_slots(total, part, dw):
    """Sum of all slots, in index order, to its place in dw, for a few input channels."""
    o, c, taps = dw.shape[0], dw.shape[1], dw.shape[2] * dw.shape[3]
    slots, size = total.shape
    zero, o_size = wide(total), size // (taps * c)
    n, first = lanes(zero), part * FEW
    few = min(FEW, c - first)
    dw_flat, total_flat, sums = dw.reshape(dw.size), total.reshape(total.size), np.empty(FEW * taps * n, dw.dtype)
    for out in range(0, o, n):
        for channel in range(few):
            for tap in range(taps):
                at = (tap * c + first + channel) * o_size + out
                value = load(zero, total_flat, at)
                for slot in range(1, slots):
                    value = value + load(zero, total_flat, slot * size + at)
                store(sums, (channel * taps + tap) * n, value)
        for lane in range(min(n, o - out)):
            to = ((out + lane) * c + first) * taps
            for i in range(few * taps):
                dw_flat[to + i] = sums[i * n + lane]
