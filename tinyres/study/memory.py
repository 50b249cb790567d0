"""Tape memory: the activations that each operation keeps during a training step; what checkpoints save and cost.

It is counted exactly, from the arrays of the tape's nodes, and not measured from outside. Parameters and the batch
itself are not counted, since they are always there. Gradients during backward are not counted either.
"""

import time
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from math import sqrt
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinyres import models, ops, plots
from tinyres.kernels.pending import Pending, known
from tinyres.models import ResNet
from tinyres.profile import left_as_it_was
from tinyres.tape import Array, Leaf, Node, state, watching
from tinyres.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHY = {
    ("batch_norm", "a"): "input, for z",
    ("batch_norm", "opened"): "output, as ReLU's mask",
    ("conv2d", "a"): "input, for dL/dw",
    ("conv2d", "opened"): "output, as ReLU's mask",
    ("linear", "a"): "input, for dL/dw",
    ("max_pool2d", "taps"): "places of the maxima",
    ("cross_entropy", "log_p"): "log p, for dL/dlogits",
}
"""Words for (operation, name of the variable in its pullback). For other variables, their name is used."""
AGAIN = "input, to run again"  # for a node whose pullback was dropped


class Kept(NamedTuple):
    """An array that the tape holds at the end of the forward pass.

    `op` and `module` belong to the first operation that holds it, `why` says what it is for, and `also` lists the
    modules of other operations that hold it.
    """

    op: str
    module: str
    why: str
    shape: tuple[int, ...]
    bytes: int
    also: list[str]

    @property
    def label(self) -> str:
        """The group that it is counted in."""
        return f"{'checkpoint' if self.why == AGAIN else self.op}: {self.why}"


class Moment(NamedTuple):
    """The memory that the tape holds at a moment of the step: bytes, by operation and purpose.

    `phase` is "forward", or "again" if a checkpoint runs again: `op` has just been recorded. Or it is "backward": the
    pullback of `op` will be called next.
    """

    phase: str
    op: str
    module: str
    held: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.held.values())


class Step(NamedTuple):
    """One training step. A checkpoint has `segment` blocks; 0 means without checkpoints."""

    segment: int
    moments: list[Moment]
    kept: list[Kept]  # in the order in which they were recorded
    seconds: list[float]

    @property
    def peak(self) -> int:
        """The most bytes held at one time."""
        return max(moment.bytes for moment in self.moments)

    @property
    def after_forward(self) -> int:
        """Bytes held at the end of the forward pass."""
        return sum(kept.bytes for kept in self.kept)


def memory(
    model: ResNet, *, batch_size: int = 128, image_size: int = 32, segments: Sequence[int] | None = None, steps: int = 5
) -> list[Step]:
    """Measure the memory that the tape holds in a training step, with checkpoints and without.

    Parameters
    ----------
    model : ResNet
        It is left as it was.
    batch_size, image_size : int
        Size of the batch and of the images, which are random noise.
    segments : sequence of int, optional
        Numbers of blocks in a checkpoint. A checkpoint never continues into the next stage. Default: `segment_lengths`.
    steps : int
        Number of timed steps of each kind, which take turns. Memory is not counted in these.

    Returns
    -------
    list of Step
        The first is without checkpoints, then comes one for each of `segments`.

    Raises
    ------
    ValueError
        If a number is too small.
    RuntimeError
        If a checkpoint changed a bit of a gradient, which would be an error.

    Notes
    -----
    An array that several operations hold counts once, for the first of them. A view counts as the whole array that it
    is a view of, since it keeps all of it alive.

    References
    ----------
    Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", 2016.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.ResNet(tr.models.BasicBlock, [2, 2], widths=[8, 16])
    >>> everything, blocks = memory(net, batch_size=2, image_size=8, segments=[1], steps=1)
    >>> everything.after_forward / blocks.after_forward > 2
    True
    """
    lengths = segment_lengths(model) if segments is None else list(segments)
    sizes = {"batch_size": batch_size, "image_size": image_size, "segments": min(lengths, default=1), "steps": steps}
    for what, value in sizes.items():
        if value < 1:
            raise ValueError(f"{what}: got {value}, expected 1 or more")
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((batch_size, image_size, image_size, 3), np.float32).transpose(0, 3, 1, 2))
    labels = rng.integers(0, len(model.fc.weight), batch_size)
    before = [getattr(model, stage).segment for stage in model._stages]
    found, gradients = [], []
    try:
        with left_as_it_was(model):
            model.train()
            for length in [0, *lengths]:
                model.recompute(length)
                found.append(_watch(model, x, labels, length))
                gradients.append([p.grad.tobytes() for p in model.parameters() if p.grad is not None])
            for _ in range(steps):
                for step in found:
                    model.recompute(step.segment)
                    start = time.perf_counter()
                    _take(model, x, labels)
                    step.seconds.append(time.perf_counter() - start)
    finally:
        for stage, length in zip(model._stages, before, strict=True):
            getattr(model, stage).segment = length
    if any(other != gradients[0] for other in gradients):
        raise RuntimeError("memory: gradients with checkpoints differ from those without")
    return found


