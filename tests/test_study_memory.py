"""The memory study: its bytes are those that are alive, its curve ends at nothing; the picture, the command."""

import json
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_study import command, good

import tinyres as tr
from tinyres import Tensor, models, nn, ops, tape
from tinyres.study import memory

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT = 4


def small(layers=(2, 2), block=models.BasicBlock, **options):
    tr.manual_seed(0)
    return models.ResNet(block, list(layers), num_classes=4, widths=[8, 16, 32][: len(layers)], **options)


@pytest.fixture(scope="module")
def steps():
    return memory.memory(small(), batch_size=2, image_size=8, segments=[1, 2], steps=2)


# ---------------------------------------------------------------- bytes
def test_a_chain_by_hand():
    """x of 2 KiB; exp keeps its output, mul both factors, of which one is that output, sum nothing."""
    x, k = Tensor(np.ones(512, np.float32), requires_grad=True), Tensor(np.ones(512, np.float32))
    recorder = memory._Recorder([x.data])
    with tape.watching(recorder):
        ((x.exp() * k).sum() * 2).backward()
    recorder.look("backward", "", "")
    kib = [moment.bytes / 1024 for moment in recorder.moments]
    number = FLOAT / 1024  # the last product has two
    full = [2, 4, 4, 4 + 2 * number]
    assert kib == [*full, full[-1], 4, 4, 2, 0]
    assert [(m.phase, m.op) for m in recorder.moments] == [
        *(("forward", op) for op in ("exp", "mul", "sum", "mul")),
        *(("backward", op) for op in ("mul", "sum", "mul", "exp")), ("backward", ""),
    ]  # fmt: skip
    assert [(k.op, k.why, k.bytes) for k in recorder.kept][:2] == [("exp", "y", 2048), ("mul", "b", 2048)]


def test_a_view_counts_as_all_that_it_keeps_alive():
    x = Tensor(np.ones((4, 256), np.float32), requires_grad=True)
    y = x * 1.0
    recorder = memory._Recorder([x.data])
    with tape.watching(recorder):
        (y.reshape(2, 512) * Tensor(np.ones((2, 1), np.float32), requires_grad=True)).sum().backward()
    assert [kept.bytes for kept in recorder.kept] == [x.data.nbytes, 8]
    assert recorder.kept[0].shape == (2, 512)


@given(
    st.sampled_from(["basic", "bottleneck", "plain", "preact"]), st.lists(st.integers(1, 2), min_size=1, max_size=2),
    st.integers(0, 2),
)  # fmt: skip
def test_bytes_are_those_of_arrays_that_are_alive(kind, layers, segment):
    """An independent count: of every array that any operation was given or has computed, which of them still live
    once everything but the tape has let go of them."""
    block = models.summary.BLOCKS[kind]
    net = small(layers, block, shortcut=None if kind == "plain" else "B")
    net.recompute(segment)
    x, seen = Tensor(np.ones((2, 3, 4, 4), np.float32)), {}
    there = [memory.owner(array) for array in (x.data, *(p.data for p in net.parameters()))]

    class Collect(memory._Recorder):
        def recorded(self, node, inputs):
            super().recorded(node, inputs)
            for array in [*inputs, *(c for c in memory.closure(node.pullback).values() if isinstance(c, np.ndarray))]:
                whole = memory.owner(array)
                if not any(whole is known for known in there):
                    seen[id(whole)] = weakref.ref(whole)

    recorder = Collect(there)
    with tape.watching(recorder):
        loss = ops.cross_entropy(net(x), np.zeros(2, int))
    kept = recorder._arrays()
    expected = sum(array.nbytes for ref in seen.values() if (array := ref()) is not None)
    # what a dropped batch norm is defined by stays with its node, a mean and a deviation for each channel
    attributes = sum(
        value.nbytes
        for node in tape.topological_order(loss._node)
        if isinstance(node, tape.Node) and not memory.closure(node.pullback)
        for value in node.attributes.values()
        if isinstance(value, np.ndarray)
    )
    assert sum(one.bytes for one in kept) == expected - attributes


def test_curve_ends_at_zero_and_falls_in_backward(steps):
    for step in steps:
        assert step.moments[-1].bytes == 0
        forward = [m.bytes for m in step.moments if m.phase == "forward"]
        assert step.after_forward == next(m for m in step.moments if m.phase == "backward").bytes
        assert max(forward) <= step.peak
    down = [m.bytes for m in steps[0].moments if m.phase == "backward"]
    assert down == sorted(down, reverse=True)
    assert steps[0].peak == steps[0].after_forward


def test_modules_go_back_in_the_opposite_order(steps):
    """But for shortcuts, which are one of two ways."""
    forward, backward = ([(m.op, m.module) for m in steps[0].moments if m.phase == p] for p in ("forward", "backward"))
    assert sorted(forward) == sorted(backward[:-1])
    main = [m for _, m in forward if ".downsample" not in m]
    assert main == [m for _, m in backward[:-1] if ".downsample" not in m][::-1]


def test_sums_keep_no_array():
    """Their gradient needs the shape only."""
    x = Tensor(np.ones((4, 4)), requires_grad=True)
    assert list(memory.holdings(x.sum(0)._node)) == list(memory.holdings(x.reshape(16)._node)) == []


