"""LLVM's instructions for vectors: each function emits one, or a few that belong together.

Kernels use them by the intrinsics of `simd` and `tile`.
"""

from llvmlite import ir
from numba.core import cgutils

from tinyres.kernels.isa import ACTIVE


def load(builder, address, vector):
    value = builder.load(builder.bitcast(address, vector.as_pointer()))
    value.align = 4 if isinstance(vector.element, ir.FloatType) else 8
    return value


def store(builder, value, address, *, past_caches=False):
    instruction = builder.store(value, builder.bitcast(address, value.type.as_pointer()))
    instruction.align = 4 if isinstance(value.type.element, ir.FloatType) else 8
    if past_caches:
        instruction.align = ACTIVE.width
        instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))


def shuffle(builder, a, b, lanes):
    """A vector of the lanes with these numbers; the lanes of b are counted after those of a."""
    kind = ir.VectorType(ir.IntType(32), len(lanes))
    return builder.shuffle_vector(a, b, ir.Constant(kind, lanes))


def broadcast(builder, scalar, vector):
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), lanes)


def maximum(builder, a, b):
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


def fma(builder, a, b, c):
    if not ACTIVE.fma:
        return builder.fadd(builder.fmul(a, b), c)
    return call(builder, "fma", a, b, c)


def call(builder, name, *vectors):
    """Call LLVM's operation of this name, declared by hand: llvmlite's declare_intrinsic supports only scalars."""
    (kind,) = {vector.type for vector in vectors}
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(vectors)), f"llvm.{name}.v{kind.count}{suffix(kind)}"
    )
    return builder.call(function, vectors)


def suffix(vector):
    """The end of the name of an operation that LLVM has for several types."""
    return "f32" if isinstance(vector.element, ir.FloatType) else "f64"
