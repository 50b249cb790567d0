"""Large arrays that reuse the memory of earlier arrays.

A training step creates the same arrays as the step before. New memory from the system costs a page fault and zeroing
for every 4 KiB: a quarter of the time of a ResNet-20 step, measured. So the memory of deleted arrays is kept and used
again. It is one range of addresses, not a block for each array: backward frees arrays in the opposite order of their
creation, so that gaps merge, and an array of any size fits. A process uses 0 to 3 % more memory than its arrays had at
one time; with blocks of fixed sizes it would be a third to a half more.
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
SMALLEST = 64 * 1024  # bytes; below this, NumPy's own allocator is as good
LARGEST_SCRATCH = 2 * 1024 * 1024  # bytes that a thread keeps, for each of a few names
REGION = 256 * 1024 * 1024  # bytes of addresses; addresses that were never used take no memory


def _aligned(size: int) -> np.ndarray:
    """New memory from the system, aligned so that no vector crosses a cache line."""
    memory = np.empty(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size]


class _Region:
    """A range of addresses that several arrays share."""

    def __init__(self, size: int) -> None:
        memory = _aligned(size)
        self.memory, self.size, self.place = memoryview(memory), size, memory.ctypes.data
        self.gaps = [(0, size)]  # (start, stop) of free bytes, in order; no two gaps touch

    def take(self, size: int, i: int) -> int:
        """Take the first `size` bytes of gap `i`, and return their start."""
        start, stop = self.gaps[i]
        self.gaps[i : i + 1] = [(start + size, stop)] if stop - start > size else []
        return start

    def give(self, start: int, stop: int) -> None:
        """Make these bytes a gap again, and merge it with neighbouring gaps."""
        i = bisect(self.gaps, (start, stop))
        if i < len(self.gaps) and self.gaps[i][0] == stop:
            stop = self.gaps.pop(i)[1]
        if i and self.gaps[i - 1][1] == start:
            i -= 1
            start = self.gaps.pop(i)[0]
        self.gaps.insert(i, (start, stop))


_taking = survive_forks(threading.Lock())


class Pool:
    """Memory for arrays, which comes back when they are deleted."""

    def __init__(self) -> None:
        self.regions: list[_Region] = []
        self.returned: list[tuple[_Region, int, int]] = []  # by arrays that were deleted since the last `take`

    def take(self, size: int) -> tuple[_Region, int, int]:
        """Memory of `size` bytes, as region, start and stop. It comes from the smallest gap that is large enough."""
        size = -(-size // CACHE_LINE) * CACHE_LINE
        with _taking:
            self._take_back()
            gaps = ((stop - start, k, i) for k, r in enumerate(self.regions) for i, (start, stop) in enumerate(r.gaps))
            best = min((gap for gap in gaps if gap[0] >= size), default=None)
            if best is None:  # no gap is large enough: give unused regions back to the system first
                self.regions = [r for r in self.regions if r.gaps != [(0, r.size)]]
                self.regions.append(_Region(max(size, REGION)))
                best = 0, -1, 0
            region = self.regions[best[1]]
            start = region.take(size, best[2])
        return region, start, start + size

    def give(self, region: _Region, start: int, stop: int) -> None:
        """Return memory; the next `take` makes it free. Arrays may be deleted at any time, even within `take`."""
        self.returned.append((region, start, stop))

    def _take_back(self) -> None:
        while self.returned:
            region, start, stop = self.returned.pop()
            region.give(start, stop)

    def held(self) -> int:
        """Bytes of all arrays that exist now."""
        with _taking:
            self._take_back()
            return sum(region.size - sum(stop - start for start, stop in region.gaps) for region in self.regions)

    def unheld(self, array: np.ndarray) -> np.ndarray:
        """The same elements, as an array that does not keep its memory reserved in this pool.

        For an array outside this pool, it is the array itself.
        """
        place = array.ctypes.data
        for region in self.regions:
            start = place - region.place
            if 0 <= start < region.size:
                return np.ndarray(array.shape, array.dtype, region.memory, start, array.strides)
        return array


_pool = Pool()


class _Here(threading.local):
    pool: Pool | None = None  # used instead of the common pool


_here = _Here()


@contextlib.contextmanager
def within(pool: Pool) -> Iterator[None]:
    """Let this thread take memory from another pool, inside this block."""
    before, _here.pool = _here.pool, pool
    try:
        yield
    finally:
        _here.pool = before


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `numpy.empty`, C-contiguous. The memory returns to the pool when the last view of the array is deleted."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    pool = _here.pool or _pool
    region, start, stop = pool.take(size)
    # every view of an array refers to its root, so the root is deleted after the last view
    root = np.frombuffer(region.memory, np.uint8, size, start)
    weakref.finalize(root, pool.give, region, start, stop).atexit = False
    return root.view(dtype).reshape(shape)


def empty_like(array: np.ndarray) -> np.ndarray:
    """As `numpy.empty_like`, from the pool, with the same order of axes in memory."""
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
    """As `empty`, for memory that is not needed after the kernel.

    Each call of this thread with the same name returns the same memory, which is faster and still in cache. If it is
    large, it comes from the pool.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size > LARGEST_SCRATCH:
        return empty(shape, dtype)
    buffer = _scratch.buffers.get(name)
    if buffer is None or buffer.size < size:
        buffer = _scratch.buffers[name] = _aligned(size)
    return buffer[:size].view(dtype).reshape(shape)


# ---------------------------------------------------------------- results that depend on constants only
_made: dict[int, dict[Hashable, np.ndarray]] = {}  # by id of a constant array


def make_constant(array: np.ndarray) -> None:
    """Make an array read-only, and promise that it never changes: kernels then prepare it only once."""
    array.flags.writeable = False
    _made[id(array)] = {}
    weakref.finalize(array, _made.pop, id(array), None).atexit = False


def made_of(array: np.ndarray, key: Hashable, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Memory for a rearranged form of an array, such as packed weights, and whether the values are there already.

    If they are not, the caller computes them, and then calls `keep_made`.
    """
    made = None if array.flags.writeable else _made.get(id(array))
    if made is None:  # the array is not a constant
        return scratch("made", shape, array.dtype), False
    ready = made.get(key)
    return (empty(shape, array.dtype), False) if ready is None else (ready, True)


def keep_made(array: np.ndarray, key: Hashable, memory: np.ndarray) -> None:
    """Say that the values are complete: from now on other threads may read them too."""
    made = None if array.flags.writeable else _made.get(id(array))
    if made is None:
        return
    buffer = _scratch.buffers.get("made")  # if the array became a constant after `made_of`
    if buffer is None or not np.may_share_memory(memory, buffer):
        made[key] = memory
