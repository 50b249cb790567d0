"""Arrays that recorded operations need for their gradients: read-only until the last operation has let go of them."""

import threading
import weakref
from collections import deque
from collections.abc import Iterable

import numpy as np

from tinyres.kernels.threads import survive_forks

_locks: dict[int, tuple[np.ndarray, int]] = {}  # id -> the array and how many operations hold it
_waiting: dict[int, list[weakref.ref[np.ndarray]]] = {}  # id of an array that is held -> its views that are free again
_released: deque[np.ndarray] = deque()  # arrays that operations have released, not yet removed from the two dicts above
_guard = survive_forks(threading.Lock())  # protects these three: threads may share arrays


def lock(arrays: Iterable[np.ndarray]) -> None:
    """Make arrays read-only, once more if they are already."""
    with _guard:
        for array in arrays:
            held, count = _locks.get(id(array), (array, 0))
            if count or array.flags.writeable:
                array.flags.writeable = False
                _locks[id(array)] = held, count + 1
    _settle()


def unlock(arrays: Iterable[np.ndarray]) -> None:
    """Take back one `lock` of each array.

    It never waits: operations may be deleted at any time, in any thread, even while `lock` runs.
    """
    _released.extend(arrays)
    _settle()


def _settle() -> None:
    while _released and _guard.acquire(blocking=False):  # else who has the guard looks here next
        try:
            while _released:
                _release(_released.popleft())
        finally:
            _guard.release()


def _release(array: np.ndarray) -> None:
    if id(array) not in _locks:
        return  # was read-only before any operation held it
    _, count = _locks.pop(id(array))
    if count > 1:
        _locks[id(array)] = array, count - 1
    else:
        _make_writable(array)


def _make_writable(array: np.ndarray) -> None:
    try:
        array.flags.writeable = True
    except ValueError:  # a view is read-only while its base is
        _waiting.setdefault(id(array.base), []).append(weakref.ref(array))
    for view in _waiting.pop(id(array), ()) if array.flags.writeable else ():
        if (alive := view()) is not None:
            _make_writable(alive)
