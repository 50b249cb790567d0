"""Numba's compiler, which Ctrl-C cannot interrupt."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from numba.core.compiler import Compiler


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the end: LLVM calls Python functions, and an exception there would be printed and lost."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda *signal_and_frame: came.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for one in came:
            handler(*one)


class Plain(Compiler):
    """Numba's compiler, without other changes."""

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        with _uninterrupted():
            return super().compile_extra(function)
