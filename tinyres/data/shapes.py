"""Generated pictures of ten kinds of shapes: a data set for use without CIFAR-10.

Every shape is a signed distance function: its absolute value is the distance to the edge, negative inside and positive
outside. If the centre of a pixel is d pixels outside the edge, the shape covers about 1/2 - d of the pixel. So edges
are smooth at any size and angle. Lengths are in units of half an image, whose corners are (-1, -1) and (1, 1).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tinyres.backend import num_threads

SIZES = {"train": 20_000, "test": 4_000}
BLOCK = 200  # images drawn from one random generator: so image i does not depend on n

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def shapes(
    n: int | None = None, split: str = "train", *, seed: int = 0, size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of ten kinds of shapes, named in `SHAPES_CLASSES`, on a complicated background.

    Shapes vary in place, size, angle, proportion and colour. The background has a gradient, stripes, spots and
    noise. Strokes cross both. Every image depends only on (seed, split, its index).

    Parameters
    ----------
    n : int, optional
        How many images; by default 20,000 for training and 4,000 for testing.
    split : {"train", "test"}
    seed : int
    size : int
        Height and width of the images in pixels, 8 or more.

    Returns
    -------
    images : uint8 array of shape (n, 3, size, size)
    labels : int64 array of shape (n,)
        In each block of 200 images, the ten classes are equally frequent.

    Raises
    ------
    ValueError
        If there is no such split, or `n`, `seed` or `size` is too small.

    Examples
    --------
    >>> images, labels = shapes(100)
    >>> images.shape, images.dtype, labels.shape, labels.dtype
    ((100, 3, 32, 32), dtype('uint8'), (100,), dtype('int64'))
    """
    if split not in SIZES:
        raise ValueError(f"split: expected one of {', '.join(map(repr, SIZES))}, got {split!r}")
    n = SIZES[split] if n is None else n
    for name, value, least in (("n", n, 0), ("seed", seed, 0), ("size", size, 8)):
        if value < least:
            raise ValueError(f"{name}: expected {least} or more, got {value}")
    images = np.empty((n, 3, size, size), np.uint8)
    labels = np.empty(n, np.int64)

    def draw(start: int) -> None:
        rng = np.random.default_rng([seed, list(SIZES).index(split), start // BLOCK])
        block_images, block_labels = _draw(rng, size)
        images[start : start + BLOCK] = block_images[: n - start]
        labels[start : start + BLOCK] = block_labels[: n - start]

    # NumPy computes blocks without the GIL; few at a time, since each takes a hundred times the memory of its images
    with ThreadPoolExecutor(min(4, num_threads())) as pool:
        list(pool.map(draw, range(0, n, BLOCK)))
    return images, labels


# ---------------------------------------------------------------- distances to shapes of radius about 1
def _polygon(vertices: np.ndarray) -> Distance:
    """Distance to the nearest edge. A point is inside if a ray to the right crosses an odd number of edges."""
    edges = list(zip(vertices.tolist(), np.roll(vertices, -1, axis=0).tolist(), strict=True))

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        nearest = np.full_like(x, np.inf)  # squared
        sign = np.ones_like(x)
        for (x0, y0), (x1, y1) in edges:
            dx, dy, px, py = x1 - x0, y1 - y0, x - x0, y - y0
            along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
            nearest = np.minimum(nearest, (px - along * dx) ** 2 + (py - along * dy) ** 2)
            if dy:
                sign[((py < 0) != (y < y1)) & (px < py * (dx / dy))] *= -1
        return sign * np.sqrt(nearest)

    return distance


def _star(points: int, inner: float) -> np.ndarray:
    """Vertices of a star: `points` on the unit circle, and between them others on a circle of radius `inner`."""
    angle = np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2, inner, 1)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _heart(points: int = 20) -> np.ndarray:
    t = np.arange(points) * 2 * np.pi / points
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 16


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.85


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.7) - 0.22


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 0.95, 0.8 - np.hypot(x - 0.55, y))


_BAR = np.array([(-1, -0.25), (1, -0.25), (1, 0.25), (-1, 0.25)])
_CROSS = np.array([
    (0.3, 0.95), (0.3, 0.3), (0.95, 0.3), (0.95, -0.3), (0.3, -0.3), (0.3, -0.95),
    (-0.3, -0.95), (-0.3, -0.3), (-0.95, -0.3), (-0.95, 0.3), (-0.3, 0.3), (-0.3, 0.95),
])  # fmt: skip
_ELL = np.array([(-0.65, -0.9), (-0.1, -0.9), (-0.1, 0.35), (0.75, 0.35), (0.75, 0.9), (-0.65, 0.9)])

