"""The effect of batch norm on gradients over the depth: with and without it, for weights of several sizes.

The gradient at the first layer is the gradient at the last layer times a factor for each layer between, see
`gradient_flow`. Without batch norm, a factor is proportional to the size of the layer's weights. So the product grows
with this size to the power of the depth. Batch norm divides a layer's result by its standard deviation. If the weights
are doubled, so is the deviation, and the factor stays the same (Ioffe and Szegedy, "Batch normalization", ICML 2015,
section 3.3). This is why the plain networks of He et al., CVPR 2016, section 4.1, have gradients of "healthy norms".
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinyres import plots
from tinyres.models import ResNet
from tinyres.nn import Conv2d
from tinyres.recipe import Config
from tinyres.splits import Data
from tinyres.study.gradient_flow import measure, whole
from tinyres.study.probe import loader, network
from tinyres.study.variants import vary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0)
"""Factors on the weights of all convolutions; 1 is the paper's initialisation (He et al., ICCV 2015)."""


MODELS = ("plain20", "plain56", "resnet20", "resnet56")
"""Networks that are measured by default."""


class Point(NamedTuple):
    """One network at initialisation.

    Attributes
    ----------
    model : str
    batch_norm : bool
    scale : float
        Factor on its weights.
    layers : int
        Number of layers.
    factor : float
        The factor by which a layer multiplies the norm of the gradient in backward: the geometric mean of all layers.
    product : float
        The product of the factors of all layers.
    """

    model: str
    batch_norm: bool
    scale: float
    layers: int
    factor: float
    product: float


def scaled(model: ResNet, scale: float) -> ResNet:
    """Multiply the weights of all convolutions, and return the model.

    Raises
    ------
    ValueError
        If the scale is not positive.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.create("plain20")
    >>> before = net.conv1.weight.data.copy()
    >>> bool((scaled(net, 2.0).conv1.weight.data == 2 * before).all())
    True
    """
    check_scales([scale])
    for module in model.modules():
        if isinstance(module, Conv2d):
            module.weight.data *= np.float32(scale)
    return model


def check_scales(scales: Sequence[float]) -> None:
    """Raise ValueError if there is no scale, a scale is not a positive number, or one is given twice.

    Examples
    --------
    >>> check_scales([1.0, -1.0])
    Traceback (most recent call last):
    ValueError: scale: got -1, expected a positive number
    """
    for scale in scales:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: got {scale:g}, expected a positive number")
    if not scales or len(set(scales)) < len(scales):
        raise ValueError(
            f"scale: got {', '.join(f'{scale:g}' for scale in scales) or 'none'}, expected some, each once"
        )


def batch_norm(names: Sequence[str], config: Config, found: Data, scales: Sequence[float] = SCALES) -> list[Point]:
    """Measure networks at initialisation with and without batch norm, for weights of several sizes.

    Parameters
    ----------
    names : sequence of str
        Of models of the family.
    config : Config
        Its batch size and seed.
    found : Data
        Data from `tinyres.train.load_data`.
    scales : sequence of float
        Positive.

    Returns
    -------
    list of Point
        Sorted by network, then batch norm (without first), then scale. A product may be infinite or 0.

    Raises
    ------
    ValueError
        If there is no such model, or a scale is not positive.

    Examples
    --------
    >>> from tinyres import data
    >>> images, config = data.shapes(4), Config(dataset="shapes", batch_size=4)
    >>> found = Data(images, images, images, data.SHAPES_CLASSES, *data.channel_statistics(images[0]))
    >>> without, twice, norm, norm_twice = batch_norm(["plain20"], config, found, [1.0, 2.0])
    >>> round(twice.factor / without.factor, 2), round(norm_twice.factor / norm.factor, 2)
    (2.0, 1.0)
    """
    check_scales(scales)
    images, labels = next(loader(config, found).epoch(0))
    points = []
    for name in names:
        for norm in (False, True):
            for scale in scales:
                model = scaled(vary(network(name, config, found), batch_norm=norm), scale)
                with np.errstate(over="ignore", invalid="ignore"):  # what explodes is seen by its product
                    _, layers = measure(model, images, labels)
                product, factor = whole(layers)
                points.append(Point(name, norm, scale, len(layers), factor, product))
    return points


def curves(points: Sequence[Point]) -> list[list[Point]]:
    """Points of one network, with batch norm or without, from small weights to large."""
    order = sorted(points, key=lambda p: p.scale)
    kinds = dict.fromkeys((p.model, p.batch_norm) for p in points)
    return [[p for p in order if (p.model, p.batch_norm) == kind] for kind in kinds]


def verdict(points: Sequence[Point]) -> list[str]:
    """For each network a sentence without batch norm and one with it, and one on the weights.

    Examples
    --------
    >>> points = [Point("plain20", False, scale, 19, scale, scale**18) for scale in (0.5, 2.0)]
    >>> print(verdict(points + [Point("plain20", True, scale, 19, 1.2, 27.0) for scale in (0.5, 2.0)])[1])
    plain20, with batch norm: a layer multiplies the gradient's norm by 1.20 to 1.20, all 18 by 27 to 27.
    """
    sentences = []
    for curve in curves(points):
        first = curve[0]
        factors, products = [p.factor for p in curve], [p.product for p in curve]
        sentences.append(
            f"{first.model}, {'with' if first.batch_norm else 'without'} batch norm: a layer multiplies the gradient's "
            f"norm by {min(factors):#.3g} to {max(factors):#.3g}, all {first.layers - 1} by {min(products):.2g} to "
            f"{max(products):.2g}."
        )
    scales = sorted({point.scale for point in points})
    return [*sentences, f"The weights are {scales[0]:g} to {scales[-1]:g} times those of the paper's initialisation."]


def draw(points: Sequence[Point]) -> "Figure":
    """What all layers do to the gradient, by the size of the weights: a curve for each network, with and without."""
    figure, axes = plots.subplots(1, 2, width=10, height=4.2, sharey=True)
    for curve in curves(points):
        first = curve[0]
        plain = first.model.startswith("plain")
        shades = sorted({p.layers for p in points if p.model.startswith("plain") == plain})
        axes[int(not plain)].plot(
            [p.scale for p in curve], [p.product for p in curve], "o-" if first.batch_norm else "o--", markersize=4,
            color=plots.colour_of(first.model), alpha=0.45 + 0.55 * (first.layers == shades[-1]),
            label=f"{first.model}, {'with' if first.batch_norm else 'without'} batch norm",
        )  # fmt: skip
    for axis, title in zip(axes, ("plain nets", "residual nets"), strict=True):
        axis.set(xscale="log", yscale="log", title=title, xlabel="size of the weights, 1 as initialised")
        ticks = sorted({p.scale for p in points})
        axis.set_xticks(ticks, [f"{scale:g}" for scale in ticks])
        axis.minorticks_off()
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    axes[0].set(ylabel="gradient at the first layer\nby that at the last")
    figure.suptitle("What all layers together do to the norm of the gradient, at initialisation")
    return figure
