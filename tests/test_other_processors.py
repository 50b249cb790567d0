"""Kernels built for an older processor run on this one, and are right."""

import json
import os
import platform
import subprocess
import sys

import pytest

from tinyres.kernels import simd
from tinyres.kernels.compile import host_features

OTHER_PROCESSOR = """
import json
import numpy as np
from tinyres import kernels, reference
from tinyres.kernels import simd, winograd

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

for c, o in [(3, 16), (17, 5), (16, 33)]:
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
x, w, dy, b = (rng.standard_normal(s, np.float32) for s in [(3, 32, 9, 10), (16, 32, 3, 3), (3, 16, 9, 10), (16,)])
options = {"stride": (1, 1), "padding": (1, 1)}
assert winograd.pays(w.shape, 32, (1, 1), 4, (3, 9, 10))
compare("conv2d", x, w, b, **options)
compare("conv2d_input_grad", dy, w, x.shape, **options)
compare("conv2d_weight_grad", dy, x, w.shape, **options)
print(json.dumps({"width": simd.WIDTH, "fma": simd.HAS_FMA, "worst": worst}))
"""


@pytest.mark.parametrize(
    ("name", "features", "width", "fma"),
    [("x86-64", "", 16, False), ("haswell", "+sse4.2,+avx,+avx2,+fma,+bmi,+bmi2,+popcnt", 32, True)],
)
def test_other_processors(name, features, width, fma, tmp_path):
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("needs an x86-64 processor")
    if fma and not {"avx2", "fma"} <= host_features():
        pytest.skip("needs a processor with AVX2")
    if (width, fma) == (simd.WIDTH, simd.HAS_FMA):
        pytest.skip("is this processor's own, on which all other tests are")
    env = {**os.environ, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "TINYRES_CACHE": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", OTHER_PROCESSOR], env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["width"], report["fma"]) == (width, fma)
    assert report["worst"] < 1e-5
