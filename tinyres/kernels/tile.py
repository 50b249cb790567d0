"""The register tile that every convolution uses, and prefetching while it runs."""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyres.kernels import emit
from tinyres.kernels.compile import inner
from tinyres.kernels.isa import ACTIVE
from tinyres.kernels.simd import WIDTH, address, cache_line, lanes, prefetch, prefetch_to_write


class Tile(NamedTuple):
    """The size of a register tile, and so the size of the blocks that are packed for it."""

    rows: int
    columns: int  # the lanes of one or two vectors

    @classmethod
    def of(cls, dtype, channels, *, even=False):
        """The tile for a matrix with this many columns: two vectors wide, unless they are an odd number of vectors.

        With `even`, the number of lanes of a vector is a multiple of its rows.
        """
        lanes = WIDTH // dtype.itemsize
        vectors = 2 if -(-channels // lanes) % 2 == 0 else 1
        return cls(_rows(vectors, lanes, even), vectors * lanes)


def _rows(vectors, lanes, even):
    most = ACTIVE.rows[vectors]
    return max(rows for rows in range(1, most + 1) if lanes % rows == 0) if even else most


class Matrix(NamedTuple):
    """The places in memory of a factor of a product, or of its result.

    Row r starts at `data` + `rows[r]`, and run i of the sum starts `runs[i]` after that. `rows` or `runs` is the
    address of a table, or a number: the distance from one row, or run, to the next.
    """

    data: Any
    rows: Any
    runs: Any
    step: int  # from one number to the next within a run


def _register_tile(vector_count, *, even=False):
    """A small matrix product: the sums are kept in registers, then stored in `out`, or added to it.

    With the tile's R rows, `row[r] = min(first + r, last)`, and as many columns as `vector_count` vectors have lanes::

        acc[:, :] = 0
        for i in range(runs):
            for k in range(length):
                for r in range(R):
                    acc[r, :] += a[a.rows[row[r]] + a.runs[i] + k * a.step] * b[b.runs[i] + k * columns:]
        for r in range(R):
            out[out.rows[row[r]]:] = acc[r, :] + (out[out.rows[row[r]]:] if add else 0)

    In `b`, all columns of one k are stored together, then all of the next k. A table says where the rows of `a` are:
    this makes im2col *implicit*, since a row is the window of a pixel and its numbers are read from the image. After
    row `last`, the last row is computed and stored again, so that an incomplete tile needs no code of its own. Each
    step of k costs R scalar loads, V vector loads and V R fused multiply-adds, where V is the number of vectors. No
    checks.
    """

    @intrinsic
    def tile(typingctx, zero, a, b, out, rows, sums, add):
        """`rows` is (first, last), or only the first if all R rows exist; `sums` is (runs, length)."""
        ragged, row_count = isinstance(rows, types.BaseTuple), _rows(vector_count, zero.lanes, even)

        def codegen(context, builder, signature, args):
            _, a, b, out, first, sums, add = args
            a, b, out = (Matrix(*cgutils.unpack_tuple(builder, value)) for value in (a, b, out))
            runs, length = cgutils.unpack_tuple(builder, sums)
            if ragged:
                first, last = cgutils.unpack_tuple(builder, first)
            vector = context.get_value_type(zero)
            index = context.get_value_type(types.intp)

            def element(data, *offsets):
                for offset in offsets:
                    data = builder.gep(data, [offset])
                return data

            def lookup(table, position):
                if table.type == index:
                    return builder.mul(table, position)
                return builder.load(element(table, position))

            def vectors(address):
                return [element(address, ir.Constant(index, v * vector.count)) for v in range(vector_count)]

            a_row, out_row = [], []
            for r in range(row_count):
                row = builder.add(first, ir.Constant(index, r))
                if ragged:
                    row = builder.select(builder.icmp_signed("<", row, last), row, last)
                a_row.append(element(a.data, lookup(a.rows, row)))
                out_row.append(element(out.data, lookup(out.rows, row)))

            # The sums are stack variables here; LLVM's mem2reg turns them into registers.
            none = ir.Constant(vector, None)
            acc = [[cgutils.alloca_once_value(builder, none) for _ in range(vector_count)] for _ in range(row_count)]
            with cgutils.for_range(builder, runs) as i:
                a_run = [element(row, lookup(a.runs, i.index)) for row in a_row]
                b_run = element(b.data, lookup(b.runs, i.index))
                with cgutils.for_range(builder, length) as k:
                    a_at = builder.mul(k.index, a.step)
                    b_at = builder.mul(k.index, ir.Constant(index, vector_count * vector.count))
                    columns = [emit.load(builder, address, vector) for address in vectors(element(b_run, b_at))]
                    for r in range(row_count):
                        scalar = emit.broadcast(builder, builder.load(element(a_run[r], a_at)), vector)
                        for slot, column in zip(acc[r], columns, strict=True):
                            builder.store(emit.fma(builder, scalar, column, builder.load(slot)), slot)
            with builder.if_then(add):  # load all before the first store: rows after `last` must not read the new value
                for row, slots in zip(out_row, acc, strict=True):
                    for address, slot in zip(vectors(row), slots, strict=True):
                        builder.store(builder.fadd(emit.load(builder, address, vector), builder.load(slot)), slot)
            for row, slots in zip(out_row, acc, strict=True):
                for address, slot in zip(vectors(row), slots, strict=True):
                    emit.store(builder, builder.load(slot), address)
            return context.get_dummy_value()

        return types.void(zero, a, b, out, rows, sums, types.boolean), codegen

    return tile


tile_of_one = _register_tile(1)
tile_of_two = _register_tile(2)
even_tile_of_one = _register_tile(1, even=True)
even_tile_of_two = _register_tile(2, even=True)


# ---------------------------------------------------------------- prefetching
class Ahead(NamedTuple):
    """Memory that will be read soon, and is brought to the cache a little in each turn of a loop."""

    data: Any  # the address of the first row
    step: int  # from one row to the next,
    width: int  # numbers to bring of each row,
    rows: int  # and rows in each turn


def _fetch(bring):
    @inner
    def fetch(ahead, turn):
        """Prefetch the rows of this turn; the first turn is 0."""
        for row in range(turn * ahead.rows, (turn + 1) * ahead.rows):
            for i in range(0, ahead.width, lanes(cache_line(ahead.data))):
                bring(ahead.data, row * ahead.step + i)

    return fetch


fetch = _fetch(prefetch)
fetch_to_write = _fetch(prefetch_to_write)


@inner
def ahead_of(array, start, stop, turns):
    """Prefetch everything from `start` to `stop`, in this number of turns."""
    n = lanes(cache_line(array))
    return Ahead(address(array, start), n, n, -(-(stop - start) // (n * turns)))
