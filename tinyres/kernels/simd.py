"""Vectors in registers: a SIMD type for Numba.

Numba leaves vectorisation to LLVM, which does not vectorise the loops that matter here. So this file gives Numba a
type, `Vector`, that *is* a machine register, with a few operations. Kernels are then ordinary Python code on such
values::

    x = load(zero, array, i)        # `lanes` consecutive numbers of `array`, from flat index i
    store(out, i, fma(x, scale, shift))

`zero` is a vector of zeros that determines the type: `wide(array)` is as wide as the registers of this machine,
`single(array)` has one lane, for the rest of a row. `broad(array)` is several registers: LLVM makes several
instructions of each operation.

The table in `isa` has the width and the number of registers.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from tinyres.kernels import emit
from tinyres.kernels.isa import ACTIVE
from tinyres.kernels.memory import CACHE_LINE

WIDTH = ACTIVE.width  # bytes
BROAD = ACTIVE.broad * WIDTH


class Vector(types.Type):
    """Numba type of `lanes` numbers of type `dtype` in one register."""

    def __init__(self, dtype: types.Float, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, ir.VectorType(dmm[fe_type.dtype].get_value_type(), fe_type.lanes))


# ---------------------------------------------------------------- making vectors
def _zero_of_width(width: int):
    """Make an intrinsic that gives a zero vector of `width` bytes (0: one lane) of an array's dtype."""

    @intrinsic
    def zero(typingctx, array):
        vector = Vector(array.dtype, max(1, width * 8 // array.dtype.bitwidth))

        def codegen(context, builder, signature, args):
            return ir.Constant(context.get_value_type(vector), None)

        return vector(array), codegen

    return zero


wide = _zero_of_width(WIDTH)
broad = _zero_of_width(BROAD)
single = _zero_of_width(0)
cache_line = _zero_of_width(CACHE_LINE)  # for any register width: the bytes that memory delivers at once


@intrinsic
def lanes(typingctx, vector):
    """Number of lanes of a vector, a compile-time constant."""

    def codegen(context, builder, signature, args):
        return context.get_constant(types.intp, vector.lanes)

    return types.intp(vector), codegen


@intrinsic
def splat(typingctx, like, scalar):
    """Vector of the type of `like` with `scalar` in every lane."""

    def codegen(context, builder, signature, args):
        value = context.cast(builder, args[1], signature.args[1], like.dtype)
        return emit.broadcast(builder, value, context.get_value_type(like))

    return like(like, scalar), codegen


# ---------------------------------------------------------------- memory
def _data(context, builder, kind, value):
    """The address of an array's first element; an address is returned as it is."""
    return context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value


def _element(context, builder, signature, args, which):
    """The address of an element: argument `which` is an array, and the next one the flat index."""
    return builder.gep(_data(context, builder, signature.args[which], args[which]), [args[which + 1]])


def _loads(builder, at, step, vector, count):
    """A list of vectors, `step` numbers apart, from an address on."""
    values = []
    for _ in range(count):
        values.append(emit.load(builder, at, vector))
        at = builder.gep(at, [step])
    return values


@intrinsic
def address(typingctx, array, index):
    """The address of an element of a flat array. Functions below accept it in place of an array, with index 0 there.

    Numba counts references to an array, which takes noticeable time in a loop around a small product; it does not count
    addresses. So other code must keep the array alive: using an address inside the loop where it was taken is safe.
    """

    def codegen(context, builder, signature, args):
        return _element(context, builder, signature, args, 0)

    return types.CPointer(array.dtype)(array, types.intp), codegen


@intrinsic
def address_of(typingctx, like, number):
    """An address that Python has as a number, `ndarray.ctypes.data`, for the dtype of array `like`."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[1], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(like, types.int64), codegen


@intrinsic
def load(typingctx, like, array, index):
    """Load consecutive numbers from flat `index` of a C-contiguous array. No checks."""

    def codegen(context, builder, signature, args):
        return emit.load(builder, _element(context, builder, signature, args, 1), context.get_value_type(like))

    return like(like, array, types.intp), codegen


@intrinsic
def load_as(typingctx, like, array, index):
    """As `load`, from an array whose numbers have as many bytes as those of `like`, or half as many."""

    def codegen(context, builder, signature, args):
        vector = context.get_value_type(like)
        at = _element(context, builder, signature, args, 1)
        there = ir.VectorType(at.type.pointee, like.lanes)
        value = emit.load(builder, at, there)
        return value if there == vector else builder.fpext(value, vector)

    return like(like, array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, vector):
    """Store a vector at flat `index` of a C-contiguous array. No checks."""

    def codegen(context, builder, signature, args):
        emit.store(builder, args[2], _element(context, builder, signature, args, 0))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def stream(typingctx, array, index, vector):
    """As `store`, but past the caches, to memory with a register's alignment. Call `fence` before others read it."""

    def codegen(context, builder, signature, args):
        emit.store(builder, args[2], _element(context, builder, signature, args, 0), past_caches=True)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def fence(typingctx):
    """All earlier stores of this thread become visible to other threads before its later stores."""

    def codegen(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def copy(typingctx, out, at, array, start, count):
    """out[at : at + count] = array[start : start + count], flat and of one dtype. No checks."""

    def codegen(context, builder, signature, args):
        target, source = (_element(context, builder, signature, args, which) for which in (0, 2))
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        cgutils.raw_memcpy(builder, target, source, args[4], size)
        return context.get_dummy_value()

    return types.void(out, types.intp, array, types.intp, types.intp), codegen


@intrinsic
def clear(typingctx, out, at, count):
    """out[at : at + count] = 0, flat. No checks."""

    def codegen(context, builder, signature, args):
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        length = builder.mul(args[2], ir.Constant(args[2].type, size))
        cgutils.memset(builder, _element(context, builder, signature, args, 0), length, 0)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def loads(typingctx, like, array, index, step, count):
    """Tuple of `count` vectors (a literal), `step` numbers apart, from flat `index` on. No checks."""

    def codegen(context, builder, signature, args):
        at, vector = _element(context, builder, signature, args, 1), context.get_value_type(like)
        values = _loads(builder, at, args[3], vector, count.literal_value)
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(like, count.literal_value)(like, array, types.intp, types.intp, count), codegen


@intrinsic(prefer_literal=True)
def loads_within(typingctx, like, array, index, step, count, first, stop):
    """As `loads`, but vector k is zeros, and its memory is not read, unless 0 <= first + k < stop."""

    def codegen(context, builder, signature, args):
        _, _, _, step, _, row, stop = args
        vector, lanes = context.get_value_type(like), ir.VectorType(ir.IntType(1), like.lanes)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, [ir.PointerType(), ir.IntType(32), lanes, vector]),
            f"llvm.masked.load.v{like.lanes}{emit.suffix(vector)}.p0",
        )
        at = _element(context, builder, signature, args, 1)
        values, zero, align = [], ir.Constant(vector, None), ir.IntType(32)(like.dtype.bitwidth // 8)
        for _ in range(count.literal_value):
            inside = builder.icmp_unsigned("<", row, stop)  # as an unsigned number, a negative row is large
            address = builder.bitcast(at, vector.as_pointer())
            values.append(builder.call(function, [address, align, emit.broadcast(builder, inside, lanes), zero]))
            at, row = builder.gep(at, [step]), builder.add(row, row.type(1))
        return context.make_tuple(builder, signature.return_type, values)

    n = types.intp
    return types.UniTuple(like, count.literal_value)(like, array, n, n, count, n, n), codegen


@intrinsic
def stores(typingctx, array, index, step, vectors):
    """Store a tuple of vectors `step` numbers apart, from flat `index` on. No checks."""

    def codegen(context, builder, signature, args):
        at = _element(context, builder, signature, args, 0)
        for value in cgutils.unpack_tuple(builder, args[3], len(signature.args[3])):
            emit.store(builder, value, at)
            at = builder.gep(at, [args[2]])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vectors), codegen


@intrinsic
def stores_within(typingctx, array, index, step, vectors, count):
    """As `stores`, but only the first `count` vectors."""

    def codegen(context, builder, signature, args):
        _, _, step, vectors, count = args
        at = _element(context, builder, signature, args, 0)
        for k, value in enumerate(cgutils.unpack_tuple(builder, vectors, len(signature.args[3]))):
            with builder.if_then(builder.icmp_signed("<", count.type(k), count)):
                emit.store(builder, value, at)
            at = builder.gep(at, [step])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vectors, types.intp), codegen


