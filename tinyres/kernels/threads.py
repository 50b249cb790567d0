"""The user's threads and forks, and the threads that run kernels.

A program may call kernels from several threads, and may fork. Numba's threads do not support all of this. With the
threading layer "workqueue", two launches at the same time abort the process, so launches wait for each other. With
GNU's OpenMP, a launch in a forked child ends the child, so it raises an error instead.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import numba

from tinyres.kernels.launch import note


def survive_forks(lock: Any) -> Any:
    """A lock that is free in a forked child; what it protects is not half changed there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


_turn = survive_forks(threading.RLock())  # reentrant for signal handlers, which never run within a kernel


class _Process:
    layer: str | None = None  # known once Numba has started its threads
    threads: int | None = None  # number to use; None: as many as Numba has
    orphaned = False  # whether this process was forked and lacks the parent's threads


class _Thread(threading.local):
    threads: int | None = None  # the number that Numba was told in this thread


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
    """Run kernels on `n` threads, for calls from any thread; Numba's own setting holds for one thread only."""
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
    """Do what is necessary before a launch, if something has changed."""
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
    """A parallel kernel that Python calls. All its attributes are those of the kernel."""

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
