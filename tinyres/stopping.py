"""Signals that ask a program to stop: noted, so that it can end what it is at."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals(told: Callable[[], None] | None = None) -> Iterator[Callable[[], bool]]:
    """Note SIGINT and SIGTERM instead of raising, and call `told` at the first; a second one raises as usual.

    Yields a function: whether one came.

    Examples
    --------
    >>> with stop_signals() as stopped:
    ...     signal.raise_signal(signal.SIGINT)
    ...     stopped()
    True
    """
    came = False

    def note(number: int, frame: Any) -> None:
        nonlocal came
        came = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if told:
            told()

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: signals are somebody else's business
        pass
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
