"""The first steps of a deep network: with the full learning rate from the start, and with a tenth of it at first.

He et al., CVPR 2016, section 4.2, on the net with 110 layers: "we find that the initial learning rate of 0.1 is
slightly too large to start converging. So we use 0.01 to warm up the training until the training error is below 80%
(about 400 iterations), and then go back to 0.1". Without it, their training "starts converging (<90% error) after
several epochs, but still reaches similar accuracy". The study trains each network in both ways.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyres import ops, optim, plots
from tinyres.recipe import Config
from tinyres.replay import Replay
from tinyres.splits import Data
from tinyres.study.probe import network, training_batches
from tinyres.tape import Array
from tinyres.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODELS = ("resnet20", "resnet110")
"""Networks that are trained by default."""

LOW = 0.1
"""The part of the learning rate that is used first, in a training with warm-up."""

BELOW = 0.8
"""The training error below which a warm-up ends."""

WINDOW = 50
"""The training error is that of the last 50 batches, since the error of one batch is mostly noise."""


class Curve(NamedTuple):
    """One training.

    Attributes
    ----------
    model : str
    warm_up : bool
        Whether it began with a tenth of the learning rate.
    losses : list of float
        The loss of the batch of each step.
    errors : list of float
        The part of this batch that is classified wrongly, 0 to 1, before the step.
    raised : int or None
        The number of steps with the lower rate: 0 without warm-up, None if the training ended before its warm-up did.
    """

    model: str
    warm_up: bool
    losses: list[float]
    errors: list[float]
    raised: int | None

    @property
    def title(self) -> str:
        """In words.

        Examples
        --------
        >>> Curve("resnet20", True, [], [], None).title
        'resnet20, with warm-up'
        """
        return f"{self.model}, {'with' if self.warm_up else 'without'} warm-up"


def smooth(errors: Sequence[float], window: int = WINDOW) -> list[float]:
    """The mean of each value and those before it, at most `window` in all.

    Examples
    --------
    >>> smooth([1.0, 0.0, 0.0, 0.0], window=2)
    [1.0, 0.5, 0.0, 0.0]
    """
    sums = np.cumsum([0.0, *errors])
    ends = np.arange(1, len(errors) + 1)
    starts = np.maximum(ends - window, 0)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means


def converged(errors: Sequence[float], below: float = BELOW, window: int = WINDOW) -> int | None:
    """The number of steps after which the error of the last `window` batches is below a threshold, None if never.

    Examples
    --------
    >>> converged([0.9, 0.9, 0.7, 0.7], window=2), converged([0.9, 0.9])
    (4, None)
    """
    late = enumerate(smooth(errors, window)[window - 1 :], window)
    return next((steps for steps, error in late if error < below), None)


def train(name: str, config: Config, found: Data, steps: int, *, warm_up: bool) -> Curve:
    """Train a network from its initial weights, with momentum SGD and a rate that is constant after its warm-up.

    Parameters
    ----------
    name : str
        Of a model of the family.
    config : Config
        Its batch size, learning rate, momentum, weight decay, augmentation and seed are used.
    found : Data
        Data from `tinyres.train.load_data`.
    steps : int
        At least 1.
    warm_up : bool
        Whether to begin with a tenth of the learning rate, until the training error of the last 50 batches is below
        80 %.

    Returns
    -------
    Curve
        Shorter if the loss became infinite or NaN: only the steps before.

    Raises
    ------
    ValueError
        If there is no such model, or `steps` is less than 1.

    Examples
    --------
    >>> from tinyres import data
    >>> images, config = data.shapes(8, size=8), Config(dataset="shapes", batch_size=8, lr=0.01)
    >>> found = Data(images, images, images, data.SHAPES_CLASSES, *data.channel_statistics(images[0]))
    >>> curve = train("resnet20", config, found, 3, warm_up=False)
    >>> len(curve.losses), curve.losses[2] < curve.losses[0], curve.raised
    (3, True, 0)
    """
    if steps < 1:
        raise ValueError(f"steps: got {steps}, expected 1 or more")
    model = network(name, config, found).train()
    batches = training_batches(config, found)
    rate = LOW * config.lr if warm_up else config.lr
    optimizer = optim.SGD(model.parameters(), rate, momentum=config.momentum, weight_decay=config.weight_decay)

    def loss_and_logits(x: Tensor, y: Array) -> tuple[Tensor, Tensor]:
        logits = model(x)
        return ops.cross_entropy(logits, y), logits

    replay = Replay(model, loss_and_logits)
    losses: list[float] = []
    errors: list[float] = []
    raised = None if warm_up else 0
    with np.errstate(over="ignore", invalid="ignore"):  # what diverges is seen by its loss
        for _ in range(steps):
            x, y = next(batches)
            optimizer.zero_grad()
            loss, logits = replay(x, y)
            if not math.isfinite(loss.item()):
                break
            optimizer.step()
            losses.append(loss.item())
            errors.append(float((logits.data.argmax(1) != y).mean()))
            if raised is None and converged(errors) is not None:
                optimizer.set_lr(config.lr)
                raised = len(errors)
    return Curve(name, warm_up, losses, errors, raised)


def verdict(curves: Sequence[Curve]) -> list[str]:
    """A sentence on each training.

    Examples
    --------
    >>> print(verdict([Curve("resnet110", True, [2.3] * 60, [0.9] * 10 + [0.7] * 50, 50)])[0])
    resnet110, with warm-up: training error below 80 % after 50 steps; 70.0 % in the last 50 of 60 steps.
    """
    sentences = []
    for curve in curves:
        if not curve.errors:
            sentences.append(f"{curve.title}: the loss is not finite in the first step.")
            continue
        steps = converged(curve.errors)
        limit = f"below {100 * BELOW:.0f} %"
        when = f"{limit} after {steps} steps" if steps else f"never {limit}"
        last = f"{100 * smooth(curve.errors)[-1]:.1f} % in the last {min(WINDOW, len(curve.errors))} of"
        sentences.append(f"{curve.title}: training error {when}; {last} {len(curve.errors)} steps.")
    return sentences


def draw(curves: Sequence[Curve]) -> "Figure":
    """Training error by step, one picture for each network."""
    names = list(dict.fromkeys(curve.model for curve in curves))
    figure, axes = plots.subplots(1, len(names), width=5 * len(names), height=4, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for curve in curves:
            if curve.model == name:
                colour = plots.RESIDUAL if curve.warm_up else plots.PLAIN  # two that are told apart
                percent = 100 * np.array(smooth(curve.errors))
                axis.plot(np.arange(1, len(percent) + 1), percent, color=colour, label=curve.title.split(", ")[1])
        axis.axhline(100 * BELOW, color="#999999", linewidth=0.7, zorder=0)
        axis.set(title=name, xlabel="step", ylim=(0, 100))
        axis.legend(frameon=False)
    axes[0][0].set(ylabel=f"training error of the last {WINDOW} batches, %")
    return figure
