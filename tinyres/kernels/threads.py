"""The user's threads and forks, and the threads that kernels run on.

A program may call kernels from several threads, and may fork. Numba's threads do not bear all of it: where its layer
is "workqueue", two launches at once abort the process; where it is GNU's OpenMP, a launch in a forked child ends the
child. So launches take turns on the one, and are refused with an error after a fork on the other.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import numba

from tinyres.kernels.launch import note


def survive_forks(lock: Any) -> Any:
    """A lock that is free in a forked child, and what it guards is whole there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


_turn = survive_forks(threading.RLock())  # the same thread may come again: in a signal handler, not within a kernel


class _Process:
    layer: str | None = None  # known once Numba has started its threads
    threads: int | None = None  # to use; None: as many as Numba has
    orphaned = False  # forked, without the threads of the parent


class _Thread(threading.local):
    threads: int | None = None  # what Numba was told in this thread


_process, _thread = _Process(), _Thread()


def _note_fork() -> None:
    if _layer() == "omp":
        from numba.np.ufunc import omppool

        _process.orphaned = omppool.openmp_vendor == "GNU"


def _layer() -> str | None:
    try:
        return numba.threading_layer()
    except ValueError:  # not chosen yet
        return None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def set_num_threads(n: int) -> None:
    """Run kernels on `n` threads, whichever thread calls them; Numba's own setting is one of each thread."""
    _process.threads = n
    _adopt()


def num_threads() -> int:
    """Threads that kernels run on."""
    _adopt()
    return int(numba.get_num_threads())


def _adopt() -> None:
    if _thread.threads != _process.threads:
        numba.set_num_threads(_process.threads)
        _thread.threads = _process.threads


def _prepare() -> None:
    """What comes before a launch, where something has changed."""
    if _process.orphaned:
        raise RuntimeError(
            "this process was forked from one that runs kernels on threads of GNU OpenMP, which do not exist here: "
            'start processes by multiprocessing.get_context("spawn"), or set NUMBA_THREADING_LAYER=workqueue before '
            "the first import of tinyres"
        )
    if _process.layer is None:
        numba.get_num_threads()  # starts Numba's threads
        _process.layer = _layer()
    _adopt()


class Parallel:
    """A parallel kernel as Python calls it. All else of it is the kernel's own."""

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self.kernel = kernel

    def __call__(self, *arguments: Any) -> Any:
        if _process.orphaned or _process.layer is None or _thread.threads != _process.threads:
            _prepare()
        note(self, *arguments)
        if _process.layer != "workqueue":
            return self.kernel(*arguments)
        with _turn:
            return self.kernel(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)
