"""Winograd convolution: 3x3, stride 1, with a quarter of the multiplications.

Four outputs of a 3-tap filter, y_i = sum_k d_(i+k) g_k, are coefficients of a product of polynomials, and a polynomial
of degree 5 is known from its values at six points: evaluate, multiply six numbers, interpolate. Lavin and Gray, "Fast
algorithms for convolutional neural networks", CVPR 2016, write the three linear maps as matrices:

    y = A^T [(G g) * (B^T d)],   in two dimensions   Y = A^T [(G g G^T) * (B^T d B)] A.

A 6x6 tile of input gives a 4x4 tile of output with 36 multiplications, where the direct sum takes 144. Summed over
input channels, the products of one of the 36 places ("planes") of all tiles are one matrix product:

    M[p] (tiles, O) = V[p] (tiles, C) U[p] (C, O),   V = transformed input, U = transformed weights.

The points are 0, +-sqrt(1/2), +-sqrt(2) and infinity, which lose fewer digits than 0, +-1, +-2 (Barabasz et al., "Error
analysis and improving the accuracy of Winograd convolution for deep neural networks", 2020). With m(x) =
x (x^2 - 1/2) (x^2 - 2), row i of B^T holds the coefficients of m(x) / (x - x_i), of G the powers of x_i over
N_i = m'(x_i), of A^T the powers of all x_i.

Both gradients come from the same three matrices. The input gradient is a convolution of dy with flipped, transposed
weights. The weight gradient is the transpose of the map from g to y,

    dg = G^T [(B^T d B) * (A dy A^T)] G,

summed over all tiles before the last step: 36 matrix products again, (C, tiles) by (tiles, O).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels import conv, weight_grad
from tinyres.kernels.arrays import check
from tinyres.kernels.compile import contiguous, inner, jit
from tinyres.kernels.conv import Taps, channels_last, in_channels_last
from tinyres.kernels.memory import CACHE_LINE, empty, keep_made, made_of
from tinyres.kernels.simd import (
    TILE_ROWS,
    WIDTH,
    fma,
    lanes,
    load,
    loads,
    loads_turned,
    loads_within,
    maximum,
    prefetch,
    prefetch_to_write,
    splat,
    store,
    stores,
    tile_columns,
    tile_of_one,
    tile_of_two,
    transposed,
    wide,
)  # fmt: skip

M = 4  # rows and columns of output of a tile
R = M + 2  # and of input
POINTS = R * R
A, B = 0.5**0.5, 2.0**0.5  # the points, beside 0 and infinity; A^2 + B^2 = 5/2, A B = 1
NA, NB = -1.5, 6.0  # m'(+-A), m'(+-B); m'(0) = 1

STRIP_BYTES = 640 * 1024  # transformed input and output of one strip: they stay in L2
LEAST_TILES = 32  # of a strip, so that weights are read for more than a few tiles
SLOTS, SLOT_BYTES = 16, 4 * 1024 * 1024  # of partial sums of the weight gradient: so many, or so large, at most
GRAD_BYTES = 4 * 1024 * 1024  # transformed input and output of one strip without slots: they stay in L3
GRAD_TILES = 64  # of such a strip, so that sums are loaded and stored for more than a few tiles
PART_BYTES = 5 * 1024 * 1024  # sums of a part of the output channels, there: they stay in L3
DEEP_BYTES = 4 * 1024 * 1024  # transformed weights; of more, each worker makes and uses a block at a time,
INPUT_BYTES = 10 * 1024 * 1024  # with so much transformed input, which stays in L3

# Costs in multiply-adds of the matrix products, measured: to transform an input channel of a tile and an output channel
# of a tile, and the weight of one pair of channels. See `pays`.
INPUT_COST, OUTPUT_COST, WEIGHT_COST = 220, 130, 250


def fits(weight_shape, channels, stride, itemsize):
    """Whether there is a Winograd form: 3x3, stride 1, one group, and channels that fill whole vectors."""
    o, c, kh, kw = weight_shape
    vector = WIDTH // itemsize
    return (kh, kw) == (3, 3) and tuple(stride) == (1, 1) and c == channels and o % vector == c % vector == 0


def pays(weight_shape, channels, stride, itemsize, images):
    """Whether it is faster than direct convolution, for `images` (N, H, W) of output.

    In multiply-adds for each pair of channels, direct convolution costs 9 for a pixel; a tile costs 36 and its share of
    the transforms, and the weights are transformed once. Few or small images are left to direct convolution.
    """
    if not fits(weight_shape, channels, stride, itemsize):
        return False
    (o, c), (n, height, width) = weight_shape[:2], images
    tiles = n * -(-height // M) * -(-width // M)
    return tiles * (POINTS + INPUT_COST / o + OUTPUT_COST / c) + WEIGHT_COST < 9 * n * height * width


def conv2d(x, weight, bias=None, residual=None, *, stride, padding, relu=False):
    """As `conv.conv2d`, by Winograd's method where it pays."""
    check("conv2d", x, weight, bias, residual, stride, padding)
    (n, channels, height, width), o = x.shape, len(weight)
    images = n, height + 2 * padding[0] - 2, width + 2 * padding[1] - 2
    if not pays(weight.shape, channels, stride, x.itemsize, images):
        return conv.conv2d(x, weight, bias, residual, stride=stride, padding=padding, relu=relu)
    y = empty((*images, o), x.dtype)
    taps = Taps(contiguous(weight).reshape(-1), (o, channels, 3, 3), 0, (channels * 9, 9, 3, 1))
    residual = None if residual is None else channels_last(residual)
    _launch(channels_last(x), weight, taps, bias, residual, relu, y, (-padding[0], -padding[1]))
    return y.transpose(0, 3, 1, 2)


