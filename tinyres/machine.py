"""The machine a measurement was made on: what it is, and the most that it can do."""

import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl

from tinyres import backend
from tinyres.kernels import isa

SIDE = 2048  # of the matrices: large enough for a matrix product's best speed
COPY_BYTES = 256 * 2**20  # of each array: far more than caches hold
REPEATS = 5


class Ceilings(NamedTuple):
    """The most that a kernel can be measured against: floating-point operations and bytes, each a second."""

    sgemm: float
    copy: float


def ceilings() -> Ceilings:
    """Measure this machine's ceilings, on as many threads as kernels use; takes about a second.

    Returns
    -------
    Ceilings
        The best of some runs of a large float32 matrix product, two operations for a multiply-add, and of a copy of an
        array far larger than the caches, which reads each byte and writes each byte.

    Notes
    -----
    The copy is NumPy's, a part of the array on each thread. Its stores go past the cache; a kernel's do not, and read
    first what they will write. So a kernel that reads one such array and writes another reaches two thirds of this
    ceiling at best. Arrays that the caches hold may go beyond it.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.machine.ceilings()  # doctest: +SKIP
    Ceilings(sgemm=198959890187.8, copy=33104821960.2)
    """
    threads = backend.num_threads()
    a, b, product = (np.ones((SIDE, SIDE), np.float32) for _ in range(3))
    with threadpoolctl.threadpool_limits(threads, user_api="blas"):
        sgemm = 2 * SIDE**3 / _best(lambda: np.matmul(a, b, out=product))
    source, target = (np.ones(COPY_BYTES, np.uint8) for _ in range(2))
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        copy = 2 * COPY_BYTES / _best(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))
    return Ceilings(sgemm, copy)


def _best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs, after one that brings pages and threads into being."""
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def describe() -> dict[str, Any]:
    """Processor, threads in use and versions: what a figure should not go without.

    Examples
    --------
    >>> import tinyres as tr
    >>> list(tr.machine.describe())
    ['processor', 'simd', 'threads', 'versions']
    """
    versions = {name: metadata.version(name) for name in ("numpy", "numba")}
    return {
        "processor": processor(),
        "simd": simd(),
        "threads": backend.num_threads(),
        "versions": {"python": platform.python_version(), **versions},
    }


def simd() -> str:
    """The instruction set that kernels are made for: ``"avx512"``, ``"avx2"``, ``"sse2"`` or ``"neon"``.

    The processor's best, or what the environment variable ``TINYRES_SIMD`` named when tinyres was imported. Results
    have the same bits on one of them, whatever the number of threads, and not from one to another.

    Examples
    --------
    >>> simd() in {"avx512", "avx2", "sse2", "neon"}
    True
    """
    return isa.ACTIVE.name


def processor() -> str:
    """Name of the processor, as far as the system says.

    Examples
    --------
    >>> isinstance(processor(), str)
    True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory() -> int | None:
    """Most bytes of memory that this process has held; None where the system does not say.

    Examples
    --------
    >>> (peak_memory() or 2**20) >= 2**20
    True
    """
    try:  # on Linux getrusage's maximum is inherited from the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        if os.name == "nt":
            return None
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
