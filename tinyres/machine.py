"""The machine on which a measurement was made: its description, and its limits."""

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

SIDE = 2048  # of the matrices: large enough for the best speed of a matrix product
COPY_BYTES = 256 * 2**20  # of each array: far larger than the caches
REPEATS = 5


class Ceilings(NamedTuple):
    """The limits with which kernels are compared: floating-point operations per second, and bytes per second."""

    sgemm: float
    copy: float


def ceilings() -> Ceilings:
    """Measure the limits of this machine, on as many threads as kernels use. It takes about a second.

    Returns
    -------
    Ceilings
        The best of some runs of a large float32 matrix product (a multiply-add counts as two operations), and of a copy
        of an array that is far larger than the caches (each byte is read and written).

    Notes
    -----
    NumPy makes the copy, a part of the array on each thread. It writes to memory without the cache. The writes of a
    kernel go through the cache, which first reads the memory that will be written. So a kernel that reads one such
    array and writes another reaches at most two thirds of this limit. Arrays that fit into the caches may exceed it.

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
    """Seconds of the fastest of some runs, after a first one that allocates memory and starts threads."""
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def describe() -> dict[str, Any]:
    """Processor, threads in use and versions. Report these with every measurement.

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
    """The instruction set that kernels use: ``"avx512"``, ``"avx2"``, ``"sse2"`` or ``"neon"``.

    It is the best of the processor, or the one in the environment variable ``TINYRES_SIMD`` when tinyres was imported.
    With the same instruction set, results are equal to the last bit for any number of threads. With another one, the
    last bits differ.

    Examples
    --------
    >>> simd() in {"avx512", "avx2", "sse2", "neon"}
    True
    """
    return isa.ACTIVE.name


def processor() -> str:
    """Name of the processor, if the system gives it.

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
    """Peak memory of this process in bytes, or None if the system does not give it.

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
