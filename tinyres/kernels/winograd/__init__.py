"""Winograd convolution: 3x3 with a quarter of the multiplications, or with stride 2 a little more than half of them.

Four outputs of a 3-tap filter, y_i = sum_k d_(i+k) g_k, are coefficients of a product of polynomials, and a polynomial
of degree 5 is determined by its values at six points: evaluate, multiply six numbers, interpolate. Lavin and Gray,
"Fast algorithms for convolutional neural networks", CVPR 2016, write the three linear maps as matrices:

    y = A^T [(G g) * (B^T d)],   in two dimensions   Y = A^T [(G g G^T) * (B^T d B)] A.

A 6x6 tile of input gives a 4x4 tile of output with 36 multiplications; the direct sum needs 144. A product has one of
36 places ("planes") in its tile. The products at one place of all tiles, summed over input channels, are one matrix
product:

    M[p] (tiles, O) = V[p] (tiles, C) U[p] (C, O),   V = transformed input, U = transformed weights.

The points are 0, +-sqrt(1/2), +-sqrt(2) and infinity. They lose fewer digits than 0, +-1, +-2 (Barabasz et al., "Error
analysis and improving the accuracy of Winograd convolution for deep neural networks", 2020). With m(x) = x (x^2 - 1/2)
(x^2 - 2), row i of B^T has the coefficients of m(x) / (x - x_i), row i of G has the powers of x_i over N_i = m'(x_i),
and A^T has the powers of all x_i.

Both gradients come from the same three matrices. The input gradient is a convolution of dy with flipped, transposed
weights. The weight gradient is the transpose of the map from g to y,

    dg = G^T [(B^T d B) * (A dy A^T)] G,

summed over all tiles before the last step. These are again matrix products, (C, tiles) by (tiles, O).

With stride 2 a tile has nine places in one dimension and 81 in two, see `tinyres.kernels.winograd.maps`.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels import conv, weight_grad
from tinyres.kernels.arrays import check, out_size
from tinyres.kernels.compile import inner, jit
from tinyres.kernels.conv import Finish, in_channels_last, share
from tinyres.kernels.filters import Taps
from tinyres.kernels.layout import channels_last, contiguous
from tinyres.kernels.memory import empty, keep_made, made_of, scratch
from tinyres.kernels.moments import merge
from tinyres.kernels.pending import Loading, known
from tinyres.kernels.simd import WIDTH, address, lanes, wide
from tinyres.kernels.tile import Ahead, Tile, ahead_of
from tinyres.kernels.winograd.maps import DOWN, SAME, UP
from tinyres.kernels.winograd.plan import POINTS, Strip, memory_of, plan_of
from tinyres.kernels.winograd.products import products, products_over_tiles, turns
from tinyres.kernels.winograd.transforms import (
    measure_output,
    transform_gradient,
    transform_input,
    transform_output,
    transform_sums,
    transform_weights,
)

STRIP_BYTES = 640 * 1024  # transformed input and output of one strip: they fit L2
PARTS = 128  # most parts that moments are measured of: each worker takes some, and all are merged in the end
LEAST_TILES = 32  # in a strip, so that weights are read for more than a few tiles
SLOTS, SLOT_BYTES = 16, 4 * 1024 * 1024  # limits on the weight gradient's partial sums: number and total bytes
GRAD_BYTES = 4 * 1024 * 1024  # transformed input and output of one strip without slots: they fit L3
GRAD_TILES = 64  # in such a strip, so that sums are loaded and stored for more than a few tiles
PART_BYTES = 5 * 1024 * 1024  # sums of a part of the output channels, without slots: they fit L3
DEEP_BYTES = 4 * 1024 * 1024  # transformed weights; if there are more, each worker makes and uses one block at a time,
INPUT_BYTES = 10 * 1024 * 1024  # with this much transformed input, which fits L3

# Costs, measured in multiply-adds of the matrix products: the cost of a product, of transforming a number of an input
# channel and of an output channel, and of transforming the weight of one pair of channels. See `pays`.
INPUT_COST, OUTPUT_COST, WEIGHT_COST = 6.1, 3.6, 250
DOWN_COST = 1.2  # factor for a tile with stride 2, whose 81 planes leave room for fewer tiles in a strip


def fits(weight_shape, channels, itemsize, *, stride, padding):
    """Whether there is a Winograd form of the convolution.

    There is one for 3x3 with stride 1, or with stride 2 and padding 1, for one group and channels that fill whole
    vectors.
    """
    o, c, kh, kw = weight_shape
    vector, window = WIDTH // itemsize, (tuple(stride), tuple(padding))
    form = window[0] == (1, 1) or window == ((2, 2), (1, 1))
    return form and (kh, kw) == (3, 3) and c == channels and o % vector == c % vector == 0


def pays(weight_shape, channels, itemsize, images, *, stride, padding):
    """Whether it is faster than direct convolution, for `images` (N, H, W) of output.

    In multiply-adds for each pair of channels, direct convolution costs 9 for a pixel. A tile costs 36 or 81 and its
    share of the transforms, and the weights are transformed once. For few or small images, direct convolution is used.
    """
    if not fits(weight_shape, channels, itemsize, stride=stride, padding=padding):
        return False
    (o, c), (n, height, width), form = weight_shape[:2], images, _form(stride)
    tiles = n * -(-height // form.y_step) * -(-width // form.y_step)
    cost = form.places**2 * (1 + INPUT_COST / o + OUTPUT_COST / c) * (DOWN_COST if form == DOWN else 1)
    return tiles * cost + WEIGHT_COST < 9 * n * height * width


def measures(x_shape, weight_shape, itemsize, *, stride, padding):
    """Whether a convolution can measure its result for the next batch norm, with `conv2d_and_statistics`."""
    images = _images(x_shape, stride, padding)
    return pays(weight_shape, x_shape[1], itemsize, images, stride=stride, padding=padding)


def takes_pending(x_shape, weight_shape, itemsize, *, stride, padding):
    """Whether it can apply the batch norm before it: x may be `Pending`, also in `conv2d_weight_grad`."""
    return tuple(stride) == (1, 1) and measures(x_shape, weight_shape, itemsize, stride=stride, padding=padding)


def _images(x_shape, stride, padding):
    """(N, OH, OW)."""
    return x_shape[0], *out_size(x_shape[2:], (3, 3), stride, padding)


def _form(stride):
    return SAME if tuple(stride) == (1, 1) else DOWN


def conv2d(x, weight, bias=None, residual=None, *, stride, padding, relu=False):
    """As `conv.conv2d`, by Winograd's method if it is faster."""
    check("conv2d", known(x), weight, bias, residual, stride, padding)
    images = _images(x.shape, stride, padding)
    if not pays(weight.shape, x.shape[1], x.itemsize, images, stride=stride, padding=padding):
        return conv.conv2d(x, weight, bias, residual, stride=stride, padding=padding, relu=relu)
    y = empty((*images, len(weight)), x.dtype)
    finish = Finish.of(bias, None if residual is None else channels_last(residual), relu, y)
    _launch(_form(stride), Loading.of(x), weight, _forward(weight), finish, y, (-padding[0], -padding[1]))
    return y.transpose(0, 3, 1, 2)


