"""Tables of docs/performance.md: a training step beside PyTorch's.

The command is run once with `--simd avx2` and once with `--simd avx512`.
"""

from contenders import MODES
from measuring import OURS
from pages.stored import Figures, read
from pages.writing import Table, bold, halves, head, median, row

WIDTHS = {"avx2": "AVX2", "avx512": "AVX-512"}
AIMS = {"avx2": (2.5, 2.6, 2.5, 2.6, 1.6), "avx512": (2.6, 2.6, 2.5, 2.4, 1.5)}
"""Ratios to PyTorch's best mode that we wanted to reach in training, in the order of the works."""


def name_of(work: Figures) -> str:
    """A network and its batch, in words."""
    stem = ", CIFAR stem" if work["model"] == "resnet18" and work["stem"] == "cifar" else ""
    return f"{work['model'].replace('resnet', 'ResNet-')}{stem}, {work['image_size']} px, batch {work['batch_size']}"


def modes_in(works: list[Figures]) -> list[str]:
    return [mode for mode in MODES if any(mode in work["rates"] for work in works)]


def called(mode: str) -> str:
    return mode.replace("+", ", ")


# ---------------------------------------------------------------- training
def training(simd: str) -> Table:
    figures = read(f"train_step-{simd}")
    modes = modes_in(figures["works"])
    first = f"{WIDTHS[simd]}: images/s, median (middle half), n = {figures['steps']}"
    yield from head(first, OURS, *map(called, modes), "ratio to the best", "aim")
    for work, aim in zip(figures["works"], AIMS[simd], strict=True):
        rates = (median(work["rates"][mode]) if mode in work["rates"] else "" for mode in modes)
        yield row(name_of(work), halves(work["rates"][OURS]), *rates, bold(work["ratio"]), str(aim))


def training_avx2() -> Table:
    """A training step with AVX2."""
    return training("avx2")


def training_avx512() -> Table:
    """A training step with AVX-512."""
    return training("avx512")


def memory() -> Table:
    """The most memory of a process that takes four steps, and its part of PyTorch's least."""
    works = read("train_step-avx2")["works"]
    modes = modes_in(works)
    yield from head("MiB", OURS, *map(called, modes), "ratio to the least")
    for work in works:
        peaks = {who: found["peak_memory_mib"] for who, found in work["alone"].items()}
        least = min(peak for who, peak in peaks.items() if who != OURS)
        cells = (f"{peaks[who]:,.0f}" if who in peaks else "" for who in (OURS, *modes))
        yield row(name_of(work), *cells, f"{peaks[OURS] / least:.2f}")


def start() -> Table:
    """Import and first step of ResNet-20. The run with AVX2 was stopped before it."""
    yield from head("seconds until the first step has ended", "AVX-512")
    for who, found in read("train_step-avx512")["start_up"].items():
        yield row(who, f"{found['first_step_seconds']:.1f}")
