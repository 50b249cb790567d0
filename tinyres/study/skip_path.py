"""Skip path: how much of a block's gradient comes through its shortcut, and how much through the residual branch.

For y = max(x + F(x), 0), the gradient at x is a sum of two parts, which the tape adds. The first is g, which is dL/dy
where y > 0 and else 0. The second is the result of F's pullback for g (He, Zhang, Ren and Sun, "Identity mappings in
deep residual networks", ECCV 2016, equation 5, without ReLU, so that g is dL/dy). Here the two are kept separate.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinyres import models, plots
from tinyres.models import ResNet
from tinyres.nn import Module
from tinyres.recipe import Config
from tinyres.splits import Data
from tinyres.study.probe import Moment, first_and_last, loss_of, network, norm, train_and_measure
from tinyres.tape import Array, Node, topological_order
from tinyres.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Split(NamedTuple):
    """The gradient at the fork of one block.

    Attributes
    ----------
    block : str
        Path of the block.
    kind : str
        Kind of the shortcut: "identity", "padding" (the paper's option A) or "projection" (B and C).
    shortcut, branch, total : float
        Norms of the two parts and of their sum.
    ratio : float or None
        shortcut / branch; None if nothing comes through the branch.
    cosine : float
        Cosine of the angle between the parts: 1 if they have the same direction, 0 if they are orthogonal or one is 0.
    """

    block: str
    kind: str
    shortcut: float
    branch: float
    total: float
    ratio: float | None
    cosine: float


# ---------------------------------------------------------------- the tape, opened
def split_backward(
    model: ResNet, images: Array, labels: Array, see: Callable[[str, str, Array, Array, Array], None]
) -> float:
    """Run a batch forward and backward, and give `see` the two parts of the gradient at the fork of each block.

    The fork is where shortcut and branch separate. It is the block's input; in a pre-activation block that changes the
    shape, it is the activated input, since the shortcut starts there, too.

    Parameters
    ----------
    model : ResNet
        It gets gradients.
    images : ndarray of shape (N, 3, H, W)
    labels : int ndarray of shape (N,)
    see : callable
        Called with the block's path, the kind of its shortcut, and the arrays of shape (N, C, H, W): the part through
        the shortcut, the part through the branch, and the gradient that the tape uses next. The last is exactly the
        floating-point sum of the other two. Blocks come from the last to the first.

    Returns
    -------
    float
        The loss.

    Raises
    ------
    ValueError
        If a block has no shortcut.

    Notes
    -----
    Each operation that took the fork returns its part of the gradient from its pullback. It is copied there, before the
    tape adds to it. With a shortcut that is the identity, the last of these operations is the sum itself, which needs
    F(x) and so comes after all of the branch; with another, its operations are those in its module.

    A convolution can add its part to the other in the pass that computes it. That is switched off for the operations at
    a fork, so that there are two arrays. It changes no bit: kernels add when their own sums are done.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.ResNet(tr.models.BasicBlock, [2], widths=[4])
    >>> images = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("f4")
    >>> def see(block, kind, shortcut, branch, total):
    ...     print(block, kind, np.array_equal(shortcut + branch, total))
    >>> loss = split_backward(net, images, np.array([3, 7]), see)
    layer1.1 identity True
    layer1.0 identity True
    """
    forks: dict[str, Tensor] = {}
    hooks = []
    for path, block in model.blocks():
        shortcut = getattr(block, "downsample", None)
        place = block if shortcut is None else shortcut
        hooks.append(place.register_forward_hook(functools.partial(_note_input, forks, path)))
    loss = loss_of(model, images, labels, hooks)

    takers: dict[int, list[Node]] = defaultdict(list)  # by the id of what they take
    for node in topological_order(loss._node or loss):
        if not isinstance(node, Node):
            continue
        for taken in {id(parent) for parent in node.parents if parent is not None}:
            takers[taken].append(node)
    for path, block in model.blocks():
        shortcut = getattr(block, "downsample", None)
        fork = forks[path]._node or forks[path]
        *others, last = takers[id(fork)]
        if not others:
            raise ValueError(f"{path}: a {type(block).__name__} has no shortcut; expected residual blocks")
        parts: dict[bool, Array] = {}
        for node in (*others, last):
            inside = f"{node.module}.".startswith(f"{path}.downsample.") if shortcut else node is last
            _copy_part(node, fork, parts, inside)
        padded = isinstance(shortcut, models.PaddedIdentity)
        kind = "identity" if shortcut is None else "padding" if padded else "projection"
        forks[path].register_hook(functools.partial(_show, see, path, kind, parts))
    loss.backward()
    return loss.item()


def _note_input(forks: dict[str, Tensor], path: str, module: Module, args: tuple[Tensor, ...], output: Tensor) -> None:
    forks[path] = args[0]


def _copy_part(node: Node, fork: Any, parts: dict[bool, Array], through_shortcut: bool) -> None:
    """Make a node's pullback leave a copy of what it gives to `fork`, and add nothing to what is there."""
    pullback, parents = node.pullback, node.parents
    totals = ([None] * len(parents),) if node.takes_totals else ()
    assert pullback is not None

    def copying(dy: Array) -> Sequence[Array | None]:
        given = pullback(dy, *totals)
        for parent, part in zip(parents, given, strict=True):
            if parent is fork and part is not None:
                before = parts.get(through_shortcut)
                parts[through_shortcut] = part.copy("K") if before is None else before + part
        return given

    node.pullback, node.takes_totals = copying, False


def _show(see: Callable[..., None], path: str, kind: str, parts: dict[bool, Array], total: Array) -> None:
    see(path, kind, parts.pop(True), parts.pop(False), total)


# ---------------------------------------------------------------- numbers
def measure(model: ResNet, images: Array, labels: Array) -> tuple[float, list[Split]]:
    """Norms, ratio and cosine of the two parts in each block, for a batch. Parameters and errors: `split_backward`.

    Returns
    -------
    loss : float
    splits : list of Split
        From the first block to the last.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.manual_seed(0)
    >>> net = tr.models.create("resnet20")
    >>> images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype("f4")
    >>> loss, splits = measure(net, images, np.array([3, 7]))
    >>> splits[3][:2]
    ('layer2.0', 'padding')
    """
    splits: list[Split] = []

    def see(path: str, kind: str, shortcut: Array, branch: Array, total: Array) -> None:
        a, b = norm(shortcut), norm(branch)
        dot = float(np.multiply(shortcut, branch, dtype=np.float64).sum())
        cosine = dot / (a * b) if a and b else 0.0
        splits.append(Split(path, kind, a, b, norm(total), a / b if b else None, cosine))

    loss = split_backward(model, images, labels, see)
    return loss, splits[::-1]


def check(name: str) -> None:
    """Raise ValueError where the family has no such model, or its blocks have no shortcuts.

    Examples
    --------
    >>> check("plain20")
    Traceback (most recent call last):
    ValueError: plain20: its blocks have no shortcut, expected a residual network, e.g. resnet20
    """
    models.check_name(name)
    if models.FAMILY[name]["block"] is models.PlainBlock:
        raise ValueError(f"{name}: its blocks have no shortcut, expected a residual network, e.g. resnet20")


def skip_path(name: str, config: Config, found: Data, steps: int = 0) -> list[Moment[list[Split]]]:
    """Measure a residual network at initialisation and during training.

    Parameters
    ----------
    name : str
        Name of a model with shortcuts.
    config : Config
        Settings of the training; its model is not used.
    found : Data
        Data from `tinyres.train.load_data`.
    steps : int
        Training steps.

    Returns
    -------
    list of Moment
        Fewer if the loss became infinite or NaN.

    Raises
    ------
    ValueError
        If there is no such model, its blocks have no shortcuts, or `steps` is negative.
    ArithmeticError
        If the loss is not finite before any training.

    Examples
    --------
    >>> from tinyres import data
    >>> images, config = data.shapes(4), Config(dataset="shapes", batch_size=4)
    >>> found = Data(images, images, images, data.SHAPES_CLASSES, *data.channel_statistics(images[0]))
    >>> moments = skip_path("resnet20", config, found)
    >>> [split.block for split in moments[0].measured][:4]
    ['layer1.0', 'layer1.1', 'layer1.2', 'layer2.0']
    """
    check(name)
    return train_and_measure(network(name, config, found), config, found, steps, measure)


# ---------------------------------------------------------------- words and pictures
def typical(splits: list[Split]) -> float:
    """The geometric mean of the blocks' ratios, of those that have one.

    Examples
    --------
    >>> splits = [Split("layer1.0", "identity", 2, 1, 2, 2.0, 0), Split("layer1.1", "identity", 1, 2, 2, 0.5, 0)]
    >>> typical(splits)
    1.0
    """
    logs = [math.log(split.ratio) for split in splits if split.ratio]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def verdict(name: str, moments: list[Moment[list[Split]]]) -> list[str]:
    """How much comes through the shortcuts, at initialisation and at the end.

    Examples
    --------
    >>> splits = [Split("layer1.0", "identity", 2, 1, 2, 2.0, 0), Split("layer1.1", "identity", 1, 2, 2, 0.5, 0)]
    >>> print(verdict("resnet20", [Moment(0, 2.3, splits)])[0][:95])
    resnet20 at initialisation: the part through the shortcut is 1.00 times that through the branch
    """
    sentences = []
    for moment in first_and_last(moments):
        splits = moment.measured
        most = max(splits, key=lambda split: split.ratio or 0)
        cosines = [split.cosine for split in splits]
        sentences.append(
            f"{name} {moment.when}: the part through the shortcut is {typical(splits):.2f} times that through the "
            f"branch (geometric mean of {len(splits)} blocks), {most.ratio or 0:.2f} times in {most.block}; "
            f"cosine between them {min(cosines):.2f} to {max(cosines):.2f}."
        )
    return sentences


def draw(name: str, moments: list[Moment[list[Split]]]) -> "Figure":
    """Norms of the two parts by block, at first and at last; their ratio and cosine by block and step.

    Examples
    --------
    >>> splits = [Split("layer1.0", "identity", 2, 1, 2, 2.0, 0), Split("layer1.1", "identity", 1, 2, 2, 0.5, 0)]
    >>> draw("resnet20", [Moment(0, 2.3, splits)]).get_suptitle()
    "resnet20: the gradient at each block's input, split at the fork"
    """
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    figure, axes = plots.subplots(1, 3, width=14, height=4.6)
    blocks = [split.block.removeprefix("layer") for split in moments[0].measured]
    places = range(len(blocks))
    for kind, colour in (("shortcut", plots.RESIDUAL), ("branch", plots.PLAIN)):
        for moment in first_and_last(moments):
            style = {"linestyle": "-", "marker": "o"} if moment.step else {"linestyle": "--"}
            label = f"{kind}, " + (f"step {moment.step}" if moment.step else "initialisation")
            norms = [getattr(split, kind) for split in moment.measured]
            axes[0].plot(places, norms, color=colour, markersize=3, label=label, **style)
    axes[0].set(yscale="log", title="norm of each part at the block's input")
    axes[0].legend(frameon=False, fontsize=8)

    colours = LinearSegmentedColormap.from_list("", [plots.PLAIN, "#f7f7f7", plots.RESIDUAL])
    ratios = np.array([[split.ratio or np.nan for split in moment.measured] for moment in moments])
    cosines = np.array([[split.cosine for split in moment.measured] for moment in moments])
    far = max(2.0, float(np.exp(np.nanmax(np.abs(np.log(ratios)), initial=0))))
    steep = max(0.1, float(np.abs(cosines).max()))
    pictures = (
        (ratios, LogNorm(1 / far, far), "shortcut : branch, ratio of norms"),
        (cosines, Normalize(-steep, steep), "cosine between the parts"),
    )
    for axis, (values, scale, title) in zip(axes[1:], pictures, strict=True):
        image = axis.imshow(values, cmap=colours, norm=scale, aspect="auto", interpolation="nearest")
        bar = figure.colorbar(image, ax=axis, pad=0.02)
        if values is ratios:
            ticks = [t * 10.0**power for power in range(-9, 10) for t in (1, 2, 5) if 1 / far <= t * 10.0**power <= far]
            bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
            bar.ax.minorticks_off()
        axis.set_yticks(range(len(moments)), [str(moment.step) for moment in moments])
        axis.set(title=title, ylabel="training step")
        axis.grid(visible=False)
    few = range(0, len(blocks), -(-len(blocks) // 12))  # labels that have room
    for axis in axes:
        axis.set_xticks(few, [blocks[i] for i in few], rotation=0 if len(blocks) < 6 else 60)
        axis.set_xlabel("block (stage.number)")
    figure.suptitle(f"{name}: the gradient at each block's input, split at the fork")
    return figure