def segment_lengths(model: ResNet) -> list[int]:
    """Lengths of segments, in blocks: one, the square roots of a stage's and of all blocks, and a whole stage.

    Examples
    --------
    >>> import tinyres as tr
    >>> segment_lengths(tr.models.resnet56())
    [1, 3, 5, 9]
    """
    stages = [len(getattr(model, stage)) for stage in model._stages]
    longest = max(stages)
    return sorted({1, round(sqrt(longest)), min(round(sqrt(sum(stages))), longest), longest})


def _take(model: ResNet, x: Tensor, labels: Array) -> None:
    """A training step without the update, which takes the same time with checkpoints and without."""
    model.zero_grad()
    ops.cross_entropy(model(x), labels).backward()


def _watch(model: ResNet, x: Tensor, labels: Array, length: int) -> Step:
    recorder = _Recorder([x.data, labels, *(p.data for p in model.parameters())])
    with watching(recorder):
        _take(model, x, labels)
    recorder.look("backward", "", "")
    return Step(length, recorder.moments, recorder.kept, [])


# ---------------------------------------------------------------- the arrays that nodes hold
class _Recorder:
    """Inspects all living nodes whenever one is recorded, and before each pullback."""

    def __init__(self, there: list[Array]) -> None:
        self.there = [owner(array) for array in there]  # always there; kept, so that no id is used again
        self.nodes: list[weakref.ref[Node]] = []  # weak, so that the tape can free them as usual
        self.moments: list[Moment] = []
        self.kept: list[Kept] = []

    def recorded(self, node: Node, inputs: Sequence[Array | Pending]) -> None:
        self.nodes.append(weakref.ref(node))
        if not state.recomputing:
            node.hooks.append(partial(self._before_pullback, node.name, node.module))
        self.look("again" if state.recomputing else "forward", node.name, node.module)

    def summed(self, node: Node | Leaf) -> None:
        pass

    def _before_pullback(self, op: str, module: str, gradient: Array) -> None:
        if not self.kept:
            self.kept = self._arrays()  # the first pullback: the forward pass is over
        self.look("backward", op, module)

    def look(self, phase: str, op: str, module: str) -> None:
        held: dict[str, int] = {}
        for kept in self._arrays():
            held[kept.label] = held.get(kept.label, 0) + kept.bytes
        self.moments.append(Moment(phase, op, module, held))

    def _arrays(self) -> list[Kept]:
        alive = [node for ref in self.nodes if (node := ref()) is not None and node.saved]
        self.nodes = [ref for ref in self.nodes if ref() is not None]
        found: dict[int, Kept | None] = {id(array): None for array in self.there}
        for node in alive:
            for array, why in holdings(node):
                whole = owner(array)
                if id(whole) not in found:
                    found[id(whole)] = Kept(node.name, node.module, why, array.shape, whole.nbytes, [])
                elif (kept := found[id(whole)]) is not None and node.module not in (kept.module, *kept.also):
                    kept.also.append(node.module)
        return [kept for kept in found.values() if kept is not None]


def holdings(node: Node) -> Iterator[tuple[Array, str]]:
    """The arrays that a node keeps alive, and their purpose.

    Examples
    --------
    >>> import tinyres as tr
    >>> y = tr.Tensor([0.0, 0.0], requires_grad=True).exp()
    >>> list(holdings(y._node))
    [(array([1., 1.], dtype=float32), 'y')]
    """
    named: set[int] = set()
    for variable, value in closure(node.pullback).items():
        if isinstance(value, np.ndarray | Pending):
            array = known(value)
            named.add(id(owner(array)))
            yield array, WHY.get((node.name, variable), variable)
    for array in node.saved:
        if id(owner(array)) not in named:
            yield array, AGAIN


def closure(function: Any) -> dict[str, Any]:
    """The variables that a function closes over, by name; empty for other callables.

    Examples
    --------
    >>> def adder(n):
    ...     return lambda x: x + n
    >>> closure(adder(3))
    {'n': 3}
    """
    cells = getattr(function, "__closure__", None) or ()
    names = function.__code__.co_freevars if cells else ()
    return {name: cell.cell_contents for name, cell in zip(names, cells, strict=True)}


def owner(array: Array) -> Array:
    """The base of a view, or the array itself.

    Examples
    --------
    >>> import numpy as np
    >>> owner(np.zeros((2, 3))[0].T).shape
    (2, 3)
    """
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


# ---------------------------------------------------------------- words and pictures
def verdict(steps: list[Step], predicted: int) -> list[str]:
    """Sentences on the numbers; `predicted` is the bytes of all layers' outputs, see `models.summarize`."""
    first, *others = steps
    total = first.after_forward
    sentences = [
        f"After the forward pass the tape holds {shown(total)}, {total / predicted:.2f} times what the summary "
        f"predicts ({shown(predicted)}, each layer's output once)."
    ]
    if others:
        best = min(others, key=lambda step: step.peak)
        slower = median(best.seconds) / median(first.seconds)
        sentences.append(
            f"With {name(best.segment)} in a checkpoint, a step's peak is {shown(best.peak)} instead of "
            f"{shown(first.peak)}, {first.peak / best.peak:.1f} times less, "
            f"for {slower:.2f} times the time; no bit of a gradient differs."
        )
    return sentences