def test_arrays_by_hand(steps):
    """Of a basic block with batch N, C channels and P pixels: the batch norms keep their inputs, the first convolution
    what came in, the second the first ReLU's output, the second batch norm its own output. Where a vector has no more
    numbers than there are channels, the second convolution computes its input from the batch norm's as it loads it."""
    pixels = 2 * 8 * 8 * 8 * FLOAT
    kept = [
        (k.op, k.module, k.why, k.bytes) for k in steps[0].kept if k.module.startswith("layer1.0") and k.bytes > 999
    ]
    pending = tr.backend.active.takes_pending((2, 8, 8, 8), (8, 8, 3, 3), FLOAT, stride=(1, 1), padding=(1, 1))
    assert kept == [
        ("conv2d", "layer1.0.conv1", "input, for dL/dw", pixels),
        ("batch_norm", "layer1.0.bn1", "input, for z", pixels),
        *([] if pending else [("conv2d", "layer1.0.conv2", "input, for dL/dw", pixels)]),
        ("batch_norm", "layer1.0.bn2", "input, for z", pixels),
        ("batch_norm", "layer1.0.bn2", "output, as ReLU's mask", pixels),
    ]
    shared = next(k for k in steps[0].kept if k.module == "layer1.0.bn2" and k.why.startswith("output"))
    assert shared.also == ["layer1.1.conv1"]


def test_checkpoints_hold_what_goes_into_them(steps):
    everything, blocks, stages = steps
    dark = f"checkpoint: {memory.AGAIN}"
    entering = [2 * 8 * 64 * FLOAT] * 3 + [2 * 16 * 16 * FLOAT]  # of layer1.0, 1.1, 2.0, 2.1
    assert sum(k.bytes for k in blocks.kept if k.label == dark) == sum(entering)
    assert sum(k.bytes for k in stages.kept if k.label == dark) == entering[0] + entering[2]
    assert everything.after_forward > blocks.after_forward > stages.after_forward
    again = [m for m in blocks.moments if m.phase == "again"]
    assert again[0].module.startswith("layer2.1")
    assert len(again) == sum(m.phase == "forward" and m.module.startswith("layer") for m in everything.moments)


def test_the_model_is_left_as_it_was():
    net = small()
    net.recompute(2)
    before = net.state_dict()
    net.eval()
    memory.memory(net, batch_size=2, image_size=8, segments=[1], steps=1)
    assert [net.layer1.segment, net.layer2.segment, net.training] == [2, 2, False]
    assert all(np.array_equal(before[name], array) for name, array in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_gradients_that_differ_are_told(monkeypatch):
    wrong = nn.containers.checkpoint
    monkeypatch.setattr(nn.containers, "checkpoint", lambda fn, modules, x: wrong(fn, modules, x) * 1.0001)
    with pytest.raises(RuntimeError, match="gradients with checkpoints differ from those without"):
        memory.memory(small(), batch_size=2, image_size=8, segments=[1], steps=1)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"image_size": 0}, {"steps": 0}, {"segments": [1, 0]}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_sizes_that_are_too_small(wrong):
    ((name, value),) = wrong.items()
    value = min(value) if isinstance(value, list) else value
    with pytest.raises(ValueError, match=f"{name}: got {value}, expected 1 or more"):
        memory.memory(small(), **wrong)


# ---------------------------------------------------------------- words, picture, command
def test_verdict_has_the_numbers(steps):
    first, second = memory.verdict(steps, 2 * steps[0].after_forward)
    assert f"{memory.shown(steps[0].after_forward)}, 0.50 times" in first
    best = min(steps[1:], key=lambda step: step.peak)
    assert f"peak is {memory.shown(best.peak)} instead of {memory.shown(steps[0].peak)}" in second
    assert len(memory.verdict(steps[:1], 1)) == 1


def test_picture_stacks_to_all_that_is_held(steps):
    figure = memory.draw(steps)
    axis = figure.axes[0]
    tops = [max(path.get_paths()[0].vertices[:, 1]) for path in axis.collections[:5]]
    assert max(tops) == pytest.approx(steps[0].peak / 2**20)
    assert len(figure.axes[2].containers) == len(steps)
    memory.draw(steps[:1])


def test_command(tmp_path):
    arguments = ["--batch-size", 2, "--image-size", 8, "--steps", 1, "--threads", 1]
    text = good("memory", "resnet20", *arguments, "--segment", 1, "--segment", 3, "--top", 2, "--out", tmp_path)
    numbers = json.loads((tmp_path / "memory.json").read_text())
    assert [step["segment"] for step in numbers["steps"]] == [0, 1, 3]
    assert all(sentence in text.replace("\n", " ") for sentence in numbers["verdict"])
    first = numbers["steps"][0]
    assert sum(kept["bytes"] for kept in first["kept"]) == first["bytes_after_forward"]
    assert max(sum(m["held"].values()) for m in first["moments"]) == first["peak_bytes"]
    # predicted is each layer's output once; of those, the tape holds none that the next convolution computes
    assert 0.8 < first["bytes_after_forward"] / numbers["predicted_bytes"] < 1
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet21"], "there is no 'resnet21'; did you mean"),
        (["resnet20", "--segment", 0], "segments: got 0, expected 1 or more"),
        (["resnet20", "--batch-size", 0], "batch_size: got 0, expected 1 or more"),
    ],
)
def test_command_refuses(tmp_path, words, message):
    run = command("memory", *words, "--out", tmp_path / "out")
    assert run.exit_code == 1
    assert message in run.output
    assert not (tmp_path / "out").exists()
