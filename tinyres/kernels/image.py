"""From stored images to a batch for the network: select, crop, flip, normalise and cut out, in one pass.

It runs on one thread on purpose: the loader calls it on a background thread, without the GIL, while the training
thread's kernels use Numba's thread pool, and two threads must not use this pool at once. It draws no random numbers,
the caller does: the same numbers give the same batch.
"""

import numpy as np
import numpy.typing as npt

from tinyres.kernels.compile import inner, jit
from tinyres.kernels.layout import contiguous


def augment_batch(  # all that is drawn or set for a batch: nothing is random here
    images: np.ndarray,
    index: npt.ArrayLike,
    *,
    corner: npt.ArrayLike,
    flip: npt.ArrayLike,
    centre: npt.ArrayLike,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    pad: int,
    cutout: int,
) -> np.ndarray:
    """Select images, then crop, flip, normalise and cut them out.

    Parameters
    ----------
    images : uint8 or float32 array of shape (N, C, H, W)
    index : integers of shape (B,)
        Indices of the images of the batch.
    corner : integers of shape (B, 2)
        Top and left edge of each crop in the padded image, 0 to ``2 * pad``. With ``pad`` the image does not move.
    flip : bools of shape (B,)
        Which images to mirror, left to right.
    centre : integers of shape (B, 2)
        Row and column of the centre of each cutout, in the cropped and flipped image.
    mean, std : floats of shape (C,)
        For each channel. For uint8 images, black is 0 and white is 1; for float images, in the images' own units.
    pad : int
        Width of the border around the image before it is cropped, in pixels. Its values are 0, which is black in uint8.
    cutout : int
        Side of the square that is blanked, in pixels, or 0 for none.

    Returns
    -------
    float32 array of shape (B, C, H, W), channels-last in memory

    Raises
    ------
    TypeError
        If `index`, `corner` or `centre` are not integers, `flip` is not bool, or `mean` or `std` are not real numbers.
    ValueError
        If an array has the wrong shape, `images` has the wrong dtype, or `pad` or `cutout` is negative.
    IndexError
        If `index` contains the index of an image that does not exist.

    Notes
    -----
    Let v = W - 1 - j if `flip` is True, else j, and let pixels outside the image be 0. Then ::

        p = images[index[b], c, i + corner[b, 0] - pad, v + corner[b, 1] - pad]
        y[b, c, i, j] = (p / 255 - mean[c]) / std[c]

    Float images are not divided by 255. Then y = 0, which is the mean, in a square about `centre` whose sides are
    `cutout` pixels long.

    Examples
    --------
    >>> images = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2)
    >>> still = dict(corner=[[0, 0]], centre=[[0, 0]], mean=[0], std=[1 / 255], pad=0, cutout=0)
    >>> augment_batch(images, [0], flip=[True], **still).round()
    array([[[[1., 0.],
             [3., 2.]]]], dtype=float32)
    """
    if not isinstance(images, np.ndarray):
        raise TypeError(f"images: expected an array of shape (N, C, H, W), got {type(images).__name__}")
    if images.dtype not in (np.uint8, np.float32) or images.ndim != 4:
        expected = "expected uint8 or float32 of shape (N, C, H, W)"
        raise ValueError(f"images: {expected}, got {images.dtype} of shape {images.shape}")
    n, channels, height, width = images.shape
    index, corner, centre = (
        _of_kind("iu", name, a, np.int64) for name, a in (("index", index), ("corner", corner), ("centre", centre))
    )
    flip = _of_kind("b", "flip", flip, np.bool_)
    mean, std = (_of_kind("fiu", name, a, np.float32) for name, a in (("mean", mean), ("std", std)))
    for name, value in (("pad", pad), ("cutout", cutout)):
        if not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"{name}: expected an int, 0 or more, got {value!r}")
    batch = index.size
    shapes = {"index": (index, (batch,)), "corner": (corner, (batch, 2)), "flip": (flip, (batch,))}
    shapes |= {"centre": (centre, (batch, 2)), "mean": (mean, (channels,)), "std": (std, (channels,))}
    for name, (array, shape) in shapes.items():
        if array.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    if batch and (index.min() < 0 or index.max() >= n):  # Numba would read other memory
        raise IndexError(f"index: expected 0 to {n - 1}, got {index.min()} to {index.max()}")

    table = None
    if images.dtype == np.uint8:  # there are only 256 possible results for each channel, (256, C)
        table = contiguous((np.arange(256, dtype=np.float32)[:, None] / 255 - mean) / std)
    y = np.empty((batch, height, width, channels), np.float32)
    where = map(contiguous, (index, corner, flip, centre))
    _augment(contiguous(images), *where, (table, contiguous(mean), contiguous(std)), (pad, cutout), y)
    return y.transpose(0, 3, 1, 2)


def _of_kind(kinds: str, name: str, values: npt.ArrayLike, dtype: type) -> np.ndarray:
    """An array of `dtype`, if the values are of a kind that fits it: 0.7 is not an index, nor is a mask."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in kinds:
        raise TypeError(f"{name}: expected numbers that fit {np.dtype(dtype)}, got {array.dtype}")
    return array.astype(dtype, copy=False)


@inner
def _normalised(pixel, c, table, mean, std):
    """Looked up in the table if there is one, else computed. Numba compiles only one of the two cases."""
    if table is None:
        return (pixel - mean[c]) / std[c]
    return table[pixel, c]


@jit
def _augment(images, index, corner, flip, centre, values, sizes, y):
    """y[b, i, j, c] = the normalised pixel for this place, or 0 in the cutout. ::

        for each image of the batch
            for each row and column of the result
                find its row and column in the image, and copy all channels

    images (N, C, H, W), values: table (256, C) or None, mean and std (C,), y (B, H, W, C), contiguous.
    """
    table, mean, std = values
    (batch, height, width, channels), (pad, cutout) = y.shape, sizes
    for b in range(batch):
        image, mirrored = images[index[b]], flip[b]
        top, left = corner[b, 0] - pad, corner[b, 1] - pad
        hole_top, hole_left = centre[b, 0] - cutout // 2, centre[b, 1] - cutout // 2
        for i in range(height):
            row = i + top
            row_inside = 0 <= row < height
            row_in_hole = hole_top <= i < hole_top + cutout
            for j in range(width):
                column = (width - 1 - j if mirrored else j) + left
                if row_in_hole and hole_left <= j < hole_left + cutout:
                    for c in range(channels):
                        y[b, i, j, c] = 0
                elif row_inside and 0 <= column < width:
                    for c in range(channels):
                        y[b, i, j, c] = _normalised(image[c, row, column], c, table, mean, std)
                else:
                    for c in range(channels):
                        y[b, i, j, c] = _normalised(images.dtype.type(0), c, table, mean, std)
