"""Reading picture files into arrays of the network's size."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# Pillow finds a file's format by its content, and some formats start other programs (EPS: Ghostscript).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
HUGE = 50_000_000  # a JPEG with more pixels is decoded at a lower resolution: it would take 200 MB on each thread
MOST_SIDE = 1024  # of a network's images in pixels: a damaged checkpoint may ask for any size, which takes memory


class PictureError(ValueError):
    """A file is missing, or is not a picture that can be read. The message names the file."""


def short_side(size: int) -> int:
    """The length to which a picture's shorter side is scaled before ``size`` x ``size`` pixels are cut from its middle.

    It is 256 for 224, and in proportion for other large sizes (Krizhevsky et al., "ImageNet classification with deep
    convolutional neural networks", 2012, section 2; He et al. 2016, section 3.4). For small sizes it is `size`.

    Examples
    --------
    >>> short_side(224), short_side(32)
    (256, 32)
    """
    return round(size * 256 / 224) if size >= 128 else size


def find_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """All pictures in a folder and its subfolders, by suffix, sorted by name. Hidden files are left out.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.png"):
    ...     (folder / name).touch()
    >>> [path.name for path in find_pictures(folder)]
    ['a.PNG', 'b.jpg']
    """
    files = (p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    shown = [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    return sorted(shown, key=lambda p: p.parts)  # paths themselves are compared without case on Windows


def read_picture(path: str | os.PathLike[str], size: int, *, resize: int | None = None) -> np.ndarray:
    """Read a picture, scale it, and cut a square from its middle.

    Parameters
    ----------
    path : path
        A JPEG, PNG or another format that Pillow reads. It is rotated if the camera stored its orientation.
    size : int
        Side of the square in pixels, 1 to 1,024.
    resize : int, optional
        Length to which the shorter side is scaled before, by bicubic interpolation; `size` by default.

    Returns
    -------
    uint8 array of shape (3, size, size)
        Red, green and blue.

    Warns
    -----
    PIL.Image.DecompressionBombWarning
        If it has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``, 89 million. Twice as many raise PictureError.

    Raises
    ------
    PictureError
        If there is no such file, or it is not a picture that can be decoded completely.
    ValueError
        If `size` is less than 1 or more than 1,024, or `resize` less than `size`.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/red.png"
    >>> Image.new("RGB", (40, 30), "red").save(path)
    >>> read_picture(path, 32)[:, 0, 0]
    array([255,   0,   0], dtype=uint8)
    """
    check_sizes(size, resize)
    side = size if resize is None else resize
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > HUGE:
                file.draft(None, (2 * side, 2 * side))  # only JPEGs: an eighth, a quarter or a half, not below this
            picture = _upright(file)
    except FileNotFoundError as error:
        raise PictureError(f"{path}: no such file") from error
    except MemoryError:  # the picture may be good: do not count it as damaged
        raise
    except Exception as error:  # for damaged files, Pillow's decoders raise all kinds of errors, also TypeError
        raise PictureError(f"{path}: not an image that can be read ({error})") from error
    # only the square that is kept is scaled, so that a very long picture takes little memory
    width, height = picture.size
    square = min(width, height) * size / side
    left, top = (width - square) // 2, (height - square) // 2
    box = left, top, left + square, top + square
    picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


def in_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Convert pictures in colour to the number of channels that a network has: 3, or 1 for grey.

    Parameters
    ----------
    images : uint8 array of shape (N, 3, H, W)
    channels : int

    Returns
    -------
    uint8 array of shape (N, channels, H, W)
        With one channel, the luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded as in Pillow.

    Raises
    ------
    ValueError
        If `channels` is neither 3 nor 1.

    Examples
    --------
    >>> in_channels(np.full((1, 3, 2, 2), 200, np.uint8), 1)[0, 0, 0]
    array([200, 200], dtype=uint8)
    """
    if channels == 3:
        return images
    if channels != 1:
        raise ValueError(f"images: got pictures of 3 colours, expected {channels} channels: pictures have 3 or 1")
    red, green, blue = (images[:, i].astype(np.uint32) for i in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[:, None]


def check_sizes(size: int, resize: int | None) -> None:
    """Raise ValueError unless a square of `size` can be cut from a picture whose shorter side is `resize`."""
    if not 1 <= size <= MOST_SIDE or (resize is not None and resize < size):
        expected = f"expected 1 or more, at most {MOST_SIDE:,}, and resize not less"
        raise ValueError(f"size: got {size} with resize {resize}, {expected}")


def _upright(file: Image.Image) -> Image.Image:
    """The picture in grey or in colour with 8 bits, rotated by its orientation. Large pictures are copied rarely."""
    ImageOps.exif_transpose(file, in_place=True)
    file.load()
    picture: Image.Image = file
    if picture.mode.startswith("I"):  # grey with 16 bits: convert would limit it to 255
        pixels = np.array(picture)
        pixels >>= 8
        picture = Image.fromarray(pixels.clip(0, 255, out=pixels).astype(np.uint8))
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # Pillow requires this mode
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
