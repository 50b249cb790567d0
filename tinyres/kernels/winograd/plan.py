"""How the work of a Winograd convolution is divided, and the offsets of everything."""

from functools import lru_cache
from typing import NamedTuple

from tinyres.kernels.compile import inner
from tinyres.kernels.memory import CACHE_LINE
from tinyres.kernels.simd import WIDTH

R = 6  # places of a transformed filter in one dimension
POINTS = R * R


class Plan(NamedTuple):
    """Strips of some rows of tiles, of one image or several, and the offsets of everything in them; in elements.

    Planes of input are stored as (channels / lanes, tiles, lanes), of output as (channels / block, tiles, block), of
    weights as (O / block, C, block): the numbers that one product reads are close together.
    """

    x_step: int  # input rows and columns from one tile to the next,
    y_step: int  # output rows and columns from one tile to the next
    places: int  # products of a tile in one dimension
    top: int  # input row and column of the first tile
    left: int
    tile_rows: int  # rows of tiles in an image
    tile_columns: int
    rows: int  # rows of tiles in a strip
    tiles: int  # tiles that a plane of a strip has room for
    channels: int  # output channels
    height: int  # rows of the register tile,
    block: int  # and its columns: output channels in a block
    x_plane: int  # from one plane to the next: of transformed input,
    y_plane: int  # of output
    w_plane: int  # and of weights
    line: int  # size of the transformed columns of a row of tiles, for as many channels as a vector has lanes
    deep: bool  # whether there are many weights, see `_correlate`


@lru_cache(maxsize=1024)  # by its arguments: they are sizes, not the arrays that have them
def plan_of(form, x_shape, y_shape, itemsize, corner, o, tile, strips, *, deep=False):
    """Choose strips from `strips` = (tiles, shares, whole): about this many tiles, in each of this many shares.

    With `whole`, a strip may have up to twice as many, so that its last register tile is full if possible. Without it,
    all strips have about the same size.
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

    def plane(size):  # with a distance that is a multiple of 4 KiB, planes would share one cache set
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
    """Some rows of tiles, and the output channel of the whole convolution that is the plan's first."""

    row: int
    rows: int
    channel: int


@inner
def block_start(plan, channel, rows):
    """The start of a block of output channels in a plane with this many rows, and the channel's place in the block."""
    return channel // plan.block * rows * plan.block + channel % plan.block


@inner
def memory_of(shape, plan, row, step):
    """Flat index where a row of tiles, `step` rows high, starts in an image array, at most the array's end."""
    n, height, width, channels = shape
    image = min(row // plan.tile_rows, n)
    within = min(row % plan.tile_rows * step, height) if image < n else 0
    return (image * height + within) * width * channels
