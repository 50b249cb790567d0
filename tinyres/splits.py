"""The images and labels of a run: those to train on, the ones held out for validation, and those of the test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tinyres import data
from tinyres.data.named import DATASETS
from tinyres.recipe import Config
from tinyres.tape import Array

Progress: TypeAlias = Callable[[int, int], None]  # (number done, total number)


class Data(NamedTuple):
    """Images (N, 3, H, W) uint8 and labels (N,) int64 of each split, with classes, normalisation and notes."""

    train: tuple[Array, Array]
    validation: tuple[Array, Array]
    test: tuple[Array, Array]
    classes: tuple[str, ...]
    mean: Array
    std: Array
    notes: tuple[str, ...] = ()  # messages for the user

    def apart(self) -> tuple[list[Array], str]:
        """All arrays, and everything else as a text, to send them to other processes."""
        arrays = [*self.train, *self.validation, *self.test, self.mean, self.std]
        return arrays, json.dumps({"classes": self.classes, "notes": self.notes})

    @classmethod
    def together(cls, arrays: list[Array], text: str) -> "Data":
        """The `Data` from the results of `apart`."""
        x, y, validation_x, validation_y, test_x, test_y, mean, std = arrays
        words = {name: tuple(value) for name, value in json.loads(text).items()}
        return cls((x, y), (validation_x, validation_y), (test_x, test_y), mean=mean, std=std, **words)


class Split(NamedTuple):
    """Images (N, 3, H, W) uint8, labels (N,) int64, names of classes, and the files if it is a folder."""

    images: Array
    labels: Array
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def read_split(config: Config, split: str) -> Split:
    """Read all images and labels of a split of a configuration's data set.

    "train" is the whole training set, including the images that a run of this configuration holds out. These are
    "validation". "test" is the test set.

    Examples
    --------
    >>> import tinyres as tr
    >>> found = read_split(tr.train.Config(dataset="shapes"), "test")
    >>> found.images.dtype, found.images.shape[1:], len(found.classes)
    (dtype('uint8'), (3, 32, 32), 10)
    """
    if config.dataset == "given":
        raise ValueError("dataset: these images were given to a tr.Trainer in Python, so there is no file to read")
    if config.dataset == "folder":
        found = _read_pictures(config, "val" if split == "validation" else split)
        notes = tuple(f"Passed over: {text}" for text in found.bad)
        return Split(found.images, found.labels, found.classes, notes, found.files)
    if split == "validation":
        data_ = _load_set(config)
        return Split(*data_.validation, data_.classes)
    where = {} if config.dataset == "shapes" else {"root": config.data}
    read, classes = DATASETS[config.dataset]
    return Split(*read(split=split, **where), classes)


def load_data(config: Config, progress: Progress | None = None) -> Data:
    """Read the data set of a configuration, and hold out its validation images. A folder has its own split.

    Raises
    ------
    ValueError
        If more images are held out than there are, or the number of classes is not that of the data.
    DatasetNotFound, DatasetError
        If the data is missing or damaged.

    Examples
    --------
    >>> import tinyres as tr
    >>> found = load_data(tr.train.Config(dataset="shapes", validation=100, subset=500))
    >>> len(found.train[1]), len(found.validation[1]), len(found.classes)
    (500, 100, 10)
    """
    found = _load_pictures(config, progress) if config.dataset == "folder" else _load_set(config)
    if config.num_classes not in (None, len(found.classes)):
        raise ValueError(
            f"num_classes: got {config.num_classes}, expected {len(found.classes)}, the classes of the data: "
            + ", ".join(found.classes[:10])
            + (" ..." if len(found.classes) > 10 else "")
        )
    return found


def _load_set(config: Config) -> Data:
    images, labels, *_ = read_split(config, "train")
    if config.validation >= len(images):
        raise ValueError(f"validation: got {config.validation}, expected less than the {len(images)} training images")
    mean, std = data.channel_statistics(images)
    train, validation = data.split_validation(images, labels, config.validation, config.seed)
    if config.subset is not None:
        if (rest := len(train[0]) - config.subset) < 0:
            raise ValueError(f"subset: got {config.subset}, expected at most the {len(train[0])} training images")
        train, _ = data.split_validation(*train, rest, config.seed)
    return Data(train, validation, read_split(config, "test")[:2], DATASETS[config.dataset][1], mean, std)


def _load_pictures(config: Config, progress: Progress | None) -> Data:
    train, val = (_read_pictures(config, split, progress) for split in ("train", "val"))
    test, bad = val, train.bad + val.bad
    notes = []
    if (Path(config.data or "") / "test").is_dir():
        test = _read_pictures(config, "test", progress)
        bad += test.bad
    elif config.validation:
        notes.append("There is no folder of test pictures: those of val choose the best checkpoint and also test it.")
    mean, std = data.channel_statistics(train.images)
    none = val.images[:0], val.labels[:0]
    validation = val[:2] if config.validation else none
    notes += [f"Passed over: {text}" for text in bad]
    return Data(train[:2], validation, test[:2], train.classes, mean, std, tuple(notes))


def _read_pictures(config: Config, split: str, progress: Progress | None = None) -> data.Folder:
    size = config.picture_size
    options: dict[str, Any] = {"image_size": size, "resize": data.short_side(size), "seed": config.seed}
    assert config.data is not None
    return data.image_folder(config.data, split, progress=progress, **options)
