"""The networks: sizes, names, shortcuts, gradients of whole nets, and depth."""

import itertools

import numpy as np
import pytest

import tinyres as tr
from tinyres import models, nn
from tinyres.models import BasicBlock, ResNet

pytestmark = pytest.mark.usefixtures("one_thread")


PARAMETERS = {  # He et al., table 6: 0.27, 0.46, 0.66, 0.85, 1.7 and 19.4 million; torchvision's for ImageNet
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet1202": 19_421_274,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet50_v1": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}


def size(net):
    return sum(p.size for p in net.parameters())


def images(n=2, side=8, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((n, 3, side, side)).astype(dtype)


def small(**options):
    return ResNet(BasicBlock, [1, 1], widths=(4, 8), **options)


# ---------------------------------------------------------------- sizes
@pytest.fixture
def undrawn():
    """Who counts weights has no need of their values, which take longer to draw than to count."""
    with nn.init.nothing_drawn():
        yield


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", [name for name in PARAMETERS if name != "resnet1202"])  # that one is built below
def test_parameter_counts_are_the_papers(name):
    assert size(models.create(name)) == PARAMETERS[name]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_plain_nets_are_as_large_as_residual_ones(depth):
    plain, residual = models.create(f"plain{depth}"), models.create(f"resnet{depth}")
    assert size(plain) == size(residual)
    shapes = [(n, p.shape) for n, p in plain.named_parameters()]
    assert shapes == [(n, p.shape) for n, p in residual.named_parameters()]
    assert not [n for n, _ in plain.named_modules() if "downsample" in n]


def test_family_can_be_called_by_name():
    for name in models.FAMILY:
        make = getattr(models, name)
        assert make.args == (name,)
    assert size(models.resnet20(num_classes=100)) == PARAMETERS["resnet20"] + 90 * 65


def test_depth_is_counted_in_layers_with_weights():
    for name, depth in (("resnet20", 20), ("plain20", 20), ("resnet56", 56)):
        layers = [m for m in models.create(name).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth


def test_summary_counts_the_papers_multiply_adds():
    rows = models.summarize(models.create("resnet20"))
    assert sum(row.multiply_adds for row in rows) == 40_551_040
    assert sum(row.parameters for row in rows) == PARAMETERS["resnet20"]
    assert rows[-1] == ("fc", "Linear", (10,), 650, 640, 40)
    by_name = {row.name: row for row in rows}
    assert by_name["layer2.0.conv1"].output == (32, 16, 16)
    assert by_name["layer2.0.conv1"].multiply_adds == 32 * 16 * 9 * 16 * 16
    assert by_name["bn1"].multiply_adds == 0


PAPERS = {  # multiply-adds in 10^9: as the paper prints them (table 1; ResNet-18 and 34 with option A), and counted
    "resnet18": ("A", 1.8, 1_794_805_760),
    "resnet34": ("A", 3.6, 3_644_493_824),
    "resnet50_v1": ("B", 3.8, 3_857_973_248),  # 3.86, which the paper cuts off and does not round
    "resnet101_v1": ("B", 7.6, 7_570_194_432),
    "resnet152_v1": ("B", 11.3, 11_282_415_616),
    "resnet50": ("B", 4.1, 4_089_184_256),
    "plain34": (None, 3.6, 3_644_493_824),
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", PAPERS)
def test_multiply_adds_at_224_pixels_are_the_papers(name):
    shortcut, printed, counted = PAPERS[name]
    rows = models.summarize(models.create(name, shortcut=shortcut), 224)
    assert sum(row.multiply_adds for row in rows) == counted
    assert abs(counted / 1e9 - printed) < 0.06


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [  # output sizes of table 1
        (
            "resnet34",
            {"conv1": 112, "maxpool": 56, "layer1": 56, "layer2": 28, "layer3": 14, "layer4": 7, "avgpool": 1},
        ),
        (
            "resnet50",
            {"conv1": 112, "maxpool": 56, "layer1": 56, "layer2": 28, "layer3": 14, "layer4": 7, "avgpool": 1},
        ),
        ("resnet20", {"conv1": 32, "layer1": 32, "layer2": 16, "layer3": 8, "avgpool": 1}),
    ],
)
def test_output_sizes_are_the_papers(name, sizes):
    rows = models.summarize(models.create(name), models.image_size(name))
    for prefix, size in sizes.items():
        last = [row for row in rows if row.name.startswith(prefix) and "downsample" not in row.name][-1]
        assert last.output[1:] == (size, size)


def test_activations_are_the_outputs():
    rows = models.summarize(models.create("resnet20"))
    assert all(row.activation_bytes == 4 * np.prod(row.output) for row in rows)
    # conv1, bn1, and 12 convolutions and norms of each of 3 stages of 16 x 32 x 32, halved each time; the rest is small
    assert sum(row.activation_bytes for row in rows) == 4 * (16 * 1024 * (14 + 12 / 2 + 12 / 4) + extra(rows))


def extra(rows):
    """Shortcuts, pooling and classifier."""
    return sum(np.prod(row.output) for row in rows if row.kind not in ("Conv2d", "BatchNorm2d"))


def test_a_bottleneck_saves_sixteen_parts_in_seventeen():
    """At w channels: 18 w^2 multiply-adds a pixel against w^2/4 + 9 w^2/16 + w^2/4."""
    costs = models.compare_blocks(["basic", "bottleneck"], 64)
    for basic, bottleneck in zip(costs["basic"], costs["bottleneck"], strict=True):
        w = basic.width
        assert basic[:3] == bottleneck[:3]
        assert basic.multiply_adds == 18 * w**2 * basic.size**2
        assert bottleneck.multiply_adds == 17 * w**2 // 16 * basic.size**2
        assert basic.parameters == 18 * w**2 + 4 * w
        assert bottleneck.parameters == 17 * w**2 // 16 + 2 * (w // 4 + w // 4 + w)
        assert basic.activation_bytes == 4 * 4 * w * basic.size**2
        assert bottleneck.activation_bytes == 4 * 2 * (w + w // 2) * basic.size**2
    assert [c.width for c in costs["basic"]] == [256, 512, 1024, 2048]
    with pytest.raises(ValueError, match="there is no 'basik', expected some of basic, bottleneck"):
        models.compare_blocks(["basik"])


def test_summary_leaves_the_model_as_it_was():
    net = small()
    before = net.state_dict()
    net.train()
    rows = models.summarize(net, 9)
    assert rows[0].output == (4, 9, 9)
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(ValueError, match="image"):
        models.summarize(nn.Sequential(nn.Conv2d(3, 1, 5)), 3)


# ---------------------------------------------------------------- shortcuts
@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_shortcut_options(shortcut):
    """The paper, section 4.1: zeros, projections where shapes change, projections everywhere."""
    net = ResNet(BasicBlock, [2, 2], widths=(4, 8), shortcut=shortcut)
    kinds = [type(block.downsample).__name__ for stage in (net.layer1, net.layer2) for block in stage]
    expected = {
        "A": ["NoneType", "NoneType", "PaddedIdentity", "NoneType"],
        "B": ["NoneType", "NoneType", "Sequential", "NoneType"],
        "C": ["Sequential"] * 4,
    }
    assert kinds == expected[shortcut]
    plain = ResNet(models.PlainBlock, [2, 2], widths=(4, 8), shortcut=None)
    projections = {"A": [], "B": [(4, 8)], "C": [(4, 4), (4, 4), (4, 8), (8, 8)]}[shortcut]
    assert size(net) == size(plain) + sum(i * o + 2 * o for i, o in projections)
    assert net(tr.Tensor(images(side=6))).shape == (2, 10)


def test_a_block_is_a_relu_of_a_sum():
    """With the second scale at zero nothing is left of F, and a block is the ReLU of its shortcut."""
    block = BasicBlock(4, 4)
    block.bn2.weight.data[...] = 0
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype("f4")
    np.testing.assert_array_equal(block(tr.Tensor(x)).data, np.maximum(x, 0))
    plain = models.PlainBlock(4, 4)
    plain.bn2.weight.data[...] = 0
    assert not plain(tr.Tensor(x)).data.any()


# ---------------------------------------------------------------- names
def test_names_are_torchvisions():
    net = ResNet(BasicBlock, [2, 2, 2, 2])
    names = list(net.state_dict())
    bn = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]

    def block(prefix, downsample):
        yield f"{prefix}.conv1.weight"
        yield from (f"{prefix}.bn1.{n}" for n in bn)
        yield f"{prefix}.conv2.weight"
        yield from (f"{prefix}.bn2.{n}" for n in bn)
        if downsample:
            yield f"{prefix}.downsample.0.weight"
            yield from (f"{prefix}.downsample.1.{n}" for n in bn)

    expected = ["conv1.weight", *(f"bn1.{n}" for n in bn)]
    for stage in (1, 2, 3, 4):
        for i in (0, 1):
            expected += block(f"layer{stage}.{i}", downsample=stage > 1 and i == 0)
    assert names == [*expected, "fc.weight", "fc.bias"]
    assert net(tr.Tensor(images(1, 32))).shape == (1, 10)
    assert net.layer4[1].conv2.weight.shape == (512, 512, 3, 3)


def test_a_block_of_ones_own_slots_in():
    class Wide(nn.Module):
        expansion = 3

        def __init__(self, in_channels, channels, stride=1, downsample=None):
            super().__init__()
            self.conv = nn.Conv2d(in_channels, channels * self.expansion, 3, stride=stride, padding=1)
            self.downsample = downsample

        def forward(self, x):
            return tr.ops.relu(self.conv(x) + (x if self.downsample is None else self.downsample(x)))

    net = ResNet(Wide, [2, 1], widths=(4, 8), num_classes=7)
    assert net.layer1[0].downsample[0].weight.shape == (12, 4, 1, 1)
    assert net.layer1[1].downsample is None
    assert net.layer2[0].downsample[0].weight.shape == (24, 12, 1, 1)
    assert net.fc.weight.shape == (7, 24)
    y = net(tr.Tensor(images()))
    assert y.shape == (2, 7)
    tr.ops.cross_entropy(y, [0, 1]).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_block_may_be_any_callable():
    net = ResNet(lambda *args: BasicBlock(*args), [1], widths=(4,))
    assert net(tr.Tensor(images())).shape == (2, 10)


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet(BasicBlock, []), r"layers: got \[\]"),
        (lambda: ResNet(BasicBlock, [1, 0]), r"layers: got \[1, 0\] with widths \[64, 128\], expected .* 1 or more"),
        (lambda: ResNet(BasicBlock, [1, 1], widths=(4,)), r"layers: got \[1, 1\] with widths \(4,\)"),
        (lambda: ResNet(BasicBlock, [1], widths=(0,)), r"layers: got \[1\] with widths \(0,\)"),
        (lambda: small(shortcut="D"), r"shortcut: got 'D', expected one of 'A', 'A-after', 'B', 'C' or None"),
        (lambda: small(num_classes=0), r"num_classes: got 0, expected 1 or more"),
        (lambda: models.create("resnet21"), r"there is no 'resnet21'; did you mean .*resnet20"),
        (lambda: models.create("ResNet-20"), r"there is no 'ResNet-20'; did you mean .*resnet20"),
        (lambda: models.create("plane20"), r"there is no 'plane20'; did you mean plain20"),
        (lambda: models.create("zzz"), r"there is no 'zzz'; there are resnet20, .*plain56"),
    ],
)
def test_models_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (2, 8, 8, 3)])
def test_input_must_be_images(shape):
    with pytest.raises(ValueError, match=r"x: got shape .*, expected images \(N, 3, H, W\)"):
        small()(tr.Tensor(np.zeros(shape, "f4")))


