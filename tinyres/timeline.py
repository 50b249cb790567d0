"""When the processes of a training step compute and when they exchange, and how much of the exchange is hidden.

An exchange is hidden if the process computes meanwhile.
"""

import itertools
import json
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyres import ops, optim, plots
from tinyres.nn import Module
from tinyres.parallel.gradients import Gradients
from tinyres.parallel.world import world
from tinyres.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WARM_UP = 3  # steps before those that are recorded
COLOURS = {"forward": "#8fb8de", "backward": "#2a6f97", "wait": "#d1495b", "update": "#6aa84f", "sum": "#d9822b"}


class Span(NamedTuple):
    """A part of a process's step, with its times in seconds since the step began.

    ``what`` is one of ``"forward"``, ``"backward"``, ``"wait"``, ``"update"``, or ``"sum"``. A sum of gradients lasts
    from the moment when the process has its own part until it notices that the whole sum is complete.
    """

    what: str
    start: float
    stop: float


def record(model: Module, images: np.ndarray, labels: np.ndarray, steps: int = 10) -> list[list[Span]]:
    """Record the training step of median length: for each process, its spans.

    Parameters
    ----------
    model : Module
    images : float32 array of shape (N, C, H, W)
    labels : int64 array of shape (N,)
    steps : int

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> model = tr.nn.Sequential(tr.nn.Flatten(), tr.nn.Linear(4, 2))
    >>> (alone,) = record(model, np.zeros((3, 1, 2, 2), "f4"), np.zeros(3, np.int64), steps=1)
    >>> [span.what for span in alone]
    ['forward', 'backward', 'wait', 'update']
    """
    gradients = Gradients(model.parameters(), model.buffers())
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.train()
    found: list[list[Span]] = []
    for _ in range(WARM_UP + steps):
        optimizer.zero_grad()
        gradients.exchange.log = []
        world().barrier()
        times = [time.perf_counter()]
        loss = ops.cross_entropy(model(Tensor(images)), labels)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        gradients.mean()
        times.append(time.perf_counter())
        optimizer.step()
        times.append(time.perf_counter())
        names = ("forward", "backward", "wait", "update")
        spans = [(name, *pair) for name, pair in zip(names, itertools.pairwise(times), strict=True)]
        spans += [("sum", *pair) for pair in gradients.exchange.log]
        found.append([Span(what, start - times[0], stop - times[0]) for what, start, stop in spans])
    gradients.exchange.log = None
    everywhere = [json.loads(text) for text in world().texts(json.dumps(found[WARM_UP:]))]
    lengths = [max(span[2] for process in everywhere for span in process[step]) for step in range(steps)]
    middle = int(np.argsort(lengths)[steps // 2])
    return [[Span(*span) for span in process[middle]] for process in everywhere]


def hidden(process: list[Span]) -> float:
    """Part of the time of its sums in which a process computes, 0 to 1; 1 if there are no sums.

    Examples
    --------
    >>> hidden([Span("backward", 0.0, 3.0), Span("wait", 3.0, 4.0), Span("sum", 0.0, 2.0), Span("sum", 1.5, 4.0)])
    0.75
    """
    sums = [span for span in process if span.what == "sum"]
    if not sums:
        return 1.0
    start, stop = min(s.start for s in sums), max(s.stop for s in sums)
    waited = sum(span.stop - span.start for span in process if span.what == "wait")
    return max(0.0, 1 - waited / (stop - start))


def draw(timeline: list[list[Span]], title: str) -> "Figure":
    """Two lines for each process, computing and exchanging, over milliseconds.

    Parameters
    ----------
    timeline : list of list of Span
        The spans of each process, as `record` returns them.
    title : str
        What was measured. How much of the exchange is hidden is added.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    figure, axes = plots.subplots(width=10, height=1.2 + 0.9 * len(timeline))
    shown = set()
    for rank, process in enumerate(timeline):
        for span in process:
            row = 2 * rank + (span.what == "sum")
            label = (
                None
                if span.what in shown
                else {"sum": "sum of gradients", "wait": "wait for sums"}.get(span.what, span.what)
            )
            shown.add(span.what)
            width = 1000 * (span.stop - span.start)
            edge = "white" if span.what == "sum" else None
            axes.barh(
                row, width, 0.8, 1000 * span.start, color=COLOURS[span.what], edgecolor=edge, alpha=0.7, label=label
            )
    names = [f"process {rank}, {lane}" for rank in range(len(timeline)) for lane in ("computes", "exchanges")]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    part = min(map(hidden, timeline))
    axes.set(xlabel="ms", title=f"{title}: {part:.0%} of the exchange while computing, or more")
    axes.legend(ncols=5, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    return figure
