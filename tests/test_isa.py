"""Instruction sets: which one a process uses, and what it makes of it."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tinyres as tr
from tinyres.kernels import isa
from tinyres.kernels.isa import SETS, THERE, UnknownInstructionSet, available, choose

X86 = [{"sse2"}, {"sse2", "avx"}, {"sse2", "avx", "avx2"}, {"sse2", "avx2", "fma"}, {"sse2", "avx2", "fma", "avx512f"}]


@pytest.fixture
def on(monkeypatch):
    return lambda machine: monkeypatch.setattr(platform, "machine", lambda: machine)


def python(code, simd, **env):
    env = {**os.environ, "TINYRES_SIMD": simd, **env}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


# ---------------------------------------------------------------- which
@pytest.mark.parametrize(("features", "best"), [*zip(X86, ["sse2"] * 3 + ["avx2", "avx512"], strict=True)])
def test_the_best_that_is_there_is_used(on, features, best):
    on("x86_64")
    there = available(frozenset(features))
    assert choose("", there).name == choose("auto", there).name == best
    assert [s.name for s in there] == [s.name for s in SETS if s.needs <= features]
    for s in there:
        assert choose(s.name, there) is s


@pytest.mark.parametrize(("machine", "only"), [("arm64", "neon"), ("aarch64", "neon"), ("riscv64", "sse2")])
def test_other_processors_have_one(on, machine, only):
    """Of a processor that the table knows nothing of, all that is asked are 16 bytes that LLVM makes some code for."""
    on(machine)
    assert [s.name for s in available(frozenset())] == [only]


@pytest.mark.parametrize(
    ("word", "said"), [("avx512", "which this processor has not"), ("avx3", "which is no instruction set")]
)
def test_what_is_not_there_is_an_error_that_says_what_is(on, word, said):
    on("x86_64")
    with pytest.raises(UnknownInstructionSet, match=rf"TINYRES_SIMD: got '{word}', {said}; .* one of avx2, sse2$"):
        choose(word, available(frozenset({"sse2", "avx2", "fma"})))


def test_a_tile_fits_the_registers():
    for s in SETS:
        for vectors, rows in s.rows.items():
            assert rows * vectors + vectors + 1 + (not s.fma) <= s.registers, s.name


# ---------------------------------------------------------------- a process of its own
def test_the_command_says_which_and_what_is_wrong():
    run = subprocess.run([sys.executable, "-m", "tinyres", "--version"], capture_output=True, text=True)
    assert run.stdout == f"tinyres {tr.__version__}, kernels for {isa.ACTIVE.name}\n"
    code = "import sys, tinyres_command; sys.argv = ['tinyres', '--version']; tinyres_command.main()"
    run = python(code, "avx3")
    assert run.returncode == 1
    assert re.fullmatch(r"Error: TINYRES_SIMD: got 'avx3', .*\n", run.stderr)


def test_who_comes_too_late_is_told():
    """Numba makes code for one processor in a process."""
    if THERE[-1] == THERE[0]:
        pytest.skip("this processor has one instruction set")
    run = python("import numba; numba.njit(lambda x: x + 1)(1); import tinyres", THERE[-1])
    assert "already: import tinyres before" in run.stderr


# As the assemblers of x86-64 and ARM write them.
VECTOR = {"sse2": r"%xmm\d+", "avx2": r"%ymm\d+", "avx512": r"%zmm\d+", "neon": r"v\d+\.4s"}
BEYOND = {
    "sse2": r"%[yz]mm|\bv[a-z]+[ps][sd]\b",
    "avx2": r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|%k[0-7]|\{1to",
}  # of those that processes are lowered to
PRODUCT = r"(v?f?m(add\d+|ul)ps|fmla)\s"
NUMBER = r"broadcastss\s.*\(|movss\s.*\(|\{1to|\bs\d+(?=, )|ld1r"  # loaded to be multiplied by vectors
ON_THE_STACK = {"neon": r"st[rp]\tq|ld[rp]\tq.*\[sp"}


@pytest.fixture(scope="module", params=[*THERE, "neon"] if THERE[-1] == "sse2" else THERE)
def made(request, tmp_path_factory):
    """What a process of this instruction set has computed, and its machine code."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("reads the machine code of x86-64, and what is made there for ARM")
    env = {**os.environ, "TINYRES_CACHE": str(tmp_path_factory.mktemp(request.param))}
    env["TINYRES_SIMD"] = "auto" if request.param == "neon" else request.param
    command = [sys.executable, Path(__file__).parent / "support" / "at_width.py", request.param]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return SETS[[s.name for s in SETS].index(request.param)], json.loads(run.stdout)


