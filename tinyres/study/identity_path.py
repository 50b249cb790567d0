"""The identity path: the gradient that comes through a stage by its shortcuts alone, with ReLU after the sum or before.

Through n blocks the gradient g at the end of a stage comes back on 2^n ways. The shortest takes every shortcut. Where
blocks are y = x + F(x), it carries g as it is. Where they are y = max(x + F(x), 0), it carries what the ReLU of every
block lets through (He, Zhang, Ren and Sun, "Identity mappings in deep residual networks", ECCV 2016, equation 5 and
section 4.1).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinyres import models, plots
from tinyres.models import ResNet
from tinyres.nn import Module
from tinyres.recipe import Config
from tinyres.splits import Data
from tinyres.study.probe import Moment, loss_of, main_path, network, norm, train_and_measure
from tinyres.study.skip_path import check
from tinyres.tape import Array
from tinyres.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Stage(NamedTuple):
    """The gradient through the shortcuts of one stage, for a batch of images.

    Attributes
    ----------
    name : str
        E.g. ``"layer1"``.
    blocks : int
        Number of consecutive blocks whose shortcut is the identity.
    open : float
        Part of the positions at which no ReLU on the path is closed.
    kept : float
        Norm of the gradient through the path, divided by the norm of g, the gradient at the end of the stage.
    share : float
        Norm of the gradient through the path, divided by the norm of the whole gradient at the start of the stage.
    cosine : float
        Cosine of the angle between the gradient through the path and the whole gradient; 0 if one of them is 0.
    """

    name: str
    blocks: int
    open: float
    kept: float
    share: float
    cosine: float


_DEPTHS = (20, 56, 110, 164)
MODELS = tuple(f"{kind}{depth}" for kind in ("resnet", "preact_resnet") for depth in _DEPTHS)
"""Networks that are measured by default: those of "Identity mappings", with depths 20 to 164."""


class Path(NamedTuple):
    """One network: its name, its layers with weights, and its stages after some steps."""

    model: str
    depth: int
    moments: list[Moment[list[Stage]]]

    @property
    def preactivation(self) -> bool:
        return bool(getattr(models.FAMILY[self.model]["block"], "preactivation", False))


# ---------------------------------------------------------------- one batch
def measure(model: ResNet, images: Array, labels: Array) -> tuple[float, list[Stage]]:
    """Run a batch forward and backward, and measure the identity path of each stage.

    Parameters
    ----------
    model : ResNet
        A model with shortcuts. It gets gradients.
    images : ndarray of shape (N, 3, H, W)
    labels : int ndarray of shape (N,)

    Returns
    -------
    loss : float
    stages : list of Stage
        From first to last. A stage is left out if none of its shortcuts is the identity.

    Notes
    -----
    With g = dL/dy_n at the end of n blocks and M_a = [y_a > 0], the gradient through shortcuts only is
    M_1 M_2 ... M_n g, or g if blocks end in the sum.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.manual_seed(0)
    >>> images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype("f4")
    >>> loss, stages = measure(tr.models.create("preact_resnet20"), images, np.array([3, 7]))
    >>> [(stage.name, stage.blocks, stage.kept) for stage in stages]
    [('layer1', 3, 1.0), ('layer2', 2, 1.0), ('layer3', 2, 1.0)]
    >>> loss, stages = measure(tr.models.create("resnet20"), images, np.array([3, 7]))
    >>> all(0.2 < stage.kept < 0.95 for stage in stages)
    True
    """
    seen = {name: _Seen(blocks) for name, blocks in _identities(model).items()}
    loss = loss_of(model, images, labels, [hook for stage in seen.values() for hook in stage.hooks()])
    loss.backward()
    return loss.item(), [stage.result(name) for name, stage in seen.items()]


def _identities(model: ResNet) -> dict[str, list[Module]]:
    """By stage, its blocks whose shortcut is the identity."""
    stages: dict[str, list[Module]] = {}
    for path, block in model.blocks():
        if getattr(block, "downsample", None) is None:
            stages.setdefault(path.split(".")[0], []).append(block)
    return stages


class _Seen:
    """Where ReLUs after the sum were open, and the gradients at both ends of a row of blocks."""

    def __init__(self, blocks: Sequence[Module]) -> None:
        self.blocks = blocks
        self.open: Array | None = None
        self.arrived = self.left = np.empty(0)

    def hooks(self) -> list[Any]:
        first, last = self.blocks[0], self.blocks[-1]
        return [
            *(block.register_forward_hook(self._note_open) for block in self.blocks),
            first.register_forward_hook(lambda _, args, y: self._watch("arrived", args[0])),
            last.register_forward_hook(lambda _, args, y: self._watch("left", y)),
        ]

    def _note_open(self, block: Module, args: Any, y: Tensor) -> None:
        if not getattr(block, "preactivation", False):
            self.open = y.data > 0 if self.open is None else self.open & (y.data > 0)

    def _watch(self, name: str, tensor: Tensor) -> None:
        tensor.register_hook(lambda gradient: setattr(self, name, gradient.astype(np.float64)))

    def result(self, name: str) -> Stage:
        g, total = self.left, self.arrived
        carried = g if self.open is None else g * self.open
        a, b = norm(carried), norm(total)
        where = 1.0 if self.open is None else float(self.open.mean())
        cosine = float((carried * total).sum()) / (a * b) if a and b else 0.0
        return Stage(name, len(self.blocks), where, a / norm(g) if a else 0.0, a / b if a and b else 0.0, cosine)


# ---------------------------------------------------------------- over training
def identity_path(name: str, config: Config, found: Data, steps: int = 0) -> Path:
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
    Path
        With fewer moments if the loss became infinite or NaN.

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
    >>> path = identity_path("preact_resnet20", config, found)
    >>> path.depth, path.preactivation, [stage.open for stage in path.moments[0].measured]
    (20, True, [1.0, 1.0, 1.0])
    """
    check(name)
    model = network(name, config, found)
    depth = len(main_path(model)) + 1  # and the classifier, as the paper counts
    return Path(name, depth, train_and_measure(model, config, found, steps, measure))


