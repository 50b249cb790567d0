"""Batches, in an order and with variations that depend on nothing but (seed, epoch, batch).

So a run that stopped can go on at any batch as if it had not stopped.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import numpy.typing as npt

from tinyres.data.augment import Augment
from tinyres.data.mix import Mix

AHEAD = 2  # batches that are prepared while the network works on another


class Loader:
    """Cuts a data set into batches, which a background thread prepares ahead of their use.

    Parameters
    ----------
    images : uint8 array of shape (N, C, H, W)
    labels : int64 array of shape (N,)
    batch_size : int
    mean, std : floats of shape (C,)
        Of each channel, where black is 0 and white is 1: see `channel_statistics`.
    shuffle : bool
        Whether each epoch has an order of its own.
    augment : Augment, optional
        How to vary the images; without it they are only normalised.
    mix : Mix, optional
        How to mix them with each other: then labels are probabilities, float32 of shape (B, K).
    seed : int
    drop_last : bool
        Whether to leave out a last batch that is not full.
    part : (int, int)
        Which of how many parts of each batch: (1, 4) makes the second quarter of each alone, the same images in the
        same variations as if the whole were made.

    Raises
    ------
    ValueError
        If an array has the wrong dtype or shape, or `batch_size`, `std`, `seed` or `part` a value that makes no sense.

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
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        mean: npt.ArrayLike,
        std: npt.ArrayLike,
        shuffle: bool = True,
        augment: Augment | None = None,
        mix: Mix | None = None,
        seed: int = 0,
        drop_last: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        _check_data(images, labels)
        if not 0 <= part[0] < part[1]:
            raise ValueError(f"part: got {part}, expected which of how many, such as (0, 2)")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
        if seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {seed}")
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        for name, array in (("mean", self.mean), ("std", self.std)):
            if array.shape != images.shape[1:2]:
                raise ValueError(f"{name}: expected one number for each of {images.shape[1]} channels, got {array}")
        if not (self.std > 0).all():
            raise ValueError(f"std: expected positive numbers, got {self.std}")
        self.images, self.labels = np.ascontiguousarray(images), labels
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment = augment or Augment(pad=0, flip=False, cutout=0)
        self.mix = mix
        self.seed = seed
        self.drop_last = drop_last
        self.part = part
        self.next_epoch = 0  # that iterating over the loader gives
        self._mirrored: np.ndarray | None = None  # in even epochs; the others in odd ones
        if self.augment.alternate:
            chance = np.random.default_rng([seed, 2**32 - 1])  # an epoch that there is not: [seed] alone seeds epoch 0
            self._mirrored = chance.integers(0, 2, len(images)) == 1

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(len(self.images), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The next epoch: 0 at first, 1 when it is iterated over again, and so on. `epoch` gives any."""
        self.next_epoch += 1
        return self.epoch(self.next_epoch - 1)

    def images_of(self, batch: int) -> int:
        """Images of a batch, of all its parts."""
        return min(self.batch_size, len(self.images) - batch * self.batch_size)

    def epoch(self, epoch: int, start: int = 0, step: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of one epoch, from batch `start` on, every `step`-th.

        Parameters
        ----------
        epoch : int
        start : int
            First batch, 0 to ``len(loader)``.
        step : int
            1 or more: processes that share out an epoch take every so many.

        Yields
        ------
        x : float32 array of shape (B, C, H, W), channels-last in memory
        y : int64 array of shape (B,), or with `mix` float32 of shape (B, K)

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
        # a generator of its own, so that the checks above come at once
        return self._prefetch(epoch, range(start, len(self), step))

    def _prefetch(self, epoch: int, batches: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.arange(len(self.images))
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tinyres-loader")
        try:
            tasks: Iterator[Future[tuple[np.ndarray, np.ndarray]]]
            tasks = (pool.submit(self._batch, order, epoch, batch) for batch in batches)
            waiting = deque(islice(tasks, AHEAD))
            while waiting:
                ready = waiting.popleft().result()  # raises here what was raised on the thread
                waiting.extend(islice(tasks, 1))
                yield ready
        finally:  # also when the caller leaves early: at most the batch in hand is finished
            pool.shutdown(wait=True, cancel_futures=True)

    def _batch(self, order: np.ndarray, epoch: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        index = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        # from 1, since NumPy takes [seed, epoch, 0] for the same seed as [seed, epoch]
        rng = np.random.default_rng([self.seed, epoch, batch + 1])
        which, parts = self.part
        own = slice(which * len(index) // parts, (which + 1) * len(index) // parts)
        made = slice(None) if self.mix else own  # an image may be mixed with one of another part
        mirrored = None if self._mirrored is None else self._mirrored[index] ^ (epoch % 2 == 1)
        x = self.augment(self.images, index, mean=self.mean, std=self.std, rng=rng, own=made, mirrored=mirrored)
        if self.mix is None:
            return x, self.labels[index[own]]
        x, q = self.mix(x, self.labels[index], rng=rng)
        return x[own], q[own]


def split_validation(
    images: np.ndarray, labels: np.ndarray, n: int, seed: int = 0
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Hold out n random images, always the same ones for a seed.

    Parameters
    ----------
    images : uint8 array of shape (N, C, H, W)
    labels : int64 array of shape (N,)
    n : int
        How many to hold out, 0 to N - 1.
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
    return (images[~held], labels[~held]), (images[held], labels[held])


def _check_data(images: np.ndarray, labels: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"images: expected uint8 of shape (N, C, H, W), got {images.dtype} of shape {images.shape}")
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise ValueError(f"labels: expected int64 of shape (N,), got {labels.dtype} of shape {labels.shape}")
    if len(images) != len(labels):
        raise ValueError(f"labels: expected one for each of {len(images)} images, got {len(labels)}")