@intrinsic
def transposed(typingctx, rows):
    """Transpose a tuple of tuples: the first result has the first element of each row."""

    def codegen(context, builder, signature, args):
        (rows,) = args
        kind, result = signature.args[0], signature.return_type
        columns = zip(
            *(
                cgutils.unpack_tuple(builder, row, len(kind.dtype))
                for row in cgutils.unpack_tuple(builder, rows, len(kind))
            ),
            strict=True,
        )
        return context.make_tuple(
            builder, result, [context.make_tuple(builder, result.dtype, list(c)) for c in columns]
        )

    return types.UniTuple(types.UniTuple(rows.dtype.dtype, len(rows)), len(rows.dtype))(rows), codegen


@intrinsic
def loads_turned(typingctx, like, array, index, step):
    """As `loads` of a square, as many vectors as each has lanes, but transposed: the columns instead of the rows.

    For each power of two, rows whose numbers differ by it exchange blocks of as many lanes (Eklundh 1972). This takes n
    log2(n) shuffles in registers.
    """

    def codegen(context, builder, signature, args):
        block = n = like.lanes
        rows = _loads(builder, _element(context, builder, signature, args, 1), args[3], context.get_value_type(like), n)
        while block > 1:
            block //= 2
            stay = [j if not j & block else j - block + n for j in range(n)]
            move = [j + block if not j & block else j + n for j in range(n)]
            for i in (i for i in range(n) if not i & block):
                a, b = rows[i], rows[i + block]
                rows[i], rows[i + block] = emit.shuffle(builder, a, b, stay), emit.shuffle(builder, a, b, move)
        return context.make_tuple(builder, signature.return_type, rows)

    return types.UniTuple(like, like.lanes)(like, array, types.intp, types.intp), codegen


