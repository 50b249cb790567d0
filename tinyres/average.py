"""A second set of weights beside the trained ones: an average (`EMA`), or slow weights (`Lookahead`).

An average of the weights is often more accurate than the weights at the end of training. Slow weights replace the
trained ones from time to time.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tinyres.nn import Module
from tinyres.tape import Array


class _Beside:
    """A second set of a model's weights and running statistics, which moves towards the model's own every few steps."""

    def __init__(self, model: Module, decay: float, every: int) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay: got {decay}, expected 0 to 1")
        if every < 1:
            raise ValueError(f"every: got {every}, expected 1 or more")
        self.model, self.decay, self.every = model, decay, every
        self.start()

    def start(self) -> None:
        """Start again, with the current weights of the model."""
        self.steps = 0
        self.arrays = {name: array.copy() for name, array in self._trained()}

    def _trained(self) -> Iterator[tuple[str, Array]]:
        """The model's arrays as they are now, each once; without arrays of int, which are counts and have no mean."""
        own = {id(array): (name, array) for name, array in self.model.named_arrays() if array.dtype.kind == "f"}
        return iter(own.values())

    def _draw(self, kept: float) -> None:
        """a <- kept a + (1 - kept) w."""
        for name, array in self._trained():
            beside = self.arrays[name]
            beside += beside.dtype.type(1 - kept) * (array - beside)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside this block, the model has these weights instead of its own."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, array in self._trained():
            own = array.copy()
            _put(array, self.arrays[name])
            self.arrays[name][...] = own


def _put(array: Array, values: Array) -> None:
    if not array.flags.writeable:
        raise RuntimeError(
            "average: cannot change the weights, since a graph still needs them: first call backward on the result "
            "that was computed with them, or delete this result"
        )
    array[...] = values


class EMA(_Beside):
    """Exponential moving average of a model's weights and of batch norm's running statistics.

    Parameters
    ----------
    model : Module
    decay : float
        Factor on the old average in each step, 0 to 1. With 0.99 it is about the mean over the last hundred steps.
    every : int
        Steps between two updates. An update counts for this many steps. A larger number saves time, since an update
        reads and writes all weights.
    epoch : int, optional
        Number of steps of an epoch. If given, there is also an update at the end of each epoch, before evaluation.

    Raises
    ------
    ValueError
        If `decay` is not from 0 to 1, or `every` or `epoch` is not positive.

    Notes
    -----
    After n steps, k of them since the last update, a <- d a + (1 - d) w, with
    d = min(decay, (1 + n) / (10 + n))^k. The decay is small at first, so the random initial weights have no effect
    after a few steps.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992. The small decay at the start is
    that of TensorFlow's ExponentialMovingAverage.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> model = tr.nn.Linear(1, 1, bias=False)
    >>> model.weight.data[...] = 0
    >>> average = tr.average.EMA(model, decay=0.5)
    >>> model.weight.data[...] = 1
    >>> average.update()
    >>> with average.in_place():
    ...     print(model.weight.data.round(3))
    [[0.818]]
    >>> print(model.weight.data)
    [[1.]]
    """

    def __init__(self, model: Module, decay: float, *, every: int = 1, epoch: int | None = None) -> None:
        if epoch is not None and epoch < 1:
            raise ValueError(f"epoch: got {epoch}, expected 1 or more")
        self.epoch = epoch or every
        super().__init__(model, decay, every)

    def update(self) -> None:
        """Call this after each step: it adds the current weights to the average."""
        before, self.steps = self.steps, self.steps + 1
        if self.steps % self.every == 0 or self.steps % self.epoch == 0:
            last = max(before - before % self.every, before - before % self.epoch)  # step of the last update
            self._draw(min(self.decay, (1 + self.steps) / (10 + self.steps)) ** (self.steps - last))


class Lookahead(_Beside):
    """Slow weights, which follow the trained weights and replace them every few steps.

    Parameters
    ----------
    model : Module
    decay : float
        Factor on the slow weights for each step, at the end of training, 0 to 1.
    total : int
        Number of steps of the training.
    every : int
        Number of steps from one replacement to the next.

    Raises
    ------
    ValueError
        If `decay` is not from 0 to 1, or `total` or `every` is not positive.

    Notes
    -----
    With slow weights s and trained weights w, at every k-th step n of N, and after the last step,

        d = decay^k (n / N)^3,   s <- d s + (1 - d) w,   w <- s.

    At first d is near 0, so s is w, and Lookahead has no effect. Towards the end, only the part 1 - d of the way of k
    steps is kept. This averages out noise, as a lower learning rate does, but single steps stay as long as before.

    Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", 2019, algorithm 1, where d is constant. The
    factor (n / N)^3 is from Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, section 3.4.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> model = tr.nn.Linear(1, 1, bias=False)
    >>> model.weight.data[...] = 0
    >>> slow = tr.average.Lookahead(model, decay=0.5, total=1, every=1)
    >>> model.weight.data[...] = 1
    >>> slow.update()
    >>> print(model.weight.data)
    [[0.5]]
    """

    def __init__(self, model: Module, decay: float, total: int, *, every: int = 5) -> None:
        if total < 1:
            raise ValueError(f"total: got {total}, expected 1 or more")
        self.total = total
        super().__init__(model, decay, every)

    def update(self) -> None:
        """Call this after each step: every few steps it updates the slow weights and puts them into the model."""
        self.steps += 1
        if self.steps % self.every == 0 or self.steps == self.total:
            self._draw(self.decay**self.every * min(1, self.steps / self.total) ** 3)
            for name, array in self._trained():
                _put(array, self.arrays[name])
