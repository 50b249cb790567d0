"""Batches from other sources: any iterable that can be iterated over several times."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

Batch = tuple[np.ndarray, ...]


class Batches:
    """An iterable of batches, such as PyTorch's DataLoader or a list, in the form of a `Loader`.

    Parameters
    ----------
    batches : iterable of (x, y) or (x, y, weight)
        x: float of shape (B, C, H, W), as the network gets them. y: int of shape (B,), classes from 0 to K - 1; or
        float of shape (B, K), probabilities. weight: of shape (B,), finite, 0 or more, a factor on the loss of each
        image in training. Each is an array, or an object that NumPy can convert to one.

    Raises
    ------
    ValueError
        If it can be iterated over only once, is empty, or gives something else.

    Notes
    -----
    At first, all batches are read once, to learn their number and sizes. Each epoch iterates over them again. If the
    iterable has a method ``set_epoch``, as samplers of PyTorch have, this is called before with the number of the
    epoch. The iterable alone decides about order and augmentation. A run that was stopped continues exactly only if the
    iterable gives the same batches again for the same epoch. Several processes cannot share such batches in training.

    Examples
    --------
    >>> x, y = np.zeros((10, 3, 8, 8), np.float32), np.arange(10)
    >>> batches = Batches([(x[:6], y[:6]), (x[6:], y[6:])])
    >>> len(batches), batches.images_of(1), batches.num_classes, batches.shape
    (2, 4, 10, (3, 8, 8))
    """

    part = (0, 1)  # as in a `Loader`: all of each batch

    def __init__(self, batches: Iterable[Any]) -> None:
        if not isinstance(batches, Iterable):
            raise ValueError(f"batches: got {type(batches).__name__}, expected something to iterate over")
        if iter(batches) is batches:
            raise ValueError(
                f"batches: got a {type(batches).__name__}, which ends after one epoch; expected an iterable that can "
                "be iterated over several times, such as a list or a DataLoader"
            )
        self.batches = batches
        self.sizes: list[int] = []
        self.num_classes, shapes = 0, set()
        for x, y, *_ in self._all(0):
            self.sizes.append(len(x))
            self.num_classes = max(self.num_classes, int(y.max()) + 1 if y.ndim == 1 else y.shape[1])
            shapes.add(x.shape[1:])
        if not self.sizes:
            raise ValueError("batches: got none, expected at least one")
        self.shape: tuple[int, ...] = sorted(shapes)[0]

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.sizes)

    def images_of(self, batch: int) -> int:
        """Number of images in a batch."""
        return self.sizes[batch]

    def epoch(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[Batch]:
        """Every `step`-th batch of an epoch, starting with batch `start`. The batches between are made, but skipped."""
        expected = dict(enumerate(self.sizes))
        for i, batch in islice(enumerate(self._all(epoch)), start, None, step):
            if len(batch[0]) != expected.get(i):
                raise ValueError(
                    f"batches: batch {i} has {len(batch[0])} images, expected {expected.get(i, 'no more')}"
                )
            yield batch
            del expected[i]
        if left := expected.keys() & set(range(start, len(self), step)):
            raise ValueError(f"batches: epoch {epoch} ended before batch {min(left)}, expected {len(self)} batches")

    def _all(self, epoch: int) -> Iterator[Batch]:
        if callable(set_epoch := getattr(self.batches, "set_epoch", None)):
            set_epoch(epoch)
        for i, batch in enumerate(self.batches):
            if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
                got = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
                raise ValueError(f"batches: batch {i} is {got}, expected (x, y) or (x, y, weight)")
            x, y, *weight = map(np.asarray, batch)
            if x.ndim != 4 or x.dtype.kind != "f":
                raise ValueError(
                    f"batches: images of batch {i}: got {x.dtype} of shape {x.shape}, expected float of shape "
                    "(B, C, H, W), as the network gets them"
                )
            if not (y.ndim == 1 and y.dtype.kind in "iu") and not (y.ndim == 2 and y.dtype.kind == "f"):
                raise ValueError(
                    f"batches: labels of batch {i}: got {y.dtype} of shape {y.shape}, expected int of shape (B,), "
                    "numbers of classes, or float of shape (B, K), probabilities"
                )
            if len(x) != len(y) or not len(x):
                raise ValueError(
                    f"batches: batch {i} has {len(x)} images and {len(y)} labels, expected equal numbers of 1 or more"
                )
            labels = y.astype(np.int64 if y.ndim == 1 else np.float32, copy=False)
            yield (x.astype(np.float32, copy=False), labels, *(_weights(w, len(x), i) for w in weight))


def _weights(weight: np.ndarray, images: int, batch: int) -> np.ndarray:
    if weight.shape != (images,) or weight.dtype.kind not in "fiu":
        got = f"{weight.dtype} of shape {weight.shape}"
        raise ValueError(f"batches: weights of batch {batch}: got {got}, expected a number for each of {images} images")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError(f"batches: weights of batch {batch}: expected finite numbers, 0 or more")
    return weight.astype(np.float32, copy=False)
