"""The linear maps of Winograd's method: of input, weights, sums and gradients, in one dimension and in two."""

import numpy as np

from tinyres.kernels.compile import inner
from tinyres.kernels.filters import room_for_filters, turn_filters
from tinyres.kernels.moments import measure
from tinyres.kernels.pending import constants_of, loaded
from tinyres.kernels.simd import (
    fma,
    lanes,
    load,
    loads,
    loads_turned,
    loads_within,
    maximum,
    splat,
    store,
    stores,
    transposed,
    wide,
)
from tinyres.kernels.winograd.plan import M, R, block_start

A, B = 0.5**0.5, 2.0**0.5  # the points, beside 0 and infinity; A^2 + B^2 = 5/2, A B = 1
NA, NB = -1.5, 6.0  # m'(+-A), m'(+-B); m'(0) = 1


# ---------------------------------------------------------------- in one dimension
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
@inner
def transform_input(loading, plan, strip, v, v_start, line):
    """V = B^T d B for all tiles of the strip.

    Columns are transformed first, each once although two tiles share it, to `line`, which L1 holds. ::

        for each row of tiles: for each vector of channels
            for each column of pixels: line[:, column] = B^T d, zeros outside the image
            for each tile: for each row k of line: V[k, :] = B^T line[k, its 6 columns]
    """
    x, (_, height, width, c) = loading.x.reshape(loading.x.size), loading.x.shape
    zero = wide(x)
    n = lanes(zero)
    for r in range(strip.rows):
        image, row = (strip.row + r) // plan.tile_rows, (strip.row + r) % plan.tile_rows * M + plan.top
        for channel in range(0, c, n):
            place = row, ((image * height + row) * width + plan.left) * c + channel
            if loading.pending:
                _transform_columns(x, loading, channel, plan, place, line, True)
            else:
                _transform_columns(x, loading, channel, plan, place, line, False)
            for tile in range(plan.tile_columns):
                to = v_start + channel * plan.tiles + (r * plan.tile_columns + tile) * n
                for k in range(R):
                    d = loads(zero, line, k * plan.line + tile * M * n, n, 6)
                    stores(v, to + k * R * plan.x_plane, plan.x_plane, _input_map(d))


@inner
def _transform_columns(x, loading, channel, plan, place, line, pending):
    """line[:, column] = B^T d for each column of a row of tiles; its place is its row in its image, and where it starts
    in flat x. Where batch norm is pending, a loop of its own: to ask in each turn would cost 6 % with 16 channels."""
    (row, at), (_, height, width, c) = place, loading.x.shape
    zero = wide(x)
    mean, scale, bias = constants_of(zero, loading, c, channel)
    for j in range(M * plan.tile_columns + 2):
        stop = height if 0 <= j + plan.left < width else 0
        d = loads_within(zero, x, at + j * c, width * c, 6, row, stop)
        if pending:
            d = loaded(zero, d, (mean, scale, bias), row, stop)
        stores(line, j * lanes(zero), plan.line, _input_map(d))


@inner
def transform_output(m, m_start, plan, strip, y, shape, finish):
    """Y = A^T m A for all tiles of a strip, each held in registers, finished and stored; the last ones may leave the
    image."""
    _, height, width, all_channels = shape
    zero, p = wide(y), plan.y_plane
    n, floor = lanes(zero), splat(zero, finish.floor)
    edge = np.empty(M * M * n, y.dtype)
    for channel in range(0, plan.channels, n):
        bias = load(zero, finish.bias, strip.channel + channel)
        for t in range(strip.rows * plan.tile_columns):
            r, j = strip.row + t // plan.tile_columns, t % plan.tile_columns * M
            image, i = r // plan.tile_rows, r % plan.tile_rows * M
            at = m_start + block_start(plan, channel, plan.tiles) + t * plan.block
            rows_of_tile = transposed((
                _output_map(loads(zero, m, at, R * p, 6)),
                _output_map(loads(zero, m, at + p, R * p, 6)),
                _output_map(loads(zero, m, at + 2 * p, R * p, 6)),
                _output_map(loads(zero, m, at + 3 * p, R * p, 6)),
                _output_map(loads(zero, m, at + 4 * p, R * p, 6)),
                _output_map(loads(zero, m, at + 5 * p, R * p, 6)),
            ))  # fmt: skip
            to = ((image * height + i) * width + j) * all_channels + strip.channel + channel
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
def measure_output(plan, strip, y, shape, finish):
    """Add the rows of tiles of a strip, which has just been stored and is in L2, to the moments of their parts."""
    _, height, width, channels = shape
    zero = wide(y)
    for r in range(strip.row, strip.row + strip.rows):
        image, i = r // plan.tile_rows, r % plan.tile_rows * M
        size, steps = (min(M, height - i), width), (width * channels, channels)
        for channel in range(strip.channel, strip.channel + plan.channels, lanes(zero)):
            at = (image * height + i) * width * channels + channel
            to = r // finish.part_rows * 3 * channels + channel
            measure(zero, y, at, size, steps, finish.moments, to, r % finish.part_rows == 0)


@inner
def transform_gradient(dy, shape, plan, strip, channels, d, d_start):
    """D = A dy A^T for all tiles of a strip, each held in registers, and some channels; zeros outside the image."""
    _, height, width, all_channels = shape
    zero, row, p = wide(dy), shape[2] * shape[3], plan.y_plane
    for channel in range(0, channels, lanes(zero)):
        for t in range(strip.rows * plan.tile_columns):
            r, j = strip.row + t // plan.tile_columns, t % plan.tile_columns * M
            image, i = r // plan.tile_rows, r % plan.tile_rows * M
            at = ((image * height + i) * width + j) * all_channels + strip.channel + channel
            to = d_start + block_start(plan, channel, plan.tiles) + t * plan.block
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
def transform_weights(taps, u, u_start, plan, first, squares):
    """U = G g G^T for some squares of the plan's channels, of which output channel `first` is the first. ::

    for each square of as many channels as a vector has lanes, both ways: turn its filters
        for each input channel: its 9 vectors of output channels; U = G those G^T
    """
    c, kh_step, kw_step, start = taps.c, taps.kh_step, taps.kw_step, taps.start
    (begin, end), p = squares, plan.w_plane
    zero, room = wide(u), room_for_filters(taps, u)
    n = lanes(zero)
    for item in range(begin, end):
        channel, k = item // (c // n) * n, item % (c // n) * n
        turned = turn_filters(taps, first + channel, k, room)
        to = u_start + block_start(plan, channel, c) + k * plan.block
        for i in range(n):
            at = 9 * i + start
            rows = transposed((
                _weight_map(loads(zero, turned, at * n, kh_step * n, 3)),
                _weight_map(loads(zero, turned, (at + kw_step) * n, kh_step * n, 3)),
                _weight_map(loads(zero, turned, (at + 2 * kw_step) * n, kh_step * n, 3)),
            ))  # fmt: skip
            for j, row in enumerate(rows):
                stores(u, to + i * plan.block + j * R * p, p, _weight_map(row))


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
def transform_sums(m, slot, slots, plan, dw, first, begin, end):
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
            at = block_start(plan, channel, c) + (k + i) * plan.block
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
