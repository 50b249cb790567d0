"""The data sets that a configuration can name, with their classes."""

from collections.abc import Callable
from typing import TypeAlias

from tinyres import data
from tinyres.tape import Array

Read: TypeAlias = Callable[..., tuple[Array, Array]]


def _in_colour(read: Read) -> Read:
    """Read grey images with three equal channels, as networks expect, and as `predict` reads pictures."""

    def read_in_colour(root: str | None = None, split: str = "train") -> tuple[Array, Array]:
        images, labels = read(root, split)
        return images.repeat(3, axis=1), labels

    return read_in_colour


DATASETS: dict[str, tuple[Read, tuple[str, ...]]] = {
    "cifar10": (data.cifar10, data.CLASSES),
    "cifar100": (data.cifar100, data.CIFAR100_CLASSES),
    "shapes": (data.shapes, data.SHAPES_CLASSES),
    "mnist": (_in_colour(data.mnist), data.MNIST_CLASSES),
    "fashion_mnist": (_in_colour(data.fashion_mnist), data.FASHION_MNIST_CLASSES),
    "kmnist": (_in_colour(data.kmnist), data.KMNIST_CLASSES),
}
