"""Tables of docs/performance.md: training, inference and single kernels beside PyTorch's, and what one step is made of.

Each command is run once with `--simd avx2` and once with `--simd avx512`; the repeated step and the loader only once,
with the instruction set of the processor.
"""

import numpy as np
import plot
from contenders import MODES
from kernels import means
from matplotlib.figure import Figure
from measuring import OURS, best_of, number, ratio
from pages.stored import Figures, read
from pages.writing import Table, bold, halves, head, median, row

WIDTHS = {"avx2": "AVX2", "avx512": "AVX-512"}
ONNX = "onnxruntime"
RIVAL = "channels-last"  # PyTorch's mode in scaling.py
AIMS = {"avx2": (2.5, 2.6, 2.5, 2.6, 1.6), "avx512": (2.6, 2.6, 2.5, 2.4, 1.5)}
"""Ratios to PyTorch's best mode that we wanted to reach in training, in the order of the works."""
INFERENCE_AIMS = ((2.6,), (2.3,), (1.5, 1.2), (1.5, 1.0))
"""The same for inference; the second number is the aim beside onnxruntime."""


def widths(command: str) -> dict[str, Figures]:
    """The figures of a command by the name of the instruction set."""
    return {name: read(f"{command}-{simd}") for simd, name in WIDTHS.items()}


def name_of(work: Figures) -> str:
    """A network and its batch, in words."""
    batch = f"batch {work['batch_size']}" if work["batch_size"] > 1 else "one picture"
    return f"{plot.network(work['model'], work['stem'])}, {work['image_size']} px, {batch}"


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


# ---------------------------------------------------------------- inference
def inference(simd: str) -> Table:
    figures = read(f"inference-{simd}")
    first = f"{WIDTHS[simd]}: images/s, median (middle half), n = {figures['turns']}"
    yield from head(first, OURS, "PyTorch's best mode", ONNX, "ratio to PyTorch", f"to {ONNX}", "aims")
    for work, aims in zip(figures["works"], INFERENCE_AIMS, strict=True):
        seconds, rates = work["seconds"], work["rates"]
        mode = best_of({mode: seconds[mode] for mode in modes_in([work])})
        theirs = f"{median(rates[mode])}, {called(mode)}"
        ratios = [bold(ratio(seconds, who, OURS)._asdict()) for who in (mode, ONNX)]
        yield row(name_of(work), halves(rates[OURS]), theirs, median(rates[ONNX]), *ratios, ", ".join(map(str, aims)))


def inference_avx2() -> Table:
    """Inference with folded batch norms, with AVX2."""
    return inference("avx2")


def inference_avx512() -> Table:
    """Inference with folded batch norms, with AVX-512."""
    return inference("avx512")


# ---------------------------------------------------------------- kernels
OPERATIONS = ("forward", "input gradient", "weight gradient")


def kernels() -> Table:
    """Single kernels beside PyTorch's: geometric means over the cases of each kind."""
    found = {name: means(figures["kernels"]) for name, figures in widths("kernels").items()}
    yield from head("", *(f"{name}: {o}" if o == OPERATIONS[0] else o for name in found for o in OPERATIONS))
    for kind, n in ((kind, n) for (kind, operation), (_, n) in found["AVX2"].items() if operation == "forward"):
        second = "backward" if kind == "norm+ReLU" else OPERATIONS[1]
        keys = [(kind, operation) for operation in (OPERATIONS[0], second, OPERATIONS[2])]
        cells = (f"{some[key][0]:.2f}" if key in some else "" for some in found.values() for key in keys)
        yield row(f"{kind.replace('norm+ReLU', 'batch norm and ReLU')}, {n}", *cells)


def ceilings() -> Table:
    """The most that the machine can do."""
    found = {name: figures["ceilings"] for name, figures in widths("kernels").items()}
    names = {
        "product_gflops": "large matrix product, GFLOP/s",
        "cache_gbytes": "copying within caches, GB/s",
        "memory_gbytes": "copying outside of caches, GB/s",
    }
    yield from head("", *found)
    for key, text in names.items():
        yield row(text, *(f"{some[key]:.0f}" for some in found.values()))


def fusion() -> Table:
    """Batch norm within the convolutions around it, forward."""
    found = {name: figures["cases"] for name, figures in widths("fusion").items()}
    columns = ("apart, fused, convolution alone, ms", "speed-up of the loading part", "of the storing part", "both")
    n = len(found["AVX2"][next(iter(found["AVX2"]))]["seconds"]["apart"])
    yield from head(f"n = {n}", *(f"{name}: {c}" if c == columns[0] else c for name in found for c in columns))
    for case in found["AVX2"]:
        cells = []
        for cases in found.values():
            seconds, ratios = cases[case]["seconds"], cases[case]["ratios"]
            cells.append(", ".join(number(1e3 * np.median(seconds[who])) for who in ("apart", "fused", "convolution")))
            cells += [f"{ratios[who]['median']:.2f}" for who in ("loading", "storing")] + [bold(ratios["fused"])]
        yield row(case, *cells)


# ---------------------------------------------------------------- batches, depth, threads, Python
def growing(along: str, first: str) -> Table:
    found = {name: figures[along] for name, figures in widths("scaling").items()}
    yield from head(first, *(cell for name in found for cell in (f"{OURS}, {name}", f"PyTorch, {name}", "ratio")))
    for points in zip(*found.values(), strict=True):
        cells = []
        for point in points:
            cells += [halves(point["rates"][OURS]), halves(point["rates"][RIVAL]), bold(point["ratio"])]
        yield row(str(points[0]["at"]), *cells)


def batches() -> Table:
    """Images per second by the size of the batch."""
    return growing("batch", "images/s, ResNet-20, batch of")


def depths() -> Table:
    """Images per second by depth."""
    return growing("depth", "images/s, batch 128, layers")


def threads() -> Table:
    """From one thread to two."""
    yield from head("", f"{OURS}, images/s", "factor", "PyTorch, images/s", "factor")
    for name, figures in widths("scaling").items():
        one, two = figures["threads"]
        cells = []
        for who in (OURS, RIVAL):
            cells += [f"{median(one['rates'][who])} to {median(two['rates'][who])}", bold(two["times_first"][who])]
        yield row(name, *cells)


def repeated() -> Table:
    """A step on the tape, and the same step repeated without Python."""
    figures = read("replay")
    yield from head(f"n = {figures['turns']}", "on the tape, ms", "repeated, ms", "speed-up")
    for work in figures["works"]:
        both = (halves(work["milliseconds"][who]) for who in ("tape", "repeated"))
        yield row(name_of(work), *both, bold(work["speed_up"]))


# ---------------------------------------------------------------- the picture
def draw_speed() -> Figure:
    """Training beside PyTorch, and the roofline of convolutions, with AVX2."""
    return plot.draw(read("train_step-avx2"), read("kernels-avx2"))
