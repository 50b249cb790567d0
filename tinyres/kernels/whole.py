"""A kernel as one piece of machine code: what it calls is made a part of it before LLVM optimises.

Kernels start in half the time so, and compute the same. It rests on what Numba keeps to itself: where that is not as it
was, `compile` does without.
"""

import gc
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from numba.core.codegen import JITCodeLibrary
from numba.core.registry import cpu_target

from tinyres.kernels.plain import Plain


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


class Kernel(Plain):
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
            return super().compile_extra(function)
        finally:
            codegen._library_class = before
            if collecting:
                gc.enable()
