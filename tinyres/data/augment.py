"""Varying training images, so that the network sees each of them differently in every epoch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinyres.kernels.image import augment_batch


@dataclass(frozen=True)
class Augment:
    """Random crop, flip and cutout, each image on its own.

    Parameters
    ----------
    pad : int
        Black pixels put around an image before a part of its original size is cut from it.
    flip : bool
        Whether to mirror half of the images, left to right.
    alternate : bool
        Mirror half of them at random in the first epoch, the others in the second, and so on in turns: in two epochs
        each is seen both ways, where chance shows a half of them the same way twice.
    cutout : int
        Side of a square that is blanked at a random place, in part perhaps outside the image; 0 for none.

    Raises
    ------
    ValueError
        If `pad` or `cutout` is negative.

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
            raise ValueError("alternate: expected False where nothing is mirrored, got True")

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
        """The images of shape (N, C, H, W) that `index`, of shape (B,), names: varied, normalised, float32.

        Everything is drawn whether it is used or not: to turn one thing off does not change the others, and those that
        are in the slice `own`, which alone are made, are the same as if all were. `mirrored`, of shape (B,), takes the
        place of chance where `alternate` is set.
        """
        if self.alternate and mirrored is None:
            raise ValueError("mirrored: got None, expected which images to mirror, as a Loader knows by the epoch")
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
