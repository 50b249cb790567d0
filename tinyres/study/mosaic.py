"""An array as a small picture: channels side by side, with a colour for each number."""

import base64
import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from tinyres.tape import Array

SEQUENTIAL = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
"""Colours from the smallest value to the largest (viridis at five points; its brightness grows evenly)."""
DIVERGING = ("#053061", "#4393c3", "#f7f7f7", "#d6604d", "#67001f")
"""Colours for numbers below 0 (blue), 0 (white) and above 0 (red): RdBu at five points."""
LEVELS = 65  # colours of a scale: few, so that files are small; odd, so that 0 has the colour in the middle
GAP, NOT_FINITE = 254, 255  # their indices in the palette
LARGEST = 128  # side in pixels: 16 channels of 32 x 32
KERNELS = 96  # most kernels in the picture of a weight


class Picture(NamedTuple):
    """A picture as a ``data:`` address, with a description."""

    uri: str
    width: int
    height: int
    caption: str
    low: float  # number with the first colour
    high: float  # number with the last colour
    tile: tuple[int, int]  # height and width of each tile; there is a gap of one pixel between tiles
    across: int  # tiles in a row
    factor: float  # numbers along a pixel's side: more than one if they are averaged


def draw(array: Array, *, signed: bool, weight: bool = False, most: float | None = None) -> Picture:
    """Draw an array: of a batch only the first image, and of that as many channels as fit.

    Parameters
    ----------
    array : ndarray
        An activation (N, C, H, W) becomes a mosaic of the first image's channels. A weight (O, I, KH, KW) becomes a
        mosaic of kernels, with a row for each output channel. Arrays with fewer axes become a matrix, a strip, or one
        square.
    signed : bool
        If True, the colours of `DIVERGING`, with white at 0, as for gradients. If False, those of `SEQUENTIAL`, from
        the smallest to the largest number shown.
    weight : bool
        Whether a 4-D array is a weight, not an activation.
    most : float, optional
        If `signed`, the magnitude with the last colour, so that several pictures can be compared; by default the
        largest magnitude shown.

    Returns
    -------
    Picture
        An indexed PNG of at most 128 x 128 pixels without the gaps; for a matrix, at most 128 x 256. Numbers that are
        not finite are magenta.

    Examples
    --------
    >>> picture = draw(np.zeros((1, 16, 32, 32), np.float32), signed=True)
    >>> picture.uri[:22], picture.width, picture.height, picture.caption
    ('data:image/png;base64,', 131, 131, '16 channels of 32 × 32')
    """
    tiles, columns, caption, factor = _tiles(array, weight)
    shown = np.stack(tiles)
    finite = shown[np.isfinite(shown)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if signed:
        high = max(abs(low), abs(high)) if most is None else most
        low = -high
    indices = _join([_levels(tile, low, high) for tile in tiles], columns)
    picture = Image.fromarray(indices)
    picture.putpalette(_palette(DIVERGING if signed else SEQUENTIAL))
    uri, tile = _uri(picture, transparency=GAP), (tiles[0].shape[0], tiles[0].shape[1])
    return Picture(uri, *picture.size, caption, low, high, tile, columns, factor)


def photograph(pixels: Array) -> Picture:
    """A uint8 image (3, H, W) as it is; it is reduced if it is larger than 128 pixels."""
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    picture.thumbnail((LARGEST, LARGEST))
    caption, factor = f"{pixels.shape[2]} × {pixels.shape[1]} pixels", pixels.shape[2] / picture.width
    return Picture(_uri(picture), *picture.size, caption, 0.0, 255.0, (picture.height, picture.width), 1, factor)


# ---------------------------------------------------------------- arrays into tiles
def _tiles(array: Array, weight: bool) -> tuple[list[Array], int, str, int]:
    """The tiles, how many are side by side, a caption, and how many numbers are averaged along a pixel's side."""
    if not array.size:
        return [np.zeros((1, 1))], 1, "empty", 1
    if array.ndim < 4:
        matrix = array.reshape(math.prod(array.shape[:-1]), -1)
        rows, columns = matrix.shape
        cut = matrix[:LARGEST, : 2 * LARGEST]
        size = f"{rows} × {columns}" if rows > 1 else f"{columns} numbers" if columns > 1 else "one number"
        whole = cut.shape == matrix.shape
        return [cut], 1, size if whole else f"first {cut.shape[0]} × {cut.shape[1]} of {size}", 1
    a, b, h, w = array.shape
    factor = math.ceil(max(h, w) / (KERNELS if weight else LARGEST // 4))
    averaged = f", {factor} × {factor} pixels averaged" if factor > 1 else ""
    if weight:
        rows, columns = min(a, max(KERNELS // h, 1)), min(b, max(KERNELS // w, 1))
        first = f" (first {rows} × {columns} of {a} × {b})" if (rows, columns) != (a, b) else ""
        caption = f"kernels {h} × {w}: a row for each output, a column for each input{first}{averaged}"
        kernels = [_smaller(array[o, i], factor) for o in range(rows) for i in range(columns)]
        return kernels, columns, caption, factor
    channels = [_smaller(channel, factor) for channel in array[0]]
    fit = min(b, math.prod(max(LARGEST // side, 1) for side in channels[0].shape))
    count = f"{fit} of {b} channels" if fit < b else f"{b} channel{'s' * (b > 1)}"
    least = math.ceil(math.sqrt(fit))
    columns = next((c for c in range(least, 2 * least + 1) if fit % c == 0), least)  # full rows, if possible
    return channels[:fit], columns, f"{count} of {h} × {w}{averaged}", factor


def _smaller(image: Array, factor: int) -> Array:
    """Means of squares of `factor` x `factor` pixels; the rest at the edges is left out."""
    if factor == 1:
        return image
    h, w = (n // factor or 1 for n in image.shape)
    cut = image[: h * factor, : w * factor]
    with np.errstate(all="ignore"):  # the mean of numbers that are not finite is not finite
        return cut.reshape(h, cut.shape[0] // h, w, cut.shape[1] // w).mean((1, 3), np.float64)


def _join(tiles: list[Array], columns: int) -> Array:
    """Tiles in rows, with a gap of one pixel between them."""
    h, w = tiles[0].shape
    rows = math.ceil(len(tiles) / columns)
    joined = np.full((rows * (h + 1) - 1, columns * (w + 1) - 1), GAP, np.uint8)
    for k, tile in enumerate(tiles):
        top, left = k // columns * (h + 1), k % columns * (w + 1)
        joined[top : top + h, left : left + w] = tile
    return joined


# ---------------------------------------------------------------- numbers into colours
def _levels(tile: Array, low: float, high: float) -> Array:
    """Indices in the palette."""
    unit = max(abs(low), abs(high)) or 1.0  # divide first, since a difference of two numbers can overflow
    low, high = low / unit, high / unit
    finite = np.isfinite(tile)
    part = (np.where(finite, tile, 0) / unit - low) / ((high - low) or 1.0)
    if high == low:
        part = part + 0.5  # all numbers are equal: the middle of the scale
    levels = np.rint(part.clip(0, 1) * (LEVELS - 1))
    return np.where(finite, levels, NOT_FINITE).astype(np.uint8)


def _palette(anchors: tuple[str, ...]) -> list[int]:
    """256 colours: `LEVELS` between the anchors, and the two of `GAP` and `NOT_FINITE`."""
    colours = np.array([[int(a[i : i + 2], 16) for i in (1, 3, 5)] for a in anchors])
    at = np.linspace(0, len(anchors) - 1, LEVELS)
    palette = np.zeros((256, 3), np.uint8)
    palette[:LEVELS] = np.stack([np.interp(at, range(len(anchors)), c) for c in colours.T], 1).round()
    palette[NOT_FINITE] = 255, 0, 255
    return palette.ravel().tolist()


def _uri(picture: Image.Image, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
