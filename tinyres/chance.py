"""Random numbers that a forward pass draws, such as those of dropout.

Each draw follows from a seed and from how many came before it, and there is no other state: a training run that begins
each step anew with (seed, step) goes on after a stop as if there had been none, and who knows the number of draws can
draw again. Each thread draws for itself.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class _Chance(threading.local):
    seed: tuple[int, ...] = (0,)
    count = 0


_chance = _Chance()


def start(*seed: int) -> None:
    """Begin anew: what is drawn from here on, in this thread, follows from these numbers.

    Examples
    --------
    >>> start(7); a = uniform(2)
    >>> start(7); b = uniform(2)
    >>> (a == b).all(), (a == uniform(2)).any()
    (np.True_, np.False_)
    """
    _chance.seed, _chance.count = seed, 0


def uniform(*shape: int) -> np.ndarray:
    """Numbers from 0 to 1, float32.

    Examples
    --------
    >>> uniform(2, 3).shape
    (2, 3)
    """
    _chance.count += 1
    return np.random.default_rng([*_chance.seed, _chance.count]).random(shape, np.float32)


def now() -> tuple[tuple[int, ...], int]:
    """The seed, and how many times was drawn since: what the next draws follow from.

    Examples
    --------
    >>> start(0); _ = uniform(3); now()
    ((0,), 1)
    """
    return _chance.seed, _chance.count


@contextmanager
def again(then: tuple[tuple[int, ...], int]) -> Iterator[None]:
    """Inside this block, draw as at another time, see `now`; then go on.

    Examples
    --------
    >>> start(7); before = now(); a = uniform(2)
    >>> with again(before):
    ...     b = uniform(2)
    >>> (a == b).all(), now()
    (np.True_, ((7,), 1))
    """
    present = now()
    _chance.seed, _chance.count = then
    try:
        yield
    finally:
        _chance.seed, _chance.count = present