def conv2d_input_grad(dy, weight, x_shape, total=None, *, stride, padding):
    """As `conv.conv2d_input_grad`: the convolution of dy, padded by 2 - padding, with flipped, transposed weights."""
    check("conv2d_input_grad", dy, weight, x_shape, total, stride, padding)
    (n, channels, height, width), o = x_shape, len(weight)
    if not pays(weight.shape, channels, stride, dy.itemsize, (n, height, width)):
        return conv.conv2d_input_grad(dy, weight, x_shape, total, stride=stride, padding=padding)
    before = None if total is None else in_channels_last(total, dy, weight)
    dx = empty((n, height, width, channels), dy.dtype) if total is None else before
    taps = Taps(contiguous(weight).reshape(-1), (channels, o, 3, 3), 8, (9, channels * 9, -3, -1))
    _launch(channels_last(dy), weight, taps, None, before, False, dx, (padding[0] - 2, padding[1] - 2))
    return dx.transpose(0, 3, 1, 2) if total is None else total


def conv2d_weight_grad(dy, x, weight_shape, *, stride, padding):
    """As `weight_grad.conv2d_weight_grad`. The order of the sums follows from the shapes, not from the threads."""
    check("conv2d_weight_grad", dy, x, weight_shape, stride, padding)
    o, c = weight_shape[:2]
    if not pays(weight_shape, x.shape[1], stride, x.itemsize, (len(dy), *dy.shape[2:])):
        return weight_grad.conv2d_weight_grad(dy, x, weight_shape, stride=stride, padding=padding)
    x, dy, workers = channels_last(x), channels_last(dy), get_num_threads()
    dw, block = empty(weight_shape, x.dtype), tile_columns(x.dtype, o)
    slots = min(SLOTS, len(x) * -(-dy.shape[1] // M), SLOT_BYTES // (POINTS * c * o * x.itemsize))
    slots = 2 ** (slots.bit_length() - 1) if slots else 0  # as many for each worker, mostly
    if slots > 1:
        channels, least, size = o, LEAST_TILES, STRIP_BYTES
    else:
        slots, least, size = 1, GRAD_TILES, GRAD_BYTES
        shared = -(-o // (workers * 2 * block)) * 2 * block
        channels = min(o, shared, max(1, PART_BYTES // (POINTS * c * block * x.itemsize)) * block)
    tiles = max(least, size // (POINTS * (c + o) * x.itemsize))  # by shapes alone: it orders the sums
    plan = _plan(x.shape, dy.shape, x.itemsize, (-padding[0], -padding[1]), channels, block, tiles, slots, whole=False)
    v, d = (empty((workers, POINTS * plane), x.dtype) for plane in (plan.x_plane, plan.y_plane))
    m = empty((slots if slots > 1 else workers, POINTS * plan.w_plane), x.dtype)
    _weight_grad(x, dy, dw, v, d, m, slots, plan, workers)
    return dw


def _launch(x, weight, taps, bias, residual, relu, y, corner):
    """Convolve x (N, H, W, C) to y (N, OH, OW, O); the first window starts at `corner` of the image. The residual may
    be y itself: what y holds is then added to."""
    (o, c), workers = taps.shape[:2], get_num_threads()
    finish = conv.Finish.of(bias, residual, relu, y)
    tiles, block = max(LEAST_TILES, STRIP_BYTES // (POINTS * (c + o) * x.itemsize)), tile_columns(x.dtype, o)
    blocks, turns = o // block, -(-o // block // workers)  # of the worker that has most of them
    deep = POINTS * c * o * x.itemsize > DEEP_BYTES and turns * workers <= 1.25 * blocks
    channels, shares = (block, 1) if deep else (o, workers)
    plan = _plan(x.shape, y.shape, x.itemsize, corner, channels, block, tiles, shares, whole=True)
    held = workers
    if deep:
        held = -(-len(x) * plan.tile_rows // plan.rows)
        held = min(held, max(1, INPUT_BYTES // (POINTS * plan.x_plane * x.itemsize)))
    v, m = (empty((k, POINTS * plane), x.dtype) for k, plane in ((held, plan.x_plane), (workers, plan.y_plane)))
    parts, size = o // channels, POINTS * plan.w_plane
    anew = deep and weight.flags.writeable  # each worker's part of them
    key = "winograd", taps.strides, channels
    u, ready = (empty((workers, size), x.dtype), False) if anew else made_of(weight, key, (parts, size))
    _correlate(x, *taps, y, finish, v, m, u, ready, deep, plan, workers)
    if not anew:
        keep_made(weight, key, u)


# ---------------------------------------------------------------- how the work is cut
class _Plan(NamedTuple):
    """Strips of some rows of tiles, of one image or several, and where everything lies in them; in elements."""

    top: int  # input row and column of the first tile
    left: int
    tile_rows: int  # of an image
    tile_columns: int
    rows: int  # rows of tiles of a strip
    tiles: int  # of a strip
    channels: int  # of output
    block: int  # output channels of a block: the columns of the register tile
    x_plane: int  # from one plane to the next: of transformed input,
    y_plane: int  # output
    w_plane: int  # and weights
    line: int  # transformed columns of a row of tiles, of as many channels as a vector has lanes


@lru_cache(maxsize=1024)
def _plan(x_shape, y_shape, itemsize, corner, o, block, tiles, shares, whole):
    """Strips of about so many tiles, for each of so many shares of all tiles.

    With `whole`, at most twice as many, so that the last of a strip's register tiles is full where that can be, else
    all strips about as large.
    """
    n, _, _, c = x_shape
    tile_rows, columns = -(-y_shape[1] // M), -(-y_shape[2] // M)
    most, rows = -(-n * tile_rows // shares), max(1, tiles // columns)
    if whole:
        register_tiles = {r: -(-r * columns // TILE_ROWS) / r for r in range(1, 2 * rows + 1)}  # for each row
        rows = min(register_tiles, key=lambda r: (register_tiles[r], abs(r - rows)))
    else:
        rows = -(-most // -(-most // rows))
    rows = min(rows, most)
    tiles = rows * columns

    def plane(size):  # planes whose distance is a multiple of 4 KiB would fight for one cache set
        line = CACHE_LINE // itemsize
        return -(-size // line) * line + line

    return _Plan(
        *corner, tile_rows, columns, rows, tiles, o, block,
        x_plane=plane(tiles * c),
        y_plane=plane(tiles * o),
        w_plane=plane(c * o),
        line=(M * columns + 2) * WIDTH // itemsize,
    )  # fmt: skip


# ---------------------------------------------------------------- the three linear maps, in one dimension
@inner
def _input_map(d):
    """B^T d: 6 -> 6."""
    d0, d1, d2, d3, d4, d5 = d
    a, b, half, two, sum_ = splat(d0, A), splat(d0, B), splat(d0, -0.5), splat(d0, -2.0), splat(d0, -2.5)
    even, odd = fma(two, d2, d4), a * fma(two, d1, d3)
    even_, odd_ = fma(half, d2, d4), b * fma(half, d1, d3)
    return fma(sum_, d2, d0) + d4, even + odd, even - odd, even_ + odd_, even_ - odd_, fma(sum_, d3, d1) + d5


@inner
def _weight_map(g):
    """G g: 3 -> 6."""
    g0, g1, g2 = g
    na, nb, half, two = splat(g0, 1 / NA), splat(g0, 1 / NB), splat(g0, 0.5), splat(g0, 2.0)
    even, odd = fma(half, g2, g0) * na, splat(g0, A / NA) * g1
    even_, odd_ = fma(two, g2, g0) * nb, splat(g0, B / NB) * g1
    return g0, even + odd, even - odd, even_ + odd_, even_ - odd_, g2


@inner
def _weight_map_transposed(m):
    """G^T m: 6 -> 3."""
    m0, m1, m2, m3, m4, m5 = m
    na, nb, half, two = splat(m0, 1 / NA), splat(m0, 1 / NB), splat(m0, 0.5), splat(m0, 2.0)
    even, odd = (m1 + m2) * na, (m1 - m2) * splat(m0, A / NA)
    even_, odd_ = (m3 + m4) * nb, (m3 - m4) * splat(m0, B / NB)
    return (m0 + even) + even_, odd + odd_, fma(half, even, fma(two, even_, m5))


@inner
def _output_map(m):
    """A^T m: 6 -> 4."""
    m0, m1, m2, m3, m4, m5 = m
    half, two = splat(m0, 0.5), splat(m0, 2.0)
    even, odd, even_, odd_ = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    y1 = fma(splat(m0, A), odd, splat(m0, B) * odd_)
    y3 = fma(splat(m0, A / 2), odd, fma(splat(m0, B * 2), odd_, m5))
    return (m0 + even) + even_, y1, fma(half, even, two * even_), y3


@inner
def _output_map_transposed(y):
    """A y: 4 -> 6."""
    y0, y1, y2, y3 = y
    half, two = splat(y0, 0.5), splat(y0, 2.0)
    even, odd = fma(half, y2, y0), splat(y0, A) * fma(half, y3, y1)
    even_, odd_ = fma(two, y2, y0), splat(y0, B) * fma(two, y3, y1)
    return y0, even + odd, even - odd, even_ + odd_, even_ - odd_, y3


# ---------------------------------------------------------------- in two dimensions, for all tiles of some rows
# Planes are stored as (channels / lanes, tiles, lanes): what one product reads lies close together.
@inner
def _transform_input(x, shape, plan, strip_row, rows, v, v_start, line):
    """V = B^T d B for all tiles of the strip of so many rows of tiles that starts at `strip_row`.

    Columns are transformed first, each once although two tiles share it, to `line`, which L1 holds. ::

        for each row of tiles: for each vector of channels
            for each column of pixels: line[:, column] = B^T d, zeros outside the image
            for each tile: for each row k of line: V[k, :] = B^T line[k, its 6 columns]
    """
    _, height, width, c = shape
    zero = wide(x)
    n = lanes(zero)
    for r in range(rows):
        image, row = (strip_row + r) // plan.tile_rows, (strip_row + r) % plan.tile_rows * M + plan.top
        for channel in range(0, c, n):
            for j in range(M * plan.tile_columns + 2):
                column = j + plan.left
                at = ((image * height + row) * width + column) * c + channel
                d = loads_within(zero, x, at, width * c, 6, row, height if 0 <= column < width else 0)
                stores(line, j * n, plan.line, _input_map(d))
            for tile in range(plan.tile_columns):
                to = v_start + channel * plan.tiles + (r * plan.tile_columns + tile) * n
                for k in range(R):
                    d = loads(zero, line, k * plan.line + tile * M * n, n, 6)
                    stores(v, to + k * R * plan.x_plane, plan.x_plane, _input_map(d))


@inner
def _transform_output(m, m_start, plan, strip_row, rows, first, y, shape, finish):
    """Y = A^T m A for all tiles of a strip, each held in registers, finished and stored from channel `first` on; the
    last ones may leave the image."""
    _, height, width, all_channels = shape
    zero, p = wide(y), plan.y_plane
    n, floor = lanes(zero), splat(zero, finish.floor)
    edge = np.empty(M * M * n, y.dtype)
    for channel in range(0, plan.channels, n):
        bias = load(zero, finish.bias, first + channel)
        for t in range(rows * plan.tile_columns):
            r, j = strip_row + t // plan.tile_columns, t % plan.tile_columns * M
            image, i = r // plan.tile_rows, r % plan.tile_rows * M
            at = m_start + _block_start(plan, channel, plan.tiles) + t * plan.block
            rows_of_tile = transposed((
                _output_map(loads(zero, m, at, R * p, 6)),
                _output_map(loads(zero, m, at + p, R * p, 6)),
                _output_map(loads(zero, m, at + 2 * p, R * p, 6)),
                _output_map(loads(zero, m, at + 3 * p, R * p, 6)),
                _output_map(loads(zero, m, at + 4 * p, R * p, 6)),
                _output_map(loads(zero, m, at + 5 * p, R * p, 6)),
            ))  # fmt: skip
            to = ((image * height + i) * width + j) * all_channels + first + channel
            if i + M <= height and j + M <= width:
                for k, row in enumerate(rows_of_tile):
                    y0, y1, y2, y3 = _output_map(row)
                    at, step = to + k * width * all_channels, all_channels
                    r0, r1, r2, r3 = loads_within(zero, finish.residual, at, step, 4, 0, 4 * finish.residuals)
                    y0, y1, y2, y3 = (y0 + bias) + r0, (y1 + bias) + r1, (y2 + bias) + r2, (y3 + bias) + r3
                    y0, y1, y2, y3 = maximum(y0, floor), maximum(y1, floor), maximum(y2, floor), maximum(y3, floor)
                    stores(y, at, step, (y0, y1, y2, y3))
            else:
                for k, row in enumerate(rows_of_tile):
                    stores(edge, k * M * n, n, _output_map(row))
                for k in range(min(M, height - i)):
                    for l in range(min(M, width - j)):
                        at, value = to + (k * width + l) * all_channels, load(zero, edge, (k * M + l) * n) + bias
                        (residual,) = loads_within(zero, finish.residual, at, 0, 1, 0, finish.residuals)
                        store(y, at, maximum(value + residual, floor))


@inner
def _transform_gradient(dy, shape, plan, strip_row, rows, first, channels, d, d_start):
    """D = A dy A^T for all tiles of a strip, each held in registers, and some channels; zeros outside the image."""
    _, height, width, all_channels = shape
    zero, row, p = wide(dy), shape[2] * shape[3], plan.y_plane
    for channel in range(0, channels, lanes(zero)):
        for t in range(rows * plan.tile_columns):
            r, j = strip_row + t // plan.tile_columns, t % plan.tile_columns * M
            image, i = r // plan.tile_rows, r % plan.tile_rows * M
            at = ((image * height + i) * width + j) * all_channels + first + channel
            to = d_start + _block_start(plan, channel, plan.tiles) + t * plan.block
            h1, h2, h3 = (
                (height if j + 1 < width else 0),
                (height if j + 2 < width else 0),
                (height if j + 3 < width else 0),
            )
            rows_of_tile = transposed((
                _output_map_transposed(loads_within(zero, dy, at, row, 4, i, height)),
                _output_map_transposed(loads_within(zero, dy, at + all_channels, row, 4, i, h1)),
                _output_map_transposed(loads_within(zero, dy, at + 2 * all_channels, row, 4, i, h2)),
                _output_map_transposed(loads_within(zero, dy, at + 3 * all_channels, row, 4, i, h3)),
            ))  # fmt: skip
            for k, values in enumerate(rows_of_tile):
                stores(d, to + k * R * p, p, _output_map_transposed(values))


@inner
def _block_start(plan, channel, rows):
    """Where a block of output channels starts in a plane of so many rows, and the channel in it."""
    return channel // plan.block * rows * plan.block + channel % plan.block


# ---------------------------------------------------------------- forward and input gradient
@jit(parallel=True)
def _correlate(x, weight, shape, start, strides, y, finish, v, m, u, ready, deep, plan, workers):
    """Convolve x (N, H, W, C) with weights of `shape`, a view of `weight`, to y (N, OH, OW, O).

    Where the weights are few, all are transformed first, and the workers share out the strips::

        parallel: U = G g G^T, unless u holds it (`ready`)
        parallel for each strip
            V = B^T d B, for all tiles of the strip
            M = V U, 36 matrix products
            y = A^T M A

    Where they are many (`deep`), the input is transformed first, as many strips as v holds, and the workers share out
    the weights. U, four times as large as they are, is never whole in memory, but a block at a time in its worker's::

        for each round of strips
            parallel: V = B^T d B
            parallel for each block of output channels
                U = G g G^T, unless u holds it
                for each strip of the round: M = V U, y = A^T M A

    Cost: 2 * 36 * tiles * C * O floating-point operations, a quarter of direct convolution's where tiles are whole.
    """
    rounds = -(-x.shape[0] * plan.tile_rows // (plan.rows * v.shape[0])) if deep else 1
    for stage in range(ready and not deep, 2 * rounds):
        for worker in prange(workers):
            _correlate_share(
                x, weight, shape, start, strides, y, finish, v, m, u, ready, deep, plan,
                stage, np.int64(worker), workers,
            )  # fmt: skip


@inner
def _correlate_share(x, weight, shape, start, strides, y, finish, v, m, u, ready, deep, plan, stage, worker, workers):
    """A worker's share of a stage: an even one prepares what all will read, U or V, and the next does the rest.

    One function for all of that, so that each transform is compiled once.
    """
    (o, c), prepare, n = shape[:2], stage % 2 == 0, lanes(wide(x))
    x_flat, y_flat, v_flat, m_flat = x.reshape(x.size), y.reshape(y.size), v.reshape(v.size), m.reshape(m.size)
    u_flat, line, m_start = u.reshape(u.size), np.empty(R * plan.line, x.dtype), worker * m.shape[1]
    all_rows, squares = x.shape[0] * plan.tile_rows, plan.channels * c // n**2
    if deep:
        before = stage // 2 * v.shape[0] * plan.rows
        stop = min(before + v.shape[0] * plan.rows, all_rows)
        parts = (0, 1) if prepare else _share(o // plan.channels, worker, workers)
        begin, end = _share(stop - before, worker, workers)  # rows of tiles to transform, of the round's
        begin, end, share = before + begin, before + end, (0, squares)
    else:
        before, stop = (0, 0) if prepare else _share(all_rows, worker, workers)
        parts, begin, end, share = (0, 1), before, stop, _share(squares, worker, workers)
    for part in range(*parts):
        channel, u_start = part * plan.channels, (part if len(u) * plan.channels == o else worker) * u.shape[1]
        if not ready and prepare != deep:
            _transform_weights(weight, shape, start, strides, u_flat, u_start, plan, channel, *share)
        for first in range(before, stop, plan.rows):
            last, strip = min(first + plan.rows, stop), (first - before) // plan.rows if deep else worker
            if prepare == deep:
                row, rows = max(first, begin), min(last, end) - max(first, begin)
                to = strip * v.shape[1] + (row - first) * plan.tile_columns * n
                _transform_input(x_flat, x.shape, plan, row, rows, v_flat, to, line)
            if not prepare:
                # what to prefetch: nothing, if deep, where it was no faster
                after, done = (last, first) if deep else (min(last + plan.rows, stop), last)
                _products(
                    v_flat, strip * v.shape[1], u_flat, u_start, m_flat, m_start, c,
                    (last - first) * plan.tile_columns, plan,
                    x_flat, _memory_of(x.shape, plan, last), _memory_of(x.shape, plan, after),
                    y_flat, _memory_of(y.shape, plan, first), _memory_of(y.shape, plan, done), finish,
                )  # fmt: skip
                _transform_output(m_flat, m_start, plan, first, last - first, channel, y_flat, y.shape, finish)


@inner
def _share(count, worker, workers):
    return worker * count // workers, (worker + 1) * count // workers


@inner
def _transform_weights(weight, shape, start, strides, u, u_start, plan, first, begin, end):
    """U = G g G^T for squares `begin` to `end` of the plan's channels, planes of (O / block, C, block).

    As many pairs of channels as fill a square of vectors at once, first copied to `near`: what is turned there is read
    a few numbers beyond each filter. ::

        for each square: near = its filters, as they lie
            for each input channel: taps = its 9 vectors of output channels, turned by shuffles; U = G taps G^T
    """
    c, p = shape[1], plan.w_plane
    zero = wide(u)
    n = lanes(zero)
    near, taps = np.empty((9 * n + 1) * n, u.dtype), np.empty((9 + n) * n, u.dtype)
    apart, lane, turn = max(strides[0], strides[1]), 9 * n, 9  # output channels lie apart, each by its input channels,
    if strides[0] == 9:
        lane, turn = 9, 9 * n  # or the other way round
    for item in range(begin, end):
        channel, k = item // (c // n) * n, item % (c // n) * n
        for i in range(n):
            at = (first + channel) * strides[0] + k * strides[1] + i * apart
            stores(near, i * 9 * n, n, loads(zero, weight, at, n, 9))
        to = u_start + _block_start(plan, channel, c) + k * plan.block
        for i in range(n):
            for tap in range(0, 9, n):
                stores(taps, tap * n, n, loads_turned(zero, near, i * turn + tap, lane)[:9])
            rows = transposed((
                _weight_map(loads(zero, taps, start * n, strides[2] * n, 3)),
                _weight_map(loads(zero, taps, (start + strides[3]) * n, strides[2] * n, 3)),
                _weight_map(loads(zero, taps, (start + 2 * strides[3]) * n, strides[2] * n, 3)),
            ))  # fmt: skip
            for j, row in enumerate(rows):
                stores(u, to + i * plan.block + j * R * p, p, _weight_map(row))


@inner
def _memory_of(shape, plan, row):
    """Flat index at which a row of tiles starts in an image array, at most its end."""
    n, height, width, channels = shape
    image = min(row // plan.tile_rows, n)
    within = min(row % plan.tile_rows * M, height) if image < n else 0
    return (image * height + within) * width * channels


@inner
def _products(v, v_start, u, u_start, m, m_start, c, tiles, plan, x, x_at, x_stop, y, y_at, y_stop, finish):
    """M[p] = V[p] U[p] for all planes p.

    The arithmetic hardly touches memory, so meanwhile what the transforms will touch next is brought to the cache, a
    few lines at each tile of the product: the next strip's input, and this one's output and residual.
    """
    zero, block = wide(v), plan.block
    n, blocks = lanes(zero), plan.channels // block
    turns = POINTS * blocks * -(-tiles // TILE_ROWS)
    x_lines, y_lines = -(-(x_stop - x_at) // (n * turns)), -(-(y_stop - y_at) // (n * turns))
    for k in range(POINTS * blocks):
        a = v_start + k // blocks * plan.x_plane
        b = u_start + k // blocks * plan.w_plane + k % blocks * c * block
        out = m_start + k // blocks * plan.y_plane + k % blocks * plan.tiles * block
        for r in range(0, tiles, TILE_ROWS):
            for _ in range(x_lines):
                prefetch(x, x_at)
                x_at += n
            for _ in range(y_lines):
                prefetch_to_write(y, y_at)
                if finish.residuals:
                    prefetch(finish.residual, y_at)
                y_at += n
            if block == n:
                tile_of_one(
                    zero, v, a, n, r, tiles - 1, plan.tiles * n, 1, u, b, n * n, n,
                    c // n, n, m, out, n, False,
                )  # fmt: skip
            else:
                tile_of_two(
                    zero, v, a, n, r, tiles - 1, plan.tiles * n, 1, u, b, n * 2 * n, 2 * n,
                    c // n, n, m, out, 2 * n, False,
                )  # fmt: skip


# ---------------------------------------------------------------- weight gradient
@jit(parallel=True)
def _weight_grad(x, dy, dw, v, d, m, slots, plan, workers):
    """dw (O, C, 3, 3) from x (N, H, W, C) and dy (N, OH, OW, O).

    Where there are few channels, each slot has its own tiles, and its own sums M::

        parallel for each slot: for each strip of its tiles, small enough for L2
            V = B^T x B and D = A dy A^T
            M += V^T D, 36 matrix products
        parallel: dw = G^T (M of all slots) G

    Where there are many, M itself is large, and there is one slot; a part of the output channels takes its place::

        parallel for each part: for each strip of all tiles: V, D and M as above; dw of the part = G^T M G

    Cost: 2 * 36 * tiles * C * O floating-point operations.
    """
    for worker in prange(workers):
        _sum_strips(x, dy, dw, v, d, m, slots, plan, np.int64(worker), workers)
    if slots > 1:
        for worker in prange(workers):
            items = (dw.shape[0] // lanes(wide(m))) * (dw.shape[1] // lanes(wide(m)))
            begin, end = np.int64(worker) * items // workers, (np.int64(worker) + 1) * items // workers
            _transform_sums(m, 0, slots, plan, dw, 0, begin, end)


@inner
def _sum_strips(x, dy, dw, v, d, m, slots, plan, worker, workers):
    """Each slot, or each part of the output channels: one of the two is the only one of its kind."""
    n, c, o = lanes(wide(m)), x.shape[3], dy.shape[3]
    all_rows, parts = x.shape[0] * plan.tile_rows, -(-o // plan.channels)
    x_flat, dy_flat = x.reshape(x.size), dy.reshape(dy.size)
    v_flat, d_flat, m_flat = v.reshape(v.size), d.reshape(d.size), m.reshape(m.size)
    v_start, d_start, line = worker * v.shape[1], worker * d.shape[1], np.empty(R * plan.line, x.dtype)
    items = slots * parts
    before = worker * items // workers
    for item in range(before, (worker + 1) * items // workers):
        slot, part = item // parts, item % parts
        start, stop = slot * all_rows // slots, (slot + 1) * all_rows // slots
        channel = part * plan.channels
        channels, sums = min(plan.channels, o - channel), (slot if slots > 1 else worker) * m.shape[1]
        for first in range(start, stop, plan.rows):
            rows, last = min(plan.rows, stop - first), min(stop, first + 2 * plan.rows)
            if slots > 1 or rows < all_rows or item == before:  # else V is that of the part before
                _transform_input(x_flat, x.shape, plan, first, rows, v_flat, v_start, line)
            _transform_gradient(dy_flat, dy.shape, plan, first, rows, channel, channels, d_flat, d_start)
            _products_over_tiles(
                v_flat, v_start, d_flat, d_start, m_flat, sums,
                c, channels, rows * plan.tile_columns, plan, first > start,
                x_flat, _memory_of(x.shape, plan, first + rows), _memory_of(x.shape, plan, last),
                dy_flat, _memory_of(dy.shape, plan, first + rows), _memory_of(dy.shape, plan, last),
            )  # fmt: skip
        if slots == 1:
            _transform_sums(m, worker, 1, plan, dw, channel, 0, (channels // n) * (c // n))


@inner
def _products_over_tiles(
    v, v_start, d, d_start, m, m_start, c, channels, tiles, plan, add, x, x_at, x_stop, dy, dy_at, dy_stop
):
    """M[p] = V[p]^T D[p], or M[p] + that with `add`, for all planes p, of (channels / block, C, block).

    Meanwhile what the next strip's transforms will read is brought to the cache, as in `_products`.
    """
    zero, block = wide(v), plan.block
    n, blocks = lanes(zero), channels // block
    height = min(TILE_ROWS, n)  # rows of the tile that lie together
    turns = POINTS * blocks * (c // height)
    x_lines, dy_lines = -(-(x_stop - x_at) // (n * turns)), -(-(dy_stop - dy_at) // (n * turns))
    for item in range(POINTS * blocks):
        a = v_start + item // blocks * plan.x_plane
        b = d_start + item // blocks * plan.y_plane + item % blocks * plan.tiles * block
        out = m_start + item // blocks * plan.w_plane + item % blocks * c * block
        for k in range(0, c, height):
            for _ in range(x_lines):
                prefetch(x, x_at)
                x_at += n
            for _ in range(dy_lines):
                prefetch(dy, dy_at)
                dy_at += n
            a_start = a + k // n * plan.tiles * n + k % n
            if block == n:
                tile_of_one(
                    zero, v, a_start, 1, 0, height - 1, 0, n, d, b, 0, n,
                    1, tiles, m, out + k * n, n, add,
                )  # fmt: skip
            else:
                tile_of_two(
                    zero, v, a_start, 1, 0, height - 1, 0, n, d, b, 0, 2 * n,
                    1, tiles, m, out + k * 2 * n, 2 * n, add,
                )  # fmt: skip


@inner
def _sum_of(m, slot, slots, at, step):
    """Six vectors, `step` numbers apart, added up over all slots."""
    zero = wide(m)
    t0, t1, t2, t3, t4, t5 = loads(zero, m, slot * m.shape[1] + at, step, 6)
    for other in range(slot + 1, slot + slots):
        s0, s1, s2, s3, s4, s5 = loads(zero, m, other * m.shape[1] + at, step, 6)
        t0, t1, t2, t3, t4, t5 = t0 + s0, t1 + s1, t2 + s2, t3 + s3, t4 + s4, t5 + s5
    return t0, t1, t2, t3, t4, t5


@inner
def _transform_sums(m, slot, slots, plan, dw, first, begin, end):
    """dw = G^T M G for squares of pairs `begin` to `end` of the plan's channels.

    M is the sum of so many slots, in their order; `first` is the output channel of dw that the plan's first one is. ::

        for each square of as many channels as a vector has lanes, both ways
            for each input channel: taps = G^T M G, 9 vectors of output channels
            dw = taps, turned by shuffles: of each output channel, the filters of these input channels lie together
    """
    c, p = dw.shape[1], plan.w_plane
    zero, out = wide(m), dw.reshape(dw.size)
    n = lanes(zero)
    taps = np.empty(9 * n * n, m.dtype)
    for item in range(begin, end):
        channel, k = item // (c // n) * n, item % (c // n) * n
        for i in range(n):
            at = _block_start(plan, channel, c) + (k + i) * plan.block
            rows = transposed((
                _weight_map_transposed(_sum_of(m, slot, slots, at, R * p)),
                _weight_map_transposed(_sum_of(m, slot, slots, at + p, R * p)),
                _weight_map_transposed(_sum_of(m, slot, slots, at + 2 * p, R * p)),
                _weight_map_transposed(_sum_of(m, slot, slots, at + 3 * p, R * p)),
                _weight_map_transposed(_sum_of(m, slot, slots, at + 4 * p, R * p)),
                _weight_map_transposed(_sum_of(m, slot, slots, at + 5 * p, R * p)),
            ))  # fmt: skip
            for j, row in enumerate(rows):
                stores(taps, (9 * i + 3 * j) * n, n, _weight_map_transposed(row))
        to = ((first + channel) * c + k) * 9
        for j in range(9):
            stores(out, to + j * n, c * 9, loads_turned(zero, taps, j * n * n, n))