@pytest.mark.parametrize("side", [1, 2, 3, 5, 33])
def test_images_may_have_any_size(side):
    assert small()(tr.Tensor(images(side=side))).shape == (2, 10)


# ---------------------------------------------------------------- depth
@pytest.mark.parametrize("name", ["resnet110", "resnet1202"])
def test_very_deep_nets_train_a_step(name):
    """1,202 layers make a graph far deeper than Python's recursion limit."""
    tr.manual_seed(0)
    net = models.create(name)
    assert size(net) == PARAMETERS[name]
    optimizer = tr.optim.SGD(net.parameters(), 0.01)
    before = net.conv1.weight.data.copy()
    loss = tr.ops.cross_entropy(net(tr.Tensor(images())), [0, 1])
    loss.backward()
    assert all(np.isfinite(p.grad).all() for p in net.parameters())
    optimizer.step()
    assert np.isfinite(loss.item())
    assert not np.array_equal(net.conv1.weight.data, before)
    state = net.state_dict()
    assert len(state) == len(set(state)) == 6 * (2 * 3 * len(net.layer1) + 1) + 2


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet20", "resnet18", "plain20"])
@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_any_number_of_channels(name, channels):
    net = models.create(name, in_channels=channels, stem="cifar", num_classes=3).eval()
    for made in (net, nn.fuse(net, image_size=8)):
        assert made(tr.zeros((2, channels, 8, 8))).shape == (2, 3)
    with pytest.raises(ValueError, match=rf"x: got shape \(2, 3, 8, 8\), expected images \(N, {channels}, H, W\)"):
        net(tr.zeros((2, 3, 8, 8)))


