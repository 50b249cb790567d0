"""Python functions of numbers, which kernels run on vectors.

Such a function runs once, when a kernel is compiled, with placeholders that record its operations as instructions. A
test can call it with numbers.
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


class _Traced:
    """A placeholder for a vector, which records the operations on it as instructions."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def _emit(self, operation, a, b):
        """A number becomes a vector with it in each lane. Contraction makes one instruction of a product and a sum."""
        kind = self.value.type
        a, b = (v.value if isinstance(v, _Traced) else kind([v] * kind.count) for v in (a, b))
        return _Traced(self.builder, getattr(self.builder, operation)(a, b, flags=("contract",)))

    def __add__(self, other):
        return self._emit("fadd", self, other)

    def __sub__(self, other):
        return self._emit("fsub", self, other)

    def __mul__(self, other):
        return self._emit("fmul", self, other)

    __rmul__ = __mul__


def traced(function, count):
    """From a function of some numbers with `count` results, make the same function of vectors, in tuples.

    The function may only add, subtract and multiply its arguments and constants, without branches on their values.
    """

    @intrinsic
    def operation(typingctx, vectors):
        def codegen(context, builder, signature, args):
            given = cgutils.unpack_tuple(builder, args[0], len(signature.args[0]))
            found = function(*(_Traced(builder, value) for value in given))
            return context.make_tuple(builder, signature.return_type, [v.value for v in found])

        return types.UniTuple(vectors.dtype, count)(vectors), codegen

    return operation
