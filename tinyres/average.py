"""Weights beside those that are trained.

Their mean is often better than where training ends; slow weights are those that training goes back to.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tinyres.nn import Module
from tinyres.tape import Array


class _Beside:
    """A second set of a model's weights and of batch norm's running statistics, drawn towards its own every so many
    steps."""

    def __init__(self, model: Module, decay: float, every: int) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay: got {decay}, expected 0 to 1")
        if every < 1:
            raise ValueError(f"every: got {every}, expected 1 or more")
        self.model, self.decay, self.every = model, decay, every
        self.start()

    def start(self) -> None:
        """Begin anew, with the weights that the model has."""
        self.steps = 0
        self.arrays = {name: array.copy() for name, array in self._trained()}

    def _trained(self) -> Iterator[tuple[str, Array]]:
        """The model's own arrays, as they are now, each once; whole numbers, which are counts, have no mean."""
        own = {id(array): (name, array) for name, array in self.model.named_arrays() if array.dtype.kind == "f"}
        return iter(own.values())

    def _draw(self, kept: float) -> None:
        """a <- kept a + (1 - kept) w."""
        for name, array in self._trained():
            beside = self.arrays[name]
            beside += beside.dtype.type(1 - kept) * (array - beside)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside this block, the model has these weights."""
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
            "average: got weights that a graph still holds, expected to change them: first call backward on what was "
            "computed with them, or let go of it"
        )
    array[...] = values


class EMA(_Beside):
    """Exponential moving average of a model's weights and of batch norm's running statistics.

    Parameters
    ----------
    model : Module
    decay : float
        Share of the average that a step leaves, 0 to 1: 0.99 is about the mean of the last hundred steps.
    every : int
        Steps between two updates, each of which counts for so many: an update reads and writes all weights.
    epoch : int, optional
        Steps of an epoch: there is an update at the end of each as well, where the average is looked at.

    Raises
    ------
    ValueError
        If `decay` is not from 0 to 1, or `every` or `epoch` is not positive.

    Notes
    -----
    After n steps, of which the last k came after the update before, a <- d a + (1 - d) w, with
    d = min(decay, (1 + n) / (10 + n))^k: so that the weights of the beginning, which are random, are soon forgotten.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; with a decay that begins low as
    in TensorFlow's ExponentialMovingAverage.

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
        """Take in the weights as they are after one more step."""
        before, self.steps = self.steps, self.steps + 1
        if self.steps % self.every == 0 or self.steps % self.epoch == 0:
            last = max(before - before % self.every, before - before % self.epoch)  # update, of which nothing is kept
            self._draw(min(self.decay, (1 + self.steps) / (10 + self.steps)) ** (self.steps - last))


class Lookahead(_Beside):
    """Slow weights, which follow those that are trained, and take their place.

    Parameters
    ----------
    model : Module
    decay : float
        Share of the slow weights that a step leaves at the end of training, 0 to 1.
    total : int
        Steps of the training.
    every : int
        Steps from one time that the slow weights take the place of the others to the next.

    Raises
    ------
    ValueError
        If `decay` is not from 0 to 1, or `total` or `every` is not positive.

    Notes
    -----
    Every k-th step n of N, and after the last, with slow weights s and trained ones w,

        d = decay^k (n / N)^3,   s <- d s + (1 - d) w,   w <- s.

    At first s is w, and training is as without; towards its end each k steps go only a part of their way, 1 - d, and
    what of them was noise averages out, as at a lower learning rate, while each step is as long as before.

    Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", 2019, algorithm 1, with a d that does not change;
    d by the cube of the time is that of Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, section 3.4.

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
        """Look at the weights as they are after one more step, and perhaps take their place."""
        self.steps += 1
        if self.steps % self.every == 0 or self.steps == self.total:
            self._draw(self.decay**self.every * min(1, self.steps / self.total) ** 3)
            for name, array in self._trained():
                _put(array, self.arrays[name])
