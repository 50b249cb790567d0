"""Instruction sets: which one a process uses, and what it makes of it."""

import json
import os
import platform
import re
import subprocess
import sys

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


KERNELS = """
import json, sys
import numpy as np
from tinyres import kernels, reference
from tinyres.kernels import conv, isa, norm, weight_grad, winograd

rng = np.random.default_rng(0)
worst = 0.0

def compare(name, *args, **options):
    global worst
    results, expected = (getattr(functions, name)(*args, **options) for functions in (kernels, reference))
    if not isinstance(results, tuple):
        results, expected = (results,), (expected,)
    for r, e in zip(results, expected, strict=True):
        if e is not None:
            assert r.shape == e.shape, name
            worst = max(worst, float(np.abs(r - e).max() / max(1, np.abs(e).max())))
    return results

for c, o in [(3, 16), (17, 5), (16, 33), (24, 24)]:
    x, w, dy, b = (rng.standard_normal(s, np.float32) for s in [(2, c, 7, 9), (o, c, 3, 3), (2, o, 4, 5), (o,)])
    options = {"stride": (2, 2), "padding": (1, 1)}
    compare("conv2d", x, w, b, **options)
    compare("conv2d_input_grad", dy, w, x.shape, **options)
    compare("conv2d_weight_grad", dy, x, w.shape, **options)
    compare("batch_norm_statistics", x)
    v = [rng.uniform(0.5, 1, c).astype(np.float32) for _ in range(4)]
    y, = compare("batch_norm_apply", x, *v[:3], x, relu=True)
    compare("batch_norm_grad", y, x, y, *v, training=True, relu=True, residual=True)
    compare("relu", x)
for c, o in [(32, 16), (16, 48)]:
    x, w, dy, b = (rng.standard_normal(s, np.float32) for s in [(3, c, 9, 10), (o, c, 3, 3), (3, o, 9, 10), (o,)])
    options = {"stride": (1, 1), "padding": (1, 1)}
    assert winograd.pays(w.shape, c, (1, 1), 4, (3, 9, 10))
    compare("conv2d", x, w, b, **options)
    compare("conv2d_input_grad", dy, w, x.shape, **options)
    compare("conv2d_weight_grad", dy, x, w.shape, **options)

modules = {"convolution": conv._correlate, "its weight gradient": weight_grad._weight_grad,
           "Winograd": winograd._correlate, "its weight gradient ": winograd._weight_grad, "norm": norm._apply}
asm = {name: "\\n".join(kernel.inspect_asm().values()) for name, kernel in modules.items()}
json.dump({"name": isa.ACTIVE.name, "worst": worst, "asm": asm}, sys.stdout)
"""
VECTOR = {"sse2": "xmm", "avx2": "ymm", "avx512": "zmm"}
BEYOND = {
    "sse2": r"%[yz]mm|\bv[a-z]+[ps][sd]\b",
    "avx2": r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|%k[0-7]|\{1to",
    "avx512": r"(?!)",
}


@pytest.fixture(scope="module", params=THERE)
def made(request, tmp_path_factory):
    """What a process of this instruction set has computed, and its machine code."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("reads the machine code of x86-64")
    run = python(KERNELS, request.param, TINYRES_CACHE=str(tmp_path_factory.mktemp(request.param)))
    assert run.returncode == 0, run.stderr
    return isa.SETS[[s.name for s in SETS].index(request.param)], json.loads(run.stdout)


def test_kernels_are_right_on_each(made):
    used, report = made
    assert report["name"] == used.name
    assert report["worst"] < 1e-5


def test_no_instruction_is_of_another_set(made):
    used, report = made
    for name, asm in report["asm"].items():
        assert re.search(f"%{VECTOR[used.name]}", asm), name
        assert not (found := re.search(f".*({BEYOND[used.name]}).*", asm)), f"{name}: {found[0]}"


def loops(asm):
    """Bodies of innermost loops: what is between a label and the jump to it, without a label or jump in between."""
    lines, start = [line.strip() for line in asm.splitlines()], 0
    for i, line in enumerate(lines):
        if re.match(r"\.?\w+:", line):
            start = i
        elif line.startswith("j") and line.split()[-1] == lines[start].rstrip(":"):
            yield lines[start + 1 : i]


def tiles(used, asm):
    """Innermost loops of register tiles, by how many vectors a row has: so many are multiplied by each number that is
    spread over a vector."""
    for body in loops(asm):
        products = sum(bool(re.match(r"v?f?m(add\d+|ul)ps\s", line)) for line in body)
        numbers = sum(bool(re.match(r"v?(broadcastss|movss)\s.*\(", line) or "{1to" in line) for line in body)
        for vectors, rows in used.rows.items():
            if products == numbers * vectors and products % (rows * vectors) == 0 < products:
                yield vectors, body


def test_a_tile_keeps_its_sums_in_registers(made):
    """In its inner loop no vector is stored, and none loaded from the stack, where what has no register would go."""
    used, report = made
    vector = f"%{VECTOR[used.name]}"
    for name, asm in report["asm"].items():
        found = [*tiles(used, asm)]
        assert {vectors for vectors, _ in found} == (set() if name == "norm" else {*used.rows}), name
        for _, body in found:
            moved = [line for line in body if re.search(rf"{vector}\d+, .*\(|\(%rsp.*{vector}", line)]
            assert not moved, f"{name}: {moved}"