def test_unknown_options_are_named_with_those_there_are():
    with pytest.raises(
        TypeError, match=r"num_clases: this network .* expected num_classes, .*did you mean num_classes\?"
    ):
        models.create("resnet20", num_clases=3)
    with pytest.raises(TypeError, match=r"groups: this network and its blocks have no such option"):
        models.resnet20(groups=2)
    with pytest.raises(TypeError, match=r"group: this network .*width_per_group, stride_on_1x1; did you mean groups\?"):
        models.resnet50(group=2)


def test_pictures_of_another_dtype_are_told_of_with_both_ways_out():
    with pytest.raises(TypeError, match=r"that of x: write x\.astype\(np\.float32\), or .*net\.astype"):
        models.resnet20()(tr.Tensor(np.zeros((1, 3, 8, 8))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(3, 8, 0), "Conv2d: kernel_size: got 0, expected 1 or more"),
        (lambda: nn.Conv2d(3, 8, (3, 0)), r"Conv2d: kernel_size: got \(3, 0\), expected 1 or more"),
        (lambda: nn.Conv2d(3, 8, 3, stride=0), "Conv2d: stride: got 0, expected 1 or more"),
        (lambda: nn.Conv2d(3, 8, 3, padding=-1), "Conv2d: padding: got -1, expected 0 or more"),
        (lambda: nn.MaxPool2d(0), "MaxPool2d: kernel_size: got 0, expected 1 or more"),
        (lambda: nn.AvgPool2d(2, stride=-1), "AvgPool2d: stride: got -1, expected 1 or more"),
    ],
)
def test_layers_refuse_windows_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- ways down
@pytest.mark.parametrize("block", [BasicBlock, models.Bottleneck, models.PreActBlock])
def test_pools_between_stages_halve_and_blocks_change_no_shape(block):
    net = ResNet(block, [1, 0, 2], widths=(4, 8, 6), stem_width=5, down="pool", shortcut=None)
    shapes = []
    for name in net._stages:
        net._modules[name].register_forward_hook(lambda module, args, y: shapes.append((args[0].shape, y.shape)))
    assert net(tr.Tensor(images(side=16))).shape == (2, 10)
    e = block.expansion
    expected = [(2, 5, 16, 16), (2, 4 * e, 8, 8), (2, 8 * e, 4, 4), (2, 6 * e, 2, 2)]
    assert shapes == list(itertools.pairwise(expected))
    assert [name for name, _ in net.blocks()] == ["layer1.1", "layer3.1", "layer3.2"]
    assert not [name for name, _ in net.named_modules() if "downsample" in name]
    assert net.conv1.weight.shape[0] == 5


def test_resnet9_has_nine_layers_with_weights():
    """Page, "How to train your ResNet 4": 64, 128 and 256 channels, 512 at the end; 6.57 million parameters."""
    with nn.init.nothing_drawn():
        net, slim = models.create("resnet9"), models.create("slim_resnet9")
    for model, width in ((net, 64), (slim, 32)):
        layers = [m.weight.shape[0] for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert layers == [width, *[2 * width] * 3, 4 * width, *[8 * width] * 3, 10]
    assert size(net) == 6_573_130


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"down": "stride"}, "down: got 'stride', expected one of 'block', 'pool'"),
        ({"layers": [1, 0]}, r"layers: got \[1, 0\]"),
        ({"layers": [1, -1], "down": "pool"}, r"layers: got \[1, -1\]"),
    ],
)
def test_ways_down_that_there_are_not(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**{"block": BasicBlock, "layers": [1, 1], "widths": (4, 8), **options})
