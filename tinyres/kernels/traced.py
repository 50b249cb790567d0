"""Python functions of numbers, as kernels run them on vectors.

Such a function is run once, when a kernel is compiled, on stand-ins that write down what is done to them as
instructions. A test calls it with numbers.
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


class _Traced:
    """A vector in Python, which writes down what is done to it as instructions."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def _emit(self, operation, a, b):
        """Numbers are the same in each lane. Contraction makes one instruction of a product and a sum."""
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
    """Of a function of some numbers, which gives so many, the same of vectors, in tuples.

    It adds, subtracts and multiplies, what it is given and constants, and decides nothing by their values.
    """

    @intrinsic
    def operation(typingctx, vectors):
        def codegen(context, builder, signature, args):
            given = cgutils.unpack_tuple(builder, args[0], len(signature.args[0]))
            found = function(*(_Traced(builder, value) for value in given))
            return context.make_tuple(builder, signature.return_type, [v.value for v in found])

        return types.UniTuple(vectors.dtype, count)(vectors), codegen

    return operation
