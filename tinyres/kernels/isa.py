"""Instruction sets: the registers of a processor, and the sizes of kernels that fit them.

Registers are the main reason why code that is fast on one processor is slow on another. The inner loop of a convolution
holds a tile of sums in them; with one vector too many, a sum is stored and loaded again at each step. So one table here
has all sizes that depend on the registers, and every kernel takes its sizes from the row in use.

A process uses the best instruction set of its processor, or a lesser one that the environment variable ``TINYRES_SIMD``
names. This way kernels for all sets can be tested and timed on one machine. LLVM is then told too, so the process
contains no instruction outside the set. Results are equal to the last bit for the same instruction set, but not for two
sets: vectors of different lengths add in different orders.
"""

import os
import platform
from typing import NamedTuple

import llvmlite.binding as llvm
import numba
from numba.core.registry import cpu_target

__all__ = ["ACTIVE", "SETS", "THERE", "InstructionSet", "UnknownInstructionSet", "available", "features"]


class InstructionSet(NamedTuple):
    """A row of the table: one instruction set."""

    name: str
    needs: frozenset[str]  # processor features that it requires, by LLVM's names
    cpu: str | None  # LLVM's name of a processor with little more than these; None if it is never a lesser set
    width: int  # bytes of a vector
    registers: int  # number of vector registers
    fma: bool  # whether a * b + c is one instruction
    rows: dict[int, int]  # rows of the register tile, for each number of vectors in a row
    broad: int  # vectors in a broad vector, see `simd`


# A tile of R rows and V vectors holds R V sums, V vectors of columns, and one number of a row in all lanes: R V + V + 1
# registers. A multiply-add takes 4 cycles on most processors, and two can start in each cycle, so the R V sums must be
# enough to keep both units busy.
SETS = (
    InstructionSet("avx512", frozenset({"avx512f"}), None, 64, 32, True, {1: 8, 2: 8}, broad=4),
    InstructionSet("avx2", frozenset({"avx2", "fma"}), "x86-64-v3", 32, 16, True, {1: 12, 2: 6}, broad=2),
    InstructionSet("sse2", frozenset({"sse2"}), "x86-64", 16, 16, False, {1: 6, 2: 4}, broad=2),
    InstructionSet("neon", frozenset({"neon"}), None, 16, 32, True, {1: 8, 2: 8}, broad=2),
)
"""All instruction sets: for each kind of processor, the best first."""

VARIABLE = "TINYRES_SIMD"


class UnknownInstructionSet(ImportError):
    """TINYRES_SIMD names an instruction set that this processor does not have."""


def features() -> frozenset[str]:
    """Processor features that Numba compiles for, e.g. ``{"avx2", "fma", ...}``, by LLVM's names.

    ``NUMBA_CPU_FEATURES`` and ``NUMBA_CPU_NAME`` change them, if they are set.
    """
    if numba.config.CPU_FEATURES is not None:
        names = numba.config.CPU_FEATURES.split(",")
        return frozenset(name[1:] for name in names if name.startswith("+"))
    if numba.config.CPU_NAME is not None:
        return frozenset()
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def available(present: frozenset[str]) -> list[InstructionSet]:
    """The sets that a processor with these features has, the best first; at least one."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    least = SETS[3 if arm else 2]  # also for other kinds of processors: all have 16 registers of 16 bytes
    return [s for s in SETS if s is least or (s.needs <= present and (s.name == "neon") == arm)]


def choose(word: str, there: list[InstructionSet]) -> InstructionSet:
    """The set with this name; the best one for "auto" or an empty name."""
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
    """Make Numba compile for any processor with these instructions, instead of this one, in the whole process.

    This also happens if this processor has no more than these: with LLVM's model of Zen 3, one sum of a tile is kept on
    the stack.
    """
    before = numba.config.CPU_NAME, numba.config.CPU_FEATURES
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = to.cpu, ""
    *_, beyond = cpu_target.target_context.codegen().magic_tuple()  # the features when it was first asked
    if beyond and not asked:
        numba.config.CPU_NAME, numba.config.CPU_FEATURES = before
    elif beyond:
        raise UnknownInstructionSet(
            f"{VARIABLE}: got {to.name!r}, but Numba has compiled for this processor already: import tinyres before"
        )


_there = available(features())
ACTIVE = choose(os.environ.get(VARIABLE, ""), _there)
"""The instruction set of the kernels in this process."""

THERE = tuple(s.name for s in _there)
"""The values that ``TINYRES_SIMD`` may have, the best first."""

_asked = ACTIVE is not _there[0]
if _asked or (ACTIVE.cpu and numba.config.CPU_NAME is None and numba.config.CPU_FEATURES is None):
    _lower(ACTIVE, asked=_asked)