def conv2d_and_statistics(x, weight, *, stride, padding):
    """`conv2d`, and `batch_norm_statistics` of its result: (y, mean, variance). Only if `measures` is True.

    Rows of tiles are measured as soon as they are stored, and each is added to its part. The parts, and the order in
    which they are merged, depend on shapes only.
    """
    check("conv2d_and_statistics", known(x), weight, stride, padding)
    if not measures(x.shape, weight.shape, x.itemsize, stride=stride, padding=padding):
        shapes = f"{x.shape} and {weight.shape}"
        raise ValueError(f"conv2d_and_statistics: x, weight: got shapes {shapes}, whose convolution is not measured")
    images, o = _images(x.shape, stride, padding), len(weight)
    part_rows, pixels = _parts(images, _form(stride).y_step)
    y, parts = empty((*images, o), x.dtype), scratch("parts", (len(pixels), 3, o), x.dtype)
    finish = Finish.of(None, None, False, y, moments=parts, part_rows=part_rows)
    _launch(_form(stride), Loading.of(x), weight, _forward(weight), finish, y, (-padding[0], -padding[1]))
    return y.transpose(0, 3, 1, 2), *merge(parts, pixels, o)


@lru_cache(maxsize=1024)
def _parts(images, side):
    """Rows of tiles in each part of (N, OH, OW) that is measured, and the pixels of each part."""
    n, height, width = images
    rows = [width * min(side, height - top) for top in range(0, height, side)] * n
    size = -(-len(rows) // PARTS)
    return size, np.array([sum(rows[first : first + size]) for first in range(0, len(rows), size)])


def _forward(weight):
    o, c = weight.shape[:2]
    return Taps(contiguous(weight).reshape(-1), 0, o, c, 3, 3, c * 9, 9, 3, 1)


def conv2d_input_grad(dy, weight, x_shape, total=None, *, stride, padding):
    """As `conv.conv2d_input_grad`: a convolution of dy with flipped, transposed weights."""
    check("conv2d_input_grad", dy, weight, x_shape, total, stride, padding)
    (n, channels, height, width), o = x_shape, len(weight)
    if not pays(weight.shape, channels, dy.itemsize, (n, *dy.shape[2:]), stride=stride, padding=padding):
        return conv.conv2d_input_grad(dy, weight, x_shape, total, stride=stride, padding=padding)
    before = None if total is None else in_channels_last(total, dy, weight)
    dx = empty((n, height, width, channels), dy.dtype) if total is None else before
    taps = Taps(contiguous(weight).reshape(-1), 8, channels, o, 3, 3, 9, channels * 9, -3, -1)
    finish = Finish.of(None, before, False, dx)
    form, corner = (UP, (0, 0)) if _form(stride) == DOWN else (SAME, (padding[0] - 2, padding[1] - 2))
    _launch(form, Loading.of(dy), weight, taps, finish, dx, corner)
    return dx.transpose(0, 3, 1, 2) if total is None else total


def conv2d_weight_grad(dy, x, weight_shape, *, stride, padding):
    """As `weight_grad.conv2d_weight_grad`. The order of the sums depends on shapes, not on threads."""
    check("conv2d_weight_grad", dy, known(x), weight_shape, stride, padding)
    o, c = weight_shape[:2]
    if not pays(weight_shape, x.shape[1], dy.itemsize, (len(dy), *dy.shape[2:]), stride=stride, padding=padding):
        return weight_grad.conv2d_weight_grad(dy, x, weight_shape, stride=stride, padding=padding)
    x, dy, workers = Loading.of(x), channels_last(dy), get_num_threads()
    dw, tile, form = empty(weight_shape, dy.dtype), Tile.of(dy.dtype, o, even=True), _form(stride)
    slots = min(SLOTS, len(dy) * -(-dy.shape[1] // form.y_step), SLOT_BYTES // (POINTS * c * o * dy.itemsize))
    slots = 2 ** (slots.bit_length() - 1) if slots else 0  # usually the same number for each worker
    if slots > 1:
        channels, least, size = o, LEAST_TILES, STRIP_BYTES
    else:
        slots, least, size = 1, GRAD_TILES, GRAD_BYTES
        shared = -(-o // (workers * 2 * tile.columns)) * 2 * tile.columns
        channels = min(o, shared, max(1, PART_BYTES // (POINTS * c * tile.columns * dy.itemsize)) * tile.columns)
    tiles = max(least, size // (form.places**2 * (c + o) * dy.itemsize))  # by shapes only: it orders the sums
    corner = -padding[0], -padding[1]
    plan = plan_of(form, x.x.shape, dy.shape, dy.itemsize, corner, channels, tile, (tiles, slots, False))
    v = scratch("v", (workers, plan.places**2 * plan.x_plane), dy.dtype)
    d = scratch("d", (workers, plan.places**2 * plan.y_plane), dy.dtype)
    m = scratch("m", (slots if slots > 1 else workers, POINTS * plan.w_plane), dy.dtype)
    _weight_grad(x, dy, dw, (v, d, m), slots, plan, workers)
    return dw


def _launch(form, loading, weight, taps, finish, y, corner):
    """Convolve x (N, H, W, C) to y (N, OH, OW, O); the first window starts at `corner` of the image.

    If the residual is y itself, the result is added to y.
    """
    o, c, workers, x = taps.o, taps.c, get_num_threads(), loading.x
    tiles, tile = max(LEAST_TILES, STRIP_BYTES // (form.places**2 * (c + o) * x.itemsize)), Tile.of(x.dtype, o)
    blocks, most = o // tile.columns, -(-o // tile.columns // workers)  # blocks of the worker that has most of them
    deep = POINTS * c * o * x.itemsize > DEEP_BYTES and most * workers <= 1.25 * blocks
    channels, shares = (tile.columns, 1) if deep else (o, workers)
    plan = plan_of(form, x.shape, y.shape, x.itemsize, corner, channels, tile, (tiles, shares, True), deep=deep)
    held = workers
    if deep:
        held = -(-len(x) * plan.tile_rows // plan.rows)
        held = min(held, max(1, INPUT_BYTES // (plan.places**2 * plan.x_plane * x.itemsize)))
    v = scratch("v", (held, plan.places**2 * plan.x_plane), x.dtype)
    m = scratch("m", (workers, plan.places**2 * plan.y_plane), x.dtype)
    parts, size = o // channels, POINTS * plan.w_plane
    anew = deep and weight.flags.writeable  # each worker transforms its part of them
    key = "winograd", form, taps.o_step, channels
    u, ready = (scratch("u", (workers, size), x.dtype), False) if anew else made_of(weight, key, (parts, size))
    _correlate(loading, taps, y, finish, Factors(v, m, u, ready), plan, workers)
    if not anew:
        keep_made(weight, key, u)


class Factors(NamedTuple):
    """Memory of the matrix products; each array has a row for each worker or slot that shares it."""

    v: np.ndarray  # transformed input
    m: np.ndarray  # the products
    u: np.ndarray  # transformed weights,
    ready: bool  # which may be there already


# ---------------------------------------------------------------- forward and input gradient
@jit(parallel=True)
def _correlate(loading, taps, y, finish, factors, plan, workers):
    """Convolve x (N, H, W, C) with the weights, and store the result in y (N, OH, OW, O).

    With few weights, all are transformed first, and the workers divide the strips among them::

        parallel: U = G g G^T, unless it is there
        parallel for each strip
            V = B^T d B, for all tiles of the strip
            M = V U, 36 matrix products, or 81 with stride 2
            y = A^T M A

    With many weights (`deep`), the input is transformed first, as many strips as fit in memory, and the workers divide
    the weights among them. U is four times as large as the weights, and never all in memory: each worker has one block
    of it at a time::

        for each round of strips
            parallel: V = B^T d B
            parallel for each block of output channels
                U = G g G^T, unless it is there
                for each strip of the round: M = V U, y = A^T M A

    Cost: 2 * 36 * tiles * C * O floating-point operations, a quarter of direct convolution's if tiles are whole; with
    stride 2 it is 81 in place of 36, and 9 / 16 of direct convolution's.
    """
    rounds = -(-loading.x.shape[0] * plan.tile_rows // (plan.rows * factors.v.shape[0])) if plan.deep else 1
    for stage in range(factors.ready and not plan.deep, 2 * rounds):
        for worker in prange(workers):
            _correlate_share(loading, taps, y, finish, factors, plan, stage, (np.int64(worker), workers))


@inner
def _correlate_share(loading, taps, y, finish, factors, plan, stage, whose):
    """A share, (worker, workers), of a stage: even stages prepare U or V for all workers, odd ones do the rest.

    It is one function, so that each transform is compiled once.
    """
    x, (v, m, u, ready), worker = loading.x, factors, whose[0]
    o, c, prepare, deep, n = taps.o, taps.c, stage % 2 == 0, plan.deep, lanes(wide(x))
    x_flat, y_flat, v_flat, m_flat = x.reshape(x.size), y.reshape(y.size), v.reshape(v.size), m.reshape(m.size)
    u_flat, m_start = u.reshape(u.size), worker * m.shape[1]
    line = np.empty(plan.places * plan.line, x.dtype)
    all_rows, squares = x.shape[0] * plan.tile_rows, plan.channels * c // n**2
    if deep:
        before = stage // 2 * v.shape[0] * plan.rows
        stop = min(before + v.shape[0] * plan.rows, all_rows)
        parts = (0, 1) if prepare else share(o // plan.channels, whose)
        begin, end = share(stop - before, whose)  # this worker's rows of tiles in the round
        begin, end, some = before + begin, before + end, (0, squares)
    else:
        before, stop = (0, 0) if prepare else _share_of_rows(all_rows, finish, whose)
        parts, begin, end, some = (0, 1), before, stop, share(squares, whose)
    for part in range(*parts):
        channel, u_start = part * plan.channels, (part if len(u) * plan.channels == o else worker) * u.shape[1]
        if not ready and prepare != deep:
            transform_weights(plan, taps, u_flat, u_start, channel, some)
        for first in range(before, stop, plan.rows):
            last, strip = min(first + plan.rows, stop), (first - before) // plan.rows if deep else worker
            if prepare == deep:
                row, rows = max(first, begin), min(last, end) - max(first, begin)
                to = strip * v.shape[1] + (row - first) * plan.tile_columns * n
                transform_input(plan, loading, Strip(row, rows, 0), v_flat, to, line)
            if not prepare:
                # what to prefetch: nothing if deep, where it was no faster
                after, done = (last, first) if deep else (min(last + plan.rows, stop), last)
                tiles = (last - first) * plan.tile_columns
                count = turns(plan, plan.channels, tiles)
                x_next = ahead_of(
                    x_flat,
                    memory_of(x.shape, plan, last, plan.x_step),
                    memory_of(x.shape, plan, after, plan.x_step),
                    count,
                )
                y_next = ahead_of(
                    y_flat,
                    memory_of(y.shape, plan, first, plan.y_step),
                    memory_of(y.shape, plan, done, plan.y_step),
                    count,
                )
                residual = address(finish.residual, memory_of(y.shape, plan, first, plan.y_step))
                ahead = x_next, Ahead(residual, y_next.step, y_next.width, y_next.rows * finish.residuals), y_next
                v_, u_, m_ = address(v_flat, strip * v.shape[1]), address(u_flat, u_start), address(m_flat, m_start)
                products(v_, u_, m_, c, tiles, plan, ahead)
                transform_output(plan, m_flat, m_start, Strip(first, last - first, channel), y_flat, y.shape, finish)
                if finish.part_rows:
                    measure_output(plan, Strip(first, last - first, channel), y_flat, y.shape, finish)


@inner
def _share_of_rows(count, finish, whose):
    """A worker's share of all rows of tiles; it consists of whole parts if they are measured."""
    size = max(1, finish.part_rows)
    first, last = share(-(-count // size), whose)
    return first * size, min(last * size, count)


# ---------------------------------------------------------------- weight gradient
@jit(parallel=True)
def _weight_grad(loading, dy, dw, factors, slots, plan, workers):
    """dw (O, C, 3, 3) from x (N, H, W, C) and dy (N, OH, OW, O).

    With few channels, each slot has its own tiles, and its own sums M::

        parallel for each slot: for each strip of its tiles, small enough for L2
            V = B^T x B and D = A dy A^T
            M += V^T D, 36 matrix products, or 81
        parallel: dw = G^T (M of all slots) G

    With many channels, M itself is large, and there is one slot. The workers then take parts of the output channels::

        parallel for each part: for each strip of all tiles: V, D and M as above; dw of the part = G^T M G

    Cost: that of the forward pass.
    """
    _, _, m = factors
    for worker in prange(workers):
        _sum_strips(loading, dy, dw, factors, slots, plan, np.int64(worker), workers)
    if slots > 1:
        for worker in prange(workers):
            squares = dw.shape[0] * dw.shape[1] // lanes(wide(dw)) ** 2
            begin, end = share(squares, (np.int64(worker), workers))
            transform_sums(plan, m, 0, slots, dw, 0, begin, end)


@inner
def _sum_strips(loading, dy, dw, factors, slots, plan, worker, workers):
    """Compute each slot, or each part of the output channels: there is only one slot or only one part."""
    x, (v, d, m) = loading.x, factors
    n, c, o = lanes(wide(dw)), x.shape[3], dy.shape[3]
    all_rows, parts = x.shape[0] * plan.tile_rows, -(-o // plan.channels)
    x_flat, dy_flat = x.reshape(x.size), dy.reshape(dy.size)
    v_flat, d_flat, m_flat = v.reshape(v.size), d.reshape(d.size), m.reshape(m.size)
    v_start, d_start = worker * v.shape[1], worker * d.shape[1]
    line = np.empty(plan.places * plan.line, x.dtype)
    items = slots * parts
    before = worker * items // workers
    for item in range(before, (worker + 1) * items // workers):
        slot, part = item // parts, item % parts
        start, stop = slot * all_rows // slots, (slot + 1) * all_rows // slots
        channel = part * plan.channels
        channels, sums = min(plan.channels, o - channel), (slot if slots > 1 else worker) * m.shape[1]
        for first in range(start, stop, plan.rows):
            rows, last = min(plan.rows, stop - first), min(stop, first + 2 * plan.rows)
            strip, tiles, count = Strip(first, rows, channel), rows * plan.tile_columns, turns(plan, channels, c)
            if slots > 1 or rows < all_rows or item == before:  # else V is still that of the part before
                transform_input(plan, loading, strip, v_flat, v_start, line)
            transform_gradient(plan, dy_flat, dy.shape, strip, channels, d_flat, d_start)
            x_next = ahead_of(
                x_flat,
                memory_of(x.shape, plan, first + rows, plan.x_step),
                memory_of(x.shape, plan, last, plan.x_step),
                count,
            )
            dy_next = ahead_of(
                dy_flat,
                memory_of(dy.shape, plan, first + rows, plan.y_step),
                memory_of(dy.shape, plan, last, plan.y_step),
                count,
            )
            v_, d_, m_ = address(v_flat, v_start), address(d_flat, d_start), address(m_flat, sums)
            products_over_tiles(v_, d_, m_, (c, channels, tiles), plan, first > start, (x_next, dy_next))
        if slots == 1:
            transform_sums(plan, m, worker, 1, dw, channel, 0, (channels // n) * (c // n))
