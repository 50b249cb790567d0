"""Layer responses: the strength of each layer's result in a trained network (He et al., CVPR 2016, figure 7).

The response of a layer is the result of its batch norm, before the shortcut is added and before ReLU. At the end of a
residual block, it is added to the shortcut, so its size says how far the block is from the identity.
"""

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyres import plots
from tinyres.models import ResNet
from tinyres.nn import BatchNorm2d, Module
from tinyres.study.trained import Trained
from tinyres.tape import Array, HookHandle, no_grad
from tinyres.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Response(NamedTuple):
    """One layer: the path of its batch norm, and the standard deviation of its response."""

    layer: str
    std: float


class Responses(NamedTuple):
    """One network: its name, and its layers in order."""

    model: str
    layers: list[Response]

    @property
    def mean(self) -> float:
        """The mean of all layers' standard deviations."""
        return float(np.mean([response.std for response in self.layers]))


def measure(model: ResNet, batches: Iterable[Array]) -> list[Response]:
    """Measure the response of every layer except those in shortcuts, over all images.

    Parameters
    ----------
    model : ResNet
        In evaluation mode: batch norm uses its running statistics.
    batches : iterable of float arrays of shape (N, C, H, W)

    Returns
    -------
    list of Response
        In the order in which layers are called.

    Raises
    ------
    ValueError
        If the model is in training mode, or its blocks begin with batch norm: then layers have no such response.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.manual_seed(0)
    >>> net = tr.models.resnet20().eval()
    >>> found = measure(net, [np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype("f4")])
    >>> len(found), found[0].layer, found[-1].layer
    (19, 'bn1', 'layer3.2.bn2')
    """
    if model.training:
        raise ValueError("model: it is in training mode, expected evaluation: call model.eval() first")
    if any(getattr(block, "preactivation", False) for _, block in model.blocks()):
        raise ValueError("model: its blocks begin with batch norm, expected one behind each convolution")
    moments: dict[str, list[tuple[int, float, float]]] = {}  # for each batch: size, mean, variance

    def watch(path: str, layer: BatchNorm2d) -> HookHandle:
        def hook(module: Module, args: tuple[Tensor, ...], y: Tensor) -> None:
            alone = layer.forward(args[0]).data.astype(np.float64)  # without the shortcut and the ReLU of this call
            moments.setdefault(path, []).append((alone.size, alone.mean(), alone.var()))

        return layer.register_forward_hook(hook)

    layers = [(path, m) for path, m in model.named_modules() if isinstance(m, BatchNorm2d) and "downsample" not in path]
    with no_grad(), contextlib.ExitStack() as hooks:
        for path, layer in layers:
            hooks.enter_context(watch(path, layer))
        for images in batches:
            model(Tensor(images))
    return [Response(path, _std(parts)) for path, parts in moments.items()]


def _std(parts: list[tuple[int, float, float]]) -> float:
    """The standard deviation of all numbers, from the size, mean and variance of each batch."""
    sizes, means, variances = np.array(parts).T
    mean = np.average(means, weights=sizes)
    return float(np.sqrt(np.average(variances + (means - mean) ** 2, weights=sizes)))


def of(net: Trained) -> Responses:
    """The responses of a trained network, on its images.

    Examples
    --------
    >>> of(trained.load("runs/first", 100)).mean  # doctest: +SKIP
    0.42
    """
    assert isinstance(net.model, ResNet)
    return Responses(net.name, measure(net.model, (images for images, _ in net.loader.epoch(0))))


# ---------------------------------------------------------------- words and pictures
def verdict(profiles: Sequence[Responses]) -> list[str]:
    """The mean of each network's responses, in a sentence.

    Examples
    --------
    >>> verdict([Responses("resnet20", [Response("bn1", 1.0), Response("layer1.0.bn1", 0.5)])])
    ['resnet20: the responses of 2 layers have standard deviations of 0.500 to 1.000, 0.750 on average.']
    """
    return [
        f"{p.model}: the responses of {len(p.layers)} layers have standard deviations of "
        f"{min(r.std for r in p.layers):.3f} to {max(r.std for r in p.layers):.3f}, {p.mean:.3f} on average."
        for p in profiles
    ]


def draw(profiles: Sequence[Responses]) -> "Figure":
    """Draw the responses in the order of layers, and from large to small, as in the paper's figure 7."""
    figure, axes = plots.subplots(1, 2, width=11, height=4.0, sharey=True)
    depths = {p.model: len(p.layers) for p in profiles}
    for p in profiles:
        plain = p.model.startswith("plain")
        alike = [n for name, n in depths.items() if name.startswith("plain") == plain]
        style = {
            "color": plots.colour_of(p.model), "label": f"{p.model}: {p.mean:.2f}",
            "alpha": 1.0 if len(p.layers) == max(alike) else 0.5, "linewidth": 1.3,
        }  # fmt: skip
        stds, numbers = [r.std for r in p.layers], range(1, len(p.layers) + 1)
        axes[0].plot(numbers, stds, **style)
        axes[1].plot(numbers, sorted(stds, reverse=True), **style)
    for axis, title in zip(axes, ("in the order of layers", "from large to small"), strict=True):
        axis.set(title=title, xlabel="layer", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set(ylabel="standard deviation")
    axes[1].legend(frameon=False, title="mean")
    figure.suptitle("Responses of layers: behind batch norm, before shortcut and ReLU")
    return figure
