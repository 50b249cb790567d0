"""Random numbers that a forward pass draws, such as those of dropout.

Each draw depends only on a seed and on the number of draws before it. A training run starts each step with
(seed, step), so a run that was stopped and resumed draws the same numbers as one without a stop. A draw can be repeated
if its number is known. Each thread has its own seed and count.
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
    """Set the seed: all later draws in this thread depend only on these numbers.

    Examples
    --------
    >>> start(7); a = uniform(2)
    >>> start(7); b = uniform(2)
    >>> (a == b).all(), (a == uniform(2)).any()
    (np.True_, np.False_)
    """
    _chance.seed, _chance.count = seed, 0


def uniform(*shape: int) -> np.ndarray:
    """Uniform random numbers from 0 to 1, float32, of this shape.

    Examples
    --------
    >>> uniform(2, 3).shape
    (2, 3)
    """
    _chance.count += 1
    return np.random.default_rng([*_chance.seed, _chance.count]).random(shape, np.float32)


def now() -> tuple[tuple[int, ...], int]:
    """The seed, and the number of draws since it was set: the next draws depend only on these.

    Examples
    --------
    >>> start(0); _ = uniform(3); now()
    ((0,), 1)
    """
    return _chance.seed, _chance.count


@contextmanager
def again(then: tuple[tuple[int, ...], int]) -> Iterator[None]:
    """Repeat the draws of an earlier moment (a result of `now`) inside this block; then continue as if without it.

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
