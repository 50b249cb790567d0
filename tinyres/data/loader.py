"""Batches. Their order and augmentation depend only on (seed, epoch, batch).

So a run that was stopped can continue at any batch, with the same result as without the stop.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyres.data.augment import Augment
from tinyres.data.mix import Mix
from tinyres.data.stream import Pictures

AHEAD = 2  # batches that are prepared while the network works on another
CHUNK = 2**22  # numbers that are checked at a time

Transform: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Batch: TypeAlias = tuple[Any, ...]  # (x, y) or (x, y, w): two or three arrays


class Loader:
    """Cuts a data set into batches, which a background thread prepares in advance.

    Parameters
    ----------
    images : uint8, float32 or float64 array of shape (N, C, H, W), or Pictures
        With any number of channels. Values of uint8 are divided by 255. Floats must be finite. They are converted to
        float32 and not scaled. `Augment` fills pixels outside an image with 0. `Pictures` are read batch by batch.
    labels : int64 array of shape (N,), or float array of shape (N, K)
        The class of each image; or K numbers for each image, such as probabilities, converted to float32.
    batch_size : int
        Number of images in a batch; the last one may have fewer.
    mean, std : floats of shape (C,), optional
        Mean and standard deviation of each channel, for normalisation; 0 and 1 by default. For uint8, in units where
        black is 0 and white is 1, see `channel_statistics`. For floats, in their own units.
    shuffle : bool
        Whether each epoch has its own random order.
    transform : callable, optional
        ``transform(image, rng)`` returns a changed image with the same dtype and number of channels. Height and width
        may differ from before, but are the same for all images of a batch. It runs on the background thread, before
        `augment` and normalisation. `image` of shape (C, H, W) is a copy. `rng` is an np.random.Generator, which
        depends only on (seed, epoch, position in the epoch).
    augment : Augment, optional
        Random changes of the images; none by default.
    mix : Mix, optional
        Mixes images with each other. Labels are then probabilities, float32 of shape (B, K).
    weight : float array of shape (N,), optional
        Weight of each image, 0 or more. Each batch is then ``(x, y, w)``. It cannot be combined with `mix`.
    seed : int
        Seed of order and augmentation, 0 or more.
    drop_last : bool
        Whether to leave out a last batch that is not full.
    part : (int, int)
        (i, n): make only part i of n equal parts of each batch. (1, 4) is the second quarter. Its images are augmented
        exactly as if the whole batch were made.

    Raises
    ------
    ValueError
        If an array has the wrong dtype or shape or is not finite; if `batch_size`, `std`, `seed` or `part` is not
        valid; if both `weight` and `mix` are given. Also, while batches are made, if `transform` returns a wrong image.
    PictureError
        While batches are made, if one of `Pictures` cannot be read.

    Examples
    --------
    >>> images, labels = np.zeros((10, 3, 8, 8), np.uint8), np.arange(10)
    >>> loader = Loader(images, labels, 4, mean=[0.5] * 3, std=[0.25] * 3)
    >>> len(loader)
    3
    >>> for x, y in loader.epoch(0):
    ...     print(x.shape, x.dtype, y.shape)
    (4, 3, 8, 8) float32 (4,)
    (4, 3, 8, 8) float32 (4,)
    (2, 3, 8, 8) float32 (2,)
    >>> orders = [[label for _, y in loader for label in y.tolist()] for _ in range(2)]  # each time the next epoch
    >>> orders[0] == orders[1], sorted(orders[1]) == list(range(10))
    (False, True)

    Images of float with two channels, and a transform that rotates each image at random:

    >>> fields = np.random.default_rng(0).normal(size=(10, 2, 8, 8))
    >>> turn = lambda image, rng: np.rot90(image, rng.integers(4), axes=(1, 2))
    >>> x, y, w = next(Loader(fields, labels, 4, transform=turn, weight=np.ones(10)).epoch(0))
    >>> x.shape, x.dtype, w
    ((4, 2, 8, 8), dtype('float32'), array([1., 1., 1., 1.], dtype=float32))
    """

    def __init__(  # many, as in PyTorch's DataLoader: each is a choice of its own, made by name
        self,
        images: np.ndarray | Pictures,
        labels: np.ndarray,
        batch_size: int,
        *,
        mean: npt.ArrayLike | None = None,
        std: npt.ArrayLike | None = None,
        shuffle: bool = True,
        transform: Transform | None = None,
        augment: Augment | None = None,
        mix: Mix | None = None,
        weight: npt.ArrayLike | None = None,
        seed: int = 0,
        drop_last: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        _check_data(images, labels)
        if not 0 <= part[0] < part[1]:
            raise ValueError(f"part: got {part}, expected a part and the number of parts, such as (0, 2)")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {seed}")
        channels = images.shape[1]
        self.mean = np.asarray(np.zeros(channels) if mean is None else mean, np.float32)
        self.std = np.asarray(np.ones(channels) if std is None else std, np.float32)
        for name, array in (("mean", self.mean), ("std", self.std)):
            if array.shape != (channels,):
                raise ValueError(f"{name}: expected one number for each of {channels} channels, got {array}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: expected finite numbers, got {array}")
        if not (self.std > 0).all():
            raise ValueError(f"std: expected positive numbers, got {self.std}")
        if transform is not None and not callable(transform):
            raise ValueError(f"transform: got {type(transform).__name__}, expected a callable (image, rng) -> image")
        if mix is not None and labels.ndim == 2 and labels.shape[1] != mix.classes:
            raise ValueError(f"mix: got {mix.classes} classes, expected {labels.shape[1]}, as in labels")
        if mix is not None and labels.ndim == 1:
            _check_classes(labels, mix.classes)
        if isinstance(images, np.ndarray):
            images = np.ascontiguousarray(_as_floats("images", images) if images.dtype.kind == "f" else images)
        self.images = images
        self.labels = _as_floats("labels", labels) if labels.ndim == 2 else labels
        self.weight = None if weight is None else _weights(weight, len(images), mix)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.transform = transform
        self.augment = augment or Augment(pad=0, flip=False, cutout=0)
        self.mix = mix
        self.seed = seed
        self.drop_last = drop_last
        self.part = part
        self.next_epoch = 0  # the epoch that the next iteration over the loader gives
        self._mirrored: np.ndarray | None = None  # images mirrored in even epochs; in odd ones, the others are
        if self.augment.alternate:
            chance = np.random.default_rng([seed, 2**32 - 1])  # a number that no epoch has: [seed] alone is epoch 0's
            self._mirrored = chance.integers(0, 2, len(images)) == 1

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        """The next epoch: 0 in the first iteration, 1 in the second, and so on. For a given epoch, call `epoch`."""
        self.next_epoch += 1
        return self.epoch(self.next_epoch - 1)

    def images_of(self, batch: int) -> int:
        """Number of images in a batch, in all its parts."""
        return min(self.batch_size, len(self.images) - batch * self.batch_size)

    def epoch(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[Batch]:
        """Every `step`-th batch of an epoch, starting with batch `start`.

        Parameters
        ----------
        epoch : int
        start : int
            First batch, 0 to ``len(loader)``.
        step : int
            1 or more; n if n processes divide the batches of an epoch among them.

        Yields
        ------
        x : float32 array of shape (B, C, H, W), channels-last in memory
        y : int64 array of shape (B,), or float32 of shape (B, K) if labels are or with `mix`
        w : float32 array of shape (B,), only with `weight`

        Raises
        ------
        ValueError
            If `epoch` is negative, there is no batch `start`, or `step` is not positive.
        """
        if epoch < 0:
            raise ValueError(f"epoch: expected 0 or more, got {epoch}")
        if not 0 <= start <= len(self):
            raise ValueError(f"start: expected 0 to {len(self)}, got {start}")
        if step < 1:
            raise ValueError(f"step: expected 1 or more, got {step}")
        # a separate generator, so that the checks above run at once
        return self._prefetch(epoch, range(start, len(self), step))

    def _prefetch(self, epoch: int, batches: range) -> Iterator[Batch]:
        order = np.arange(len(self.images))
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tinyres-loader")
        try:
            tasks: Iterator[Future[Batch]]
            tasks = (pool.submit(self._batch, order, epoch, batch) for batch in batches)
            waiting = deque(islice(tasks, AHEAD))
            while waiting:
                ready = waiting.popleft().result()  # raises the errors of the thread
                waiting.extend(islice(tasks, 1))
                yield ready
        finally:  # also if the caller stops early: at most the current batch is finished
            pool.shutdown(wait=True, cancel_futures=True)

    def _batch(self, order: np.ndarray, epoch: int, batch: int) -> Batch:
        index = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        # from 1, since for NumPy [seed, epoch, 0] is the same seed as [seed, epoch]
        rng = np.random.default_rng([self.seed, epoch, batch + 1])
        which, parts = self.part
        own = slice(which * len(index) // parts, (which + 1) * len(index) // parts)
        made = slice(0, len(index)) if self.mix else own  # an image may be mixed with one of another part
        mirrored = None if self._mirrored is None else self._mirrored[index] ^ (epoch % 2 == 1)
        images, where = self.images, index
        if self.transform is not None or isinstance(images, Pictures):
            images = images[index[made]]  # a copy
            where = np.arange(len(index)) - made.start  # position of each image that is made, in `images`
        if self.transform is not None:
            images = self._transformed(images, epoch, batch * self.batch_size + made.start)
        x = self.augment(images, where, mean=self.mean, std=self.std, rng=rng, own=made, mirrored=mirrored)
        if self.mix is not None:
            x, q = self.mix(x, self.labels[index], rng=rng)
            return x[own], q[own]
        y = self.labels[index[own]]
        return (x, y) if self.weight is None else (x, y, self.weight[index[own]])

    def _transformed(self, before: np.ndarray, epoch: int, first: int) -> np.ndarray:
        """The transformed images; `first` is the position of the first of them in the epoch."""
        after: list[np.ndarray] = []
        for i, image in enumerate(before):
            # 0 here; the seeds of batches have 1 or more in this place
            rng = np.random.default_rng([self.seed, epoch, 0, first + i + 1])
            assert self.transform is not None
            after.append(self.transform(image, rng))
            _check_transformed(self.transform, after, before[0])
        return np.stack(after) if after else before


def _check_transformed(transform: Transform, after: list[np.ndarray], before: np.ndarray) -> None:
    """Check that the last transformed image fits the earlier ones of the batch, and the images before."""
    image, expected = after[-1], f"{before.dtype} of shape ({len(before)}, H, W)"
    got, good = type(image).__name__, isinstance(image, np.ndarray)
    if good:
        got = f"{image.dtype} of shape {image.shape}"
        good = image.dtype == before.dtype and image.ndim == 3 and len(image) == len(before) and image.size > 0
    if good and image.shape != after[0].shape:
        good, expected = False, f"shape {after[0].shape} as of the other images of the batch"
    if good and not np.isfinite(image).all():
        good, got, expected = False, "NaN or infinity", "finite numbers"
    if not good:
        name = getattr(transform, "__qualname__", None) or type(transform).__qualname__
        raise ValueError(f"transform: got {got} from {name}, expected {expected}")


def split_validation(
    images: np.ndarray | Pictures, labels: np.ndarray, n: int, seed: int = 0
) -> tuple[tuple[Any, np.ndarray], tuple[Any, np.ndarray]]:
    """Hold out n random images. The same seed always gives the same images.

    Parameters
    ----------
    images : array of shape (N, C, H, W), or Pictures, whose files are not read
    labels : array of shape (N,) or (N, K)
        Both as for a `Loader`.
    n : int
        How many images to hold out, 0 to N - 1.
    seed : int

    Returns
    -------
    (images, labels) for training, (images, labels) for validation, both in their original order

    Raises
    ------
    ValueError
        If an array has the wrong dtype or shape, or `n` leaves nothing to train on.

    Examples
    --------
    >>> images, labels = np.zeros((10, 3, 8, 8), np.uint8), np.arange(10)
    >>> (_, train), (_, validation) = split_validation(images, labels, 3)
    >>> train.size, validation.size, sorted([*train, *validation]) == [*labels]
    (7, 3, True)
    """
    _check_data(images, labels)
    if not 0 <= n < len(images):
        raise ValueError(f"n: expected 0 to {len(images) - 1}, to leave images to train on, got {n}")
    held = np.zeros(len(images), bool)
    held[np.random.default_rng(seed).permutation(len(images))[:n]] = True
    part = images.only if isinstance(images, Pictures) else images.__getitem__
    return (part(~held), labels[~held]), (part(held), labels[held])


def _check_data(images: np.ndarray | Pictures, labels: np.ndarray) -> None:
    for name, array, kinds in (("images", images, (np.ndarray, Pictures)), ("labels", labels, (np.ndarray,))):
        if not isinstance(array, kinds):
            raise ValueError(f"{name}: expected a NumPy array, got {type(array).__name__}; np.asarray makes one")
    if images.dtype not in (np.uint8, np.float32, np.float64) or images.ndim != 4 or not images.shape[1]:
        expected = "expected uint8 of shape (N, C, H, W), or float32"
        raise ValueError(f"images: {expected}, got {images.dtype} of shape {images.shape}")
    classes, numbers = labels.dtype == np.int64 and labels.ndim == 1, labels.dtype.kind == "f" and labels.ndim == 2
    if not (classes or numbers):
        expected = "expected int64 of shape (N,), or float32 of shape (N, K)"
        raise ValueError(f"labels: {expected}, got {labels.dtype} of shape {labels.shape}")
    if len(images) != len(labels):
        raise ValueError(f"labels: expected one for each of {len(images)} images, got {len(labels)}")


def _check_classes(labels: np.ndarray, classes: int) -> None:
    if ((labels < 0) | (labels >= classes)).any():
        got = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"labels: got classes {got}, expected 0 to {classes - 1}, as mix has {classes} classes")


def _as_floats(name: str, array: np.ndarray) -> np.ndarray:
    """Convert to float32, and check that all is finite: in chunks, since a copy of all images may be large."""
    with np.errstate(over="ignore"):  # numbers too large for float32 become infinite
        array = array.astype(np.float32, copy=False)
    some = max(1, CHUNK * len(array) // max(1, array.size))
    for start in range(0, len(array), some):
        chunk = array[start : start + some]
        bad = ~np.isfinite(chunk.reshape(len(chunk), -1)).all(1)
        if bad.any():
            number = start + int(bad.argmax())
            raise ValueError(f"{name}: got NaN or infinity, as float32, in number {number}, expected finite numbers")
    return array


def _weights(weight: npt.ArrayLike, n: int, mix: Mix | None) -> np.ndarray:
    if mix is not None:
        raise ValueError("weight: got both weight and mix, expected one of the two: a mixture is of two images")
    weights = np.asarray(weight)
    if weights.dtype.kind not in "fiu" or weights.shape != (n,):
        expected = f"expected a number for each of {n} images"
        raise ValueError(f"weight: {expected}, got {weights.dtype} of shape {weights.shape}")
    weights = _as_floats("weight", weights)
    if (weights < 0).any():
        raise ValueError(f"weight: got {weights.min()}, expected 0 or more")
    return weights
