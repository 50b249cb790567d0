"""A network that classifies images, with all that it takes: labels of classes, mean and deviation of images."""

import reprlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from tinyres import checkpoints
from tinyres.callback import Logs
from tinyres.data import Batches, Loader, Pictures
from tinyres.data.labelled import Labels, as_images
from tinyres.evaluation import BATCH, Scores, evaluating
from tinyres.nn import Module
from tinyres.runs import read_progress
from tinyres.tape import Array
from tinyres.tensor import Tensor


class Classifier:
    """A network that was trained, which predicts, is scored and is saved; `tinyres.Trainer` can train it as well.

    Attributes
    ----------
    model : Module or str
        The network, or its name before it was made.
    classes : list
        The labels of the classes, in the order of class numbers.
    mean, std : float32 arrays of shape (C,), or None
        By which images are normalised. None before the network was trained.
    history : list of dict
        The records of the epochs of its training.

    Examples
    --------
    >>> Classifier("resnet20").predict(np.zeros((1, 3, 32, 32), np.uint8))
    Traceback (most recent call last):
    RuntimeError: Trainer: has not been trained yet: call fit first, or use Trainer.load
    """

    def __init__(self, model: str | Module) -> None:
        self.model = model
        self.classes: list[Any] = []
        self.mean: Array | None = None
        self.std: Array | None = None
        self.history: list[Logs] = []
        self._info: dict[str, Any] = {}  # what a checkpoint has in addition to weights

    def logits(self, x: Any) -> Array:
        """The logits of images, float of shape (N, K). `x` is as for `fit`, or batches of only images.

        For batches, the order is that of the batches: a loader that shuffles has a different order each time.

        Raises
        ------
        RuntimeError
            Before `fit`.
        """
        model = self._fitted()
        with evaluating(model):
            found = [model(Tensor(batch)).data for batch in self._seen(x)]
        if not found:
            raise ValueError("x: got no batches, expected at least one")
        return np.concatenate(found)

    def predict_proba(self, x: Any) -> Array:
        """The probability of each class, float64 of shape (N, K), in the order of `classes`."""
        logits = self.logits(x)
        return Scores(logits, np.zeros(len(logits), np.int64)).probabilities

    def predict(self, x: Any) -> Array:
        """The most probable label of each image, of shape (N,). Labels are as they were given to `fit`."""
        return Labels(self.classes).named(self.logits(x).argmax(1))

    def scores(self, x: Any, y: Any = None) -> Scores:
        """Confusion matrix, calibration and more, see `tinyres.evaluation.Scores`.

        For batches, the labels are those of the batches. If they are probabilities, the most probable class counts.

        Raises
        ------
        RuntimeError
            Before `fit`.
        ValueError
            If the number of labels is not that of images, or a label is not one of the classes.
        """
        self._fitted()
        if not are_batches(x, y):
            images = as_images(x)
            numbers = numbers_of(Labels(self.classes), np.asarray(y), images)
            return Scores(self.logits(images), numbers)
        labels: list[Array] = []

        def images_alone() -> Iterator[Array]:  # labels are taken in the same pass: the next may have another order
            for own, classes, *_ in self._batches(x, "batches").epoch(0):
                labels.append(classes if classes.ndim == 1 else classes.argmax(1))
                yield own

        return Scores(self.logits(images_alone()), np.concatenate(labels))

    def evaluate(self, x: Any, y: Any = None) -> Logs:
        """A dict with ``loss``, the mean cross entropy, and ``accuracy``. Parameters are those of `scores`."""
        scores = self.scores(x, y)
        return {"loss": scores.loss, "accuracy": scores.accuracy}

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, for `Trainer.load`, ``tinyres predict`` and ``tinyres export``.

        It has the weights, the classes, and the mean and deviation for normalising images. The state of the optimizer,
        which resuming needs, is saved only in `folder`.

        Raises
        ------
        RuntimeError
            Before `fit`.
        OSError
            If it cannot be written. An old file is then unchanged.
        """
        weights = self._fitted().state_dict()
        checkpoints.save(path, {f"model.{name}": array for name, array in weights.items()}, self._info)

    @classmethod
    def load(cls, path: str | Path, model: Module | None = None, **options: Any) -> Self:
        """Make a trainer from a checkpoint. It gives the same predictions as the saved one.

        Parameters
        ----------
        path : str or Path
            A file written by `save`.
        model : Module, optional
            Needed if the saved network was your own: a network of the same structure.
        **options
            Arguments of `Trainer`, for another `fit`, which starts with these weights.

        Raises
        ------
        CheckpointError
            If the file is damaged, is not a checkpoint, or belongs to another network.

        Examples
        --------
        >>> import tempfile, tinyres as tr
        >>> images, labels = tr.data.shapes(40, size=16)
        >>> trainer = tr.Trainer("resnet20", epochs=1, verbose=False)
        >>> _ = trainer.fit(images, labels)
        >>> trainer.save(path := tempfile.mkdtemp() + "/net.safetensors")
        >>> bool((tr.Trainer.load(path).predict(images) == trainer.predict(images)).all())
        True
        """
        if model is None:
            _expect_family(path)
            network, info = checkpoints.load_model(path)
        else:
            arrays, info = checkpoints.load(path)
            checkpoints.load_arrays(path, model, arrays)
            network = model.eval()
        made = cls(network, **options)
        try:
            made.classes, made._info = _classes(info), info
            _, made.history, _ = read_progress(info, sys.maxsize)
            channels, _ = len(info["mean"]), info["model"]
        except (KeyError, TypeError, ValueError) as error:
            raise checkpoints.CheckpointError(f"{path}: lacks information that a Trainer needs ({error})") from error
        made.mean, made.std = checkpoints.normalisation(path, info, channels)
        return made

    # ---------------------------------------------------------------- parts
    def _batches(self, batches: Any, name: str) -> Loader | Batches:
        """The batches, not changed. The first ones say which classes there are."""
        if isinstance(batches, (float, int, np.floating)):
            raise ValueError(f"{name}: got {batches}, expected batches: no part of batches can be held out")
        found = batches if isinstance(batches, Loader) else Batches(batches)
        count = _num_classes(found)
        if not self.classes:
            self.classes = list(range(count))
        if count > len(self.classes):
            raise ValueError(f"{name}: got the class {count - 1}, expected 0 to {len(self.classes) - 1}")
        return found

    def _seen(self, x: Any) -> Iterator[Array]:
        """Batches of images, normalised for the network."""
        if isinstance(x, (list, tuple)) and x and all(getattr(image, "ndim", 4) < 4 for image in x):
            x = as_images(x)
        if not are_batches(x, None):
            assert self.mean is not None
            images = as_images(x)
            expect_alike(images, len(self.mean), self._info.get("floats"))
            none = np.zeros(len(images), np.int64)
            same: dict[str, Any] = {"mean": self.mean, "std": self.std}
            for batch, *_ in Loader(images, none, BATCH, **same, shuffle=False).epoch(0):
                yield batch
            return
        for arrays in x.epoch(0) if isinstance(x, Loader) else x:
            yield np.asarray(arrays[0] if isinstance(arrays, (tuple, list)) else arrays, np.float32)

    def _trained(self) -> Module:
        if isinstance(self.model, str):
            raise RuntimeError(f"model: {self.model!r} has not been made yet")
        return self.model

    def _fitted(self) -> Module:
        if self.mean is None:
            raise RuntimeError("Trainer: has not been trained yet: call fit first, or use Trainer.load")
        return self._trained()


def numbers_of(labels: Labels, y: Any, images: Any) -> Array:
    """The class number of each image, from its label.

    Examples
    --------
    >>> numbers_of(Labels(["cat", "dog"]), ["dog", "cat"], np.zeros((2, 1, 8, 8)))
    array([1, 0])
    """
    numbers = labels.numbers(y)
    if len(numbers) != len(images):
        raise ValueError(f"y: got {len(numbers)} labels, expected one for each of {len(images)} images")
    return numbers


def _num_classes(loader: Loader | Batches) -> int:
    if isinstance(loader, Batches):
        return loader.num_classes
    if loader.mix is not None:
        return loader.mix.classes
    return loader.labels.shape[1] if loader.labels.ndim == 2 else int(loader.labels.max()) + 1


def are_batches(x: Any, y: Any) -> bool:
    """Whether x is batches, not one array of images. A list is batches if there are no labels."""
    if y is not None or isinstance(x, (np.ndarray, Tensor, Pictures)):
        return False
    return isinstance(x, Loader) or not hasattr(x, "__array__")


def _expect_family(path: str | Path) -> None:
    """Raise CheckpointError if the network of a checkpoint cannot be made from its description."""
    info = checkpoints.load_info(path) or {}
    if isinstance(info.get("model"), dict) and info["model"].get("name") == "given":
        raise checkpoints.CheckpointError(
            f"{path}: belongs to your own network: give a network of the same structure as `model`"
        )


def _classes(info: Mapping[str, Any]) -> list[Any]:
    """The labels in a checkpoint, as they were given."""
    labels = info.get("labels", info["classes"])
    known = isinstance(labels, list) and all(isinstance(label, (int, str)) for label in labels)
    if not known or len(set(labels)) != len(labels):
        raise ValueError(f"labels: got {reprlib.repr(labels)}, expected a list of numbers or strings, each once")
    return labels


def expect_alike(images: Any, channels: int, floats: bool | None, name: str = "x") -> None:
    """Check that images have as many channels as those of the training, and are uint8 or floats as they were.

    The two kinds are normalised differently. If `floats` is None, it is not known which they were.

    Examples
    --------
    >>> expect_alike(np.zeros((2, 1, 8, 8)), 3, floats=True)
    Traceback (most recent call last):
    ValueError: x: got images of shape (2, 1, 8, 8), expected (N, 3, H, W); for one image (C, H, W), write x[None]
    """
    if images.shape[1] != channels:
        expected = f"(N, {channels}, H, W); for one image (C, H, W), write {name}[None]"
        raise ValueError(f"{name}: got images of shape {images.shape}, expected {expected}")
    if floats not in (None, images.dtype.kind == "f"):
        expected = "floats in the same unit" if floats else "uint8, 0 to 255,"
        raise ValueError(f"{name}: got {images.dtype}, expected {expected} as in the training images")
