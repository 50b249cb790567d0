"""How kernels are compiled and where the machine code is kept.

Numba's own cache notices edits in the file that holds a function, not in the files that function
calls. So the folder is named after everything the code depends on: the source of every kernel, the
versions of Numba and llvmlite, the processor, and the instruction set in use. An edit anywhere gives a
new, empty folder.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
import platformdirs
from numba.core.compiler import Compiler

from tinyres.kernels import ahead
from tinyres.kernels.isa import ACTIVE, features
from tinyres.kernels.launch import launch
from tinyres.kernels.plain import Plain
from tinyres.kernels.threads import Parallel


def cache_folder() -> Path:
    """Folder that holds the compiled kernels of exactly this source on exactly this processor."""
    key = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        key.update(source.relative_to(Path(__file__).parent).as_posix().encode() + source.read_bytes())
    key.update(f"{numba.__version__} {llvmlite.__version__}".encode())
    key.update(f"{ACTIVE.name} {numba.config.CPU_NAME or llvm.get_host_cpu_name()} {sorted(features())}".encode())
    root = os.environ.get("TINYRES_CACHE") or platformdirs.user_cache_dir("tinyres")
    return Path(root) / "kernels" / key.hexdigest()[:16]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


# Only what is written as a prange runs in parallel: to turn every array expression into a parallel loop as well would
# make kernels slower to compile, and some of them, by reductions, dependent on the number of threads.
_PRANGE_ONLY = {
    "prange": True,
    "fusion": False,
    **dict.fromkeys(("comprehension", "inplace_binop", "numpy", "reduction", "setitem", "stencil"), False),
}

# Threads that wait for the others should soon sleep, not spin: where another process wants a core too, GNU OpenMP's
# habit of spinning long made a step eight times slower. Read when Numba starts its threads; a user's setting stands.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

KNOWN = ("0.68.",)  # versions of Numba that `whole` was tried with

_FOLDER = cache_folder()
_CACHE = _writable(_FOLDER)


def _pipeline() -> type[Plain]:
    """`whole.Kernel`, unless this version of Numba is another inside than those that it was written for.

    Whether that is so, a version that we do not know is asked once, by two small kernels that call a part.
    """
    try:
        from tinyres.kernels.whole import Kernel
    except (ImportError, AttributeError):
        return Plain
    if numba.__version__.startswith(KNOWN) or (_FOLDER / "whole").exists():
        return Kernel
    if (_FOLDER / "plain").exists():
        return Plain
    njit: Any = numba.njit
    part = njit(lambda x: x + 1.0, no_cpython_wrapper=True, forceinline=True)

    def total(n: Any) -> Any:
        sums = np.zeros(n)
        for k in numba.prange(n):
            sums[k] = part(k)
        return sums.sum()

    try:
        njit("float64(int64)", parallel=_PRANGE_ONLY, pipeline_class=Kernel)(total)
        same = bool(njit(total, pipeline_class=Kernel)(3) == 6)
    except Exception:  # of no narrower kind: what an unknown inside raises is unknown too, and either way `Plain` works
        same = False
    if _CACHE:
        with contextlib.suppress(OSError):  # a full disk: the next process asks again
            (_FOLDER / ("whole" if same else "plain")).touch()
    return Kernel if same else Plain


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """``numba.njit`` with this project's settings: no fast-math, contraction allowed, cached, GIL released.

    Fast-math would let LLVM assume that NaN and infinity do not occur; contraction (``a * b + c`` in one
    rounding) keeps them. Where the cache folder cannot be written, kernels are compiled anew by every
    process. Python calls a parallel kernel by `Parallel`.
    """
    if function is None:
        return lambda f: jit(f, **options)
    parallel = options.get("parallel", False)
    if parallel:
        options["parallel"] = _PRANGE_ONLY
    settings = {"fastmath": {"contract"}, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    options = {**settings, "cache": _CACHE, "pipeline_class": _Pipeline, **options}
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_FOLDER)  # read when the decorator runs, and only ours should land there
    try:
        kernel = numba.njit(**options)(function)
    finally:
        numba.config.CACHE_DIR = before
    return Parallel(kernel) if parallel else kernel


class _Pipeline(_pipeline()):  # type: ignore[misc]
    """The first kernel that is not in the cache has another process compile the last ones."""

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        if _CACHE:
            ahead.start(_FOLDER)
        return super().compile_extra(function)


class _Alias:
    """The memory of a read-only array, offered as writable."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # kept alive
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array, C-contiguous, aligned and of a type that Numba takes for writable.

    Read-only arrays are another type to Numba, for which it would compile every kernel once more.
    Kernels never write to an argument that is an input.
    """
    if array.flags.carray:
        return array
    if not (array.flags.c_contiguous and array.flags.aligned):
        copy = np.empty(array.shape, array.dtype)
        launch(np.copyto, copy, array)
        return copy
    return array if array.flags.writeable else np.asarray(_Alias(array))


def channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) with any strides -> C-contiguous (N, H, W, C), copied only if it is not that already."""
    return contiguous(x.transpose(0, 2, 3, 1))


def inner(function: Callable[..., Any]) -> Any:
    """`jit` for functions that only other kernels call: without the code that Python would call them by.

    A parallel kernel is best a bare ``prange`` around a call of one of these: Numba translates the body of a
    prange several times over. The loop's variable is unsigned there; ``np.int64(worker)`` keeps it from spoiling
    index arithmetic, and from asking for a second compilation.
    """
    return jit(function, no_cpython_wrapper=True, cache=False, forceinline=True, pipeline_class=Compiler)
