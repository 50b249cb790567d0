"""How kernels are compiled, and where the machine code is stored.

Numba's own cache notices edits in the file of a function, but not in the files of the functions that it calls. So the
name of the folder depends on everything that the code depends on: the source of every kernel, the versions of Numba and
llvmlite, the processor, and the instruction set in use. Any edit gives a new, empty folder.
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
from tinyres.kernels.interrupt import uninterrupted
from tinyres.kernels.isa import ACTIVE, features
from tinyres.kernels.threads import Parallel


def cache_folder() -> Path:
    """The folder with the compiled kernels of exactly this source on exactly this processor."""
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


# Only loops that are written as prange run in parallel. If every array expression became a parallel loop too, kernels
# would compile more slowly, and the results of some reductions would depend on the number of threads.
_PRANGE_ONLY = {
    "prange": True,
    "fusion": False,
    **dict.fromkeys(("comprehension", "inplace_binop", "numpy", "reduction", "setitem", "stencil"), False),
}

# Threads that wait for the others should soon sleep, not spin. GNU OpenMP spins for a long time by default: when
# another process needed a core too, this made a step eight times slower. Numba reads it when it starts its threads; a
# user's setting is kept.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

KNOWN = ("0.68.",)  # versions of Numba that `whole` was tested with

_FOLDER = cache_folder()
_CACHE = _writable(_FOLDER)


def _pipeline() -> type[Compiler]:
    """`whole.Kernel`, or Numba's compiler if this version of Numba has other internals than those it was written for.

    For an unknown version, two small test kernels, one of which calls the other, decide this once.
    """
    try:
        from tinyres.kernels.whole import Kernel
    except (ImportError, AttributeError):
        return Compiler
    if numba.__version__.startswith(KNOWN) or (_FOLDER / "whole").exists():
        return Kernel
    if (_FOLDER / "plain").exists():
        return Compiler
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
    except Exception:  # any error: unknown internals may raise anything, and Numba's compiler always works
        same = False
    if _CACHE:
        with contextlib.suppress(OSError):  # for example a full disk: the next process tests again
            (_FOLDER / ("whole" if same else "plain")).touch()
    return Kernel if same else Compiler


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """``numba.njit`` with this project's settings: no fast-math, contraction allowed, cached, without the GIL.

    Fast-math would let LLVM assume that NaN and infinity do not occur. Contraction computes ``a * b + c`` with one
    rounding, and is correct for them. If the cache folder cannot be written, every process compiles the kernels again.
    Python calls a parallel kernel through `Parallel`.
    """
    if function is None:
        return lambda f: jit(f, **options)
    parallel = options.get("parallel", False)
    if parallel:
        options["parallel"] = _PRANGE_ONLY
    settings = {"fastmath": {"contract"}, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    options = {**settings, "cache": _CACHE, "pipeline_class": _Pipeline, **options}
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_FOLDER)  # the decorator reads it; only these kernels should be stored there
    try:
        kernel = numba.njit(**options)(function)
    finally:
        numba.config.CACHE_DIR = before
    if not numba.config.DISABLE_JIT:  # else it is the function itself
        kernel.compile = uninterrupted()(kernel.compile)  # or load it from the cache
    return Parallel(kernel) if parallel else kernel


class _Pipeline(_pipeline()):  # type: ignore[misc]
    """Before the first kernel that is not in the cache is compiled, start the process that compiles the last ones."""

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        if _CACHE:
            ahead.start(_FOLDER)
        return super().compile_extra(function)


def inner(function: Callable[..., Any]) -> Any:
    """`jit` for functions that only other kernels call. It leaves out the code for calls from Python.

    A parallel kernel should be only a ``prange`` with a call of such a function in its body, since Numba compiles the
    body of a prange several times. The loop variable of a prange is unsigned. ``np.int64(worker)`` converts it:
    otherwise index arithmetic would be unsigned too, and the function would be compiled for a second type.
    """
    return jit(function, no_cpython_wrapper=True, cache=False, forceinline=True, pipeline_class=Compiler)
