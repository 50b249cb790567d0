"""The weight gradient of convolution: the same register tile, with sums over pixels.

    dw[o, c, k, l] = sum over n, i, j of dy[n, o, i, j] * x[n, c, i * sh + k - ph, j * sw + l - pw]

As a matrix product, its rows are the KH * KW * C numbers of a window, its columns are the output channels, and it sums
over all output pixels. It works on strips of these pixels. The input of a strip is copied to the order in which the
tile reads it: x to panels with as many channels as a vector has lanes, dy to blocks of the tile's columns, which stay
in L1 while all rows are computed. Without copies, the distance from pixel to pixel would be the bytes of all channels:
pixels would share one set of the cache, and the hardware's prefetcher would not look far enough ahead.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.arrays import check
from tinyres.kernels.compile import inner, jit
from tinyres.kernels.conv import copy_row
from tinyres.kernels.groups import groups_of, merged_shape, own
from tinyres.kernels.layout import channels_last
from tinyres.kernels.memory import empty, scratch, zeros
from tinyres.kernels.simd import (
    WIDTH,
    address,
    cache_line,
    lanes,
    load,
    loads_turned,
    loads_within,
    prefetch_to_write,
    store,
    stores,
    wide,
)
from tinyres.kernels.tile import Ahead, Matrix, Tile, ahead_of, fetch, tile_of_one, tile_of_two

STRIP_PIXELS = 128  # output pixels in a strip: its block of dy fits L1 together with a panel of x
SLOTS, SLOT_BYTES = 16, 4 * 1024 * 1024  # limits on partial sums: number and total bytes


def conv2d_weight_grad(dy, x, weight_shape, *, stride, padding):
    """Gradient of `conv.conv2d` with respect to weight, of shape `weight_shape`.

    Images are assigned to slots by shapes only, and slots are added in index order: the result does not depend on the
    number of threads. If there are more threads than slots, several threads divide the output channels of a slot.
    """
    check("conv2d_weight_grad", dy, x, weight_shape, stride, padding)
    x, dy = channels_last(x), channels_last(dy)
    shape = merged_shape(x.shape[3], weight_shape, dy.itemsize)
    n, (_, c, kh, kw) = len(x), shape
    if n == 0:
        return zeros(weight_shape, dy.dtype)
    groups = groups_of(x.shape[3], shape)
    tile = Tile.of(dy.dtype, groups[0].o)
    size = kh * kw * c * -(-groups[0].o // tile.columns) * tile.columns
    slots = max(1, min(n, SLOTS, SLOT_BYTES // (size * dy.itemsize)))
    slots = 2 ** (slots.bit_length() - 1)  # usually the same number for each worker
    total, dw = scratch("m", (slots, size), dy.dtype), empty(shape, dy.dtype)
    window = (kh, kw, *stride, -padding[0], -padding[1])
    for group in groups:
        plan = _plan(x.shape, dy.shape, window, group, tile, WIDTH // x.itemsize)
        _weight_grad(x, dy, dw[group.y_channel : group.y_channel + group.o], total, plan, get_num_threads())
    return own(dw, weight_shape, x.shape[3])


class _Plan(NamedTuple):
    """Strips of output pixels, and the offsets of everything in the copies of their input; in elements.

    A strip is some rows of output pixels of an image, or some whole images.
    """

    height: int  # rows of the register tile,
    block: int  # and its columns: output channels in a block
    channels: int  # channels of x to read,
    x_channel: int  # starting with this one
    y_channel: int  # first channel of dy to read
    width: int  # channels in a panel: as many as a vector has lanes, or all of them
    group: int  # images in a strip
    rows: int  # output rows in a strip
    columns: int  # output columns
    stride: int  # input rows from one output row to the next
    row_step: int  # input rows from one copied row to the next: rows that no tap reads are not copied
    column_step: int  # the same for columns
    kernel: int  # copied rows in a window
    top: int  # first input row and column of the first window
    left: int
    in_rows: int  # copied rows of each image
    in_columns: int
    pixel_step: int  # from one output column to the next, in the copy
    panel: int  # from one panel to the next
    in_one_run: bool  # whether this step leads from each output pixel to the next
    a_rows: np.ndarray  # for each row of the tile, a tap and an input channel: its start in the copy,
    y_rows: np.ndarray  # and the place of its sums
    a_runs: np.ndarray  # for each output row: its start in the copy of x,
    b_runs: np.ndarray  # and in that of dy


@lru_cache(maxsize=1024)
def _plan(x_shape, dy_shape, window, group, tile, lanes):
    """`group` is a group of a grouped convolution."""
    kh, kw, sh, sw, top, left = window
    c, (_, oh, ow, _) = group.c, dy_shape
    rows = -(-oh // -(-oh // max(1, STRIP_PIXELS // ow)))
    images = max(1, STRIP_PIXELS // (oh * ow)) if rows == oh else 1
    width = lanes if c % lanes == 0 else c
    row_step, column_step = (sh, sw) if kh == kw == 1 and width == lanes else (1, 1)
    sh_, sw_ = sh // row_step, sw // column_step  # strides in the copy
    in_rows, in_columns = (rows - 1) * sh_ + kh, (ow - 1) * sw_ + kw
    panel = images * in_rows * in_columns * width
    k, l, channel = np.indices((kh, kw, c)).reshape(3, -1)
    g, i = np.indices((images, rows)).reshape(2, -1)
    return _Plan(
        *tile, c, group.x_channel, group.y_channel, width, images, rows, ow, sh, row_step, column_step,
        kh, top, left, in_rows, in_columns,
        pixel_step=sw_ * width,
        panel=panel,
        in_one_run=kh == kw == sh_ == sw_ == 1,
        a_rows=channel // width * panel + (k * in_columns + l) * width + channel % width,
        y_rows=np.arange(len(k)) * tile.columns,
        a_runs=(g * in_rows + i * sh_) * in_columns * width,
        b_runs=np.arange(len(g)) * ow * tile.columns,
    )  # fmt: skip


# ---------------------------------------------------------------- kernels
@jit(parallel=True)
def _weight_grad(x, dy, dw, total, plan, workers):
    """dw (O, C, KH, KW) from x (N, H, W, C) and dy (N, OH, OW, O), with partial sums in total (slots, their sums). ::

        parallel for each slot, which holds some images, and share of its output channels: for each strip
            copy its input, padded, in panels
            for each block of output channels
                copy its dy
                for each tile of the KH * KW * C rows
        parallel for some input channels: add up the slots

    Cost: 2 * N * OH * OW * O * KH * KW * C floating-point operations.
    """
    for worker in prange(workers):
        _sum_slots(x, dy, dw.shape[0], total, plan, np.int64(worker), workers)
    for part in prange(-(-dw.shape[1] // lanes(wide(total)))):
        _add_slots(total, np.int64(part), plan.block, dw)


@inner
def _sum_slots(x, dy, o, total, plan, worker, workers):
    n, (oh, ow, all_channels), columns = x.shape[0], dy.shape[1:], plan.block
    slots, size = total.shape
    block_size = plan.a_rows.size * columns
    blocks, tiles = size // block_size, -(-plan.a_rows.size // plan.height)
    shares = min(-(-workers // slots), blocks)
    x_flat, dy_flat, total_flat = x.reshape(x.size), dy.reshape(dy.size), total.reshape(total.size)
    panels = np.empty(-(-plan.channels // plan.width) * plan.panel, x.dtype)
    block_of_dy = np.zeros(plan.group * plan.rows * ow * columns, x.dtype)
    for item in range(worker * slots * shares // workers, (worker + 1) * slots * shares // workers):
        slot, share = item // shares, item % shares
        start, stop = slot * n // slots, (slot + 1) * n // slots
        begin, end = share * blocks // shares, (share + 1) * blocks // shares
        for image in range(start, stop, plan.group):
            images = min(plan.group, stop - image)
            for first in range(0, oh, plan.rows):
                rows = min(plan.rows, oh - first)
                pixels = images * rows * ow
                _copy_panels(x_flat, x.shape, plan, image, images, first, rows, panels)
                x_at, x_stop = _next_input(x.shape, plan, image, images, first + plan.rows, oh)
                dy_start = (image * oh + first) * ow * all_channels + plan.y_channel
                for block in range(begin, end):
                    count, dy_at = min(columns, o - block * columns), dy_start + block * columns
                    _copy_block(dy_flat, dy_at, all_channels, pixels, count, columns, block_of_dy)
                    dy_at += columns if block + 1 < end else pixels * all_channels - (end - 1 - begin) * columns
                    next_x = ahead_of(x_flat, x_at, x_stop, (end - block) * tiles)
                    next_dy = Ahead(address(dy_flat, dy_at), all_channels, columns, -(-pixels // tiles))
                    at = slot * size + block * block_size
                    sums = Matrix(address(total_flat, at), address(plan.y_rows, 0), 0, 1)
                    add = image > start or first > 0
                    _row_tiles(plan, images * rows, panels, block_of_dy, sums, add, next_x, next_dy)
                    x_at += next_x.rows * next_x.step * tiles


@inner
def _copy_panels(x, shape, plan, image, images, first, rows, panels):
    """Copy the input of a strip to panels of (image, row, column, channel), with zeros outside the image."""
    _, height, width, all_channels = shape
    zero = wide(x)
    n = lanes(zero)
    for g in range(images):
        for r in range((rows - 1) * (plan.stride // plan.row_step) + plan.kernel):
            row = plan.top + first * plan.stride + r * plan.row_step
            to = (g * plan.in_rows + r) * plan.in_columns * plan.width
            if plan.width != n:
                copy_row(x, shape, image + g, row, plan, panels, to)
                continue
            for j in range(plan.in_columns):
                column = plan.left + j * plan.column_step
                at = (((image + g) * height + row) * width + column) * all_channels + plan.x_channel
                limit = height if 0 <= column < width else 0
                for panel in range(plan.channels // n):
                    (value,) = loads_within(zero, x, at + panel * n, 0, 1, row, limit)
                    store(panels, to + panel * plan.panel + j * n, value)


@inner
def _copy_block(dy, at, step, pixels, count, columns, block):
    """Copy a block of output channels of dy to (pixels, columns), of which `count` columns exist."""
    zero = wide(dy)
    for p in range(pixels):
        if count == columns:
            for column in range(0, columns, lanes(zero)):
                store(block, p * columns + column, load(zero, dy, at + p * step + column))
        else:
            for column in range(count):
                block[p * columns + column] = dy[at + p * step + column]


@inner
def _next_input(shape, plan, image, images, first, all_rows):
    """Start and stop, as flat indices of x, of the input of the next strip, from output row `first` on."""
    n, height, width, channels = shape
    if first >= all_rows:
        image, first = image + images, 0
    row = image * height + max(0, plan.top + first * plan.stride)
    count = plan.group * height if plan.group > 1 else plan.rows * plan.stride
    return min(row, n * height) * width * channels, min(row + count, n * height) * width * channels


@inner
def _row_tiles(plan, rows, panels, block, sums, add, next_x, next_dy):
    """Compute all tiles of one block of output channels and some rows of pixels, and store them in `sums` or add them.

    Meanwhile it prefetches a little at each tile: the next strip of x, the next block of dy, and the sums to add to.
    """
    zero, last, height, columns = wide(panels), plan.a_rows.size - 1, plan.height, plan.block
    windows = Matrix(address(panels, 0), address(plan.a_rows, 0), address(plan.a_runs, 0), plan.pixel_step)
    gradients = Matrix(address(block, 0), 0, address(plan.b_runs, 0), 1)
    lengths = (1, rows * plan.columns) if plan.in_one_run else (rows, plan.columns)
    for turn, r in enumerate(range(0, last + 1, height)):
        fetch(next_x, turn)
        fetch(next_dy, turn)
        for at in range(r * columns, min(r + height, last + 1) * columns, lanes(cache_line(panels))):
            prefetch_to_write(sums.data, at)
        if columns == lanes(zero):
            tile_of_one(zero, windows, gradients, sums, (r, last), lengths, add)
        else:
            tile_of_two(zero, windows, gradients, sums, (r, last), lengths, add)


@inner
def _add_slots(total, part, columns, dw):
    """Add all slots, in index order, and store the sums in dw, for as many input channels as a vector has lanes."""
    o, c, taps = dw.shape[0], dw.shape[1], dw.shape[2] * dw.shape[3]
    slots, size = total.shape
    zero = wide(total)
    n = lanes(zero)
    first, few = part * n, min(n, c - part * n)
    dw_flat, total_flat, sums = dw.reshape(dw.size), total.reshape(total.size), np.empty(n * taps * n, dw.dtype)
    for out in range(0, o, n):
        for channel in range(few):
            for tap in range(taps):
                at = ((out // columns * taps + tap) * c + first + channel) * columns + out % columns
                value = load(zero, total_flat, at)
                for slot in range(1, slots):
                    value = value + load(zero, total_flat, slot * size + at)
                store(sums, (channel * taps + tap) * n, value)
        to, whole = (out * c + first) * taps, few * taps // n * n if out + n <= o else 0
        for i in range(0, whole, n):
            stores(dw_flat, to + i, c * taps, loads_turned(zero, sums, i * n, n))
        for lane in range(min(n, o - out)):
            for i in range(whole, few * taps):
                dw_flat[to + lane * c * taps + i] = sums[i * n + lane]
