"""Pictures of a network's errors: which classes it confuses, how sure it is, and its worst mistakes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres import plots
from tinyres.evaluation import Scores
from tinyres.tape import Array

FEW_CLASSES = 20  # up to this many classes, the numbers in a picture are readable
SHEET = 25  # number of mistakes in a sheet


def confusion(scores: Scores, classes: Sequence[str]) -> Any:
    """The share of each class (row) that gets each answer (column), on a scale that shows rare mistakes.

    Examples
    --------
    >>> import numpy as np
    >>> scores = Scores(np.eye(3), np.array([0, 1, 1]))
    >>> confusion(scores, ["cat", "dog", "ship"]).axes[0].get_xlabel()
    'answer'
    """
    counts, n = scores.confusion, len(classes)
    side = min(12.0, 3.2 + 0.5 * n)
    figure, axes = plots.subplots(width=side + 0.8, height=side)
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)
    if n <= FEW_CLASSES:
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.3 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(n), classes, rotation=45, ha="right")
        axes.set_yticks(range(n), classes)
    axes.grid(visible=False)
    axes.set(xlabel="answer", ylabel="class", title=f"{scores.accuracy:.2%} of {len(scores.labels):,} images are right")
    return figure


def reliability(scores: Scores) -> Any:
    """Accuracy for each confidence, with the diagonal where both are equal, and the number of images.

    Guo et al., "On calibration of modern neural networks", 2017, figure 1.

    Examples
    --------
    >>> import numpy as np
    >>> len(reliability(Scores(np.eye(3), np.array([0, 1, 1]))).axes)
    2
    """
    found = scores.calibration()
    bins = len(found.images)
    middles = (np.arange(bins) + 0.5) / bins
    figure, (top, below) = plots.subplots(2, 1, width=5.0, height=5.6, sharex=True, height_ratios=[3, 1])
    there = found.images > 0
    top.bar(middles[there], found.accuracy[there], width=0.9 / bins, color=plots.RESIDUAL, label="accuracy")
    top.plot(found.confidence[there], found.confidence[there], "o", color=plots.PLAIN, markersize=4, label="confidence")
    top.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    top.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1), title=f"Expected calibration error {found.error:.2%}")
    top.legend(loc="upper left")
    below.bar(middles, found.images, width=0.9 / bins, color=plots.RESIDUAL)
    below.set(xlabel="confidence: probability of the answer", ylabel="images")
    return figure


def mistakes(scores: Scores, images: Array, classes: Sequence[str]) -> Any:
    """The worst mistakes in one picture: images, their classes, and the answers with their probabilities.

    Parameters
    ----------
    scores : Scores
    images : uint8 array of shape (N, 3, H, W)
        In the order of the scores.
    classes : sequence of str

    Examples
    --------
    >>> import numpy as np
    >>> sheet = mistakes(Scores(np.eye(3), np.array([0, 1, 1])), np.zeros((3, 3, 8, 8), np.uint8), ["a", "b", "c"])
    >>> sheet.axes[0].get_title()
    'b, not c (58%)'
    """
    worst = scores.worst(SHEET)
    columns = max(1, math.ceil(math.sqrt(len(worst))))
    rows = max(1, math.ceil(len(worst) / columns))
    figure, grid = plots.subplots(rows, columns, width=2.1 * columns, height=2.2 * rows, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, i in zip(grid.flat, worst, strict=False):
        answer = scores.answers[i]
        axes.imshow(images[i].transpose(1, 2, 0))
        title = f"{classes[scores.labels[i]]}, not {classes[answer]} ({scores.probabilities[i, answer]:.0%})"
        axes.set_title(title, fontsize=8)
    return figure
