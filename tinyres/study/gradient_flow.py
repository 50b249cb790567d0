"""Gradient flow: the factor by which each layer changes the norm of the gradient, and the product over the depth.

By the chain rule, the gradient at an early layer is the gradient at a late layer times a factor for each layer between.
If most factors are below 1, the product vanishes with depth; if they are above 1, it explodes (Glorot and Bengio,
"Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010, section 4.2).
"""

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from tinyres import plots
from tinyres.models import ResNet
from tinyres.nn import Conv2d, Module
from tinyres.recipe import Config
from tinyres.splits import Data
from tinyres.study.probe import Moment, first_and_last, loss_of, main_path, network, norm, train_and_measure
from tinyres.study.variants import vary
from tinyres.tape import Array
from tinyres.tensor import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SATURATED = 0.01
"""A sigmoid y multiplies a gradient by y (1 - y), at most 1/4. If this is below SATURATED, y counts as saturated."""


class Layer(NamedTuple):
    """One convolution and the operations after it, up to the next convolution, for a batch of images.

    Attributes
    ----------
    name : str
        Path of the convolution.
    weight, gradient : float
        Norms of W and of dL/dW.
    ratio : float
        gradient / weight: the relative change of W in a step with learning rate 1.
    flow : float
        Norm of dL/dy. y is the input of the next layer; at the end of a block, the block's result.
    closed : float
        Part of the activations that pass no gradient, or almost none: ReLUs that are 0, sigmoids y with
        y (1 - y) < 0.01.
    dead : float
        Part of the channels whose activations are closed in every pixel of all images.
    """

    name: str
    weight: float
    gradient: float
    ratio: float
    flow: float
    closed: float
    dead: float


class Flow(NamedTuple):
    """One network: its name, its activation and normalisation, and measurements of its layers after some steps."""

    model: str
    variant: str
    moments: list[Moment[list[Layer]]]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.variant}"


# ---------------------------------------------------------------- one batch
def measure(model: ResNet, images: Array, labels: Array, activation: str = "relu") -> tuple[float, list[Layer]]:
    """Run a batch forward and backward, and measure every convolution except those of shortcuts.

    Parameters
    ----------
    model : ResNet
        It gets gradients.
    images : ndarray of shape (N, 3, H, W)
    labels : int ndarray of shape (N,)
    activation : "relu" or "sigmoid"
        The model's activation, which defines `closed`.

    Returns
    -------
    loss : float
    layers : list of Layer

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.manual_seed(0)
    >>> net = tr.models.create("plain20")
    >>> images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype("f4")
    >>> loss, layers = measure(net, images, np.array([3, 7]))
    >>> len(layers), layers[0].name, layers[-1].name
    (19, 'conv1', 'layer3.2.conv2')
    >>> product, mean = whole(layers)
    >>> product > 1  # with batch norm and ReLU it does not vanish
    True
    """
    seen, sites = _Seen(activation), dict(model.named_modules())
    hooks = [sites[path].register_forward_hook(seen.at(path)) for path in (*main_path(model), "avgpool")]
    hooks += [block.register_forward_hook(seen.entered(path)) for path, block in model.blocks()]
    loss = loss_of(model, images, labels, hooks)
    loss.backward()

    order = list(seen.closed)  # in which they were called
    layers = []
    for path, after in pairwise(order):
        conv = sites[path]
        assert isinstance(conv, Conv2d)
        assert conv.weight.grad is not None
        weight, gradient = norm(conv.weight.data), norm(conv.weight.grad)
        layers.append(Layer(path, weight, gradient, gradient / weight, seen.flow_into(after), *seen.closed[after]))
    return loss.item(), layers


