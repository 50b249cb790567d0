"""Numba's compiler, which Ctrl-C waits for."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from numba.core.compiler import Compiler


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits meanwhile: LLVM calls back into Python, and what is raised there is printed and lost."""
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
    """Numba's compiler as it is."""

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        with _uninterrupted():
            return super().compile_extra(function)
