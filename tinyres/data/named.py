"""The data sets that a configuration can name, with their classes."""

from collections.abc import Callable
from typing import TypeAlias

from tinyres.data.cifar import CIFAR100_CLASSES, CLASSES, cifar10, cifar100
from tinyres.data.idx import (
    FASHION_MNIST_CLASSES,
    KMNIST_CLASSES,
    MNIST_CLASSES,
    fashion_mnist,
    kmnist,
    mnist,
)
from tinyres.data.shapes import SHAPES_CLASSES, shapes
from tinyres.tape import Array

Read: TypeAlias = Callable[..., tuple[Array, Array]]


def _in_colour(read: Read) -> Read:
    """Read grey images with three equal channels, as networks expect, and as `predict` reads pictures."""

    def read_in_colour(root: str | None = None, split: str = "train") -> tuple[Array, Array]:
        images, labels = read(root, split)
        return images.repeat(3, axis=1), labels

    return read_in_colour


DATASETS: dict[str, tuple[Read, tuple[str, ...]]] = {
    "cifar10": (cifar10, CLASSES),
    "cifar100": (cifar100, CIFAR100_CLASSES),
    "shapes": (shapes, SHAPES_CLASSES),
    "mnist": (_in_colour(mnist), MNIST_CLASSES),
    "fashion_mnist": (_in_colour(fashion_mnist), FASHION_MNIST_CLASSES),
    "kmnist": (_in_colour(kmnist), KMNIST_CLASSES),
}
