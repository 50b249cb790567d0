"""Images and labels as users have them, converted for the network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyres.data.statistics import channel_statistics
from tinyres.data.stream import Pictures

CHUNK = 256  # images that are processed at a time, since their copies in float64 are large


def as_images(x: Any, name: str = "x") -> Any:
    """Convert an array with or without an axis of channels to images (N, C, H, W) of uint8 or float32.

    `Pictures`, whose files are read later, are returned unchanged.

    Raises
    ------
    ValueError
        If the dtype or shape does not fit, channels seem to come last, or a value is not finite.

    Examples
    --------
    >>> as_images(np.zeros((5, 8, 8))).shape, as_images(np.zeros((5, 3, 8, 8), np.uint8)).dtype
    ((5, 1, 8, 8), dtype('uint8'))
    """
    if isinstance(x, Pictures):
        return x
    array = _as_one(x, name)
    if array.ndim == 3:
        array = array[:, None]
    expected = "expected uint8 or float of shape (N, C, H, W) or (N, H, W), with at least one image"
    if array.ndim != 4 or not array.size or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise ValueError(f"{name}: got {array.dtype} of shape {array.shape}, {expected}")
    if array.shape[3] in (1, 3, 4) and array.shape[1] > 4:
        raise ValueError(
            f"{name}: got shape {array.shape}, whose channels seem to come last; expected (N, C, H, W): "
            f"{name}.transpose(0, 3, 1, 2)"
        )
    if array.dtype == np.uint8:
        return array
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: got NaN or infinity, expected finite numbers: fill them in, or leave them out")
    return array


def _as_one(x: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(x)
    except ValueError:  # NumPy's own message is about sequences
        raise ValueError(
            f"{name}: got a {type(x).__name__} of arrays of different shapes, expected images that are all of one shape"
        ) from None


def statistics(images: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, float32, with which a `Loader` normalises these images.

    For a channel that is constant, the deviation is given as 1, so that the channel becomes 0.

    Examples
    --------
    >>> statistics(np.full((2, 1, 4, 4), 3.0, np.float32))
    (array([3.], dtype=float32), array([1.], dtype=float32))
    """
    if images.dtype == np.uint8:
        mean, std = channel_statistics(images)
    else:
        first = images[0, :, 0, 0].astype(np.float64)
        center = first + _mean(images, lambda chunk: chunk - first[:, None, None])  # exact for constant channels
        variance = _mean(images, lambda chunk: (chunk - center[:, None, None]) ** 2)
        mean, std = center.astype(np.float32), np.sqrt(variance).astype(np.float32)
    return mean, np.where(std > 0, std, np.float32(1))


def _mean(images: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean of a function of the images, for each channel, in float64. The function gets some images at a time."""
    chunks = range(0, len(images), CHUNK)
    total = sum(of(images[start : start + CHUNK]).sum((0, 2, 3)) for start in chunks)
    return np.asarray(total) / (images.size // images.shape[1])


class Labels:
    """The classes of labels that are whole numbers or strings.

    Parameters
    ----------
    classes : sequence
        The label of each class, in the order of class numbers.

    Examples
    --------
    >>> labels = Labels.of(["dog", "cat", "dog"])
    >>> labels.classes, labels.numbers(["cat", "dog"]), labels.named(np.array([1]))
    (['cat', 'dog'], array([0, 1]), array(['dog'], dtype='<U3'))
    """

    def __init__(self, classes: Sequence[Any]) -> None:
        self.classes = list(classes)
        self.number = {label: i for i, label in enumerate(self.classes)}

    @classmethod
    def of(cls, y: npt.ArrayLike) -> "Labels":
        """Make `Labels` with the classes that occur in `y`, sorted.

        Raises
        ------
        ValueError
            If labels are not whole numbers or strings, one for each image.
        """
        return cls(np.unique(_checked(y)).tolist())

    def numbers(self, y: npt.ArrayLike, name: str = "y") -> np.ndarray:
        """The class number of each label, int64 of shape (N,).

        Raises
        ------
        ValueError
            If a label is not one of the classes.
        """
        array = _checked(y, name)
        there, inverse = np.unique(array, return_inverse=True)
        if unknown := [label for label in there.tolist() if label not in self.number]:
            known = ", ".join(map(repr, self.classes[:10])) + (", ..." if len(self.classes) > 10 else "")
            raise ValueError(f"{name}: got {unknown[0]!r}, expected one of {known}")
        own = np.array([self.number[label] for label in there.tolist()], np.int64)
        return own[inverse.reshape(-1)]

    def named(self, numbers: np.ndarray) -> np.ndarray:
        """The labels of these class numbers."""
        return np.array(self.classes)[numbers]

    def weights(
        self, numbers: np.ndarray, sample: npt.ArrayLike | None, classes: Mapping[Any, float] | str | None
    ) -> np.ndarray | None:
        """The weight of each image, float32 of shape (N,): its own times that of its class. None if all are equal.

        "balanced" gives each class the weight N / (K n), where n of N images are of this class, one of K.

        Raises
        ------
        ValueError
            If weights are negative, not finite, all 0, not one for each image, or for a class that does not exist.
        """
        if sample is None and classes is None:
            return None
        weight = np.ones(len(numbers)) if sample is None else np.asarray(sample, np.float64)
        if weight.shape != numbers.shape:
            raise ValueError(f"sample_weight: got shape {weight.shape}, expected {numbers.shape}, one for each image")
        if isinstance(classes, str):
            if classes != "balanced":
                raise ValueError(f"class_weight: got {classes!r}, expected 'balanced' or a dict of weights by label")
            counts = np.bincount(numbers, minlength=len(self.classes))
            weight = weight * (len(numbers) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[numbers]
        elif classes is not None:
            if not isinstance(classes, Mapping):
                got = type(classes).__name__
                raise ValueError(f"class_weight: got a {got}, expected 'balanced' or a dict of weights by label")
            if unknown := [label for label in classes if label not in self.number]:
                raise ValueError(
                    f"class_weight: got a weight for {unknown[0]!r}, expected weights for {self.classes[:10]}"
                )
            weight = weight * np.array([classes.get(label, 1.0) for label in self.classes])[numbers]
        if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.any()):
            raise ValueError("sample_weight, class_weight: expected finite numbers, 0 or more, and not all of them 0")
        return weight.astype(np.float32)


def _checked(y: npt.ArrayLike, name: str = "y") -> np.ndarray:
    array = np.asarray(y)
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array.flat):
        array = array.astype(str)
    if array.ndim != 1 or array.dtype.kind not in "iuUb":
        raise ValueError(
            f"{name}: got {array.dtype} of shape {array.shape}, expected whole numbers or strings of shape (N,), a "
            "label for each image"
        )
    return array
