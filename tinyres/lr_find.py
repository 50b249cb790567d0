"""Which learning rate to train at: a short training at rates that rise, and up to where its loss falls."""

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyres.loop import Diverged, Loop

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHED = 0.98  # of the loss so far that each step leaves
WORSE = 4.0  # times the lowest loss: it will not come back


class Found(NamedTuple):
    """What came of trying learning rates.

    Attributes
    ----------
    rates : list of float
        As far as it went.
    losses : list of float
        Before each step, of its own batch.
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
        """Loss against rate, and the suggestion.

        Raises
        ------
        ImportError
            Without matplotlib.
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
    """Train for some steps at rates that rise until the loss explodes, and tell at which rate it was lowest.

    The rate rises from one step to the next by the same factor. Then everything is put back as it was.

    Parameters
    ----------
    run : Run
    lowest, highest : float
    steps : int
        At most, 10 or more; the data is gone through again where it has fewer batches.

    Returns
    -------
    Found

    Raises
    ------
    ValueError
        Where the parameters are not of this form, or the loss exploded or never fell, so that there is nothing to see.

    Notes
    -----
    The rate of step i is lowest (highest / lowest)^(i / (steps - 1)). The loss is smoothed as
    s <- 0.98 s + 0.02 l, divided by 1 - 0.98^(i + 1); where s is above 4 times its minimum, it ends. The suggestion is
    the rate of the minimum: the highest that still helps, for a schedule that rises to it and falls again. A constant
    rate is a third of it or less. It is a hint and not a measurement: try half of it and its double too.

    fastai and Lightning suggest the rate of the steepest descent. With batch norm the loss is too rough for that: on
    CIFAR-10, with ResNet-20 and a slim ResNet-9, two seeds each and 100 steps, it was anywhere from 0.0009 to 1.7, the
    minimum from 0.076 to 0.11.

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
            f"lowest: got {lowest:g}, at which the loss explodes within {len(losses)} steps; expected less"
        )
    rates = rates[: len(losses)]
    begin = -(-len(losses) // 10)  # before that it is the loss of a batch or two, and may be low by chance
    lowest_at = begin + int(np.argmin(smoothed[begin:]))
    if smoothed[lowest_at] >= np.mean(losses[:begin]):
        raise ValueError(f"steps: got {steps}, in which the loss fell at no rate; expected more of them")
    return Found(rates, losses, smoothed, rates[lowest_at])
