"""Gradients of whole networks, by image and all parameters at once, along a random direction."""

import numpy as np
import pytest
from support.branches import Branches
from support.nets import LAST, nearly_linear

import tinyres as tr
from tinyres import models, ops
from tinyres.testing import gradcheck

pytestmark = pytest.mark.usefixtures("one_thread")

TARGET = [3, 7]


def images(side=8, seed=0):
    return np.random.default_rng(seed).standard_normal((len(TARGET), 3, side, side))


def loss_of(net, x):
    return ops.cross_entropy(net(x), TARGET, label_smoothing=0.1)


# ---------------------------------------------------------------- every model, on the branches of its ReLUs
STEP = 3e-6


def slopes(net, x, rng):
    """The loss's slope along a random direction, by backward, each array's part of it, and by differences.

    A direction of each array's own size, so that none outweighs the others. With D(h) the central difference,
    (4 D(h/2) - D(h)) / 3 is the slope but for terms of h^4 (Richardson): a step that is large enough for rounding
    to be 1e-9 of the slope is then small enough for a thousand layers.
    """
    image, branches = tr.Tensor(x, requires_grad=True), Branches()
    with tr.no_grad(), branches.noted():
        loss_of(net, image)
    loss = loss_of(net, image)  # as users compute it, with batch norms that are computed as they are loaded
    loss.backward()
    names, tensors = zip(("image", image), *net.named_parameters(), strict=True)
    start = [t.data.copy() for t in tensors]
    way = [_direction(rng, a) for a in start]
    parts = [_sum_and_norm(t.grad * d) for t, d in zip(tensors, way, strict=True)]

    def at(h):
        for t, a, d in zip(tensors, start, way, strict=True):
            np.multiply(d, h, out=t.data)
            t.data[...] += a
        with tr.no_grad(), branches.held():
            return loss_of(net, image).item()

    assert at(0) == pytest.approx(loss.item(), rel=1e-13)  # to hold the branches changes nothing
    coarse, fine = ((at(h) - at(-h)) / (2 * h) for h in (STEP, STEP / 2))
    sizes = {n: norm for n, (_, norm) in zip(names, parts, strict=True)}
    return sum(total for total, _ in parts), sizes, (4 * fine - coarse) / 3


def _sum_and_norm(a):
    return float(a.sum()), float(np.linalg.norm(a))


def _direction(rng, array):
    """Random signs and sizes, none near 0, of the array's size."""
    d = rng.uniform(0.5, 1, array.shape)
    d *= np.sqrt(np.mean(array * array)) or 1
    d *= 1 - 2 * rng.integers(0, 2, array.shape, np.int8)
    return d


def network(name, **options):
    tr.manual_seed(0)
    large = models.image_size(name, options.get("stem")) == 224
    if large and "widths" not in options:  # a quarter as wide as the paper's, as deep, and 16 times as fast
        options["widths"] = (16, 32, 64, 128)
    net = models.create(name, num_classes=10, **options).astype(np.float64)
    blocks = sum(type(m).__name__ in LAST for m in net.modules())
    net = nearly_linear(net, branch=max(blocks, 1) ** -0.5)
    halvings = 3 if any(isinstance(m, models.PooledConv) for m in net.modules()) else 2
    return net, images(side=64 if large else 2 * 2**halvings)  # 2 x 2 pixels in the last stage


def assert_right(net, x):
    by_backward, sizes, by_differences = slopes(net, x, np.random.default_rng(1))
    assert by_backward == pytest.approx(by_differences, rel=1e-6, abs=0)
    # No array is so small a part that an error in it, of a twentieth or more, were lost in the tolerance.
    assert min(sizes.values()) > 2e-5 * abs(by_differences), min(sizes, key=sizes.get)


@pytest.mark.parametrize("name", models.FAMILY)
def test_gradient_of_every_model(name):
    """Errors are found to be 7e-12 to 1.4e-8."""
    assert_right(*network(name))


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet20", {"shortcut": s}) for s in "BC"]
    + [("preact_resnet20", {"shortcut": "C"}), ("resnet18", {"stem": "cifar", "shortcut": "A"})]
    + [(name, {}) for name in ("resnet20", "plain20", "preact_resnet20", "resnet164", "preact_resnet164", "resnet18")],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_gradient_in_evaluation(name, options):
    net, x = network(name, **options)
    assert_right(net.eval(), x)


@pytest.mark.parametrize("name", ["conv1.weight", "layer1.0.bn2.bias", "layer2.0.conv1.weight", "fc.weight"])
def test_one_wrong_array_is_noticed(name):
    net, x = network("resnet20")
    dict(net.named_parameters())[name].register_hook(lambda g: 1.001 * g)
    by_backward, _, by_differences = slopes(net, x, np.random.default_rng(1))
    assert by_backward != pytest.approx(by_differences, rel=1e-5, abs=0)


# ---------------------------------------------------------------- as it is, kinks and all
def as_function(net):
    """The net's loss as a function of all of its parameters, and their values."""
    places = [(m, n) for _, m in net.named_modules() for n in m._parameters]
    values = [m._parameters[n].data for m, n in places]

    def loss(x, *parameters):
        for (module, name), value in zip(places, parameters, strict=True):
            object.__setattr__(module, name, value)  # forward sees it, the tree does not
        return loss_of(net, x)

    return loss, values


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet20", {"shortcut": s}) for s in "ABC"] + [("plain20", {})],
    ids=["resnet20-A", "resnet20-B", "resnet20-C", "plain20"],
)
def test_gradient_of_a_whole_network(name, options, training):
    """The same with nothing held, and weights as they start.

    A step of 1e-7 for each of 270,000 parameters is one of 5e-5 altogether, so it must be smaller than for one
    operation: few of the 15,000 ReLUs should be pushed over their kink. Rounding, 1e-15 of a loss near 1, is then 1e-8
    of the difference quotient, a number from 0.5 to 25. Errors are found to be 3e-10 to 5e-9; the tolerance is 20 times
    that.
    """
    tr.manual_seed(0)
    net = models.create(name, **options).astype(np.float64).train(training)
    loss, values = as_function(net)
    assert gradcheck(loss, images(), *values, full=False, eps=1e-7, rtol=1e-7)
