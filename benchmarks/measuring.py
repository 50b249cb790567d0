"""What all benchmarks share: contenders that take turns, medians with the middle half, and which machine it was.

A contender is a function without arguments. Contenders take turns, so that what else the machine does hits all of them
alike, and each runs once before it is timed, which brings its data back into the caches that the others have filled and
lets the others' idle threads fall asleep. Two contenders are compared turn by turn: the spread of a ratio is that of
the turns' ratios.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

OURS = "tinyres"
LIBRARIES = ("numpy", "numba", "torch", "onnxruntime", "jax")

# What lowers the others to an instruction set, as TINYRES_SIMD does us. onnxruntime has nothing of the kind: it uses
# all that the processor has. Of torch.compile's code this holds the vectors that it writes itself; it asks the C++
# compiler for the host's instructions all the same.
RIVALS = {
    "avx512": {"ONEDNN_MAX_CPU_ISA": "ALL", "ATEN_CPU_CAPABILITY": "avx512", "XLA_FLAGS": "--xla_cpu_max_isa=AVX512"},
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
    "sse2": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "OPENBLAS_CORETYPE": "Nehalem",
        "XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2",
    },
}

Call = Callable[[], Any]
Seconds = dict[str, list[float]]  # of each turn of each contender


# ---------------------------------------------------------------- instruction sets
def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Arguments, with --simd: where that or TINYRES_SIMD says so, the process begins anew with all of us lowered."""
    parser.add_argument("--simd", choices=RIVALS, help="use no more than these instructions, here and in the rivals")
    args = parser.parse_args()
    simd = args.simd or os.environ.get("TINYRES_SIMD", "")
    lowered = RIVALS[simd] | {"TINYRES_SIMD": simd} if simd in RIVALS else {}
    if not lowered.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | lowered)
    return args


# ---------------------------------------------------------------- turns
def prepare(makers: Mapping[str, Callable[[], Call]]) -> dict[str, Call]:
    """Make the contenders and run each three times: it compiles, and memory settles. A rival that cannot be made, for
    example where torch.compile finds no C++ compiler, is left out, with a line that says so."""
    import torch

    gc.collect()
    torch._dynamo.reset()  # forget what it compiled for earlier contenders: it gives up after eight of one function
    ready = {}
    for who, make in makers.items():
        print(f"preparing {who} ...", file=sys.stderr, flush=True)
        try:
            call = make()
            for _ in range(3):
                call()
        except Exception as error:
            if who.startswith(OURS):
                raise
            print(f"{who}: left out ({first_line(error)})", file=sys.stderr)
        else:
            ready[who] = call
    return ready


def in_turns(contenders: Mapping[str, Call], turns: int, at_least: float = 0.0) -> Seconds:
    """Seconds of one call, of each contender, `turns` times. A call shorter than `at_least` seconds is repeated for
    as long, and counts as their mean."""
    repeats = {}
    for who, call in contenders.items():
        repeats[who] = max(1, math.ceil(at_least / timed(call, 1))) if at_least else 1
    seconds: Seconds = {who: [] for who in contenders}
    for _ in range(turns):
        for who, call in contenders.items():
            timed(call, repeats[who])
            seconds[who].append(timed(call, repeats[who]))
    return seconds


def timed(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


# ---------------------------------------------------------------- what came out
class Spread(NamedTuple):
    """Median and middle half of n values."""

    n: int
    quarter: float
    median: float
    three_quarters: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        values = np.fromiter(values, float)
        return cls(len(values), *(float(p) for p in np.percentile(values, [25, 50, 75])))

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.quarter)} to {number(self.three_quarters)})"


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def rates(amount: float, seconds: Iterable[float]) -> Spread:
    """Amount per second, e.g. images per second for a batch."""
    return Spread.of(amount / s for s in seconds)


def best_of(seconds: Seconds) -> str | None:
    """The rival with the shortest median, if there is a rival."""
    rivals = [who for who in seconds if not who.startswith(OURS)]
    return min(rivals, key=lambda who: np.median(seconds[who]), default=None)


def ratio(seconds: Seconds, slow: str, fast: str) -> Spread:
    """How many times as fast `fast` is as `slow`, turn by turn."""
    return Spread.of(s / f for s, f in zip(seconds[slow], seconds[fast], strict=True))


def compared(amount: float, seconds: Seconds) -> dict[str, Any]:
    """Figures of one comparison, for JSON: rates of all, and the ratio to the best of the rivals."""
    best = best_of(seconds)
    return {
        "seconds": seconds,
        "rates": {who: rates(amount, times)._asdict() for who, times in seconds.items()},
        "best": best,
        "ratio": best and ratio(seconds, best, OURS)._asdict(),
    }


# ---------------------------------------------------------------- which machine it was
def machine(threads: int) -> dict[str, Any]:
    """Hardware and versions: a figure without them says nothing."""
    import llvmlite.binding

    import tinyres

    versions = {"python": platform.python_version(), OURS: tinyres.__version__}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return {
        "processor": f"{tinyres.machine.processor()} ({llvmlite.binding.get_host_cpu_name()})",
        "simd": tinyres.machine.simd(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.platform(),
        "load": os.getloadavg()[0],  # where others keep a core busy, two threads wait for each other most of the time
        "versions": versions,
    }


def introduce(what: dict[str, Any]) -> None:
    """Print what `machine` found."""
    versions = ", ".join(f"{name} {version}" for name, version in what["versions"].items())
    print(f"{what['processor']}, {what['simd']}, {what['threads']} of {what['cores']} cores; {versions}")


def save(path: Path | None, figures: dict[str, Any]) -> None:
    """Write figures as JSON, if there is a path."""
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n")
