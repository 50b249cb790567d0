"""The README's table: tinyres beside the libraries that one would use instead."""

from measuring import OURS
from pages.stored import read
from pages.writing import Table, halves, head, row

COLUMNS = {
    "tinyres": OURS, "PyTorch": "channels-last", "JAX": "jax", "tinygrad": "tinygrad", "MyGrad": "mygrad",
    "micrograd": "micrograd",
}  # fmt: skip
PACKAGES = ("tinyres", "torch", "jax", "tinygrad", "mygrad", "micrograd")
WORDS = {
    "kernels": ("Python, compiled by Numba", "C++", "C++", "C, written by it", "NumPy", "Python"),
    "gradients of": ("arrays", "arrays", "arrays", "arrays", "arrays", "numbers"),
    "GPUs, and second derivatives": ("no", "yes", "yes", "yes", "no", "no"),
    "shows a backward pass": (
        "in a browser, every number", "its nodes, `grad_fn`", "as a program, `jaxpr`", "its graph, `VIZ=1`",
        "its graph, by Graphviz", "its graph, by Graphviz",
    ),
}  # fmt: skip


def compared() -> Table:
    """What each library reaches, needs, and shows."""
    figures, sizes = read("rivals"), read("size")
    (work,) = figures["works"]
    rates = (halves(work["rates"][who]) if who in work["rates"] else "-" for who in COLUMNS.values())
    peaks = [work["alone"].get(who) for who in COLUMNS.values()]
    yield from head("", *COLUMNS)
    yield row("ResNet-20, training, images/s", *rates)
    yield row("memory of this process, MiB", *(f"{p['peak_memory_mib']:,.0f}" if p else "-" for p in peaks))
    yield row("on the disk with all it needs, MB", *(f"{sizes[p]['megabytes'] or '<1'}" for p in PACKAGES))
    yield row("its own lines of Python", *(f"{sizes[p]['lines']:,}" for p in PACKAGES))
    for name, words in WORDS.items():
        yield row(name, *words)
