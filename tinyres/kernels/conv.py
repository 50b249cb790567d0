"""Convolution by implicit im2col on the register tile: forward and input gradient.

In channels-last memory the KW * C numbers under one row of a window are neighbours. So a window is KH runs of KW * C
numbers, and a convolution is a matrix product that reads its rows directly from the image: no im2col matrix is ever
built. All three convolutions use the register tile of `tile.py`, with two loop nests, `_correlate` here and
`_weight_grad` of `weight_grad.py`:

=================  =======================  =========================  =======================
                   rows of the tile         columns                    summed over
=================  =======================  =========================  =======================
forward            output pixels            output channels            KH runs of KW * C
input gradient     input pixels             input channels             the same, for dy
weight gradient    some of the KH * KW * C  output channels            rows of output pixels
=================  =======================  =========================  =======================

The input gradient of stride 1 is the forward kernel on flipped, transposed weights. With a larger stride s, input
pixels whose indices have the same remainder modulo s use the same subset of the taps. So there is one small correlation
for each remainder, which writes every s-th pixel: there are no multiplications by inserted zeros.

Grouped convolutions (Krizhevsky et al. 2012; Xie et al. 2017) connect each group of output channels with its own group
of input channels: each group is a convolution from one range of channels to another. The number of groups is C, the
channels of x, divided by C / groups, the second axis of the weight.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.arrays import check, check_in_place, out_size
from tinyres.kernels.compile import inner, jit
from tinyres.kernels.filters import Taps, pack_filters
from tinyres.kernels.groups import groups_of, merged
from tinyres.kernels.layout import channels_last, contiguous
from tinyres.kernels.memory import empty, keep_made, made_of, zeros
from tinyres.kernels.simd import (
    address,
    cache_line,
    clear,
    copy,
    lanes,
    load,
    loads_within,
    maximum,
    prefetch_to_write,
    single,
    splat,
    store,
    wide,
)
from tinyres.kernels.tile import Matrix, Tile, ahead_of, fetch, tile_of_one, tile_of_two

STRIP_BYTES = 128 * 1024  # padded input of one strip: fits L2 together with all weights,
DEEP_STRIP_BYTES = 256 * 1024  # or with a block of weights, if there are many
WEIGHT_BYTES = 512 * 1024  # packed weights that fit L2; with more, a block is read once for all tiles of a strip
ITEMS = 16  # least number of work items, for machines with more cores than images


def conv2d(x, weight, bias=None, residual=None, *, stride, padding, relu=False):
    """y[n, o, i, j] = bias[o] + sum over c, k, l of x[n, c, i * sh + k - ph, j * sw + l - pw] * weight[o, c, k, l].

    x (N, C, H, W), weight (O, C / groups, KH, KW), bias (O,); y (N, O, OH, OW). c runs over the channels of o's group.
    A residual (N, O, OH, OW) is added and ReLU is applied while the sums are in cache.
    """
    check("conv2d", x, weight, bias, residual, stride, padding)
    (sh, sw), (ph, pw) = stride, padding
    weight = merged(weight, x.shape[1])
    o, _, kh, kw = weight.shape
    oh, ow = out_size(x.shape[2:], (kh, kw), stride, padding)
    y = empty((len(x), oh, ow, o), x.dtype)
    finish = Finish.of(bias, None if residual is None else channels_last(residual), relu, y)
    x, flat = channels_last(x), contiguous(weight).reshape(-1)
    window, place = (kh, kw, sh, sw, -ph, -pw), (0, 0, 1, 1, oh, ow)
    for group in groups_of(x.shape[3], weight.shape):
        taps = Taps(flat, group.tap, group.o, group.c, kh, kw, group.c * kh * kw, kh * kw, kw, 1)
        _launch(x, weight, taps, y, window, place, (group.x_channel, group.y_channel), finish)
    return y.transpose(0, 3, 1, 2)


def conv2d_input_grad(dy, weight, x_shape, total=None, *, stride, padding):
    """Gradient of `conv2d` with respect to x, of shape `x_shape`. If `total` is given, it is added to it and returned.

    Input row i * sh + a meets tap k in output row (i * sh + a + ph - k) / sh, if this is a whole number. These are the
    taps k0, k0 + sh, ... in output rows i + q, i + q - 1, ..., with q, k0 = divmod(a + ph, sh).
    """
    check("conv2d_input_grad", dy, weight, x_shape, total, stride, padding)
    (sh, sw), (ph, pw) = stride, padding
    n, channels, height, width = x_shape
    weight = merged(weight, channels)
    kh, kw = weight.shape[2:]
    dy, flat = channels_last(dy), contiguous(weight).reshape(-1)
    if total is None:
        some_meet_no_tap = sh > kh or sw > kw
        dx = (zeros if some_meet_no_tap else empty)((n, height, width, channels), dy.dtype)
    else:
        dx = in_channels_last(total, dy, weight)
    finish = Finish.of(None, None, False, dx, add=total is not None)
    for a, b in np.ndindex(min(sh, height), min(sw, width)):
        (qh, kh0), (qw, kw0) = divmod(a + ph, sh), divmod(b + pw, sw)
        taps_h, taps_w = len(range(kh0, kh, sh)), len(range(kw0, kw, sw))
        if taps_h and taps_w:  # in descending order: for the next output row, the tap is lower
            last = (kh0 + (taps_h - 1) * sh) * kw + kw0 + (taps_w - 1) * sw
            window = (taps_h, taps_w, 1, 1, qh - taps_h + 1, qw - taps_w + 1)
            place = (a, b, sh, sw, -(-(height - a) // sh), -(-(width - b) // sw))
            for group in groups_of(channels, weight.shape):
                steps = kh * kw, group.c * kh * kw, -sh * kw, -sw
                taps = Taps(flat, group.tap + last, group.c, group.o, taps_h, taps_w, *steps)
                _launch(dy, weight, taps, dx, window, place, (group.y_channel, group.x_channel), finish)
    return dx.transpose(0, 3, 1, 2) if total is None else total


def in_channels_last(total, dy, weight):
    """`total` (N, C, H, W) as channels-last memory, checked: it is added to in place while the others are read."""
    check_in_place("conv2d_input_grad", "total", total, dy=dy, weight=weight)
    memory = total.transpose(0, 2, 3, 1)
    if not memory.flags.carray:
        got = f"strides {total.strides} of shape {total.shape}"
        raise ValueError(f"conv2d_input_grad: total: got {got}, expected aligned channels-last memory")
    return memory


class Finish(NamedTuple):
    """What is done with a sum before it is stored: + the stored value, + bias, + residual, ReLU."""

    bias: np.ndarray  # one number for each output channel
    residual: np.ndarray  # flat, of y's size
    residuals: int  # number of residuals to add; with 0 it is not read
    floor: float  # lower bound of the result: 0 with ReLU, else -infinity
    needed: bool  # whether there is any of the above, which needs a pass of its own
    add: bool  # whether the sums are added to the numbers in y
    moments: np.ndarray  # flat, see `moments`: of the stored result, in parts
    part_rows: int  # rows of tiles in each part; 0 if nothing is measured

    @classmethod
    def of(cls, bias, residual, relu, y, *, add=False, moments=None, part_rows=0):
        needed = relu or not (bias is None and residual is None)
        bias = np.zeros(y.shape[3], y.dtype) if bias is None else contiguous(bias)
        floor, flat = 0.0 if relu else -np.inf, (y if residual is None else residual).reshape(-1)
        parts = np.empty(0, y.dtype) if moments is None else moments.reshape(-1)
        return cls(bias, flat, int(residual is not None), floor, needed, add, parts, part_rows)


def _launch(x, weight, taps, y, window, place, first_channels, finish):
    o, c, kh, kw = taps.o, taps.c, taps.kh, taps.kw
    tile = Tile.of(x.dtype, o)
    if window == (1, 1, 1, 1, 0, 0) and place == (0, 0, 1, 1, *x.shape[1:3]):  # then strips may end within a row
        x, y = x.reshape(1, -1, 1, x.shape[3]), y.reshape(1, -1, 1, y.shape[3])
        place = (0, 0, 1, 1, y.shape[1], 1)
    key = "packed", *taps[1:]
    blocks, workers = -(-o // tile.columns), get_num_threads()
    packed, ready = made_of(weight, key, (blocks, kh * kw * c * tile.columns))
    deep = packed.nbytes > WEIGHT_BYTES and -(-blocks // workers) * workers <= 1.25 * blocks
    plan = _plan_correlation(x.shape, y.shape, x.itemsize, window, place, (c, *first_channels), tile, deep)
    _correlate(x, taps, packed, ready, y, plan, finish, workers)
    keep_made(weight, key, packed)


# ---------------------------------------------------------------- how the work is divided
class _Plan(NamedTuple):
    """Strips of a convolution, and the offsets of everything in them. All offsets and steps count elements.

    A strip is some rows of an image, or some whole images. Its input is copied, with its padding, to a scratch array of
    the thread, unless no window leaves the image (`inside`).
    """

    height: int  # rows of the register tile,
    block: int  # and its columns: output channels in a block
    inside: bool
    channels: int  # channels of x to read,
    x_channel: int  # starting with this one
    group: int  # images in a strip
    rows: int  # output rows in a strip
    together: int  # output pixels in a strip that use one block of weights before the next block
    all_rows: int  # output rows in an image
    columns: int  # output columns
    stride: int  # input rows from one output row to the next
    column_step: int  # from one output column to the next, in the input of the strip
    kernel: int  # input rows in a window
    top: int  # first input row and column of the first window
    left: int
    in_rows: int  # rows of each image in the input of the strip
    in_columns: int
    y_start: int  # first output element of an image
    y_row_step: int  # from one output row to the next
    a_rows: np.ndarray  # for each row of the tile: its start in the strip's input,
    y_rows: np.ndarray  # the place of its result,
    partial_rows: np.ndarray  # and its place in a buffer of one block of columns
    a_runs: np.ndarray  # for each run of the sum: its start in the strip's input,
    b_runs: np.ndarray  # and in the other factor
    length: int  # numbers in a run
    deep: bool  # whether there are many weights, see `_correlate`


@lru_cache(maxsize=1024)
def _plan_correlation(x_shape, y_shape, itemsize, window, place, channels, tile, deep):
    """Plan the windows (kh, kw, sh, sw, top, left) of x (N, H, W, C), and their places in y (N, OH, OW, O).

    A place is (top, left, row step, column step, rows, columns). Channels are (how many are read, the first of x, the
    first of y).
    """
    kh, kw, sh, sw, top, left = window
    y_top, y_left, y_sh, y_sw, rows, cols = place
    c, x_channel, y_channel = channels
    n, (_, oh, ow, o) = x_shape[0], y_shape
    inside, in_rows, in_cols, pixel = _input_of(window, (rows, cols), x_shape, c)
    read_cols = in_cols if kw >= sw else cols * kw
    row_bytes = min(sh, kh) * read_cols * c * itemsize  # input bytes that each further output row adds
    strip_bytes = DEEP_STRIP_BYTES if deep else STRIP_BYTES
    most = max(1, min(rows, strip_bytes // row_bytes, -(-rows * n // ITEMS)))
    strip = max(range(1, most + 1), key=lambda r: (r * cols / -(-r * cols // tile.rows), r))  # the fullest tiles
    group = max(1, min(strip_bytes // (row_bytes * rows), n // ITEMS)) if strip == rows else 1
    weights = kh * kw * c * -(-o // tile.columns) * tile.columns * itemsize
    few = o > tile.columns and weights <= WEIGHT_BYTES
    together = tile.rows if few else group * strip * cols
    if not inside:
        in_rows = (strip - 1) * sh + kh
    pitch = in_cols * pixel
    g, i, j = np.indices((group, strip, cols)).reshape(3, -1)
    return _Plan(
        *tile, inside, c, x_channel, group, strip, together, rows, cols, sh, sw * pixel, kh, top, left,
        in_rows, in_cols,
        y_start=(y_top * ow + y_left) * o + y_channel,
        y_row_step=y_sh * ow * o,
        a_rows=(g * in_rows + i * sh) * pitch + j * sw * pixel,
        y_rows=((g * oh + i * y_sh) * ow + j * y_sw) * o,
        partial_rows=np.arange(len(g)) * tile.columns,
        a_runs=np.arange(kh) * pitch,
        b_runs=np.arange(kh) * kw * c * tile.columns,
        length=kw * c,
        deep=deep,
    )  # fmt: skip


def _input_of(window, out_size, x_shape, channels):
    """Whether windows can be read directly from the image, the rows and columns that they span, and the pixel step.

    They can if all windows stay inside the image, and the numbers under a row of a window are neighbours; rows and
    columns are then those of the image. The step is from one pixel to the next.
    """
    kernel, stride, first, in_size = window[:2], window[2:4], window[4:], x_shape[1:3]
    spans = [(n - 1) * s + k for n, s, k in zip(out_size, stride, kernel, strict=True)]
    inside = all(f >= 0 and f + span <= size for f, span, size in zip(first, spans, in_size, strict=True))
    neighbours = channels == x_shape[3] or kernel[1] == 1
    return (True, *x_shape[1:]) if inside and neighbours else (False, *spans, channels)


# ---------------------------------------------------------------- forward and input gradient
@jit(parallel=True)
def _correlate(x, taps, packed, ready, y, plan, finish, workers):
    """Multiply each window of x in the plan by the weights, and store the results in y.

    First the weights are packed into blocks of the tile's columns, in the order in which the tile reads them, unless
    this is done already (`ready`). With few weights, the workers divide the strips among them::

        parallel for each block of output channels: pack its weights
        parallel for each strip
            copy its input, padded, to this thread's scratch
            for some of its pixels: for each block of output channels: for each tile of pixels

    In this order y is written from its first byte to its last, and L2 is fast enough to deliver the weights again for
    every tile. With many weights (`deep`), the workers divide the blocks among them. Each worker then reads only the
    weights that it packed itself, and none that another core has just written to its own cache::

        parallel for some blocks of output channels: pack their weights; for each strip: as above

    Cost: 2 * (pixels of y) * O * KH * KW * C floating-point operations.
    """
    for worker in prange(0 if ready or plan.deep else workers):
        pack_filters(taps, plan.block, packed, share(packed.shape[0], (np.int64(worker), workers)))
    for worker in prange(workers):
        _correlate_share(x, taps, packed, ready, y, plan, finish, (np.int64(worker), workers))


@inner
def share(count, whose):
    """Start and stop of a worker's share of `count` items; `whose` is (worker, workers)."""
    worker, workers = whose
    return worker * count // workers, (worker + 1) * count // workers


