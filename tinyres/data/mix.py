"""Training on mixtures of two images. The target is a mixture of their classes, too."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mix:
    """Mixup and CutMix: mix each image with another image of the batch.

    Parameters
    ----------
    classes : int
        Number of classes.
    mixup : float
        alpha: a number s is drawn from Beta(alpha, alpha), and x = s x_i + (1 - s) x_j. 0 for no mixup.
    cutmix : float
        alpha: s is drawn in the same way, and a rectangle of x_j, with the part 1 - s of the area, replaces the same
        rectangle of x_i. Its place is random, and a part may be outside the image; s is then set to the part that is
        left of x_i. 0 for no CutMix. If both are set, each batch has one of the two, chosen at random.

    Raises
    ------
    ValueError
        If `classes` is not positive, or an alpha is negative or infinite, or both are 0.

    References
    ----------
    Zhang et al., "mixup: Beyond empirical risk minimization", 2018, equation 1, https://arxiv.org/abs/1710.09412

    Yun et al., "CutMix", 2019, equations 1 and 2, https://arxiv.org/abs/1905.04899

    Examples
    --------
    >>> x, y = np.zeros((4, 3, 8, 8), np.float32), np.array([0, 1, 2, 0])
    >>> x, q = Mix(classes=3, mixup=0.2)(x, y, rng=np.random.default_rng(0))
    >>> q.shape, q.dtype, bool(np.allclose(q.sum(1), 1))
    ((4, 3), dtype('float32'), True)
    """

    classes: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes: expected 1 or more, got {self.classes}")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if not (self.mixup or self.cutmix):
            raise ValueError("mixup, cutmix: expected one of them to be more than 0")

    def __call__(self, x: np.ndarray, y: np.ndarray, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Mix images `x` of shape (B, C, H, W) in place. Return them, and probabilities of shape (B, K), float32.

        `y` is the class of each image, of shape (B,), or the probability of each class, of shape (B, K). Each image is
        mixed with the image at the same position in a random permutation of the batch.
        """
        cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        share, other = rng.beta(alpha, alpha), rng.permutation(len(x))
        if cut:
            share = _cut(x, other, share, rng)
        else:
            x += np.float32(1 - share) * (x[other] - x)
        own = np.eye(self.classes, dtype=np.float32)[y] if y.ndim == 1 else y
        return x, np.float32(share) * own + np.float32(1 - share) * own[other]


def _cut(x: np.ndarray, other: np.ndarray, share: float, rng: np.random.Generator) -> float:
    """Replace a rectangle of the images by that of the others. Return the part of each image that is left."""
    height, width = x.shape[2:]
    rows, columns = (round(size * np.sqrt(1 - share)) for size in (height, width))
    top, left = rng.integers(0, height) - rows // 2, rng.integers(0, width) - columns // 2
    inside = slice(max(0, top), max(0, top + rows)), slice(max(0, left), max(0, left + columns))
    patch = x[:, :, inside[0], inside[1]]
    patch[...] = patch[other]
    return 1 - patch[0, 0].size / (height * width)