def _prefetch(write: int):
    """Make an intrinsic that prefetches the cache line of an array's flat element."""

    @intrinsic
    def prefetch(typingctx, array, index):
        def codegen(context, builder, signature, args):
            byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            address = builder.bitcast(_element(context, builder, signature, args, 0), byte)
            builder.call(function, [address, number(write), number(2), number(1)])
            return context.get_dummy_value()

        return types.void(array, types.intp), codegen

    return prefetch


prefetch = _prefetch(0)
prefetch_to_write = _prefetch(1)


# ---------------------------------------------------------------- arithmetic
def _binary(instruction):
    """An intrinsic for two vectors, from a function that emits an instruction."""

    @intrinsic
    def operation(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return instruction(builder, *args)

        return a(a, b), codegen

    return operation


def _overload(symbol, operation):
    @overload(symbol)
    def vector_operator(a, b):
        return (lambda a, b: operation(a, b)) if isinstance(a, Vector) and a == b else None


_overload(operator.add, _binary(ir.IRBuilder.fadd))
_overload(operator.sub, _binary(ir.IRBuilder.fsub))
_overload(operator.mul, _binary(ir.IRBuilder.fmul))
_overload(operator.truediv, _binary(ir.IRBuilder.fdiv))

maximum = _binary(emit.maximum)  # in each lane; a if one of them is NaN


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c, with one rounding if the processor has this instruction."""

    def codegen(context, builder, signature, args):
        return emit.fma(builder, *args)

    return a(a, b, c), codegen


@intrinsic
def sqrt(typingctx, a):
    """Square root of each lane."""

    def codegen(context, builder, signature, args):
        return emit.call(builder, "sqrt", *args)

    return a(a), codegen


def _in_tuples(instruction):
    """An intrinsic for a tuple of vectors and either a second tuple or one vector, which is used for all."""

    @intrinsic
    def each(typingctx, values, others):
        def codegen(context, builder, signature, args):
            values = cgutils.unpack_tuple(builder, args[0], len(signature.args[0]))
            if isinstance(signature.args[1], Vector):
                others = [args[1]] * len(values)
            else:
                others = cgutils.unpack_tuple(builder, args[1], len(signature.args[1]))
            found = [instruction(builder, a, b) for a, b in zip(values, others, strict=True)]
            return context.make_tuple(builder, signature.return_type, found)

        return values(values, others), codegen

    return each


plus = _in_tuples(ir.IRBuilder.fadd)
larger = _in_tuples(emit.maximum)


@intrinsic
def where_positive(typingctx, test, a, b):
    """In each lane: a if test > 0, else b; also a if test is NaN, so that a NaN is not hidden."""

    def codegen(context, builder, signature, args):
        test, a, b = args
        return builder.select(builder.fcmp_unordered(">", test, ir.Constant(test.type, None)), a, b)

    return a(test, a, b), codegen


@intrinsic
def inside(typingctx, row, stop, a):
    """a if 0 <= row < stop, else zeros."""

    def codegen(context, builder, signature, args):
        row, stop, a = args
        known = builder.icmp_unsigned("<", row, stop)  # as an unsigned number, a negative row is large
        mask = emit.broadcast(builder, known, ir.VectorType(known.type, a.type.count))
        return builder.select(mask, a, ir.Constant(a.type, None))

    return a(types.intp, types.intp, a), codegen
