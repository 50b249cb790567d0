"""The study of identity paths: what arrives by shortcuts alone is the part of the gradient that it is said to be."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nets import batch
from test_study import good

import tinyres as tr
from tinyres import models, ops, recipe, splits
from tinyres.study import identity_path
from tinyres.study.probe import Moment

pytestmark = pytest.mark.usefixtures("one_thread")
POST, PRE = (models.BasicBlock, models.Bottleneck), (models.PreActBlock, models.PreActBottleneck)


@st.composite
def networks(draw, blocks=(*POST, *PRE)):
    tr.manual_seed(draw(st.integers(0, 99)))
    block, layers = draw(st.sampled_from(blocks)), draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    option = draw(st.sampled_from(["A", "B"]))
    net = models.ResNet(block, layers, widths=[4, 8][: len(layers)], shortcut=option)
    return net.astype(np.float64), batch(draw(st.integers(0, 99)), n=3, dtype=np.float64)


def without_branches(net):
    """Make the gradient of each block's F zero: what still arrives came by shortcuts."""
    for _, block in net.blocks():
        last = [m for m in block.modules() if isinstance(m, tr.nn.Conv2d)][-1]
        last.register_forward_hook(lambda module, args, y: tr.Tensor(y.data))
    return net


@given(networks())
def test_the_path_is_what_arrives_when_branches_pass_nothing_back(example):
    net, (x, y) = example
    _, stages = identity_path.measure(net, x, y)
    _, alone = identity_path.measure(without_branches(net), x, y)
    last, _ = list(net.blocks())[-1]
    for stage, other in zip(stages, alone, strict=True):
        assert other.share == pytest.approx(1, abs=1e-12)
        assert other.cosine == pytest.approx(1, abs=1e-12)
        assert other.open == stage.open
        if last.startswith(stage.name):  # g of an earlier stage came through other branches before
            assert other.kept == pytest.approx(stage.kept, rel=1e-12)


@given(networks(PRE))
def test_where_blocks_end_in_the_sum_all_of_it_arrives(example):
    _, stages = identity_path.measure(example[0], *example[1])
    assert all(stage.kept == stage.open == 1 for stage in stages)


@given(networks(POST))
def test_a_relu_after_the_sum_lets_no_more_through_than_came(example):
    net, (x, y) = example
    _, stages = identity_path.measure(net, x, y)
    for stage in stages:
        assert 0 <= stage.open <= 1
        assert 0 <= stage.kept <= 1
        assert -1 - 1e-12 <= stage.cosine <= 1 + 1e-12
    counts = {}
    for path, block in net.blocks():
        if block.downsample is None:
            name = path.split(".")[0]
            counts[name] = counts.get(name, 0) + 1
    assert [(stage.name, stage.blocks) for stage in stages] == list(counts.items())


def test_it_is_the_same_pass_that_training_makes():
    tr.manual_seed(0)
    net, (x, y) = models.create("resnet20"), batch(n=2)
    loss, _ = identity_path.measure(net, x, y)
    gradients = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    again = ops.cross_entropy(net(tr.Tensor(x)), y)
    again.backward()
    assert again.item() == loss
    assert all(np.array_equal(p.grad, gradients[name]) for name, p in net.named_parameters())
    assert not net.layer1[0]._forward_hooks


def test_depth_is_counted_in_layers_and_not_read_from_a_name():
    images = tr.data.shapes(2)
    found = splits.Data(images, images, images, tr.data.SHAPES_CLASSES, *tr.data.channel_statistics(images[0]))
    config = recipe.Config(dataset="shapes", batch_size=2)
    wide = dict(models.FAMILY["resnet20"], widths=(4, 4, 4))  # cheap, and of as many layers
    for name, depth in (("resnet20", 20), ("resnet164", 164), ("preact_resnet164", 164), ("narrow2_20_v1", 20)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(models.FAMILY, "narrow2_20_v1", wide)
            assert identity_path.identity_path(name, config, found).depth == depth


def test_a_plain_net_has_no_such_path():
    with pytest.raises(ValueError, match="plain20: its blocks have no shortcut"):
        identity_path.identity_path("plain20", None, None)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=3))
def test_verdict_and_picture_show_the_last_moment(kept):
    stages = [identity_path.Stage(f"layer{i}", 3, 0.5, k, k / 2, 0.1) for i, k in enumerate(kept, 1)]
    first = [stage._replace(kept=0.123) for stage in stages]
    paths = [
        identity_path.Path(name, depth, [Moment(0, 2.3, first), Moment(10, 2.0, stages)])
        for name, depth in (("resnet20", 20), ("resnet56", 56), ("preact_resnet20", 20))
    ]
    (sentence, *_) = identity_path.verdict(paths)
    assert f"after 10 steps: the identity path keeps {min(kept):.2f} to {max(kept):.2f} " in sentence
    axes = identity_path.draw(paths).axes
    assert len(axes[0].lines) == 2 * len(kept)
    assert [line.get_ydata()[0] for line in axes[0].lines] == kept * 2
    assert list(axes[0].lines[0].get_xdata()) == [20, 56]


def test_the_command(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = good("identity-path", "tiny", "--dataset", "shapes", "--batch-size", 12, "--steps", 1)
    numbers = json.loads((tmp_path / "study/identity-path/identity-path.json").read_text())
    (net,) = numbers["networks"]
    assert [moment["step"] for moment in net["moments"]] == [0, 1]
    stage = net["moments"][1]["measured"][0]
    assert f"{stage['kept']:.3f}" in output
    assert numbers["verdict"][0] in output
    assert (tmp_path / "study/identity-path/identity-path.png").stat().st_size > 5000
