"""Instruction sets: what registers a processor has, and the sizes of kernels that fit them.

What is fast on one processor is slow on another for one reason above all: registers. The inner loop of a convolution
holds a tile of sums in them; one vector too many, and a sum is stored and loaded again at each step. So all sizes that
follow from the registers are in one table here, and every kernel takes them from its row.

A process uses the best instruction set of its processor, or a lesser one that the environment variable ``TINYRES_SIMD``
names: so kernels for all are tested and timed on one machine. Then LLVM is told as well: no instruction beyond it is
made in this process. Results have the same bits within an instruction set, not from one to another: vectors of other
lengths add in another order.
"""

import os
import platform
from typing import NamedTuple

import llvmlite.binding as llvm
import numba
from numba.core.registry import cpu_target

__all__ = ["ACTIVE", "SETS", "THERE", "InstructionSet", "UnknownInstructionSet", "available", "features"]


class InstructionSet(NamedTuple):
    """A row of the table."""

    name: str
    needs: frozenset[str]  # features that make it, by LLVM's names
    cpu: str | None  # LLVM's name of a processor that has these and little more; None where no process is lowered to it
    width: int  # bytes of a vector
    registers: int  # that hold one
    fma: bool  # whether a * b + c is one instruction
    rows: dict[int, int]  # of the register tile, by how many vectors each has
    broad: int  # vectors of a broad vector, see `simd`


# A tile of R rows and V vectors holds R V sums, V vectors of columns and one number of a row in all lanes: R V + V + 1
# registers. And it needs R V sums in flight, or a multiply-add waits for the one before: 4 cycles, two a cycle, mostly.
SETS = (
    InstructionSet("avx512", frozenset({"avx512f"}), None, 64, 32, True, {1: 8, 2: 8}, broad=4),
    InstructionSet("avx2", frozenset({"avx2", "fma"}), "x86-64-v3", 32, 16, True, {1: 12, 2: 6}, broad=2),
    InstructionSet("sse2", frozenset({"sse2"}), "x86-64", 16, 16, False, {1: 6, 2: 4}, broad=2),
    InstructionSet("neon", frozenset({"neon"}), None, 16, 32, True, {1: 8, 2: 8}, broad=2),
)
"""From the best to the least of each kind of processor."""

VARIABLE = "TINYRES_SIMD"


class UnknownInstructionSet(ImportError):
    """TINYRES_SIMD names what this processor has not."""


def features() -> frozenset[str]:
    """Features that Numba compiles for, e.g. ``{"avx2", "fma", ...}``, by LLVM's names.

    Follows ``NUMBA_CPU_FEATURES`` and ``NUMBA_CPU_NAME`` where they are set.
    """
    if numba.config.CPU_FEATURES is not None:
        names = numba.config.CPU_FEATURES.split(",")
        return frozenset(name[1:] for name in names if name.startswith("+"))
    if numba.config.CPU_NAME is not None:
        return frozenset()
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def available(present: frozenset[str]) -> list[InstructionSet]:
    """Those that a processor with these features has, the best first; one at least."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    least = SETS[3 if arm else 2]  # also what is left of other kinds of processors: all have 16 registers of 16 bytes
    return [s for s in SETS if s is least or (s.needs <= present and (s.name == "neon") == arm)]


def choose(word: str, there: list[InstructionSet]) -> InstructionSet:
    """The set of that name; the best, where it is "auto" or empty."""
    if word in ("", "auto"):
        return there[0]
    for candidate in there:
        if candidate.name == word:
            return candidate
    known = any(candidate.name == word for candidate in SETS)
    names = ", ".join(candidate.name for candidate in there)
    raise UnknownInstructionSet(
        f"{VARIABLE}: got {word!r}, {'which this processor has not' if known else 'which is no instruction set'}; "
        f"expected auto or one of {names}"
    )


def _lower(to: InstructionSet, *, asked: bool) -> None:
    """Have Numba compile for any processor that has these instructions, and not for this one; in all of this process.

    Also where this one has no more: what LLVM knows of a Zen 3 makes it keep a sum of a tile on the stack.
    """
    before = numba.config.CPU_NAME, numba.config.CPU_FEATURES
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = to.cpu, ""
    *_, beyond = cpu_target.target_context.codegen().magic_tuple()  # features, as they were when it was first asked
    if beyond and not asked:
        numba.config.CPU_NAME, numba.config.CPU_FEATURES = before
    elif beyond:
        raise UnknownInstructionSet(
            f"{VARIABLE}: got {to.name!r}, but Numba has compiled for this processor already: import tinyres before"
        )


_there = available(features())
ACTIVE = choose(os.environ.get(VARIABLE, ""), _there)
"""What kernels of this process are made for."""

THERE = tuple(s.name for s in _there)
"""What ``TINYRES_SIMD`` may name, the best first."""

_asked = ACTIVE is not _there[0]
if _asked or (ACTIVE.cpu and numba.config.CPU_NAME is None and numba.config.CPU_FEATURES is None):
    _lower(ACTIVE, asked=_asked)
