"""The skip-path microscope: two parts that sum to the gradient bit for bit, and are what they are said to be."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nets import batch
from support.runs import config
from test_study import command, good

import tinyres as tr
from tinyres import models, ops, splits
from tinyres.study import skip_path
from tinyres.study.variants import vary

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = [models.BasicBlock, models.Bottleneck, models.PreActBlock, models.PreActBottleneck]


def split(model, x, y):
    """What is seen of each block, by path, first block first."""
    seen = {}
    skip_path.split_backward(model, x, y, lambda path, kind, *arrays: seen.update({path: (kind, *arrays)}))
    return {path: (kind, *arrays) for path, (kind, *arrays) in reversed(seen.items())}


@st.composite
def networks(draw):
    """Any block with any shortcut, in stages that halve images of any size, or keep them."""
    tr.manual_seed(draw(st.integers(0, 99)))
    widths = draw(st.lists(st.sampled_from([1, 3, 4, 8]), min_size=1, max_size=2).map(sorted))
    layers = [draw(st.integers(1, 2)) for _ in widths]
    block, option = draw(st.sampled_from(BLOCKS)), draw(st.sampled_from("ABC"))
    model = models.ResNet(block, layers, widths=widths, shortcut=option)
    if draw(st.booleans()):
        vary(model, activation=draw(st.sampled_from(["relu", "sigmoid"])), batch_norm=draw(st.booleans()))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    sizes = {"n": draw(st.integers(1, 3)), "side": draw(st.integers(4, 9)), "seed": draw(st.integers(0, 99))}
    return model.astype(dtype), batch(**sizes, dtype=dtype)


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_parts_sum_to_the_gradient_bit_for_bit(backend):
    @given(networks())
    def holds(example):
        model, (x, y) = example
        seen = split(model, x, y)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        assert list(seen) == [path for path, _ in model.blocks()]
        for _, shortcut, branch, total in seen.values():
            assert shortcut.dtype == branch.dtype == total.dtype == x.dtype
            assert np.array_equal((shortcut + branch), total)
        model.zero_grad()  # and it is the gradient that ordinary backward has
        ops.cross_entropy(model(tr.Tensor(x)), y).backward()
        assert all(np.array_equal(p.grad, gradients[name]) for name, p in model.named_parameters())

    with tr.use_backend(backend):
        holds()


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet20", "resnet50"])
def test_at_the_sizes_of_real_networks_too(name):
    tr.manual_seed(0)
    model = models.create(name, num_classes=10, stem="cifar")
    x, y = batch(n=2, side=16)
    totals = {}

    def keep(path):
        def hook(module, args, out):  # returns nothing: what a hook returns takes the output's place
            args[0].register_hook(lambda g: totals.update({path: g.copy()}))

        return hook

    undo = [block.register_forward_hook(keep(path)) for path, block in model.blocks()]
    ops.cross_entropy(model(tr.Tensor(x)), y).backward()
    for remove in undo:
        remove()
    model.zero_grad()
    seen = split(model, x, y)
    assert len(seen) == len(totals)
    for path, (kind, shortcut, branch, total) in seen.items():
        assert np.array_equal(shortcut + branch, total)
        if not name.startswith("preact") or kind == "identity":  # there the fork is behind the activation
            assert np.array_equal(total, totals[path])


# ---------------------------------------------------------------- each part is what it is said to be
@pytest.mark.parametrize("option", ["A", "B", "C"])
@pytest.mark.parametrize("block", BLOCKS)
def test_the_shortcuts_part_is_what_comes_without_the_branch(block, option):
    """Cut the other path's gradient off, by detaching where it begins: what still arrives is this path's part."""
    tr.manual_seed(1)
    model = models.ResNet(block, [2, 1], widths=(4, 8), shortcut=option).astype(np.float64)
    x, y = batch(dtype=np.float64)
    seen = split(model, x, y)
    # the last block first, so that what comes to each is the whole gradient of its output
    for path, b in model.blocks():
        (kind, shortcut, branch, _), fork = seen[path], {}
        assert kind == ("identity" if b.downsample is None else "padding" if option == "A" else "projection")
        for cut, part in (("shortcut", branch), ("branch", shortcut)):
            undo = _cut(b, cut, fork)
            ops.cross_entropy(model(tr.Tensor(x)), y).backward()
            undo()
            np.testing.assert_allclose(fork["gradient"], part, rtol=1e-9, atol=1e-15)


def _cut(block, what, fork):
    """Let no gradient pass along one path of the block, and note that which comes to its fork."""
    forward, preactivation = block.forward, hasattr(block, "residual")

    def note(a):
        a.register_hook(lambda g: fork.update(gradient=g.copy()))
        return a

    def cut_forward(x):
        if not preactivation:
            short = note(x).detach() if what == "shortcut" else x
            down = short if block.downsample is None else block.downsample(short)
            y = x.detach() if what == "branch" else x
            names = ["1", "2", "3"] if hasattr(block, "conv3") else ["1", "2"]
            for n in names[:-1]:
                y = getattr(block, f"bn{n}")(getattr(block, f"conv{n}")(y), relu=True)
            note(x) if what == "branch" else None
            n = names[-1]
            return getattr(block, f"bn{n}")(getattr(block, f"conv{n}")(y), residual=down, relu=True)
        if block.downsample is None:
            note(x)
            a = x.detach() if what == "branch" else x
            a = a if block.bn1 is None else block.bn1(a, relu=True)
            return (x.detach() if what == "shortcut" else x) + block.residual(a)
        a = note(x if block.bn1 is None else block.bn1(x, relu=True))
        short, inner = (a.detach(), a) if what == "shortcut" else (a, a.detach())
        return block.downsample(short) + block.residual(inner)

    block.forward = cut_forward

    def undo():
        block.forward = forward

    return undo


def test_a_block_that_starts_as_its_shortcut_has_nothing_in_the_branch():
    model = models.ResNet(models.BasicBlock, [2], widths=(4,), zero_init_residual=True)
    loss, splits = skip_path.measure(model, *batch())
    assert np.isfinite(loss)
    assert [(s.branch, s.ratio, s.cosine) for s in splits] == [(0, None, 0)] * 2
    assert all(s.shortcut == s.total > 0 for s in splits)
    assert skip_path.draw("", [skip_path.Moment(0, loss, splits)]) is not None
    assert "0.00 times in" in skip_path.verdict("", [skip_path.Moment(0, loss, splits)])[0]


@given(st.integers(0, 10**6))
def test_numbers_are_those_of_the_arrays(seed):
    tr.manual_seed(seed)
    model = models.ResNet(models.BasicBlock, [1, 1], widths=(3, 5), shortcut="A").astype(np.float64)
    x, y = batch(seed, dtype=np.float64)
    seen, (_, splits) = split(model, x, y), skip_path.measure(model, x, y)
    for (path, (kind, a, b, total)), found in zip(seen.items(), splits, strict=True):
        lengths = [np.linalg.norm(array) for array in (a, b, total)]
        expected = *lengths, lengths[0] / lengths[1], np.vdot(a, b) / (lengths[0] * lengths[1])
        assert found[:2] == (path, kind)
        assert found[2:] == pytest.approx(expected, rel=1e-10, abs=1e-14)
        assert found.total**2 == pytest.approx(
            found.shortcut**2 + found.branch**2 + 2 * found.cosine * found.shortcut * found.branch, rel=1e-10
        )


# ---------------------------------------------------------------- refusals, training, the command
def test_plain_blocks_are_refused_and_leave_no_hooks():
    model = models.ResNet(models.PlainBlock, [1], widths=(4,), shortcut=None)
    with pytest.raises(ValueError, match=r"layer1\.0: a PlainBlock has no shortcut; expected residual blocks"):
        split(model, *batch())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="plain56: its blocks have no shortcut, expected a residual network"):
        skip_path.check("plain56")


def test_one_seed_one_result(tiny):
    def moments(**changes):
        how = config(validation=0, **changes)
        return skip_path.skip_path("tiny", how, splits.load_data(how), 3)

    first = moments()
    assert moments() == first
    assert [moment.step for moment in first] == [0, 1, 3]
    assert moments(seed=1) != first


def test_command(tiny, tmp_path):
    options = ["--dataset", "shapes", "--steps", 2, "--batch-size", 12, "--out", tmp_path]
    text = good("skip-path", "tiny", *options)
    assert "tiny after 2 steps: the part through the shortcut is" in text
    found = json.loads((tmp_path / "skip-path.json").read_text())
    assert [len(moment["measured"]) for moment in found["moments"]] == [2, 2, 2]
    assert (tmp_path / "skip-path.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"), [(["plain20"], "plain20: its blocks have no shortcut"), (["resnet21"], "no 'resnet21'")]
)
def test_mistakes_of_the_user(words, message, tmp_path):
    run = command("skip-path", *words, "--out", tmp_path / "out")
    assert run.exit_code == 1
    assert message in run.output
    assert not (tmp_path / "out").exists()
