"""Large arrays out of memory that earlier arrays gave back.

A training step makes the same arrays as the step before. Fresh from the system, each would cost a page
fault and a zeroing every 4 KiB: a quarter of a ResNet-20 step, measured. So memory of arrays that have died is kept
and handed out again. The process never grows larger for it than its arrays have been at one time.
"""

import math
import weakref
from collections.abc import Hashable
from typing import Any

import numpy as np

CACHE_LINE = 64  # bytes
SMALLEST = 64 * 1024  # bytes; below, NumPy's own allocator is as good
LARGER = 4  # times the size: so much of the memory of a larger array may go to a smaller one


def _aligned(size: int) -> memoryview:
    """New memory that starts on a cache line, so that no vector lies across two of them."""
    memory = np.empty(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memoryview(memory[start : start + size])


class _Pool:
    def __init__(self) -> None:
        self.free: dict[int, list[memoryview]] = {}  # by size; the most recently freed last
        self.in_use = self.kept = self.peak = 0  # bytes

    def take(self, size: int) -> memoryview:
        """Memory of `size` bytes, or up to `LARGER` times as many if that is at hand."""
        fitting = size if size in self.free else min((s for s in self.free if size < s <= LARGER * size), default=0)
        if fitting:
            memory = self.free[fitting].pop()
            if not self.free[fitting]:
                del self.free[fitting]
            self.kept -= fitting
        else:
            self.shrink(max(self.peak, self.in_use + size) - self.in_use - size)
            memory = _aligned(size)
        self.in_use += len(memory)
        self.peak = max(self.peak, self.in_use)
        return memory

    def give(self, memory: memoryview) -> None:
        self.in_use -= len(memory)
        self.kept += len(memory)
        self.free.setdefault(len(memory), []).append(memory)

    def shrink(self, limit: int) -> None:
        """Return memory to the system until at most `limit` bytes are kept."""
        for size in list(self.free):
            while self.kept > limit and self.free[size]:
                self.free[size].pop(0)
                self.kept -= size
            if not self.free[size]:
                del self.free[size]


_pool = _Pool()


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `numpy.empty`, C-contiguous. The memory comes back to the pool with the last view of the array."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    memory = _pool.take(size)
    root = np.frombuffer(memory, np.uint8, size)  # every view of an array refers to it, so it dies with the last one
    weakref.finalize(root, _pool.give, memory).atexit = False
    return root.view(dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `numpy.zeros`, from the pool."""
    array = empty(shape, dtype)
    array[...] = 0
    return array


# ---------------------------------------------------------------- what is made of constants
_made: dict[int, dict[Hashable, np.ndarray]] = {}  # by id of a constant


def make_constant(array: np.ndarray) -> None:
    """Make an array read-only, and promise that it stays as it is: what kernels make of it, they make once."""
    array.flags.writeable = False
    _made[id(array)] = {}
    weakref.finalize(array, _made.pop, id(array), None).atexit = False


def made_of(array: np.ndarray, key: Hashable, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Memory for what is made of an array, such as its weights in another order, and whether it is there already."""
    made = None if array.flags.writeable else _made.get(id(array))
    if made is not None and key in made:
        return made[key], True
    memory = empty(shape, array.dtype)
    if made is not None:
        made[key] = memory
    return memory, False
