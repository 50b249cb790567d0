"""How kernels are compiled and where the machine code is kept.

Numba's own cache notices edits in the file that holds a function, not in the files that function
calls. So the folder is named after everything the code depends on: the source of every kernel, the
versions of Numba and llvmlite, the processor, and the instruction set in use. An edit anywhere gives a
new, empty folder.
"""

import contextlib
import gc
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
import platformdirs
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import cpu_target

from tinyres.kernels.isa import ACTIVE, features
from tinyres.kernels.threads import Parallel


def cache_folder() -> Path:
    """Folder that holds the compiled kernels of exactly this source on exactly this processor."""
    key = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        key.update(source.name.encode() + source.read_bytes())
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

_FOLDER = cache_folder()
_CACHE = _writable(_FOLDER)


class _Part(JITCodeLibrary):
    """What a kernel calls: linked into the kernel, and only there optimised and made machine code.

    Numba would do that to each function for itself, then once more as a part of each function that calls it, and to a
    parallel loop three times over: to its body, to the wrapper of the body, and to the wrapper of the wrapper.
    """

    def _optimize_functions(self, module: Any) -> None:
        pass

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        if self._disable_inspection:  # it comes from the cache: another kernel, which Python may call as well
            return super()._finalize_final_module()
        # Numba will write down where the functions' environments are, so those must have a place already.
        module = self._codegen._create_empty_module(self.name)
        for variable in self._final_module.global_variables:
            if variable.name.startswith("_ZN08NumbaEnv"):
                cpu_target.target_context.declare_env_global(module, variable.name)
        self._codegen._add_module(llvm.parse_assembly(str(module)))
        self._finalized = True
        return None


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits meanwhile: LLVM calls back into Python, and what is raised there is printed and lost."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda *signal_and_frame: came.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for one in came:
            handler(*one)


class _Kernel(Compiler):
    """Numba's compiler, but the kernel's own library is the only whole one: those made on the way are its parts."""

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        codegen = self.state.targetctx.codegen()
        whole = JITCodeLibrary(codegen, function.__qualname__)
        whole.enable_object_caching()
        self.state["library"] = whole
        before, collecting = codegen._library_class, gc.isenabled()
        codegen._library_class = _Part  # only here: whoever compiles holds Numba's lock
        gc.disable()  # most of what is made is in use to the end: to look for what is not takes long and finds little
        try:
            with _uninterrupted():
                return super().compile_extra(function)
        finally:
            codegen._library_class = before
            if collecting:
                gc.enable()


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
    options = {**settings, "cache": _CACHE, "pipeline_class": _Kernel, **options}
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_FOLDER)  # read when the decorator runs, and only ours should land there
    try:
        kernel = numba.njit(**options)(function)
    finally:
        numba.config.CACHE_DIR = before
    return Parallel(kernel) if parallel else kernel


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
    array = np.ascontiguousarray(array) if array.flags.aligned else array.copy(order="C")
    return array if array.flags.writeable else np.asarray(_Alias(array))


def inner(function: Callable[..., Any]) -> Any:
    """`jit` for functions that only other kernels call: without the code that Python would call them by.

    A parallel kernel is best a bare ``prange`` around a call of one of these: Numba translates the body of a
    prange several times over. The loop's variable is unsigned there; ``np.int64(worker)`` keeps it from spoiling
    index arithmetic, and from asking for a second compilation.
    """
    return jit(function, no_cpython_wrapper=True, cache=False, forceinline=True, pipeline_class=Compiler)
