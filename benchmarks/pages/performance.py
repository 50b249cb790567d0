"""Tables of docs/performance.md: a training step beside PyTorch's.

Each command is run once with `--simd avx2` and once with `--simd avx512`. After a run on a processor without AVX-512
there are only the columns and rows of AVX2.
"""

from contenders import MODES
from measuring import OURS
from pages.stored import Figures, path, read
from pages.writing import Table, bold, halves, head, median, row

WIDTHS = {"avx2": "AVX2", "avx512": "AVX-512"}
AIMS = {"avx2": (2.5, 2.6, 2.5, 2.6, 1.6), "avx512": (2.6, 2.6, 2.5, 2.4, 1.5)}
"""Ratios to PyTorch's best mode that we wanted to reach in training, in the order of the works."""


def widths(command: str) -> dict[str, Figures]:
    """The figures of a command by the name of the instruction set."""
    return {name: read(f"{command}-{simd}") for simd, name in WIDTHS.items() if path(f"{command}-{simd}").exists()}


def name_of(work: Figures) -> str:
    """A network and its batch, in words."""
    stem = ", CIFAR stem" if work["model"] == "resnet18" and work["stem"] == "cifar" else ""
    batch = f"batch {work['batch_size']}" if work["batch_size"] > 1 else "one picture"
    return f"{work['model'].replace('resnet', 'ResNet-')}{stem}, {work['image_size']} px, {batch}"


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
    """Import and first step of ResNet-20."""
    found = {name: figures["start_up"] for name, figures in widths("train_step").items() if "start_up" in figures}
    yield from head("seconds until the first step has ended", *found)
    for who in dict.fromkeys(who for starts in found.values() for who in starts):
        cells = (f"{starts[who]['first_step_seconds']:.1f}" if who in starts else "" for starts in found.values())
        yield row(who.replace("compile", "`torch.compile`"), *cells)
