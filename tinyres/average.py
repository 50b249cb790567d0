"""The mean of the weights that training went through, which is often better than those it ends with."""

from collections.abc import Iterator
from contextlib import contextmanager

from tinyres.nn import Module
from tinyres.tape import Array


class EMA:
    """Exponential moving average of a model's weights and of batch norm's running statistics.

    Parameters
    ----------
    model : Module
    decay : float
        Share of the average that a step leaves, 0 to 1: 0.99 is about the mean of the last hundred steps.
    every : int
        Steps between two updates, each of which counts for so many: an update reads and writes all weights.

    Raises
    ------
    ValueError
        If `decay` is not from 0 to 1 or `every` is not positive.

    Notes
    -----
    After n steps, a <- d a + (1 - d) w, with d = min(decay, (1 + n) / (10 + n)) to the power of `every`: so that the
    weights of the beginning, which are random, are soon forgotten.

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

    def __init__(self, model: Module, decay: float, *, every: int = 1) -> None:
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

    def update(self) -> None:
        """Take in the weights as they are after one more step."""
        self.steps += 1
        if self.steps % self.every:
            return
        new = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps)) ** self.every
        for name, array in self._trained():
            average = self.arrays[name]
            average += average.dtype.type(new) * (array - average)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside this block, the model has the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, array in self._trained():
            own = array.copy()
            array[...] = self.arrays[name]
            self.arrays[name][...] = own
