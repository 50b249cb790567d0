"""Random changes of pictures before augmentation and normalisation: values for the `transform` of a `Loader`.

Each is called as ``transform(image, rng)`` with a uint8 array of shape (C, H, W), grey (C = 1) or in colour (C = 3).
All its random numbers come from `rng`. Pillow changes the pixels. Names, parameters, ranges and pixels are those of
torchvision, except that torchvision has the names `num_ops` for `RandAugment.n`, and `TrivialAugmentWide`. Instead of
these, you can use any function with the same two arguments.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tinyres.data.loader import Transform

LEVELS = 31  # number of strengths of an operation
TRIES = 10  # attempts to draw a crop that fits into its picture


# ---------------------------------------------------------------- pictures and arrays
def _picture(image: np.ndarray) -> Image.Image:
    array = isinstance(image, np.ndarray)
    if not array or image.dtype != np.uint8 or image.ndim != 3 or len(image) not in (1, 3) or not image.size:
        got = f"{image.dtype} of shape {image.shape}" if array else type(image).__name__
        raise ValueError(
            f"image: got {got}, expected uint8 of shape (1, H, W) or (3, H, W), grey or red, green and blue: for other "
            "images, write a function (image, rng) of your own"
        )
    return Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))


def _array(picture: Image.Image) -> np.ndarray:
    pixels = np.array(picture)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _expect(name: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}: got {value!r}, expected {expected}")


def _pair(name: str, value: Any, least: float, most: float, expected: str) -> tuple[float, float]:
    """Two numbers in order, within bounds."""
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    _expect(name, value, least <= low <= high <= most and math.isfinite(high), expected)
    return low, high


# ---------------------------------------------------------------- sequences
@dataclass(frozen=True)
class Compose:
    """Several transforms, one after the other. All use the same random generator.

    Parameters
    ----------
    transforms : callables ``(image, rng) -> image``

    Raises
    ------
    ValueError
        If one of them is not callable.

    Examples
    --------
    >>> def darker(image, rng):
    ...     return image // 2
    >>> vary = Compose([RandomResizedCrop(24), darker])
    >>> vary(np.full((3, 32, 32), 200, np.uint8), np.random.default_rng(0))[:, 0, 0]
    array([100, 100, 100], dtype=uint8)
    """

    transforms: Sequence[Transform]

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(self.transforms))
        for i, transform in enumerate(self.transforms):
            _expect("transforms", transform, callable(transform), f"a callable (image, rng) -> image in place {i}")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for transform in self.transforms:
            image = transform(image, rng)
        return image


# ---------------------------------------------------------------- crops
@dataclass(frozen=True)
class RandomResizedCrop:
    """A random rectangle of a picture, scaled to a fixed size.

    Parameters
    ----------
    size : int or (int, int)
        Height and width of the result, in pixels.
    scale : (float, float)
        Smallest and largest area of the rectangle, as a part of the picture's area: more than 0, at most 1.
    ratio : (float, float)
        Smallest and largest width divided by height. Its logarithm is drawn uniformly.

    Raises
    ------
    ValueError
        If a parameter is not valid, or a picture is not uint8 with one channel or three.

    Notes
    -----
    With area A = a H W and ratio r, the rectangle is sqrt(A r) wide and sqrt(A / r) high, rounded. If ten draws do not
    fit into the picture, it is the largest rectangle in the middle with an allowed ratio, at least one pixel wide and
    high (in torchvision it may be empty). It is scaled by bilinear interpolation with antialiasing.

    References
    ----------
    Szegedy et al., "Going deeper with convolutions", 2015, section 6, https://arxiv.org/abs/1409.4842

    Examples
    --------
    >>> picture = np.zeros((3, 300, 400), np.uint8)
    >>> RandomResizedCrop(224)(picture, np.random.default_rng(0)).shape
    (3, 224, 224)
    """

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        pair = (self.size,) * 2 if isinstance(self.size, int) else self.size
        good = isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(n, int) and n >= 1 for n in pair)
        _expect("size", self.size, good, "1 or more, or two such numbers, height and width")
        _pair("scale", self.scale, 1e-9, 1, "two shares of the area in order, more than 0 and at most 1")
        _pair("ratio", self.ratio, 1e-9, math.inf, "two numbers in order, more than 0: width over height")

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw a random rectangle in a picture of this size: its left, top, right and bottom edge.

        Examples
        --------
        >>> RandomResizedCrop(224, scale=(1, 1), ratio=(1, 1)).box(50, 50, np.random.default_rng(0))
        (0, 0, 50, 50)
        """
        low, high = self.ratio
        for _ in range(TRIES):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
                return left, top, left + w, top + h
        ratio = min(max(width / height, low), high)
        w, h = max(1, min(width, round(height * ratio))), max(1, min(height, round(width / ratio)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        picture = _picture(image)
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        # crop first: with the argument `box` of resize, the filter would use pixels outside the rectangle
        part = picture.crop(self.box(picture.height, picture.width, rng))
        return _array(part.resize((width, height), Image.Resampling.BILINEAR))


# ---------------------------------------------------------------- colours
@dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue, in a random order.

    Parameters
    ----------
    brightness, contrast, saturation : float or (float, float)
        A number b means a factor from max(0, 1 - b) to 1 + b. A pair is the smallest and the largest factor. Factor 1
        changes nothing. Factor 0 gives black (brightness), the mean grey (contrast), or grey pixels (saturation).
    hue : float or (float, float)
        A number h, at most 0.5, means a shift from -h to h. A pair is the smallest and the largest shift. A shift of 1
        is the whole colour circle. Grey pictures do not change.

    Raises
    ------
    ValueError
        If a parameter is not valid, or a picture is not uint8 with one channel or three.

    Notes
    -----
    A factor f changes each pixel p to f p + (1 - f) q, limited to 0 to 255. For brightness q is 0, for contrast the
    mean grey of the picture, for saturation the grey of the pixel. The hue is shifted in steps of 1/255, rounded
    towards 0. The conversion to HSV and back loses some precision, even if the shift is less than a step. All random
    numbers are always drawn, so to leave out one change does not affect the others.

    References
    ----------
    Howard, "Some improvements on deep convolutional neural network based image classification", 2013, section 2,
    https://arxiv.org/abs/1312.5402

    Examples
    --------
    >>> picture = np.full((3, 8, 8), 100, np.uint8)
    >>> ColorJitter(brightness=(1.5, 1.5))(picture, np.random.default_rng(0))[:, 0, 0]
    array([150, 150, 150], dtype=uint8)
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    _ranges: tuple[tuple[float, float], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ranges = [self._range(name, 1, (0, math.inf), "") for name in ("brightness", "contrast", "saturation")]
        ranges.append(self._range("hue", 0, (-0.5, 0.5), ", at most 0.5"))
        object.__setattr__(self, "_ranges", tuple(ranges))

    def _range(self, name: str, still: float, bounds: tuple[float, float], most: str) -> tuple[float, float]:
        """Smallest and largest amount, from a pair, or from one number: the distance from `still` (no change)."""
        value, expected = getattr(self, name), f"0 or more{most}, or two such numbers in order"
        if not isinstance(value, int | float):
            return _pair(name, value, *bounds, expected)
        _expect(name, value, 0 <= value < math.inf and still + value <= bounds[1], expected)
        return max(bounds[0], still - value), still + value

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        picture = _picture(image)
        order, amounts = rng.permutation(4), [rng.uniform(low, high) for low, high in self._ranges]
        for i in order:
            picture = (_brightness, _contrast, _saturation, _hue)[i](picture, amounts[i])
        return _array(picture)


def _brightness(picture: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(factor)


def _contrast(picture: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Contrast(picture).enhance(factor)


def _saturation(picture: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Color(picture).enhance(factor)


def _sharpness(picture: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Sharpness(picture).enhance(factor)


def _hue(picture: Image.Image, turn: float) -> Image.Image:
    if picture.mode == "L" or turn == 0:  # hue is not set: the conversion to HSV and back would lose precision
        return picture
    steps = int(turn * 255) % 256
    hue, saturation, value = picture.convert("HSV").split()
    hue = hue.point([(i + steps) % 256 for i in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


# ---------------------------------------------------------------- policies
def _affine(picture: Image.Image, *rows: float) -> Image.Image:
    """Move pixels: the new one at (x, y) was at (a x + b y + c, d x + e y + f), or is black if that is outside."""
    return picture.transform(picture.size, Image.Transform.AFFINE, rows)


Operation = Callable[[Image.Image, float], Image.Image]
OPERATIONS: dict[str, tuple[Operation, bool]] = {  # each with whether its amount may be negative, too
    "Identity": (lambda picture, _: picture, False),
    "ShearX": (lambda picture, amount: _affine(picture, 1, amount, 0, 0, 1, 0), True),
    "ShearY": (lambda picture, amount: _affine(picture, 1, 0, 0, amount, 1, 0), True),
    "TranslateX": (lambda picture, amount: _affine(picture, 1, 0, -int(amount), 0, 1, 0), True),
    "TranslateY": (lambda picture, amount: _affine(picture, 1, 0, 0, 0, 1, -int(amount)), True),
    "Rotate": (lambda picture, amount: picture.rotate(amount), True),
    "Brightness": (lambda picture, amount: _brightness(picture, 1 + amount), True),
    "Color": (lambda picture, amount: _saturation(picture, 1 + amount), True),
    "Contrast": (lambda picture, amount: _contrast(picture, 1 + amount), True),
    "Sharpness": (lambda picture, amount: _sharpness(picture, 1 + amount), True),
    "Posterize": (lambda picture, amount: ImageOps.posterize(picture, 8 - round(amount)), False),  # bits that are left
    "Solarize": (lambda picture, amount: ImageOps.solarize(picture, math.ceil(255 - amount)), False),  # from there on
    "AutoContrast": (lambda picture, _: ImageOps.autocontrast(picture), False),
    "Equalize": (lambda picture, _: ImageOps.equalize(picture), False),
}
"""The operations that `RandAugment` and `TrivialAugment` choose from."""


def _most(deform: float, rotate: float, colour: float, bits: int) -> dict[str, float]:
    """The largest amount of each operation; 0 if it has no amount. Each policy has its own amount of translation."""
    most = dict.fromkeys(OPERATIONS, 0.0) | {"ShearX": deform, "ShearY": deform, "Rotate": rotate, "Posterize": bits}
    return most | dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), colour) | {"Solarize": 255}


def _operate(picture: Image.Image, name: str, amount: float, rng: np.random.Generator) -> Image.Image:
    operation, signed = OPERATIONS[name]
    sign = -1 if rng.integers(2) and signed else 1
    return operation(picture, sign * amount)


@dataclass(frozen=True)
class RandAugment:
    """A few random operations on a picture, all of the same strength.

    Parameters
    ----------
    n : int
        How many operations are applied, one after the other. Each is one of 14, chosen at random.
    magnitude : int
        Their strength, 0 to 30.

    Raises
    ------
    ValueError
        If a parameter is not valid, or a picture is not uint8 with one channel or three.

    Notes
    -----
    With magnitude m and s = m / 30, the operations are: shear by 0.3 s; translation by 150/331 s of the side; rotation
    by 30 s degrees; brightness, colour, contrast and sharpness times 1 + 0.9 s; all of these in both directions.
    Posterize to 8 - 4 s bits. Solarize, which inverts pixels of 255 - 255 s or brighter (also white pixels at m = 0, as
    in torchvision). Stretch the contrast to 0 to 255. Equalize the histogram. Or change nothing. Pixels that come in
    from outside are black.

    Amounts are computed in float64. Those of torchvision are float32, and their last digits depend on the processor. So
    a few pixels may differ by 1, and on some processors a shift of 16 pixels (`TrivialAugment`) is one of 15 there.

    References
    ----------
    Cubuk, Zoph, Shlens and Le, "RandAugment", 2020, figure 2, https://arxiv.org/abs/1909.13719

    Examples
    --------
    >>> picture = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    >>> vary = RandAugment(n=2, magnitude=9)
    >>> vary(picture, np.random.default_rng(1)).shape
    (3, 32, 32)
    """

    n: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        _expect("n", self.n, isinstance(self.n, int) and self.n >= 0, "0 or more operations")
        whole = isinstance(self.magnitude, int)
        _expect("magnitude", self.magnitude, whole and 0 <= self.magnitude < LEVELS, f"0 to {LEVELS - 1}")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        picture = _picture(image)
        most = _most(0.3, 30, 0.9, 4)
        most |= {"TranslateX": 150 / 331 * picture.width, "TranslateY": 150 / 331 * picture.height}
        for _ in range(self.n):
            name = list(OPERATIONS)[rng.integers(len(OPERATIONS))]
            picture = _operate(picture, name, most[name] * self.magnitude / (LEVELS - 1), rng)
        return _array(picture)


@dataclass(frozen=True)
class TrivialAugment:
    """One random operation on a picture, of a random strength. It has no parameters.

    Raises
    ------
    ValueError
        If a picture is not uint8 with one channel or three.

    Notes
    -----
    The operations are those of `RandAugment`, with the paper's wide ranges: s is one of 0, 1/30, ..., 1. Shear by
    0.99 s; translation by 32 s pixels; rotation by 135 s degrees; brightness, colour, contrast and sharpness times
    1 + 0.99 s; all of these in both directions. Posterize to 8 - 6 s bits. The rest is as there.

    References
    ----------
    Müller and Hutter, "TrivialAugment", 2021, table 1 (wide), https://arxiv.org/abs/2103.10158

    Examples
    --------
    >>> picture = np.random.default_rng(0).integers(0, 256, (1, 28, 28), np.uint8)
    >>> TrivialAugment()(picture, np.random.default_rng(1)).shape
    (1, 28, 28)
    """

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        name = list(OPERATIONS)[rng.integers(len(OPERATIONS))]
        most = _most(0.99, 135, 0.99, 6) | {"TranslateX": 32, "TranslateY": 32}
        amount = most[name] * int(rng.integers(LEVELS)) / (LEVELS - 1)
        return _array(_operate(_picture(image), name, amount, rng))
