"""The linear maps of Winograd's method in two dimensions: of input, weights, sums and gradients.

Each applies a map to columns, and then to the rows of the result. The number of vectors must be known when a kernel is
compiled, so each function is made for each form of a convolution, and the plan's form selects one.
"""

import numpy as np

from tinyres.kernels.compile import inner
from tinyres.kernels.filters import room_for_filters, turn_filters
from tinyres.kernels.moments import measure
from tinyres.kernels.pending import constants_of, loaded
from tinyres.kernels.simd import (
    lanes,
    larger,
    load,
    loads,
    loads_turned,
    loads_within,
    plus,
    splat,
    stores,
    stores_within,
    transposed,
    wide,
)
from tinyres.kernels.winograd.maps import DOWN, SAME, UP
from tinyres.kernels.winograd.plan import R, block_start


# ---------------------------------------------------------------- input
def _column_transform(form, finish):
    """line[:, column] = B^T d for each column of a row of tiles, with zeros outside the image.

    `place` is its row in its image, and its start in flat x; `finish` is applied to what was read.
    """
    step, window, input_map = form.x_step, form.window, form.input

    @inner
    def transform(plan, loading, x, channel, place, line):
        (row, at), (_, height, width, c) = place, loading.x.shape
        zero = wide(x)
        constants = constants_of(zero, loading, c, channel)
        for j in range(step * (plan.tile_columns - 1) + window):
            stop = height if 0 <= j + plan.left < width else 0
            d = loads_within(zero, x, at + j * c, width * c, window, row, stop)
            stores(line, j * lanes(zero), plan.line, input_map(finish(zero, d, constants, row, stop)))

    return transform


def _input_transform(form, columns):
    """Columns are transformed first, and only once, although two tiles may share them. ::

    for each row of tiles: for each vector of channels
        line = B^T d, of all columns of pixels
        for each tile: for each row k of line: V[k, :] = B^T line[k, its columns]
    """
    step, window, places, input_map = form.x_step, form.window, form.places, form.input

    @inner
    def transform(plan, loading, strip, v, v_start, line):
        x, (_, height, width, c) = loading.x.reshape(loading.x.size), loading.x.shape
        zero = wide(x)
        n = lanes(zero)
        for r in range(strip.rows):
            image, row = (strip.row + r) // plan.tile_rows, (strip.row + r) % plan.tile_rows * step + plan.top
            for channel in range(0, c, n):
                place = row, ((image * height + row) * width + plan.left) * c + channel
                columns(plan, loading, x, channel, place, line)
                for tile in range(plan.tile_columns):
                    to = v_start + channel * plan.tiles + (r * plan.tile_columns + tile) * n
                    for k in range(places):
                        d = loads(zero, line, k * plan.line + tile * step * n, n, window)
                        stores(v, to + k * places * plan.x_plane, plan.x_plane, input_map(d))

    return transform


@inner
def _as_it_is(zero, d, constants, row, stop):
    return d


_columns_there, _columns_pending = _column_transform(SAME, _as_it_is), _column_transform(SAME, loaded)


@inner
def _columns_same(plan, loading, x, channel, place, line):
    """If batch norm is pending, there is a separate loop: a test in each turn would cost 6 % with 16 channels."""
    if loading.pending:
        _columns_pending(plan, loading, x, channel, place, line)
    else:
        _columns_there(plan, loading, x, channel, place, line)


_input_same = _input_transform(SAME, _columns_same)
_input_down = _input_transform(DOWN, _column_transform(DOWN, _as_it_is))  # nothing is pending here, see `takes_pending`
_input_up = _input_transform(UP, _column_transform(UP, _as_it_is))


@inner
def transform_input(plan, loading, strip, v, v_start, line):
    """V = B^T d B for all tiles of a strip."""
    if plan.x_step > plan.y_step:
        _input_down(plan, loading, strip, v, v_start, line)
    elif plan.x_step < plan.y_step:
        _input_up(plan, loading, strip, v, v_start, line)
    else:
        _input_same(plan, loading, strip, v, v_start, line)