@inner
def _correlate_share(x, taps, packed, ready, y, plan, finish, whose):
    n, image_size, columns = x.shape[0], y.shape[1] * y.shape[2] * y.shape[3], plan.block
    o, strips = taps.o, -(-plan.all_rows // plan.rows)
    items, blocks = -(-n // plan.group) * strips, packed.shape[0]
    start, stop, begin, end = 0, items, 0, blocks
    if plan.deep:
        begin, end = share(blocks, whose)
        if not ready:
            pack_filters(taps, columns, packed, (begin, end))
    else:
        start, stop = share(items, whose)
    x_flat, y_flat, w_flat = x.reshape(x.size), y.reshape(y.size), packed.reshape(packed.size)
    scratch = np.empty(0 if plan.inside else plan.group * plan.in_rows * plan.in_columns * plan.channels, x.dtype)
    partial = np.empty(0 if o % columns == 0 else plan.partial_rows.size * columns, x.dtype)
    for item in range(start, stop):
        image, first = item // strips * plan.group, item % strips * plan.rows
        images, rows = min(plan.group, n - image), min(plan.rows, plan.all_rows - first)
        pixels = images * rows * plan.columns
        a, a_start = _strip_input(x_flat, x.shape, plan, image, images, first, rows, scratch)
        windows = Matrix(address(a, a_start), address(plan.a_rows, 0), address(plan.a_runs, 0), 1)
        y_start = image * image_size + plan.y_start + first * plan.y_row_step
        x_at, x_stop = _memory_of(x.shape, plan, item + 1), _memory_of(x.shape, plan, item + 2)
        ahead, turn = ahead_of(x_flat, x_at, x_stop, (end - begin) * -(-pixels // plan.height)), 0
        for p in range(0, pixels, plan.together):
            p_stop = min(pixels, p + plan.together)
            for block in range(begin, end):
                left_over = o - block * columns
                factor = Matrix(address(w_flat, block * packed.shape[1]), 0, address(plan.b_runs, 0), 1)
                sums = Matrix(address(y_flat, y_start + block * columns), address(plan.y_rows, 0), 0, 1)
                if left_over < columns:  # the tile is wider than the remaining channels: use a buffer
                    sums = Matrix(address(partial, 0), address(plan.partial_rows, 0), 0, 1)
                add = finish.add and left_over >= columns
                _pixel_tiles(plan, windows, factor, sums, (p, p_stop, pixels), add, ahead, turn)
                turn += -(-(p_stop - p) // plan.height)
                if left_over < columns:
                    for q in range(p, p_stop):
                        for channel in range(left_over):
                            at = y_start + plan.y_rows[q] + block * columns + channel
                            y_flat[at] = partial[q * columns + channel] + (y_flat[at] if finish.add else 0)
            if finish.needed:
                channel, count = begin * columns, min(o, end * columns) - begin * columns
                for q in range(p, p_stop):
                    at = y_start + plan.y_rows[q] + channel
                    _finish_pixel(y_flat, at, count, plan.y_start % y.shape[3] + channel, finish)


@inner
def _memory_of(shape, plan, item):
    """Flat index of x where the input of a strip starts, at most the end of x."""
    n, height, width, channels = shape
    strips = -(-plan.all_rows // plan.rows)
    image, first = item // strips * plan.group, item % strips * plan.rows
    row = min(n * height, image * height + max(0, plan.top + first * plan.stride))
    return row * width * channels


@inner
def _finish_pixel(y, at, o, channel, finish):
    """Add bias and residual and apply ReLU to o channels, from `channel` on. They were just stored and are in cache."""
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
def _pixel_tiles(plan, windows, weights, sums, pixels, add, ahead, turn):
    """Compute all tiles of some pixels, (first, stop, number in the strip), and one block of output channels.

    Meanwhile some of the next strip of x, and the memory of the next tile's result, are brought to the cache.
    """
    first, stop, count = pixels
    zero, height = wide(windows.data), plan.height
    lengths = plan.a_runs.size, plan.length
    for r in range(first, stop, height):
        fetch(ahead, turn)
        turn += 1
        for row in range(r + height, min(r + 2 * height, count)):
            for v in range(0, plan.block, lanes(cache_line(sums.data))):
                prefetch_to_write(sums.data, plan.y_rows[row] + v)
        if plan.block == lanes(zero):
            tile_of_one(zero, windows, weights, sums, (r, count - 1), lengths, add)
        else:
            tile_of_two(zero, windows, weights, sums, (r, count - 1), lengths, add)


@inner
def _strip_input(x, shape, plan, image, images, first, rows, scratch):
    """The input of a strip, x itself or a padded copy of its rows, and the index where the strip starts in it."""
    _, height, width, all_channels = shape
    top = plan.top + first * plan.stride
    if plan.inside:
        return x, ((image * height + top) * width + plan.left) * all_channels + plan.x_channel
    for g in range(images):
        for r in range((rows - 1) * plan.stride + plan.kernel):
            to = (g * plan.in_rows + r) * plan.in_columns * plan.channels
            copy_row(x, shape, image + g, top + r, plan, scratch, to)
    return scratch, 0


@inner
def copy_row(x, shape, image, row, plan, out, to):
    """Copy one row of an image, as wide as the plan's windows reach: padding, then image, then padding."""
    _, height, width, all_channels = shape
    c, length = plan.channels, plan.in_columns * plan.channels
    if not 0 <= row < height:
        clear(out, to, length)
        return
    before = min(max(0, -plan.left), plan.in_columns) * c
    stop = max(before, min(plan.in_columns, width - plan.left) * c)
    source = (image * height + row) * width + plan.left
    clear(out, to, before)
    if c == all_channels:
        copy(out, to + before, x, source * c + before, stop - before)
    else:
        for j in range(before // c, stop // c):
            copy(out, to + j * c, x, (source + j) * all_channels + plan.x_channel, c)
    clear(out, to + stop, length - stop)
