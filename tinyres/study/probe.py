"""Training with measurements: at some steps, a function measures the network on the same images."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from tinyres import data, models, ops, optim
from tinyres.models import ResNet
from tinyres.nn import Conv2d, Module
from tinyres.nn.init import manual_seed
from tinyres.recipe import Config
from tinyres.splits import Data
from tinyres.tape import Array, HookHandle
from tinyres.tensor import Tensor

T = TypeVar("T")
RECIPE: dict[str, Any] = {"nesterov": False, "weight_decay": 1e-4, "validation": 0}
"""The settings of the paper, except that the learning rate is constant."""


class Moment(NamedTuple, Generic[T]):
    """A measurement after some steps, and the loss on the measured images."""

    step: int
    loss: float
    measured: T

    @property
    def when(self) -> str:
        """In words.

        Examples
        --------
        >>> Moment(0, 2.3, None).when, Moment(1, 2.3, None).when, Moment(30, 2.3, None).when
        ('at initialisation', 'after 1 step', 'after 30 steps')
        """
        return f"after {self.step} step{'s' if self.step > 1 else ''}" if self.step else "at initialisation"


def first_and_last(moments: list[Moment[T]]) -> list[Moment[T]]:
    """The first moment and the last, or the only one.

    Examples
    --------
    >>> [moment.step for moment in first_and_last([Moment(0, 2.3, None), Moment(1, 2.2, None), Moment(3, 2.0, None)])]
    [0, 3]
    >>> len(first_and_last([Moment(0, 2.3, None)]))
    1
    """
    return moments[:1] + moments[1:][-1:]


def as_dicts(moments: list[Moment[list[Any]]]) -> list[dict[str, Any]]:
    """Moments as values for JSON. Their measurements must be lists of named tuples.

    Examples
    --------
    >>> class Size(NamedTuple):
    ...     width: int
    >>> as_dicts([Moment(0, 2.3, [Size(4)])])
    [{'step': 0, 'loss': 2.3, 'measured': [{'width': 4}]}]
    """
    return [moment._asdict() | {"measured": [row._asdict() for row in moment.measured]} for moment in moments]


def described(config: Config, found: Data, steps: int) -> dict[str, Any]:
    """The settings of `train_and_measure`, as values for JSON.

    Examples
    --------
    >>> images = data.shapes(4)
    >>> found = Data(images, images, images, data.SHAPES_CLASSES, *data.channel_statistics(images[0]))
    >>> described(Config(dataset="shapes", batch_size=4), found, 10)["images"]
    4
    """
    options = {"lr": config.lr, "batch_size": config.batch_size, "seed": config.seed}
    return {"dataset": config.dataset, "images": len(found.train[1]), "steps": steps, **options}


def moments_of(steps: int) -> list[int]:
    """The steps after which to measure: 0, 1, 3, 10, 30, 100, ..., and the last.

    Most changes happen early, so these numbers are evenly spaced on a logarithmic scale.

    Examples
    --------
    >>> moments_of(50)
    [0, 1, 3, 10, 30, 50]
    """
    between = (start * 10**power for power in range(len(str(steps))) for start in (1, 3))
    return sorted({0, steps, *(step for step in between if step < steps)})


def norm(array: Array) -> float:
    """Euclidean norm of all elements, in float64: squares of vanishing gradients are 0 in float32.

    Examples
    --------
    >>> norm(np.array([3e-30, 4e-30], np.float32))  # doctest: +ELLIPSIS
    5.0000...e-30
    """
    return math.sqrt(float(np.square(array, dtype=np.float64).sum()))


def network(name: str, config: Config, found: Data) -> ResNet:
    """A model of the family with the initial weights of the configuration's seed, for the classes of the data.

    Raises
    ------
    ValueError
        If there is no such model.

    Examples
    --------
    >>> images = data.shapes(4)
    >>> found = Data(images, images, images, data.SHAPES_CLASSES, *data.channel_statistics(images[0]))
    >>> network("plain20", Config(dataset="shapes"), found).fc.weight.shape
    (10, 64)
    """
    manual_seed(config.seed)
    return models.create(name, **{**config.model_options, "num_classes": len(found.classes)})


def main_path(model: ResNet) -> list[str]:
    """Paths of the convolutions that are not in a block's shortcut.

    Examples
    --------
    >>> main_path(models.create("resnet20"))[:3]
    ['conv1', 'layer1.0.conv1', 'layer1.0.conv2']
    """
    shortcuts = {m for _, block in model.blocks() if isinstance(s := getattr(block, "downsample", None), Module)
                 for m in s.modules()}  # fmt: skip
    return [path for path, m in model.named_modules() if isinstance(m, Conv2d) and m not in shortcuts]


def loader(config: Config, found: Data, augment: data.Augment | None = None) -> data.Loader:
    """Batches of the training images, without variation by default.

    Examples
    --------
    >>> images = data.shapes(4)
    >>> found = Data(images, images, images, data.SHAPES_CLASSES, *data.channel_statistics(images[0]))
    >>> batch, labels = next(loader(Config(dataset="shapes", batch_size=2), found).epoch(0))
    >>> batch.shape
    (2, 3, 32, 32)
    """
    options: dict[str, Any] = {"mean": found.mean, "std": found.std, "seed": config.seed, "augment": augment}
    return data.Loader(*found.train, config.batch_size, **options)


def training_batches(config: Config, found: Data) -> Iterator[tuple[Array, Array]]:
    """Batches of epoch after epoch without end, with the configuration's variation.

    Examples
    --------
    >>> images = data.shapes(4)
    >>> found = Data(images, images, images, data.SHAPES_CLASSES, *data.channel_statistics(images[0]))
    >>> batches = training_batches(Config(dataset="shapes", batch_size=4), found)
    >>> [next(batches)[0].shape for epoch in range(2)]
    [(4, 3, 32, 32), (4, 3, 32, 32)]
    """
    varied = loader(config, found, config.augment)
    return (batch for epoch in count() for batch in varied.epoch(epoch))


def loss_of(model: ResNet, images: Array, labels: Array, hooks: Iterable[HookHandle]) -> Tensor:
    """The loss of a batch. Afterwards the hooks, which have watched this forward pass, are removed.

    Examples
    --------
    >>> net = models.create("resnet20")
    >>> hook = net.fc.register_forward_hook(lambda module, args, y: print(y.shape))
    >>> loss_of(net, np.zeros((2, 3, 32, 32), np.float32), np.array([3, 7]), [hook]).shape
    (2, 10)
    ()
    """
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        return ops.cross_entropy(model(Tensor(images)), labels)


def train_and_measure(
    model: ResNet, config: Config, found: Data, steps: int, measure: Callable[[ResNet, Array, Array], tuple[float, T]]
) -> list[Moment[T]]:
    """Train with SGD and a constant learning rate, and measure on one batch at the moments of `moments_of`.

    Parameters
    ----------
    model : ResNet
    config : Config
        Its batch size, learning rate, momentum, weight decay, augmentation and seed are used.
    found : Data
        Data from `tinyres.train.load_data`.
    steps : int
        Training steps, 0 or more.
    measure : callable
        Takes the model, images (N, 3, H, W) and labels (N,). Returns the loss and the measurement. It may leave
        gradients in the model. The images are the same each time, without augmentation.

    Returns
    -------
    list of Moment
        Fewer if the loss became infinite or NaN: only those before.

    Raises
    ------
    ValueError
        If `steps` is negative.
    ArithmeticError
        If the loss is infinite or NaN before any training.

    Examples
    --------
    >>> import tinyres as tr
    >>> config = Config(dataset="shapes", batch_size=4, **RECIPE)
    >>> images = data.shapes(8)
    >>> found = Data(images, images, images, data.SHAPES_CLASSES, *data.channel_statistics(images[0]))
    >>> tr.manual_seed(0)
    >>> net = tr.models.create("plain20")
    >>> def spread(net, x, y):
    ...     logits = net(Tensor(x))
    ...     return ops.cross_entropy(logits, y).item(), float(logits.data.std())
    >>> [(moment.step, moment.measured > 0) for moment in train_and_measure(net, config, found, 2, spread)]
    [(0, True), (1, True), (2, True)]
    """
    if steps < 0:
        raise ValueError(f"steps: got {steps}, expected 0 or more")

    images, labels = next(loader(config, found).epoch(0))
    optimizer = optim.SGD(model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    batches = training_batches(config, found)
    wanted, moments = set(moments_of(steps)), []
    model.train()
    with np.errstate(over="ignore", invalid="ignore"):  # what diverges is seen by its loss
        for step in range(steps + 1):
            if step in wanted:
                model.zero_grad()
                value, measured = measure(model, images, labels)
                if not math.isfinite(value):
                    break
                moments.append(Moment(step, value, measured))
            if step < steps:
                x, y = next(batches)
                model.zero_grad()
                loss = ops.cross_entropy(model(Tensor(x)), y)
                loss.backward()
                optimizer.step()
    if not moments:
        raise ArithmeticError("the loss is not finite before any training, so there is nothing to measure")
    return moments
