"""What batch norm with a shortcut and a ReLU reads and writes: the arrays of a run, kernel by kernel."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from figures.svg import Drawing

import tinyres as tr
from tinyres.kernels.launch import noting

ROW = 74
SAYS = {
    "_statistics": ("statistics", "mean and variance of each channel"),
    "_apply": ("normalise, + a, ReLU", "y = max(0, γz + β + a)"),
    "_grad_sums": ("sums of the gradient", "dβ and dγ; g = dy where y > 0"),
    "_grad_apply": ("gradient of x", "dx = γr (g − dβ / P − z dγ / P)"),
}


def _arrays(arguments: Any, size: int) -> Iterator[np.ndarray]:
    """The arrays among the arguments of a kernel that are as large as x."""
    for value in arguments:
        if isinstance(value, np.ndarray) and value.size == size:
            yield value
        elif isinstance(value, tuple):
            yield from _arrays(value, size)


def moved() -> list[tuple[str, list[str], list[str]]]:
    """The kernels that use arrays as large as x: the name of each, what it reads, and what it writes."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 4, 8, 8, 16)).astype(np.float32).transpose(0, 1, 4, 2, 3)  # channels last
    x, a = (tr.Tensor(image, requires_grad=True) for image in images[:2])
    one, zero = tr.Tensor(np.ones(16, np.float32)), tr.Tensor(np.zeros(16, np.float32))
    noted = []

    def note(work, arguments):
        noted.append((work.__name__, [(array, array.copy()) for array in _arrays(arguments, x.size)]))

    with noting(note):
        y = tr.ops.batch_norm(x, np.zeros(16), np.ones(16), one, zero, training=True, residual=a, relu=True)
        y.backward(images[2])
    named = {"x": x.data, "a": a.data, "y": y.data, "dy": images[2], "g": a.grad, "dx": x.grad}
    names = {array.transpose(0, 2, 3, 1).tobytes(): name for name, array in named.items()}
    found = []
    for kernel, arrays in noted:
        reads, writes = [], []
        for array, before in arrays:
            (reads if np.array_equal(array, before) else writes).append(names[array.tobytes()])
        found += [(kernel, reads, writes)] * bool(arrays)
    return found


def batch_norm() -> str:
    """The four passes over memory, forward and backward."""
    found = moved()
    drawing = Drawing(560, 30 + ROW * len(found), "The passes of batch norm over memory: what each reads and writes")
    for x, text in ((60, "reads"), (280, "computes"), (510, "writes")):
        drawing.text(x, 10, text, "note")
    for i, (name, reads, writes) in enumerate(found):
        y = 30 + ROW * (i + 0.5)
        title, gives = SAYS[name]
        middle = drawing.box(280, y, [("strong", f"{i + 1}. {title}"), ("", gives)])
        drawing.arrow(drawing.box(60, y, [("value", ", ".join(reads))]), middle)
        if writes:
            drawing.arrow(middle, drawing.box(510, y, [("value", ", ".join(writes))]))
    return str(drawing)
