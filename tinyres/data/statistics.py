"""Statistics of a set of images, from sums of whole numbers, which are exact."""

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from tinyres.data.stream import Pictures

NUMBERS = 2**23  # numbers of patches that are in memory at a time


def channel_statistics(images: np.ndarray | Pictures) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, in units where black is 0 and white is 1.

    Parameters
    ----------
    images : uint8 array of shape (N, C, H, W), or Pictures
        Use only training images: test images should not influence training, not even in this way.

    Returns
    -------
    mean, std : float32 arrays of shape (C,)

    Raises
    ------
    ValueError
        If `images` has another dtype or shape, or is empty.

    Notes
    -----
    Sums of pixels and of their squares are whole numbers, which are computed exactly, and so is
    ``count**2 * variance = count * sum(p**2) - sum(p)**2``.

    Examples
    --------
    >>> images = np.array([0, 0, 255, 255], np.uint8).reshape(1, 1, 2, 2)
    >>> channel_statistics(images)
    (array([0.5], dtype=float32), array([0.5], dtype=float32))
    """
    _check(images)
    total = np.zeros(images.shape[1], np.int64)
    squares = np.zeros_like(total)
    for start in range(0, len(images), 256):  # in parts: 32-bit copies of all images are large
        chunk = images[start : start + 256].astype(np.int32)
        total += chunk.sum((0, 2, 3), dtype=np.int64)
        squares += (chunk * chunk).sum((0, 2, 3), dtype=np.int64)
    count = images.size // images.shape[1]
    # Python's integers, since the products do not fit in 64 bits
    variance = [(count * s - t * t) / (count * count) for s, t in zip(squares.tolist(), total.tolist(), strict=True)]
    return (total / (255 * count)).astype(np.float32), (np.sqrt(variance) / 255).astype(np.float32)


def patch_covariance(images: np.ndarray, size: tuple[int, int], *, std: npt.ArrayLike) -> np.ndarray:
    """Covariance of the numbers in a patch of an image, over all patches of all images.

    Parameters
    ----------
    images : uint8 array of shape (N, C, H, W)
    size : (int, int)
        Height and width (kh, kw) of a patch, at most those of an image.
    std : floats of shape (C,)
        Channels are divided by these, as a `Loader` does, in units where black is 0 and white is 1.

    Returns
    -------
    float64 array of shape (C kh kw, C kh kw)
        In the order of a convolution's weights: channel, row, column.

    Raises
    ------
    ValueError
        If `images` has another dtype or shape, is empty, or is smaller than a patch, or a `std` is not positive.

    Notes
    -----
    With a patch p as a row of numbers, it is E[p' p] - E[p]' E[p]. The sums of pixels and of their products are whole
    numbers below 2^53, so float64 computes them exactly, in any order.

    Examples
    --------
    >>> images = np.array([0, 0, 255, 255], np.uint8).reshape(1, 1, 2, 2)
    >>> patch_covariance(images, (2, 1), std=[0.5])
    array([[0., 0.],
           [0., 0.]])
    >>> patch_covariance(images, (1, 1), std=[0.5])
    array([[1.]])
    """
    _check(images)
    n, channels, height, width = images.shape
    kh, kw = size
    if not (1 <= kh <= height and 1 <= kw <= width):
        most = f"1 or more, and at most the {height} x {width} of the images"
        raise ValueError(f"size: got {kh} x {kw}, expected {most}: take smaller patches, or larger images")
    each = np.asarray(std, np.float64)
    if not (each > 0).all():
        raise ValueError(f"std: got {each}, expected positive numbers: a constant channel cannot be normalised")
    rows, columns = height - kh + 1, width - kw + 1
    numbers = channels * kh * kw
    total, products = np.zeros(numbers), np.zeros((numbers, numbers))
    some = max(1, NUMBERS // (numbers * rows * columns))
    for start in range(0, n, some):
        windows = sliding_window_view(images[start : start + some], (kh, kw), (2, 3))
        patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, numbers).astype(np.float64)
        total += patches.sum(0)
        products += patches.T @ patches
    count = n * rows * columns
    mean = total / count
    scale = 255 * np.repeat(each, kh * kw)
    return (products / count - np.outer(mean, mean)) / np.outer(scale, scale)


def _check(images: np.ndarray | Pictures) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        expected = "expected uint8 of shape (N, C, H, W), not empty"
        raise ValueError(f"images: {expected}, got {images.dtype} of shape {images.shape}")
