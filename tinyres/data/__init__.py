"""Images and labels: data sets, augmentation, and batches for the network."""

from tinyres.data.augment import Augment
from tinyres.data.batches import Batches
from tinyres.data.cifar import CIFAR100_CLASSES, CLASSES, cifar10, cifar100
from tinyres.data.download import DatasetError, DatasetNotFound
from tinyres.data.folder import Folder, image_folder
from tinyres.data.idx import (
    FASHION_MNIST_CLASSES,
    KMNIST_CLASSES,
    MNIST_CLASSES,
    fashion_mnist,
    kmnist,
    mnist,
    read_idx,
)
from tinyres.data.loader import Loader, Transform, split_validation
from tinyres.data.mix import Mix
from tinyres.data.pictures import PictureError, find_pictures, read_picture, short_side
from tinyres.data.shapes import SHAPES_CLASSES, shapes
from tinyres.data.statistics import channel_statistics, patch_covariance
from tinyres.data.stream import Pictures
from tinyres.data.table import Table, read_csv, read_npz
from tinyres.data.transforms import ColorJitter, Compose, RandAugment, RandomResizedCrop, TrivialAugment

__all__ = [
    "CIFAR100_CLASSES",
    "CLASSES",
    "FASHION_MNIST_CLASSES",
    "KMNIST_CLASSES",
    "MNIST_CLASSES",
    "SHAPES_CLASSES",
    "Augment",
    "Batches",
    "ColorJitter",
    "Compose",
    "DatasetError",
    "DatasetNotFound",
    "Folder",
    "Loader",
    "Mix",
    "PictureError",
    "Pictures",
    "RandAugment",
    "RandomResizedCrop",
    "Table",
    "Transform",
    "TrivialAugment",
    "channel_statistics",
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "find_pictures",
    "image_folder",
    "kmnist",
    "mnist",
    "patch_covariance",
    "read_csv",
    "read_idx",
    "read_npz",
    "read_picture",
    "shapes",
    "short_side",
    "split_validation",
]
