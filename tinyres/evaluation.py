"""Evaluation of a network: accuracy, loss, confusion matrix, calibration, and the worst mistakes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tinyres import ops, parallel
from tinyres.data import Batches, Loader
from tinyres.nn import Module
from tinyres.tape import Array, no_grad
from tinyres.tensor import Tensor

BATCH = 250  # images in a batch of evaluation
BINS = 15  # bins of confidence, as many as in Guo et al.


def evaluate(model: Module, loader: Loader | Batches, *, flip: bool = False) -> tuple[float, float]:
    """Mean loss and accuracy of a model, in evaluation mode, over all batches of a loader.

    All images count equally, even if batches have weights. Several processes divide the batches among them and get the
    same result. `flip` is as in `score`.

    Examples
    --------
    >>> import tinyres as tr
    >>> images, labels = tr.data.shapes(20)
    >>> loader = tr.data.Loader(images, labels, 10, mean=[0.5] * 3, std=[0.25] * 3, shuffle=False)
    >>> loss, accuracy = evaluate(tr.models.resnet20(), loader)
    >>> 0 <= accuracy <= 1
    True
    """
    found = np.zeros((len(loader), 3))  # a row for each batch: so the order of sums does not depend on processes
    for batch, logits, y in _batches(model, loader, flip):
        right = (logits.argmax(1) == _classes(y)).sum()
        found[batch] = ops.cross_entropy(Tensor(logits), y).item() * len(y), right, len(y)
    loss, correct, images = (sum(values) for values in parallel.all_reduce(found).T.tolist())
    return loss / images, int(correct) / int(images)


def score(model: Module, loader: Loader, *, flip: bool = False) -> "Scores":
    """Compute the logits of a model, in evaluation mode, for all images of a loader that does not shuffle.

    Parameters
    ----------
    model : Module
    loader : Loader
        If its labels are probabilities, the most probable class is the label.
    flip : bool
        Whether to also evaluate each image mirrored, and use the mean of both logits. It takes twice the time. It is
        a different classifier than the network alone: mention it when you report the accuracy.

    Raises
    ------
    ValueError
        If the loader shuffles, mixes, or makes parts of batches.

    Examples
    --------
    >>> import tinyres as tr
    >>> images, labels = tr.data.shapes(20)
    >>> loader = tr.data.Loader(images, labels, 8, mean=[0.5] * 3, std=[0.25] * 3, shuffle=False)
    >>> score(tr.models.resnet20(), loader).confusion.sum()
    np.int64(20)
    """
    if loader.shuffle or loader.mix or loader.part != (0, 1):
        got = f"shuffle={loader.shuffle}, mix={loader.mix}, part={loader.part}"
        raise ValueError(f"loader: got one with {got}, expected False, None, (0, 1): all images, in their order")
    parts = [(batch * loader.batch_size, logits) for batch, logits, _ in _batches(model, loader, flip)]
    width = np.array([parts[0][1].shape[1] if parts and parallel.rank() == 0 else 0])  # others may have no batch at all
    count = sum(loader.images_of(batch) for batch in range(len(loader)))  # less than all with drop_last
    found = np.zeros((count, int(parallel.all_reduce(width)[0])), np.float32)
    for start, logits in parts:
        found[start : start + len(logits)] = logits
    return Scores(parallel.all_reduce(found), _classes(loader.labels[:count]))


def _classes(labels: Array) -> Array:
    """The labels; the most probable class if they are probabilities."""
    return labels if labels.ndim == 1 else labels.argmax(1)


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Inside this block, a model is in evaluation mode, and nothing is recorded. After it, it has its old mode.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.resnet20()
    >>> with evaluating(net):
    ...     net.training, net(tr.zeros(1, 3, 32, 32)).requires_grad
    (False, False)
    >>> net.training
    True
    """
    training = model.training
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        model.train(training)


def _batches(model: Module, loader: Loader | Batches, flip: bool) -> Iterator[tuple[int, Array, Array]]:
    """Number, logits and labels of this process's batches, in evaluation mode."""
    rank, processes = parallel.rank(), parallel.world_size()
    batches = loader.epoch(0, min(rank, len(loader)), processes)
    with evaluating(model):
        for batch, (x, y, *_) in zip(range(rank, len(loader), processes), batches, strict=True):
            logits = model(Tensor(x)).data
            if flip:
                logits = (logits + model(Tensor(x[..., ::-1])).data) / 2
            yield batch, logits, y


