"""How the work of a Winograd convolution is cut, and where everything lies."""

from functools import lru_cache
from typing import NamedTuple

from tinyres.kernels.compile import inner
from tinyres.kernels.memory import CACHE_LINE
from tinyres.kernels.simd import WIDTH

R = 6  # places of a filter, transformed, in one dimension
POINTS = R * R


class Plan(NamedTuple):
    """Strips of some rows of tiles, of one image or several, and where everything lies in them; in elements.

    Planes are stored as (channels / lanes, tiles, lanes), of output as (channels / block, tiles, block), of weights as
    (O / block, C, block): what one product reads lies close together.
    """

    x_step: int  # input rows and columns from one tile to the next,
    y_step: int  # and output
    places: int  # products of a tile, in one dimension
    top: int  # input row and column of the first tile
    left: int
    tile_rows: int  # of an image
    tile_columns: int
    rows: int  # rows of tiles of a strip
    tiles: int  # that a plane of a strip has room for
    channels: int  # of output
    height: int  # rows of the register tile,
    block: int  # and its columns: output channels of a block
    x_plane: int  # from one plane to the next: of transformed input,
    y_plane: int  # output
    w_plane: int  # and weights
    line: int  # transformed columns of a row of tiles, of as many channels as a vector has lanes
    deep: bool  # whether the weights are many, see `_correlate`


@lru_cache(maxsize=1024)
def plan_of(form, x_shape, y_shape, itemsize, corner, o, tile, strips, *, deep=False):
    """Strips, (tiles, shares, whole), are of about so many tiles, for each of so many shares of all tiles.

    With `whole`, at most twice as many, so that the last of a strip's register tiles is full where that can be, else
    all strips about as large.
    """
    (n, _, _, c), (tiles, shares, whole) = x_shape, strips
    tile_rows, columns = -(-y_shape[1] // form.y_step), -(-y_shape[2] // form.y_step)
    most, rows = -(-n * tile_rows // shares), max(1, tiles // columns)
    if whole:
        register_tiles = {r: -(-r * columns // tile.rows) / r for r in range(1, 2 * rows + 1)}  # for each row
        rows = min(register_tiles, key=lambda r: (register_tiles[r], abs(r - rows)))
    else:
        rows = -(-most // -(-most // rows))
    rows = min(rows, most)
    tiles = -(-rows * columns // tile.rows) * tile.rows

    def plane(size):  # planes whose distance is a multiple of 4 KiB would fight for one cache set
        line = CACHE_LINE // itemsize
        return -(-size // line) * line + line

    return Plan(
        form.x_step, form.y_step, form.places, *corner, tile_rows, columns, rows, tiles, o, *tile,
        x_plane=plane(tiles * c),
        y_plane=plane(tiles * o),
        w_plane=plane(c * o),
        line=(form.x_step * (columns - 1) + form.window) * WIDTH // itemsize,
        deep=deep,
    )  # fmt: skip


class Strip(NamedTuple):
    """Some rows of tiles, and the output channels of the whole convolution that the plan's first one is."""

    row: int
    rows: int
    channel: int


@inner
def block_start(plan, channel, rows):
    """Where a block of output channels starts in a plane of so many rows, and the channel in it."""
    return channel // plan.block * rows * plan.block + channel % plan.block


@inner
def memory_of(shape, plan, row, step):
    """Flat index at which a row of tiles, `step` rows high, starts in an image array, at most its end."""
    n, height, width, channels = shape
    image = min(row // plan.tile_rows, n)
    within = min(row % plan.tile_rows * step, height) if image < n else 0
    return (image * height + within) * width * channels
