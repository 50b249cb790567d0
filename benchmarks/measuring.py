"""Shared by all benchmarks: contenders that take turns, medians with the middle half, and facts about the machine.

A contender is a function without arguments. Contenders take turns, so that other work on the machine affects all of
them equally. Each runs once before it is timed: this brings its data back into the caches that the others have filled,
and lets the others' idle threads fall asleep. Two contenders are compared turn by turn: the spread of a ratio is the
spread of the turns' ratios.
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
LIBRARIES = ("numpy", "numba", "torch", "onnxruntime", "jax", "tinygrad", "mygrad")

# The variables that limit the other libraries to an instruction set, as TINYRES_SIMD limits ours. onnxruntime has no
# such setting: it uses all instructions of the processor. For torch.compile's code, the setting limits the vectors that
# it writes itself; it still tells the C++ compiler to use all instructions of the processor.
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
Seconds = dict[str, list[float]]  # for each contender, the seconds of each turn


# ---------------------------------------------------------------- instruction sets
def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse arguments, with --simd: if it or TINYRES_SIMD is set, the process restarts with all libraries limited."""
    parser.add_argument("--simd", choices=RIVALS, help="use no more than these instructions, here and in the rivals")
    args = parser.parse_args()
    simd = args.simd or os.environ.get("TINYRES_SIMD", "")
    lowered = RIVALS[simd] | {"TINYRES_SIMD": simd} if simd in RIVALS else {}
    if not lowered.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | lowered)
    return args


# ---------------------------------------------------------------- turns
def prepare(makers: Mapping[str, Callable[[], Call]]) -> dict[str, Call]:
    """Make the contenders and run each three times, so that it is compiled and its memory use is stable.

    A rival that cannot be made, for example because torch.compile finds no C++ compiler, is left out, with a message.
    """
    import torch

    gc.collect()
    torch._dynamo.reset()  # forget earlier contenders: it gives up after eight versions of one function
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
    """Seconds of one call of each contender, measured `turns` times.

    A call shorter than `at_least` seconds is repeated for as long, and the mean counts.
    """
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


# ---------------------------------------------------------------- results
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
    """Three digits, or more if there are more before the point."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def rates(amount: float, seconds: Iterable[float]) -> Spread:
    """Amount per second, for example images per second for a batch."""
    return Spread.of(amount / s for s in seconds)


def best_of(seconds: Seconds) -> str | None:
    """The rival with the shortest median, if there is a rival."""
    rivals = [who for who in seconds if not who.startswith(OURS)]
    return min(rivals, key=lambda who: np.median(seconds[who]), default=None)


def ratio(seconds: Seconds, slow: str, fast: str) -> Spread:
    """How many times as fast as `slow` `fast` is, turn by turn."""
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


# ---------------------------------------------------------------- facts about the machine
def machine(threads: int) -> dict[str, Any]:
    """Hardware and versions, without which a figure says nothing."""
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
        "load": os.getloadavg()[0],  # if another program keeps a core busy, two threads often wait
        "versions": versions,
    }


def introduce(what: dict[str, Any]) -> None:
    """Print the facts that `machine` returned."""
    versions = ", ".join(f"{name} {version}" for name, version in what["versions"].items())
    print(f"{what['processor']}, {what['simd']}, {what['threads']} of {what['cores']} cores; {versions}")


def with_deviation(values: Iterable[float]) -> str:
    """The mean, and of several values also the standard deviation."""
    values = list(values)
    spread = f" +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def save(path: Path | None, figures: dict[str, Any]) -> None:
    """Write figures as JSON, if there is a path."""
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n")
