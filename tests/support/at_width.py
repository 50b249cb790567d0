"""Run the kernels of one instruction set, compare them with the reference, and print this and their machine code.

    TINYRES_SIMD=avx2 python tests/support/at_width.py avx2
    python tests/support/at_width.py neon                      # takes this processor for one of ARM

For ARM there is no processor here. The kernels have the sizes of NEON's row of the table, and run on this one; their
LLVM code is made machine code for ARM besides.
"""

import json
import platform
import re
import sys

(NAME,) = sys.argv[1:]
if NAME == "neon":
    platform.machine = lambda: "aarch64"

import llvmlite.binding as llvm  # noqa: E402
import numpy as np  # noqa: E402

from tinyres import kernels, reference  # noqa: E402
from tinyres.kernels import conv, isa, norm, weight_grad, winograd  # noqa: E402

rng = np.random.default_rng(0)
errors = []


def normal(*shapes):
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def compare(name, *args, **options):
    results, expected = (getattr(functions, name)(*args, **options) for functions in (kernels, reference))
    if not isinstance(results, tuple):
        results, expected = (results,), (expected,)
    for r, e in zip(results, expected, strict=True):
        if e is not None:
            assert r.shape == e.shape, name
            errors.append(float(np.abs(r - e).max() / max(1, np.abs(e).max())))
    return results


for c, o in [(3, 16), (17, 5), (16, 33), (24, 24)]:
    x, w, dy, b = normal((2, c, 7, 9), (o, c, 3, 3), (2, o, 4, 5), (o,))
    options = {"stride": (2, 2), "padding": (1, 1)}
    compare("conv2d", x, w, b, **options)
    compare("conv2d_input_grad", dy, w, x.shape, **options)
    compare("conv2d_weight_grad", dy, x, w.shape, **options)
    compare("batch_norm_statistics", x)
    v = [rng.uniform(0.5, 1, c).astype(np.float32) for _ in range(4)]
    (y,) = compare("batch_norm_apply", x, *v[:3], x, relu=True)
    compare("batch_norm_grad", y, x, y, *v, training=True, relu=True, residual=True)
    compare("relu", x)
winograd.pays = lambda weight, channels, size, _, **window: winograd.fits(weight, channels, size, **window)
for c, o, stride in [(32, 16, 1), (16, 48, 1), (64, 64, 2)]:
    x, w, dy, b = normal((3, c, 9 * stride, 10 * stride), (o, c, 3, 3), (3, o, 9, 10), (o,))
    options = {"stride": (stride, stride), "padding": (1, 1)}
    assert winograd.fits(w.shape, c, 4, **options)
    compare("conv2d", x, w, b, **options)
    compare("conv2d_input_grad", dy, w, x.shape, **options)
    compare("conv2d_weight_grad", dy, x, w.shape, **options)


def machine_code(kernel):
    if NAME != "neon":
        return "\n".join(kernel.inspect_asm().values())
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    arm = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="generic", opt=3)
    (text,) = kernel.inspect_llvm().values()
    lines = [line for line in text.splitlines() if not line.startswith(("target ", "attributes "))]
    text = re.sub(r" #\d+", "", "\n".join(lines))
    # what Numba brings along to count who holds an array has become x86's already
    text = re.sub(r"define [^\n]*@(NRT_\w+)\(.*?\n}\n", r"declare void @\1(ptr)\n", text, flags=re.S)
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = arm.triple, str(arm.target_data)
    return arm.emit_assembly(module)


chosen = {
    "convolution": conv._correlate,
    "its weight gradient": weight_grad._weight_grad,
    "Winograd": winograd._correlate,
    "Winograd, its weight gradient": winograd._weight_grad,
    "norm": norm._apply,
}
code = {name: machine_code(kernel) for name, kernel in chosen.items()}
json.dump({"name": isa.ACTIVE.name, "worst": max(errors), "asm": code}, sys.stdout)