_DISTANCES: dict[str, Distance] = {
    "disc": _disc,
    "ring": _ring,
    "crescent": _crescent,
    "triangle": _polygon(_star(3, 0.5)),  # the inner vertices are on the sides
    "square": _polygon(_star(4, np.sqrt(0.5))),
    "star": _polygon(_star(5, 0.42)),
    "cross": _polygon(_CROSS),
    "bar": _polygon(_BAR),
    "ell": _polygon(_ELL),
    "heart": _polygon(_heart()),
}
SHAPES_CLASSES = tuple(_DISTANCES)


# ---------------------------------------------------------------- drawing
def _draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw images (BLOCK, 3, size, size) and their labels: first the background, then shapes, then strokes."""

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        """One random number for each image, in a shape that broadcasts with (BLOCK, 3, size, size)."""
        return rng.uniform(low, high, (BLOCK, *(shape or (1, 1, 1)))).astype(np.float32)

    labels = rng.permutation(BLOCK) % len(_DISTANCES)
    pixel = 2 / size
    axis = ((np.arange(size) + 0.5) * pixel - 1).astype(np.float32)
    x, y = axis, axis[:, None]

    # background: a colour, a gradient, stripes and spots; tints have shape (BLOCK, 3, 1, 1)
    base = uniform(0.1, 0.9) + uniform(-0.2, 0.2, 3, 1, 1)
    angle, frequency, phase = uniform(0, np.pi), uniform(4, 20), uniform(0, 2 * np.pi)
    stripes = np.sin(frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)  # (BLOCK, 1, size, size)
    blotches = _enlarge(uniform(-1, 1, 1, 5, 5), axis)
    image = base + uniform(-0.15, 0.15, 3, 1, 1) * x + uniform(-0.15, 0.15, 3, 1, 1) * y
    image += uniform(-0.08, 0.08, 3, 1, 1) * stripes + uniform(-0.15, 0.15, 3, 1, 1) * blotches

    # the shape, darker than a light background and lighter than a dark one
    radius = uniform(0.35, 0.7)
    centre_x, centre_y = ((0.95 - 0.9 * radius) * uniform(-1, 1) for _ in "xy")
    angle, stretch = uniform(0, 2 * np.pi), uniform(0.85, 1.18)
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    u = (cos * (x - centre_x) + sin * (y - centre_y)) * stretch  # (BLOCK, 1, size, size)
    v = (cos * (y - centre_y) - sin * (x - centre_x)) / stretch
    distance = np.empty_like(u)
    for label, function in enumerate(_DISTANCES.values()):
        chosen = labels == label
        distance[chosen] = function(u[chosen], v[chosen])
    tint = uniform(0.25, 0.7) + uniform(-0.2, 0.2, 3, 1, 1)
    colour = np.where(base.mean(axis=1, keepdims=True) > 0.5, base - tint, base + tint)
    colour = colour + uniform(-0.15, 0.15) * u  # shaded
    image += _cover(distance * radius, pixel) * (colour - image)

    # strokes over everything, some of them as short as dots
    for _ in range(3):
        angle, length = uniform(0, np.pi), uniform(0, 0.35)
        dx, dy = x - uniform(-1, 1), y - uniform(-1, 1)
        along = np.cos(angle) * dx + np.sin(angle) * dy
        across = np.cos(angle) * dy - np.sin(angle) * dx
        distance = np.hypot(np.maximum(np.abs(along) - length, 0), across) - uniform(0.01, 0.05)
        image += _cover(distance, pixel) * (uniform(0, 1, 3, 1, 1) - image)

    noise = rng.standard_normal(image.shape, np.float32)
    image += uniform(0.01, 0.06) * noise
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8), labels


def _cover(distance: np.ndarray, pixel: float) -> np.ndarray:
    """The part of each pixel that the shape covers."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def _enlarge(grid: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Linear interpolation of (..., k, k) to (..., size, size)."""
    k = grid.shape[-1]
    weight = np.maximum(0, 1 - np.abs((axis[:, None] + 1) * (k - 1) / 2 - np.arange(k, dtype=np.float32)))  # (size, k)
    return weight @ grid @ weight.T
