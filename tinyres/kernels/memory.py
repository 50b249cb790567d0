"""Large arrays out of memory that earlier arrays gave back.

A training step makes the same arrays as the step before. Fresh from the system, each would cost a page
fault and a zeroing every 4 KiB: a quarter of a ResNet-20 step, measured. So memory of arrays that have died is kept
and handed out again. It is one range of addresses, not a block for each array: backward frees what forward has made in
the opposite order, so that gaps grow together, and serve arrays of any size. A process grows by 0 to 3 % more than its
arrays have been at one time, where blocks of fixed sizes need a third to a half more.
"""

import contextlib
import math
import threading
import weakref
from bisect import bisect
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

from tinyres.kernels.launch import launch
from tinyres.kernels.threads import survive_forks

CACHE_LINE = 64  # bytes
SMALLEST = 64 * 1024  # bytes; below, NumPy's own allocator is as good
LARGEST_SCRATCH = 2 * 1024 * 1024  # bytes that stay with a thread for each of a few names
REGION = 256 * 1024 * 1024  # bytes of addresses; those that no array has had yet take up no memory


def _aligned(size: int) -> np.ndarray:
    """Bytes of the system's, so that no vector lies across two cache lines."""
    memory = np.empty(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size]


class _Region:
    """A range of addresses that arrays share."""

    def __init__(self, size: int) -> None:
        memory = _aligned(size)
        self.memory, self.size, self.place = memoryview(memory), size, memory.ctypes.data
        self.gaps = [(0, size)]  # (start, stop) of what no array has, in order; no two of them touch

    def take(self, size: int, i: int) -> int:
        """The first `size` bytes of a gap; returns where they start."""
        start, stop = self.gaps[i]
        self.gaps[i : i + 1] = [(start + size, stop)] if stop - start > size else []
        return start

    def give(self, start: int, stop: int) -> None:
        """Make a gap of these bytes and of those next to them that are free as well."""
        i = bisect(self.gaps, (start, stop))
        if i < len(self.gaps) and self.gaps[i][0] == stop:
            stop = self.gaps.pop(i)[1]
        if i and self.gaps[i - 1][1] == start:
            i -= 1
            start = self.gaps.pop(i)[0]
        self.gaps.insert(i, (start, stop))


_taking = survive_forks(threading.Lock())


class Pool:
    """Memory that arrays come from and return to."""

    def __init__(self) -> None:
        self.regions: list[_Region] = []
        self.returned: list[tuple[_Region, int, int]] = []  # by arrays that died since the last one was made

    def take(self, size: int) -> tuple[_Region, int, int]:
        """Memory of `size` bytes, from start to stop in a region: of the smallest gap there is."""
        size = -(-size // CACHE_LINE) * CACHE_LINE
        with _taking:
            self._take_back()
            gaps = ((stop - start, k, i) for k, r in enumerate(self.regions) for i, (start, stop) in enumerate(r.gaps))
            best = min((gap for gap in gaps if gap[0] >= size), default=None)
            if best is None:  # regions that no array is in are of no use: back to the system with them
                self.regions = [r for r in self.regions if r.gaps != [(0, r.size)]]
                self.regions.append(_Region(max(size, REGION)))
                best = 0, -1, 0
            region = self.regions[best[1]]
            start = region.take(size, best[2])
        return region, start, start + size

    def give(self, region: _Region, start: int, stop: int) -> None:
        """Take memory back, at the next `take`: arrays may die at any time, in any thread, even within `take`."""
        self.returned.append((region, start, stop))

    def _take_back(self) -> None:
        while self.returned:
            region, start, stop = self.returned.pop()
            region.give(start, stop)

    def held(self) -> int:
        """Bytes that living arrays have."""
        with _taking:
            self._take_back()
            return sum(region.size - sum(stop - start for start, stop in region.gaps) for region in self.regions)

    def unheld(self, array: np.ndarray) -> np.ndarray:
        """The same elements of this pool's memory, as an array that does not keep it from being given to others; where
        the array is not in this pool, the array itself."""
        place = array.ctypes.data
        for region in self.regions:
            start = place - region.place
            if 0 <= start < region.size:
                return np.ndarray(array.shape, array.dtype, region.memory, start, array.strides)
        return array


_pool = Pool()


class _Here(threading.local):
    pool: Pool | None = None  # instead of the one that all share


_here = _Here()


@contextlib.contextmanager
def within(pool: Pool) -> Iterator[None]:
    """Take this thread's memory from a pool of its own, inside this block."""
    before, _here.pool = _here.pool, pool
    try:
        yield
    finally:
        _here.pool = before


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `numpy.empty`, C-contiguous. The memory comes back to the pool with the last view of the array."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    pool = _here.pool or _pool
    region, start, stop = pool.take(size)
    # every view of an array refers to its root, so that dies with the last one
    root = np.frombuffer(region.memory, np.uint8, size, start)
    weakref.finalize(root, pool.give, region, start, stop).atexit = False
    return root.view(dtype).reshape(shape)


def empty_like(array: np.ndarray) -> np.ndarray:
    """As `numpy.empty_like`, from the pool: the axes lie in memory in the array's order."""
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    return empty(tuple(array.shape[axis] for axis in order), array.dtype).transpose(np.argsort(order))


def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `numpy.zeros`, from the pool."""
    array = empty(shape, dtype)
    launch(np.copyto, array, 0)
    return array


# ---------------------------------------------------------------- while a kernel runs
class _Scratch(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}


_scratch = _Scratch()


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `empty`, for what nobody needs once the kernel is done: at each call of this thread by this name the same
    memory, which is quicker to have, and still in cache. Where it is large, it comes from the pool.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size > LARGEST_SCRATCH:
        return empty(shape, dtype)
    buffer = _scratch.buffers.get(name)
    if buffer is None or buffer.size < size:
        buffer = _scratch.buffers[name] = _aligned(size)
    return buffer[:size].view(dtype).reshape(shape)


# ---------------------------------------------------------------- what is made of constants
_made: dict[int, dict[Hashable, np.ndarray]] = {}  # by id of a constant


def make_constant(array: np.ndarray) -> None:
    """Make an array read-only, and promise that it stays as it is: what kernels make of it, they make once."""
    array.flags.writeable = False
    _made[id(array)] = {}
    weakref.finalize(array, _made.pop, id(array), None).atexit = False


def made_of(array: np.ndarray, key: Hashable, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Memory for what is made of an array, such as its weights in another order, and whether it is there already.

    Where it is not, the caller makes it, and then hands it to `keep_made`.
    """
    made = None if array.flags.writeable else _made.get(id(array))
    if made is None:  # nobody keeps what is made of it
        return scratch("made", shape, array.dtype), False
    ready = made.get(key)
    return (empty(shape, array.dtype), False) if ready is None else (ready, True)


def keep_made(array: np.ndarray, key: Hashable, memory: np.ndarray) -> None:
    """What was made of a constant is complete: from now on other threads may read it too."""
    made = None if array.flags.writeable else _made.get(id(array))
    if made is None:
        return
    buffer = _scratch.buffers.get("made")  # where it lies if it was no constant yet when this began: not for long
    if buffer is None or not np.may_share_memory(memory, buffer):
        made[key] = memory
