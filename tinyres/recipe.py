"""The configuration of a training run, and the schedule that it describes."""

import math
import reprlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from tinyres import models, schedule
from tinyres.data import Augment, Mix
from tinyres.data.named import DATASETS
from tinyres.data.pictures import MOST_SIDE
from tinyres.spelling import did_you_mean


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
        near = did_you_mean(self.dataset, (*DATASETS, "folder"))
        known = self.dataset in (*DATASETS, "folder", "given")
        expect("dataset", known, f"one of {', '.join(DATASETS)} or folder{near}")
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
