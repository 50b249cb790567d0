"""The configuration of a training run, and the data and the schedule that it describes."""

import json
import math
import reprlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tinyres import data, models, schedule
from tinyres.data import Augment, Mix  # by name: in `Config`, `data` is a field
from tinyres.data.pictures import MOST_SIDE
from tinyres.tape import Array

Progress: TypeAlias = Callable[[int, int], None]  # (number done, total number)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value has a type. A bool is not a number; an int must fit into 64 bits, and also counts as a float.

    Examples
    --------
    >>> fits(1, float), fits(1.0, int), fits(True, int), fits(2**64, int), fits(None, int | None)
    (True, False, False, False, True)
    """
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int):
        return abs(value) < 2**63 and (isinstance(value, kind) or isinstance(0.0, kind))
    return isinstance(value, kind)


ADDED = (
    "shards", "sync_batch_norm", "zero_init_residual", "lr_batch_size", "alternate_flip", "mixup", "cutmix", "bias_lr",
    "layer_decay", "freeze", "ema", "lookahead", "whiten",
)  # fmt: skip
"""Fields that older configurations of format 3 do not have. They have the default then."""


@dataclass(frozen=True)
class Config:
    """The configuration of a run. The defaults are the recipe of the README.

    Raises
    ------
    ValueError
        If a value is not valid. The message names the first such field.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.train.Config(model="resnet56", epochs=20).lr
    0.5
    >>> tr.train.Config(epochs=0)
    Traceback (most recent call last):
    ValueError: epochs: got 0, expected 1 or more
    """

    dataset: str = "cifar10"  # "given": the images that a Trainer was called with; so for a model of your own
    data: str | None = None
    image_size: int | None = None  # of a folder's pictures, in pixels; None: the size the model was designed for
    num_classes: int | None = None  # None: that of the data
    model: str = "resnet20"
    stem: str | None = None  # None: the model's own
    shortcut: str | None = None  # None: the model's own
    weights: str | None = None  # file to start from
    freeze: str | None = None  # the last frozen part (stem, layer1, ...); all parts before it are frozen, too
    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.5
    lr_batch_size: int | None = None  # the batch size that `lr` is for; None: that of the run
    schedule: str = "one-cycle"
    warmup: float = 0.2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_bias: bool = True
    bias_lr: float = 1.0  # factor on the learning rate of batch norm's biases
    layer_decay: float = 1.0  # learning rate of each part of the network, divided by that of the next part
    ema: float = 0.0  # decay of the moving average of weights; 0: no average
    lookahead: float = 0.0  # decay of the slow weights at the end of training; 0: none
    whiten: bool = False  # the first convolution whitens patches of the images, and is not trained
    zero_init_residual: bool = False  # each residual block is its shortcut at first
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    pad: int = 4
    flip: bool = True
    alternate_flip: bool = False  # mirror each image in every second epoch, instead of at random
    cutout: int = 0
    mixup: float = 0.0  # alpha, see `tinyres.data.Mix`; 0: no mixup
    cutmix: float = 0.0  # alpha, see `tinyres.data.Mix`; 0: no CutMix
    validation: int = 5000
    subset: int | None = None  # how many of the remaining images to train on; None: all
    seed: int = 0
    shards: int = 1  # number of parts that a batch is cut into; at most as many processes can share it
    sync_batch_norm: bool = False  # normalise over the whole batch, not over each shard

    def __post_init__(self) -> None:
        def expect(name: str, holds: bool, expected: str) -> None:
            if not holds:
                raise ValueError(f"{name}: got {reprlib.repr(getattr(self, name))}, expected {expected}")

        for field in fields(self):  # values from a file can be anything
            kind = field.type.__name__ if isinstance(field.type, type) else field.type
            expect(field.name, fits(getattr(self, field.name), field.type), f"{kind}")
        sets = (*DATASETS, "folder", "given")
        expect("dataset", self.dataset in sets, f"one of {', '.join(DATASETS)} or folder")
        expect("data", self.data is not None or self.dataset != "folder", "the folder that holds the pictures")
        expect("image_size", self.image_size is None or self.dataset == "folder", "none, but with the data set folder")
        expect(
            "image_size",
            self.image_size is None or 1 <= self.image_size <= MOST_SIDE,
            f"1 or more, at most {MOST_SIDE:,}",
        )
        expect("num_classes", self.num_classes is None or self.num_classes >= 1, "1 or more")
        expect("stem", self.stem in (None, *models.STEMS), f"one of {', '.join(models.STEMS)}")
        expect("shortcut", self.shortcut in (None, *models.SHORTCUTS), f"one of {', '.join(models.SHORTCUTS)}")
        expect("optimizer", self.optimizer in ("sgd", "adamw"), "sgd or adamw")
        expect("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        for name in ("epochs", "batch_size", "shards"):
            expect(name, getattr(self, name) >= 1, "1 or more")
        for name in ("pad", "cutout", "validation", "seed", "weight_decay"):
            expect(name, getattr(self, name) >= 0, "0 or more")
        expect("lr", 0 < self.lr < math.inf, "a positive number")
        expect("momentum", 0 <= self.momentum < 1, "0 or more and less than 1")
        expect("warmup", 0 <= self.warmup < 1, "0 or more and less than 1, a part of all steps")
        expect("label_smoothing", 0 <= self.label_smoothing <= 1, "0 to 1")
        expect("lr_batch_size", self.lr_batch_size is None or self.lr_batch_size >= 1, "1 or more")
        expect("subset", self.subset is None or self.subset >= 1, "1 or more")
        expect("bias_lr", 0 < self.bias_lr < math.inf, "a positive number")
        expect("layer_decay", 0 < self.layer_decay <= 1, "more than 0 and at most 1")
        frozen = "a file to start from, since a part of the network is not trained (freeze)"
        expect("weights", self.weights is not None or self.freeze is None, frozen)
        for name in ("ema", "lookahead"):
            expect(name, 0 <= getattr(self, name) < 1, "0 or more and less than 1")
        expect(
            "whiten",
            self.weights is None or not self.whiten,
            "False if there are weights to start from: leave out one of the two",
        )
        for name in ("mixup", "cutmix"):
            expect(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        expect("alternate_flip", self.flip or not self.alternate_flip, "False if flip is False")
        expect("clip_norm", self.clip_norm is None or self.clip_norm > 0, "a positive number")
        if self.dataset != "given" or self.model != "given":
            models.check_name(self.model)

    def extends(self, other: Any) -> bool:
        """Whether a run of this configuration may resume from a state of the configuration `other`, a dict.

        It may if all fields are equal, except that it may have more epochs.

        Examples
        --------
        >>> Config(epochs=20).extends(asdict(Config(epochs=10))), Config(epochs=10).extends(asdict(Config(epochs=20)))
        (True, False)
        >>> Config(lr=0.1).extends(asdict(Config(lr=0.2)))
        False
        """
        if not isinstance(other, dict):
            return False
        epochs: Any = other.get("epochs")
        other = {**{name: getattr(Config, name) for name in ADDED}, **other}
        return fits(epochs, int) and 1 <= epochs <= self.epochs and other == {**asdict(self), "epochs": epochs}

    @property
    def peak_lr(self) -> float:
        """The highest learning rate: `lr`, in proportion to the batch size if `lr` is for another batch size.

        Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.1: one step with a k times larger batch should go
        as far as k steps.

        Examples
        --------
        >>> Config(lr=0.1, lr_batch_size=128, batch_size=1024).peak_lr
        0.8
        """
        return self.lr * (self.batch_size / (self.lr_batch_size or self.batch_size))

    @property
    def augment(self) -> Augment:
        """The augmentation of training images."""
        return Augment(self.pad, self.flip, self.cutout, self.alternate_flip)

    def mix(self, classes: int) -> Mix | None:
        """The mixing of images with each other, or None."""
        return Mix(classes, self.mixup, self.cutmix) if self.mixup or self.cutmix else None

    @property
    def model_options(self) -> dict[str, Any]:
        """Options of the model, without the number of classes."""
        options = {"stem": self.stem, "shortcut": self.shortcut}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def picture_size(self) -> int:
        """The side in pixels of the squares that are cut from a folder's pictures."""
        return self.image_size or models.image_size(self.model, self.stem)


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

SCHEDULES: dict[str, Callable[[Config, int], schedule.Schedule]] = {
    "one-cycle": lambda c, total: schedule.one_cycle(c.peak_lr, total, warmup=c.warmup),
    "cosine": lambda c, total: _warm_cosine(c.peak_lr, total, round(c.warmup * total)),
    "steps": lambda c, total: schedule.linear_warmup(  # the paper's 32,000 and 48,000 of 64,000
        schedule.steps(c.peak_lr, [total // 2, total * 3 // 4]), round(c.warmup * total)
    ),
    "constant": lambda c, total: schedule.constant(c.peak_lr),
}


def _warm_cosine(lr: float, total: int, warmup: int) -> schedule.Schedule:
    """Rise linearly to `lr`, then fall along half a cosine."""
    decay = schedule.cosine(lr, total - warmup)
    return schedule.linear_warmup(lambda step: decay(max(0, step - warmup)), warmup)


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