# ---------------------------------------------------------------- output
def _output_transform(form, columns_of, row_of):
    """`columns_of` computes A^T m of a tile's columns, in registers or `room`; `row_of` computes a row from these."""
    side, places, output_map = form.y_step, form.places, form.output

    @inner
    def transform(plan, m, m_start, strip, y, shape, finish):
        _, height, width, all_channels = shape
        zero = wide(y)
        n, floor, step = lanes(zero), splat(zero, finish.floor), all_channels
        room = np.empty(side * places * n, y.dtype)
        for channel in range(0, plan.channels, n):
            bias = load(zero, finish.bias, strip.channel + channel)
            for t in range(strip.rows * plan.tile_columns):
                r, j = strip.row + t // plan.tile_columns, t % plan.tile_columns * side
                image, i = r // plan.tile_rows, r % plan.tile_rows * side
                at = m_start + block_start(plan, channel, plan.tiles) + t * plan.block
                columns = columns_of(zero, m, at, plan.y_plane, room)
                to = ((image * height + i) * width + j) * step + strip.channel + channel
                if i + side <= height and j + side <= width:
                    for k in range(side):
                        row, at = output_map(row_of(zero, columns, k)), to + k * width * step
                        residual = loads_within(zero, finish.residual, at, step, side, 0, side * finish.residuals)
                        stores(y, at, step, larger(plus(plus(row, bias), residual), floor))
                else:
                    count = min(side, width - j)
                    for k in range(min(side, height - i)):
                        row, at = output_map(row_of(zero, columns, k)), to + k * width * step
                        residual = loads_within(zero, finish.residual, at, step, side, 0, count * finish.residuals)
                        stores_within(y, at, step, larger(plus(plus(row, bias), residual), floor), count)

    return transform


_same_output = SAME.output  # Numba accepts a function as a global name, not in a tuple


@inner
def _columns_in_registers(zero, m, at, p, room):
    """A^T m of the six columns, as four rows."""
    return transposed((
        _same_output(loads(zero, m, at, 6 * p, 6)),
        _same_output(loads(zero, m, at + p, 6 * p, 6)),
        _same_output(loads(zero, m, at + 2 * p, 6 * p, 6)),
        _same_output(loads(zero, m, at + 3 * p, 6 * p, 6)),
        _same_output(loads(zero, m, at + 4 * p, 6 * p, 6)),
        _same_output(loads(zero, m, at + 5 * p, 6 * p, 6)),
    ))  # fmt: skip


@inner
def _row_in_registers(zero, rows, k):
    return rows[k]


def _columns_in_memory(output_map):
    """A^T m of the nine columns, in memory: 36 or 72 vectors are too many for registers."""

    @inner
    def columns(zero, m, at, p, room):
        n = lanes(zero)
        for k in range(9):
            stores(room, k * n, 9 * n, output_map(loads(zero, m, at + k * p, 9 * p, 9)))
        return room

    return columns


@inner
def _row_in_memory(zero, room, k):
    return loads(zero, room, k * 9 * lanes(zero), lanes(zero), 9)


_output_same = _output_transform(SAME, _columns_in_registers, _row_in_registers)
_output_down = _output_transform(DOWN, _columns_in_memory(DOWN.output), _row_in_memory)
_output_up = _output_transform(UP, _columns_in_memory(UP.output), _row_in_memory)


@inner
def transform_output(plan, m, m_start, strip, y, shape, finish):
    """Y = A^T M A for all tiles of a strip, finished and stored; the last tiles may extend beyond the image."""
    if plan.x_step > plan.y_step:
        _output_down(plan, m, m_start, strip, y, shape, finish)
    elif plan.x_step < plan.y_step:
        _output_up(plan, m, m_start, strip, y, shape, finish)
    else:
        _output_same(plan, m, m_start, strip, y, shape, finish)


@inner
def measure_output(plan, strip, y, shape, finish):
    """Add a strip's rows of tiles, just stored and still in L2, to the moments of their parts."""
    _, height, width, channels = shape
    zero = wide(y)
    for r in range(strip.row, strip.row + strip.rows):
        image, i = r // plan.tile_rows, r % plan.tile_rows * plan.y_step
        size, steps = (min(plan.y_step, height - i), width), (width * channels, channels)
        for channel in range(strip.channel, strip.channel + plan.channels, lanes(zero)):
            at = (image * height + i) * width * channels + channel
            to = r // finish.part_rows * 3 * channels + channel
            measure(zero, y, at, size, steps, finish.moments, to, r % finish.part_rows == 0)


# ---------------------------------------------------------------- gradient of the output
def _gradient_transform(form):
    side, places, gradient_map = form.y_step, form.places, form.output_transposed

    @inner
    def transform(plan, dy, shape, strip, channels, d, d_start):
        _, height, width, step = shape
        zero, p = wide(dy), plan.y_plane
        for channel in range(0, channels, lanes(zero)):
            for t in range(strip.rows * plan.tile_columns):
                r, j = strip.row + t // plan.tile_columns, t % plan.tile_columns * side
                image, i = r // plan.tile_rows, r % plan.tile_rows * side
                at = ((image * height + i) * width + j) * step + strip.channel + channel
                to = d_start + block_start(plan, channel, plan.tiles) + t * plan.block
                rows_of_tile = transposed((
                    gradient_map(loads_within(zero, dy, at, width * step, 4, i, height)),
                    gradient_map(loads_within(zero, dy, at + step, width * step, 4, i, height * (j + 1 < width))),
                    gradient_map(loads_within(zero, dy, at + 2 * step, width * step, 4, i, height * (j + 2 < width))),
                    gradient_map(loads_within(zero, dy, at + 3 * step, width * step, 4, i, height * (j + 3 < width))),
                ))  # fmt: skip
                for k, row in enumerate(rows_of_tile):
                    stores(d, to + k * places * p, p, gradient_map(row))

    return transform