# ---------------------------------------------------------------- words and pictures
def verdict(paths: Sequence[Path]) -> list[str]:
    """A sentence for each network, at its last moment.

    Examples
    --------
    >>> stages = [Stage("layer1", 3, 0.4, 0.7, 0.2, 0.2), Stage("layer2", 2, 0.6, 0.8, 0.5, 0.5)]
    >>> print(verdict([Path("resnet20", 20, [Moment(0, 2.3, stages)])])[0][:99])
    resnet20, at initialisation: the identity path keeps 0.70 to 0.80 of the gradient's norm in a stage
    """
    sentences = []
    for path in paths:
        last = path.moments[-1]
        kept, share = ([getattr(stage, name) for stage in last.measured] for name in ("kept", "share"))
        sentences.append(
            f"{path.model}, {last.when}: the identity path keeps {min(kept):.2f} to {max(kept):.2f} of the gradient's "
            f"norm in a stage; that is {min(share):.2f} to {max(share):.2f} of the whole gradient at its start."
        )
    return sentences


def draw(paths: Sequence[Path]) -> "Figure":
    """By depth: what the identity path keeps, and its part of the whole gradient. A line for each stage."""
    figure, axes = plots.subplots(1, 2, width=10, height=4.2, sharey=True)
    for preactivation, colour in ((False, plots.PLAIN), (True, plots.RESIDUAL)):
        some = sorted((p for p in paths if p.preactivation == preactivation), key=lambda p: p.depth)
        for stage in dict.fromkeys(s.name for p in some for s in p.moments[-1].measured):
            rows = [(p.depth, s) for p in some for s in p.moments[-1].measured if s.name == stage]
            label = f"{'activation first' if preactivation else 'ReLU after the sum'}, {stage}"
            style: Any = {"color": colour, "alpha": {"layer1": 1.0, "layer2": 0.7}.get(stage, 0.4), "label": label}
            axes[0].plot([depth for depth, _ in rows], [s.kept for _, s in rows], "o-", markersize=4, **style)
            axes[1].plot([depth for depth, _ in rows], [s.share for _, s in rows], "o-", markersize=4, **style)
    axes[0].set(title="what the identity path keeps", ylabel="norm, by that at the end of the stage", ylim=(0, 1.05))
    axes[1].set(title="its part of the whole gradient", ylabel="norm, by that of the whole gradient")
    for axis in axes:
        depths = sorted({p.depth for p in paths})
        axis.set(xlabel="layers of the network")
        axis.set_xticks(depths, [str(depth) for depth in depths])
    axes[1].legend(frameon=False, fontsize=8)
    figure.suptitle("The gradient that comes through a stage by its shortcuts alone")
    return figure
