"""A kernel as one piece of machine code: the functions that it calls are merged into it before LLVM optimises.

Kernels start in half the time this way, and compute the same. It relies on internals of Numba: if these have changed,
`compile` uses Numba's compiler without it.
"""

import gc
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import cpu_target


class _Part(JITCodeLibrary):
    """A function that a kernel calls: linked into the kernel, and optimised and compiled only as a part of it.

    Numba would optimise each function on its own, then again as a part of each function that calls it. A parallel loop
    would be optimised three times: its body, the wrapper of the body, and the wrapper of the wrapper.
    """

    def _optimize_functions(self, module: Any) -> None:
        pass

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        if self._disable_inspection:  # it comes from the cache: it is another kernel, which Python may call as well
            return super()._finalize_final_module()
        # Numba will write the addresses of the functions' environments, so these must exist already.
        module = self._codegen._create_empty_module(self.name)
        for variable in self._final_module.global_variables:
            if variable.name.startswith("_ZN08NumbaEnv"):
                cpu_target.target_context.declare_env_global(module, variable.name)
        self._codegen._add_module(llvm.parse_assembly(str(module)))
        self._finalized = True
        return None


class Kernel(Compiler):
    """Numba's compiler, but only the kernel's own library is complete: those of other functions are its parts."""

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        codegen = self.state.targetctx.codegen()
        whole = JITCodeLibrary(codegen, function.__qualname__)
        whole.enable_object_caching()
        self.state["library"] = whole
        before, collecting = codegen._library_class, gc.isenabled()
        codegen._library_class = _Part  # only here: the thread that compiles holds Numba's lock
        gc.disable()  # most new objects stay in use until the end: searching for unused ones is slow and finds few
        try:
            return super().compile_extra(function)
        finally:
            codegen._library_class = before
            if collecting:
                gc.enable()