def test_kernels_are_right_on_each(made):
    used, report = made
    assert report["name"] == used.name
    assert report["worst"] < 1e-5


def test_no_instruction_is_of_another_set(made):
    used, report = made
    for name, asm in report["asm"].items():
        assert re.search(VECTOR[used.name], asm), name
        if used.cpu:
            assert not (found := re.search(f".*({BEYOND[used.name]}).*", asm)), f"{name}: {found[0]}"


def loops(asm):
    """Bodies of innermost loops: what is between a label and the jump to it, without a label or jump in between."""
    lines, start = [line.strip() for line in asm.splitlines()], 0
    for i, line in enumerate(lines):
        if re.match(r"\.?\w+:", line):
            start = i
        elif re.match(r"j|b\.|cb", line) and line.split()[-1] == lines[start].split(":")[0]:
            yield lines[start + 1 : i]


def tiles(used, asm):
    """Innermost loops of register tiles, by how many vectors a row has: so many are multiplied by each number that is
    spread over a vector."""
    for body in loops(asm):
        products = sum(bool(re.match(PRODUCT, line)) for line in body)
        numbers = sum(len(re.findall(NUMBER, line)) for line in body)
        for vectors, rows in used.rows.items():
            even = max(r for r in range(1, rows + 1) if used.width // 4 % r == 0)
            whole = not products % (rows * vectors) or not products % (even * vectors)
            if whole and products == numbers * vectors > 0:
                yield vectors, body


def test_a_tile_keeps_its_sums_in_registers(made):
    """In its inner loop no vector is stored, and none loaded from the stack, where what has no register would go."""
    used, report = made
    vector = VECTOR[used.name]
    stack = ON_THE_STACK.get(used.name, rf"{vector}, .*\(|\(%rsp.*{vector}")
    for name, asm in report["asm"].items():
        found = [*tiles(used, asm)]
        assert {vectors for vectors, _ in found} == (set() if name == "norm" else {*used.rows}), name
        for _, body in found:
            moved = [line for line in body if re.search(stack, line)]
            assert not moved, f"{name}: {moved}"


# ---------------------------------------------------------------- without Numba's inside
PLAIN = """
import hashlib
import numba
from numba.core.codegen import JITCPUCodegen, JITCodeLibrary

if {changed}:  # a version of Numba in which nobody may exchange this
    numba.__version__ = "9.9.9"
    JITCPUCodegen._library_class = property(lambda self: JITCodeLibrary)

import numpy as np
from tinyres.kernels import compile, conv, elementwise

x, w = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in [(4, 3, 9, 9), (20, 3, 3, 3)])
y = elementwise.relu(conv.conv2d(x, w, stride=(1, 1), padding=(1, 1)))
print(compile._Pipeline.__base__.__name__, hashlib.sha256(y.tobytes()).hexdigest())
"""


def test_another_numba_computes_the_same(tmp_path):
    """Where its inside is not what we know, its compiler is used as it is: kernels start later, and give the same."""
    runs = [
        python(PLAIN.format(changed=changed), "auto", TINYRES_CACHE=str(tmp_path / str(changed)))
        for changed in (False, True, True)
    ]
    assert [run.stderr for run in runs] == ["", "", ""]
    (name, bits), *others = (run.stdout.split() for run in runs)
    assert name == "Kernel"
    assert others == [["Compiler", bits]] * 2  # the second time from memory