def name(segment: int) -> str:
    """A segment's length in words.

    Examples
    --------
    >>> name(0), name(1), name(3)
    ('nothing', 'each block', 'every 3 blocks')
    """
    return "nothing" if not segment else "each block" if segment == 1 else f"every {segment} blocks"


def shown(count: int) -> str:
    """Bytes in MiB, or in KiB if they are few.

    Examples
    --------
    >>> shown(194 * 2**20), shown(1536)
    ('194.0 MiB', '1.5 KiB')
    """
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def predicted_bytes(model: ResNet, batch_size: int, image_size: int) -> int:
    """Bytes of all layers' outputs, see `models.summarize`.

    Examples
    --------
    >>> import tinyres as tr
    >>> predicted_bytes(tr.models.resnet20(), 1, 32) // 1024
    1520
    """
    return batch_size * sum(row.activation_bytes for row in models.summarize(model, image_size))


SHADES = ("#2a6f97", "#d1495b", "#edae49")
TO_RUN_AGAIN, REST, RUNNING = "#3d405b", "#a8adb4", "0.9"


def draw(steps: list[Step]) -> "Figure":
    """Memory during a step by purpose, without checkpoints and with the best ones; and each kind's peak and time."""
    best = min(steps[1:], key=lambda step: step.peak, default=steps[0])
    figure, axes = plots.subplots(1, 3, width=14, height=5, sharey=True, width_ratios=[2, 2, 1.4])
    first = steps[0]
    largest = sorted({kept.label for kept in first.kept}, key=lambda l: -_most(first, l))[: len(SHADES)]
    bands = {f"checkpoint: {AGAIN}": TO_RUN_AGAIN, **dict(zip(largest, SHADES, strict=False)), "rest": REST}
    for axis, step in zip(axes, (first, best), strict=False):
        _draw_timeline(axis, step, bands)
    _draw_trade(axes[2], steps)
    axes[0].set(ylabel="MiB held by the tape", ylim=(0, 1.12 * max(step.peak for step in steps) / 2**20))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle("What a training step keeps for its backward pass")
    return figure


def _draw_timeline(axis: Any, step: Step, bands: dict[str, str]) -> None:
    named = [[moment.held.get(label, 0) for moment in step.moments] for label in bands if label != "rest"]
    total = [moment.bytes for moment in step.moments]
    rest = np.subtract(total, np.sum(named, axis=0))
    x = range(len(total))
    axis.stackplot(x, np.divide([*named, rest], 2**20), labels=list(bands), colors=list(bands.values()), linewidth=0)
    for i, moment in enumerate(step.moments):
        if moment.phase == "again":
            axis.axvspan(i - 0.5, i + 0.5, color=RUNNING, linewidth=0, zorder=0)
    turn = next((i for i, moment in enumerate(step.moments) if moment.phase != "forward"), 0)
    axis.axvline(turn, color="0.3", linewidth=1, linestyle="--")
    for text, offset, side in (("forward", -5, "right"), ("backward", 5, "left")):
        axis.annotate(
            text, (turn, 1), (offset, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha=side, va="top", fontsize=9,
        )  # fmt: skip
    peak = max(x, key=lambda i: total[i])
    at = peak, step.peak / 2**20
    axis.annotate(f"peak {shown(step.peak)}", at, (-8, 4), textcoords="offset points", ha="right", fontsize=9)
    title = "everything kept" if not step.segment else f"{name(step.segment)} in a checkpoint (grey: runs again)"
    axis.set(title=title, xlabel="operations of a step", xlim=(0, len(total) - 1))


def _most(step: Step, label: str) -> int:
    return max(moment.held.get(label, 0) for moment in step.moments)


def _draw_trade(axis: Any, steps: list[Step]) -> None:
    line, free = 0.05 * max(step.peak for step in steps) / 2**20, 0.0  # heights: of a label, and above the last one
    for step in sorted(steps, key=lambda step: step.peak):
        low, middle, high = np.percentile(step.seconds, [25, 50, 75])
        y, colour = step.peak / 2**20, plots.RESIDUAL if step.segment else plots.PLAIN
        axis.errorbar(middle, y, xerr=[[middle - low], [high - middle]], fmt="o", color=colour, markersize=7, capsize=3)
        at = high, max(y, free)
        axis.annotate(name(step.segment), at, (7, 0), textcoords="offset points", va="center", fontsize=9)
        free = at[1] + line
    most = max(max(step.seconds) for step in steps)
    axis.set(title="peak and time of a step", xlabel="seconds (median, middle half)", xlim=(0, 1.6 * most))
