"""Training on mixtures of two images, whose target is the mixture of their classes."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mix:
    """Mixup and cutmix: in each batch one of the two, each image with another of the batch.

    Parameters
    ----------
    classes : int
    mixup : float
        alpha: a share s is drawn from Beta(alpha, alpha), and x = s x_i + (1 - s) x_j; 0 for none.
    cutmix : float
        alpha, as well: a rectangle of x_j, 1 - s of its area, is put into x_i at a random place, in part perhaps
        outside the image; s is then what is left of x_i. 0 for none. Where both are set, a batch has one or the other.

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
        """Images of shape (B, C, H, W), which are changed in place, and probabilities of shape (B, K), float32.

        `y` is a class of each image, of shape (B,), or the probability of each class, of shape (B, K). Each image is
        mixed with one of a random permutation of the batch.
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
    """Put a rectangle of the others into images; the share of each image that is left."""
    height, width = x.shape[2:]
    rows, columns = (round(size * np.sqrt(1 - share)) for size in (height, width))
    top, left = rng.integers(0, height) - rows // 2, rng.integers(0, width) - columns // 2
    inside = slice(max(0, top), max(0, top + rows)), slice(max(0, left), max(0, left + columns))
    patch = x[:, :, inside[0], inside[1]]
    patch[...] = patch[other]
    return 1 - patch[0, 0].size / (height * width)