class Calibration(NamedTuple):
    """Images in bins by confidence, the probability of the answer. Bins have equal width; empty ones have NaN.

    Attributes
    ----------
    images : int64 array of shape (bins,)
        Number of images in each bin.
    confidence, accuracy : float64 arrays of shape (bins,)
        Mean probability of the answer in a bin, and part of the answers that are right.
    """

    images: Array
    confidence: Array
    accuracy: Array

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of accuracy and confidence over all images,

            sum_b |B_b| / n |accuracy(B_b) - confidence(B_b)|.

        Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", 2017, equation 3.
        """
        gaps = self.images * np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gaps) / self.images.sum())


@dataclass(frozen=True)
class Scores:
    """Logits and labels of a set of images, and scores computed from them.

    Parameters
    ----------
    logits : float array of shape (N, K)
    labels : int64 array of shape (N,)

    Raises
    ------
    ValueError
        If shapes do not fit, there is no image, a logit is not finite, or a label is not a class.

    Examples
    --------
    >>> import numpy as np
    >>> scores = Scores(np.log([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]), np.array([0, 1, 1]))
    >>> round(scores.accuracy, 3), scores.confusion.tolist()
    (0.667, [[1, 0], [1, 1]])
    >>> scores.worst(1), scores.recall, round(scores.calibration().error, 3)
    (array([2]), array([1. , 0.5]), 0.433)
    """

    logits: Array
    labels: Array

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or self.labels.shape != self.logits.shape[:1] or not self.labels.size:
            raise ValueError(
                f"logits, labels: got shapes {self.logits.shape} and {self.labels.shape}, expected (N, K) and (N,), "
                "and at least one image"
            )
        if not np.isfinite(self.logits).all():
            raise ValueError(
                "logits: got NaN or infinity, expected numbers: the network's weights are damaged, or its run diverged"
            )
        if self.labels.dtype.kind not in "iu" or not ((self.labels >= 0) & (self.labels < self.logits.shape[1])).all():
            raise ValueError(f"labels: expected whole numbers from 0 to {self.logits.shape[1] - 1}, the classes")

    @cached_property
    def log_probabilities(self) -> Array:
        """Log softmax of the logits, float64 of shape (N, K)."""
        z = self.logits.astype(np.float64)
        z -= z.max(1, keepdims=True)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    @cached_property
    def probabilities(self) -> Array:
        """Softmax of the logits, float64 of shape (N, K)."""
        return np.exp(self.log_probabilities)

    @cached_property
    def answers(self) -> Array:
        """The most probable class of each image, of shape (N,)."""
        return self.logits.argmax(1)

    @property
    def accuracy(self) -> float:
        """Part of the images whose answer is right, from 0 to 1."""
        return float((self.answers == self.labels).mean())

    @property
    def loss(self) -> float:
        """The cross entropy: the mean of -log p of the right class."""
        return float(-self._of_the_label.mean())

    @property
    def _of_the_label(self) -> Array:
        return self.log_probabilities[np.arange(len(self.labels)), self.labels]

    @cached_property
    def confusion(self) -> Array:
        """Confusion matrix: number of images by class (rows) and answer (columns), int64 of shape (K, K)."""
        classes = self.logits.shape[1]
        return np.bincount(self.labels * classes + self.answers, minlength=classes**2).reshape(classes, classes)

    @property
    def recall(self) -> Array:
        """Part of the images of each class whose answer is right; NaN for a class without images. Shape (K,)."""
        return _share(self.confusion.diagonal(), self.confusion.sum(1))

    @property
    def precision(self) -> Array:
        """Part of the answers of each class that are right; NaN for an answer that was never given. Shape (K,)."""
        return _share(self.confusion.diagonal(), self.confusion.sum(0))

    def calibration(self, bins: int = BINS) -> Calibration:
        """Whether confidence is reliable: of the answers with a confidence of 80 %, 80 % should be right."""
        if bins < 1:
            raise ValueError(f"bins: got {bins}, expected 1 or more")
        sure = self.probabilities.max(1)
        which = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)  # a bin contains its upper edge
        images = np.bincount(which, minlength=bins)
        right = np.bincount(which, self.answers == self.labels, minlength=bins)
        return Calibration(images, _share(np.bincount(which, sure, minlength=bins), images), _share(right, images))

    def worst(self, n: int) -> Array:
        """Indices of at most n images with a wrong answer, sorted by the probability of their class, smallest first."""
        wrong = np.flatnonzero(self.answers != self.labels)
        return wrong[np.argsort(self._of_the_label[wrong], kind="stable")[:n]]

    def confused(self, n: int) -> list[tuple[int, int, int]]:
        """The n most frequent mistakes, as (class, answer, number of images)."""
        off = self.confusion - np.diag(self.confusion.diagonal())
        order = np.argsort(-off, axis=None, kind="stable")[:n]
        return [(int(k // len(off)), int(k % len(off)), int(off.flat[k])) for k in order if off.flat[k]]


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