class _Seen:
    """Records the inputs of convolutions and blocks in forward, and the gradients there in backward.

    The input of a layer is the output of the layer before. For a block's first convolution, the gradient is taken at
    the input of the block, which the shortcut uses, too; in a pre-activation block these two inputs differ.
    """

    def __init__(self, activation: str) -> None:
        self.activation = activation
        self.closed: dict[str, tuple[float, float]] = {}  # by path: of elements, of channels
        self.flows: dict[str, float] = {}
        self.firsts: dict[str, str] = {}  # path of a block's first convolution -> of the block
        self.inside: set[str] = set()

    def at(self, path: str) -> Any:
        """A forward hook for the convolution of this path."""

        def hook(module: Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self.closed[path] = _closed(args[0].data, self.activation)
            self._watch(path, args[0])

        return hook

    def entered(self, path: str) -> Any:
        """A forward hook for the block of this path: it has run, and its convolutions have been met."""

        def hook(module: Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            first = next(name for name in self.closed if name.startswith(f"{path}."))
            self.firsts[first] = path
            self._watch(path, args[0])

        return hook

    def _watch(self, path: str, x: Tensor) -> None:
        if x.requires_grad:  # the image does not
            x.register_hook(lambda gradient: self.flows.__setitem__(path, norm(gradient)))

    def flow_into(self, path: str) -> float:
        return self.flows[self.firsts.get(path, path)]


def _closed(y: Array, activation: str) -> tuple[float, float]:
    closed = y == 0 if activation == "relu" else y * (1 - y) < SATURATED
    return float(closed.mean()), float(closed.all((0, 2, 3)).mean())


# ---------------------------------------------------------------- the product
def factors(layers: list[Layer]) -> list[float]:
    """The factor by which each layer but the first multiplies the norm of the gradient in backward.

    Their product is the flow at the first layer's output, divided by that at the last layer's output.

    Examples
    --------
    >>> layers = [Layer("a", 1, 1, 1, 1.0, 0, 0), Layer("b", 1, 1, 1, 4.0, 0, 0), Layer("c", 1, 1, 1, 16.0, 0, 0)]
    >>> factors(layers)
    [0.25, 0.25]
    """
    return [_quotient(a.flow, b.flow) for a, b in pairwise(layers)]


def whole(layers: list[Layer]) -> tuple[float, float]:
    """The product of all factors, and their geometric mean.

    Examples
    --------
    >>> layers = [Layer("a", 1, 1, 1, 1.0, 0, 0), Layer("b", 1, 1, 1, 4.0, 0, 0), Layer("c", 1, 1, 1, 16.0, 0, 0)]
    >>> whole(layers)
    (0.0625, 0.25)
    """
    product = _quotient(layers[0].flow, layers[-1].flow)
    return product, product ** (1 / (len(layers) - 1))


def _quotient(a: float, b: float) -> float:
    return a / b if a else 0.0  # 0 / 0: nothing has come that far


# ---------------------------------------------------------------- over training
def gradient_flow(
    name: str, config: Config, found: Data, steps: int = 0, *, activation: str = "relu", batch_norm: bool = True
) -> Flow:
    """Measure a network at initialisation and during training.

    Parameters
    ----------
    name : str
        Name of a model.
    config : Config
        Settings of the training; its model is not used.
    found : Data
        Data from `tinyres.train.load_data`.
    steps : int
        Training steps.
    activation : "relu" or "sigmoid"
    batch_norm : bool
        Whether to keep batch norm.

    Returns
    -------
    Flow
        With fewer moments if the loss became infinite or NaN.

    Raises
    ------
    ValueError
        If there is no such model or activation, or `steps` is negative.
    ArithmeticError
        If the loss is not finite before any training.

    Examples
    --------
    >>> from tinyres import data
    >>> images, config = data.shapes(4), Config(dataset="shapes", batch_size=4)
    >>> found = Data(images, images, images, data.SHAPES_CLASSES, *data.channel_statistics(images[0]))
    >>> flow = gradient_flow("plain20", config, found, activation="sigmoid", batch_norm=False)
    >>> flow.title, len(flow.moments), whole(flow.moments[0].measured)[0] < 1e-8
    ('plain20, sigmoid, no batch norm', 1, True)
    """
    model = vary(network(name, config, found), activation=activation, batch_norm=batch_norm)
    moments = train_and_measure(model, config, found, steps, partial(measure, activation=activation))
    titles = {"relu": "ReLU", "sigmoid": "sigmoid"}
    return Flow(name, f"{titles[activation]}, {'' if batch_norm else 'no '}batch norm", moments)


def verdict(flows: list[Flow]) -> list[str]:
    """Sentences with results: one for each network at initialisation, and one for each that was trained.

    Examples
    --------
    >>> layers = [Layer("a", 1, 1, 1, 1.0, 0, 0), Layer("b", 1, 1, 1, 4.0, 0, 0), Layer("c", 1, 1, 1, 16.0, 0, 0)]
    >>> verdict([Flow("resnet20", "ReLU, batch norm", [Moment(0, 2.3, layers)])])  # doctest: +NORMALIZE_WHITESPACE
    ["resnet20, ReLU, batch norm: at initialisation a layer multiplies the gradient's norm by 0.25, 2 layers by 0.062."]
    """
    sentences = []
    for flow in flows:
        for moment in first_and_last(flow.moments):
            product, mean = whole(moment.measured)
            sentences.append(
                f"{flow.title}: {moment.when} a layer multiplies the gradient's norm by {mean:.3g}, "
                f"{len(moment.measured) - 1} layers by {product:.2g}."
            )
    chains = [f for f in flows if f.model.startswith("plain") and f.variant.startswith("sigmoid")]
    if chains:
        depth = max(len(flow.moments[0].measured) - 1 for flow in chains)
        sentences.append(
            f"A sigmoid's derivative is at most 1/4: the activations of {depth} layers in a chain multiply a gradient "
            f"by at most {0.25**depth:.2g}. Weights and batch norm multiply too."
        )
    return sentences


def draw(flows: list[Flow]) -> "Figure":
    """Plot for each layer: the norm of dL/dy, the ratio ||dL/dW|| / ||W||, and closed activations. A curve per moment.

    Examples
    --------
    >>> layers = [Layer("a", 1, 1, 1, 1.0, 0, 0), Layer("b", 1, 1, 1, 4.0, 0, 0), Layer("c", 1, 1, 1, 16.0, 0, 0)]
    >>> draw([Flow("resnet20", "ReLU, batch norm", [Moment(0, 2.3, layers)])]).axes[0].get_ylabel()
    'norm of dL/dy'
    """
    from matplotlib.colors import LinearSegmentedColormap

    figure, axes = plots.subplots(
        3, len(flows), width=1.5 + 3.4 * len(flows), height=7.6, sharex="col", sharey="row", squeeze=False,
        height_ratios=(1.4, 1, 0.8),
    )  # fmt: skip
    for column, flow in zip(axes.T, flows, strict=True):
        shades = LinearSegmentedColormap.from_list("", ["#e8e8e8", plots.colour_of(flow.model), "#101010"])
        for i, moment in enumerate(flow.moments):
            numbers = range(1, len(moment.measured) + 1)
            style: Any = {"color": shades(0.2 + 0.65 * i / max(len(flow.moments) - 1, 1)), "linewidth": 1.4}
            label = moment.when.removeprefix("at ")
            column[0].plot(numbers, [layer.flow for layer in moment.measured], label=label, **style)
            column[1].plot(numbers, [layer.ratio for layer in moment.measured], **style)
            column[2].plot(numbers, [100 * layer.closed for layer in moment.measured], **style)
            column[2].plot(numbers, [100 * layer.dead for layer in moment.measured], ":", **style)
        product, mean = whole(flow.moments[0].measured)
        column[0].set(yscale="log")
        column[0].set_title(
            f"{flow.model}: {flow.variant}\nat first {mean:.2f} per layer, {product:.1e} in all", size=10
        )
        column[1].set(yscale="log")
        column[2].set(xlabel="layer, from the image on", ylim=(-3, 103))
        column[2].xaxis.get_major_locator().set_params(integer=True)
    labels = "norm of dL/dy", "norm of dL/dW\n/ norm of W", "closed (%),\ndead channels dotted"
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set(ylabel=label)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle("The gradient on its way back, from the last layer (right) to the first (left)")
    return figure