_gradient_same, _gradient_down = map(_gradient_transform, (SAME, DOWN))


@inner
def transform_gradient(plan, dy, shape, strip, channels, d, d_start):
    """D = A dy A^T for all tiles of a strip and some channels, with zeros outside the image."""
    if plan.x_step == plan.y_step:
        _gradient_same(plan, dy, shape, strip, channels, d, d_start)
    else:
        _gradient_down(plan, dy, shape, strip, channels, d, d_start)


# ---------------------------------------------------------------- weights and their gradient
def _filter_transform(form):
    """U = G g G^T of the filters of an input channel and a vector of output channels."""
    weight_map = form.weight

    @inner
    def transform(taps, at, down, right, u, to, p):
        zero = wide(u)
        rows = transposed((
            weight_map(loads(zero, taps, at, down, 3)),
            weight_map(loads(zero, taps, at + right, down, 3)),
            weight_map(loads(zero, taps, at + 2 * right, down, 3)),
        ))  # fmt: skip
        for j, row in enumerate(rows):
            stores(u, to + j * R * p, p, weight_map(row))

    return transform


_filters_same, _filters_strided = map(_filter_transform, (SAME, DOWN))


@inner
def transform_weights(plan, taps, u, u_start, first, squares):
    """U = G g G^T for some squares of the plan's channels; `first` is the first output channel. ::

    for each square, as many input and output channels as a vector has lanes: transpose its filters
        for each input channel: its 9 vectors of output channels; U = G those G^T
    """
    (begin, end), room = squares, room_for_filters(taps, u)
    c, n = taps.c, lanes(wide(u))
    for item in range(begin, end):
        channel, k = item // (c // n) * n, item % (c // n) * n
        turned = turn_filters(taps, first + channel, k, room)
        to = u_start + block_start(plan, channel, c) + k * plan.block
        for i in range(n):
            at, down, right = (9 * i + taps.start) * n, taps.kh_step * n, taps.kw_step * n
            if plan.x_step == plan.y_step:
                _filters_same(turned, at, down, right, u, to + i * plan.block, plan.w_plane)
            else:
                _filters_strided(turned, at, down, right, u, to + i * plan.block, plan.w_plane)


def _filter_sum_transform(form):
    """taps = G^T M G, the transpose of the map of `_filter_transform`."""
    sum_map = form.weight_transposed

    @inner
    def transform(m, slot, slots, at, p, taps, to):
        n = lanes(wide(m))
        rows = transposed((
            sum_map(_sum_of(m, slot, slots, at, R * p)),
            sum_map(_sum_of(m, slot, slots, at + p, R * p)),
            sum_map(_sum_of(m, slot, slots, at + 2 * p, R * p)),
            sum_map(_sum_of(m, slot, slots, at + 3 * p, R * p)),
            sum_map(_sum_of(m, slot, slots, at + 4 * p, R * p)),
            sum_map(_sum_of(m, slot, slots, at + 5 * p, R * p)),
        ))  # fmt: skip
        for j, row in enumerate(rows):
            stores(taps, to + 3 * j * n, n, sum_map(row))

    return transform


@inner
def _sum_of(m, slot, slots, at, step):
    """Six vectors, `step` numbers apart, each summed over all slots."""
    total = loads(wide(m), m, slot * m.shape[1] + at, step, 6)
    for other in range(slot + 1, slot + slots):
        total = plus(total, loads(wide(m), m, other * m.shape[1] + at, step, 6))
    return total


_sums_same, _sums_strided = map(_filter_sum_transform, (SAME, DOWN))


@inner
def transform_sums(plan, m, slot, slots, dw, first, begin, end):
    """dw = G^T M G for the squares `begin` to `end` of the plan's channels.

    M is the sum of the slots, in their order; `first` is the output channel of dw that is the plan's first. ::

        for each square, as many input and output channels as a vector has lanes
            for each input channel: taps = G^T M G, 9 vectors of output channels
            dw = taps, transposed by shuffles: the filters of an output channel are neighbours
    """
    c, zero, out = dw.shape[1], wide(m), dw.reshape(dw.size)
    n = lanes(zero)
    taps = np.empty(9 * n * n, m.dtype)
    for item in range(begin, end):
        channel, k = item // (c // n) * n, item % (c // n) * n
        for i in range(n):
            at = block_start(plan, channel, c) + (k + i) * plan.block
            if plan.x_step == plan.y_step:
                _sums_same(m, slot, slots, at, plan.w_plane, taps, 9 * i * n)
            else:
                _sums_strided(m, slot, slots, at, plan.w_plane, taps, 9 * i * n)
        to = ((first + channel) * c + k) * 9
        for j in range(9):
            stores(out, to + j * n, c * 9, loads_turned(zero, taps, j * n * n, n))
