"""The matrix products of Winograd's method, one for each place of a tile.

Arithmetic takes most of the time here and memory is nearly idle. So at each tile of the product, a few cache lines that
the transforms will need next are prefetched. `turns` returns the number of these tiles.
"""

from tinyres.kernels.compile import inner
from tinyres.kernels.simd import address, lanes, wide
from tinyres.kernels.tile import (
    Matrix,
    even_tile_of_one,
    even_tile_of_two,
    fetch,
    fetch_to_write,
    tile_of_one,
    tile_of_two,
)
from tinyres.kernels.winograd.plan import R


@inner
def turns(plan, channels, rows):
    """Number of register tiles in all products whose results have this many output channels and rows."""
    return plan.places**2 * (channels // plan.block) * -(-rows // plan.height)


@inner
def _weight_plane(plane, plan):
    """The plane of the weights for a plane of the input.

    If there are more planes of the input, the last of them are untransformed pixels, which all use the same tap.
    """
    return min(plane // plan.places, R - 1) * R + min(plane % plan.places, R - 1)


@inner
def products(v, u, m, c, tiles, plan, ahead):
    """M[p] = V[p] U[p's] for all planes p, at the addresses v, u and m. `ahead` is the memory to prefetch.

    Planes have room for whole register tiles: the last tile may read and write beyond the strip, where nothing is used.
    """
    height, columns, zero, turn = plan.height, plan.block, wide(v), 0
    n, blocks = lanes(zero), plan.channels // columns
    for k in range(plan.places**2 * blocks):
        plane, block = k // blocks, k % blocks
        a = Matrix(address(v, plane * plan.x_plane), n, plan.tiles * n, 1)
        b = Matrix(address(u, _weight_plane(plane, plan) * plan.w_plane + block * c * columns), 0, n * columns, 1)
        out = address(m, plane * plan.y_plane + block * plan.tiles * columns)
        for r in range(0, tiles, height):
            fetch(ahead[0], turn)
            fetch(ahead[1], turn)
            fetch_to_write(ahead[2], turn)
            turn += 1
            if columns == n:
                tile_of_one(zero, a, b, Matrix(out, n, 0, 1), r, (c // n, n), False)
            else:
                tile_of_two(zero, a, b, Matrix(out, 2 * n, 0, 1), r, (c // n, n), False)


@inner
def products_over_tiles(v, d, m, sizes, plan, add, ahead):
    """M[q] = V[p]^T D[p], plus M[q] with `add`, for all planes p and their planes q of weights; v, d, m are addresses.

    Sizes are (C, output channels, tiles); `ahead` is the memory to prefetch.
    """
    height, columns, zero, (c, channels, tiles), turn = plan.height, plan.block, wide(v), sizes, 0
    n, blocks = lanes(zero), channels // columns
    for k in range(plan.places**2 * blocks):
        plane, block = k // blocks, k % blocks
        b = Matrix(address(d, plane * plan.y_plane + block * plan.tiles * columns), 0, 0, 1)
        out = address(m, _weight_plane(plane, plan) * plan.w_plane + block * c * columns)
        more = add or plane // plan.places >= R or plane % plan.places >= R
        for channel in range(0, c, height):
            fetch(ahead[0], turn)
            fetch(ahead[1], turn)
            turn += 1
            # rows are neighbours: their number divides the lanes of a vector
            a = Matrix(address(v, plane * plan.x_plane + channel // n * plan.tiles * n + channel % n), 1, 0, n)
            if columns == n:
                even_tile_of_one(zero, a, b, Matrix(address(out, channel * n), n, 0, 1), 0, (1, tiles), more)
            else:
                even_tile_of_two(zero, a, b, Matrix(address(out, channel * 2 * n), 2 * n, 0, 1), 0, (1, tiles), more)
