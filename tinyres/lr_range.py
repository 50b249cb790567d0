"""Finding a learning rate: a short training with a rising rate shows up to which rate the loss falls."""

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyres.loop import Diverged, Loop

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHED = 0.98  # decay of the average of losses
WORSE = 4.0  # stop if the loss is this many times its minimum: it will not fall again


class Found(NamedTuple):
    """The result of `lr_find`.

    Attributes
    ----------
    rates : list of float
        The learning rates of the steps that were done.
    losses : list of float
        The loss of each step's batch, before the step.
    smoothed : list of float
        Their moving average.
    suggestion : float
        The rate at which the smoothed loss was lowest, after the first tenth of the steps.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float

    def plot(self) -> "Figure":
        """Plot the loss against the learning rate, with the suggestion.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from tinyres import plots

        figure, axes = plots.subplots(width=7, height=4)
        axes.plot(self.rates, self.losses, color="0.75", linewidth=1, label="of each batch")
        axes.plot(self.rates, self.smoothed, color=plots.RESIDUAL, linewidth=2, label="smoothed")
        axes.axvline(self.suggestion, color=plots.PLAIN, linestyle="--", label=f"suggestion: {self.suggestion:.3g}")
        low, high = min(self.smoothed), self.smoothed[0]
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - 0.1 * high, 1.3 * high))
        axes.legend(frameon=False)
        return figure


def lr_find(run: Loop, *, lowest: float = 1e-4, highest: float = 10.0, steps: int = 100) -> Found:
    """Train for some steps with a rising learning rate until the loss explodes, and find the rate with the lowest loss.

    From step to step, the rate is multiplied by the same factor. Afterwards the old state is restored.

    Parameters
    ----------
    run : Run
    lowest, highest : float
    steps : int
        Largest number of steps, 10 or more. If the data has fewer batches, they are used several times.

    Returns
    -------
    Found

    Raises
    ------
    ValueError
        If the parameters are not valid, or if the loss exploded at once or never fell, so that there is no suggestion.

    Notes
    -----
    The rate of step i is lowest (highest / lowest)^(i / (steps - 1)). The loss is smoothed as
    s <- 0.98 s + 0.02 l, divided by 1 - 0.98^(i + 1). The search ends if s is more than 4 times its minimum. The
    suggestion is the rate at the minimum: the highest useful rate for a schedule that rises to it and falls again. A
    constant rate should be a third of it or less. It is only a hint, so also try half and double of it.

    fastai and Lightning suggest the rate where the loss falls fastest. With batch norm the loss is too noisy for this:
    on CIFAR-10, with ResNet-20 and a slim ResNet-9, two seeds each and 100 steps, that rate was between 0.0009 and 1.7,
    and the rate of the minimum between 0.076 and 0.11.

    Smith, "Cyclical learning rates for training neural networks", 2017, section 3.3 (the range test).

    Examples
    --------
    >>> import tinyres as tr
    >>> config = tr.train.Config(dataset="shapes", subset=500, batch_size=50, validation=0)
    >>> run = tr.train.Run(config, None)
    >>> found = tr.lr_find(run, steps=40)
    >>> found.suggestion in found.rates
    True
    """
    if not 0 < lowest < highest < math.inf:
        raise ValueError(f"lowest, highest: got {lowest} and {highest}, expected 0 < lowest < highest")
    if steps < 10:
        raise ValueError(f"steps: got {steps}, expected 10 or more")
    rates = [float(r) for r in np.geomspace(lowest, highest, steps)]
    with run.set_aside():
        run.step, run.lr = 0, lambda step: rates[step]
        losses: list[float] = []
        smoothed: list[float] = []
        raw = 0.0
        batches = itertools.chain.from_iterable(run.loader.epoch(epoch) for epoch in itertools.count())
        for i in range(steps):
            try:
                loss = run.one_step(next(batches))["loss"]
            except Diverged:
                break
            raw = SMOOTHED * raw + (1 - SMOOTHED) * loss
            losses.append(loss)
            smoothed.append(raw / (1 - SMOOTHED ** (i + 1)))
            if smoothed[-1] > WORSE * min(smoothed):
                break
    if len(losses) < 5:
        raise ValueError(
            f"lowest: got {lowest:g}, with which the loss explodes within {len(losses)} steps; expected less"
        )
    rates = rates[: len(losses)]
    begin = -(-len(losses) // 10)  # before this, the average has only one or two batches, and may be low by chance
    lowest_at = begin + int(np.argmin(smoothed[begin:]))
    if smoothed[lowest_at] >= np.mean(losses[:begin]):
        raise ValueError(f"steps: got {steps}, in which the loss did not fall at any rate; expected more steps")
    return Found(rates, losses, smoothed, rates[lowest_at])
