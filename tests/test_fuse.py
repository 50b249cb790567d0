"""Folding batch norm into convolutions changes what is computed with, not what is computed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nets import randomised

import tinyres as tr
from tinyres import nn


def images(n=2, side=32, channels=3, seed=1):
    return tr.Tensor(np.random.default_rng(seed).standard_normal((n, channels, side, side)).astype("f4"))


def distance(found, expected):
    return np.linalg.norm(found.data - expected.data) / np.linalg.norm(expected.data)


def kinds(model, kind):
    return sum(type(m) is kind for m in model.modules())


@pytest.mark.parametrize(
    ("name", "options", "norms_left"),
    [
        ("resnet20", {}, 0),
        ("resnet20", {"shortcut": "C"}, 0),
        ("plain20", {}, 0),
        ("resnet18", {"stem": "cifar", "num_classes": 10}, 0),
        ("resnet50", {"num_classes": 10}, 0),
        ("resnext50_32x4d", {"num_classes": 10, "widths": (16, 32, 64, 128)}, 0),
        ("preact_resnet20", {}, 9),  # the first of each block but one, and the last of the net
        ("preact_resnet50", {"num_classes": 10}, 16),
    ],
)
def test_logits_stay_the_same(name, options, norms_left):
    if name.startswith("resnext"):
        options = {**options, "groups": 4, "width_per_group": 16}
    tr.manual_seed(0)
    net = randomised(tr.models.create(name, **options)).eval()
    before, state = net(images()), net.state_dict()
    fused = nn.fuse(net)
    assert distance(fused(images()), before) < 1e-5
    assert kinds(fused, nn.BatchNorm2d) == norms_left
    assert kinds(fused, nn.Identity) + norms_left == kinds(net, nn.BatchNorm2d) + kinds(net, nn.Identity)
    np.testing.assert_array_equal(net(images()).data, before.data)  # the model itself is as it was
    assert all(np.array_equal(a, state[n]) for n, a in net.state_dict().items())


def test_in_float64_the_difference_is_rounding():
    net = randomised(tr.models.resnet20()).astype(np.float64).eval()
    x = tr.Tensor(images().data.astype(np.float64))
    assert distance(nn.fuse(net)(x), net(x)) < 1e-13


@given(st.integers(1, 3), st.integers(1, 5), st.booleans(), st.booleans(), st.sampled_from([1, 2]))
def test_one_convolution(kernel, channels, bias, relu, groups):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, channels * groups, kernel, padding=1, groups=groups, bias=bias)
            self.bn = nn.BatchNorm2d(channels * groups, eps=0.1)
            if bias:
                self.conv.bias.data[...] = np.arange(channels * groups)

        def forward(self, x):
            return self.bn(self.conv(x), relu=relu)

    net = randomised(Net()).eval()
    fused = nn.fuse(net, image_size=5)
    assert kinds(fused, nn.BatchNorm2d) == 0
    np.testing.assert_allclose(fused(images(2, 5, 2)).data, net(images(2, 5, 2)).data, rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    """A convolution whose result is read twice: folding would change the other reader's input."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


class Twice(nn.Module):
    """One convolution called twice, with two batch norms."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn2(self.conv(self.bn1(self.conv(x))))


class Far(nn.Module):
    """A ReLU between the two."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(tr.ops.relu(self.conv(x)))


@pytest.mark.parametrize("make", [Shared, Twice, Far])
def test_what_cannot_be_folded_stays(make):
    net = randomised(make()).eval()
    fused = nn.fuse(net, image_size=6)
    assert kinds(fused, nn.BatchNorm2d) == kinds(net, nn.BatchNorm2d)
    np.testing.assert_array_equal(fused(images(2, 6)).data, net(images(2, 6)).data)


def test_without_convolutions_there_is_nothing_to_fold():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    x = images(2, 2)
    np.testing.assert_array_equal(nn.fuse(net)(x).data, net(x).data)


def test_part_of_a_model_inside_no_grad():
    """A block knows the name it has in its model, and nothing is recorded around the call."""
    net = randomised(tr.models.resnet20()).eval()
    block, x = net.layer1[0], images(2, 8, 16)
    with tr.no_grad():
        fused = nn.fuse(block)
    assert kinds(fused, nn.Identity) == 2
    assert distance(fused(x), block(x)) < 1e-5


def test_frozen_models_fold_too():
    net = randomised(tr.models.resnet20()).eval()
    for p in net.parameters():
        p.requires_grad = False
    assert kinds(nn.fuse(net), nn.BatchNorm2d) == 0


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"fuse: the model is in training mode.*call model.eval\(\) first"):
        nn.fuse(tr.models.resnet20())


def test_a_part_in_training_mode_is_refused():
    """It would be run on its batch's statistics, and folded with others."""
    net = tr.models.resnet20().eval()
    net.layer1[0].bn1.train()
    with pytest.raises(ValueError, match=r"fuse: module 'layer1\.0\.bn1' is in training mode.*call model.eval\(\)"):
        nn.fuse(net)
