"""Augmentation: random changes of training images, different in every epoch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyres.kernels.image import augment_batch


@dataclass(frozen=True)
class Augment:
    """Random crop, flip and cutout, drawn separately for each image.

    Parameters
    ----------
    pad : int
        Number of black pixels added on each side of an image, before a random crop of the original size.
    flip : bool
        Whether to mirror each image, left to right, with probability 1/2.
    alternate : bool
        Mirror a random half of the images in the first epoch, the other half in the second, and so on in turns. In two
        epochs the network sees each image both ways. With `flip` alone, half of the images come the same way twice.
    cutout : int
        Side in pixels of a square at a random place that is set to 0. It may be partly outside the image. 0 for none.

    Raises
    ------
    ValueError
        If `pad` or `cutout` is negative, or `alternate` is set without `flip`.

    References
    ----------
    DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017,
    https://arxiv.org/abs/1708.04552

    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, section 3.6 (alternating flip),
    https://arxiv.org/abs/2404.00498

    Examples
    --------
    >>> images = np.zeros((10, 3, 32, 32), np.uint8)
    >>> x = Augment(pad=4, cutout=8)(images, [3, 1, 4], mean=[0.5] * 3, std=[0.2] * 3, rng=np.random.default_rng(0))
    >>> x.shape, x.dtype
    ((3, 3, 32, 32), dtype('float32'))
    """

    pad: int = 4
    flip: bool = True
    cutout: int = 0
    alternate: bool = False

    def __post_init__(self) -> None:
        for name in ("pad", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.alternate and not self.flip:
            raise ValueError("alternate: expected False without flip, got True")

    def __call__(
        self,
        images: np.ndarray,
        index: npt.ArrayLike,
        *,
        mean: npt.ArrayLike,
        std: npt.ArrayLike,
        rng: np.random.Generator,
        own: slice = slice(None),
        mirrored: np.ndarray | None = None,
    ) -> np.ndarray:
        """Augment and normalise the images at `index`, as float32 of shape (B, C, H, W).

        `images` has shape (N, C, H, W), `index` shape (B,). Only images in the slice `own` are made. Random numbers are
        always drawn for all images and all changes. So the result of one image or one change does not depend on whether
        others are made. With `alternate`, `mirrored` (bool of shape (B,)) says which images to mirror.
        """
        if self.alternate and mirrored is None:
            raise ValueError("mirrored: got None, expected an array that says which images to mirror (Loader makes it)")
        n = np.size(index)
        corner = rng.integers(0, 2 * self.pad, (n, 2), endpoint=True)
        flip = rng.integers(0, 2, n) == 1
        flip = mirrored if self.alternate and mirrored is not None else flip
        centre = rng.integers(0, images.shape[2:], (n, 2))
        return augment_batch(
            images,
            np.asarray(index)[own],
            corner=corner[own],
            flip=flip[own] & self.flip,
            centre=centre[own],
            mean=mean,
            std=std,
            pad=self.pad,
            cutout=self.cutout,
        )
