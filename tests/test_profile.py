"""The profile of a training step: each operation of the tape once, its work counted right, no time lost or twice."""

import itertools
import json
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

import tinyres as tr
from tinyres import machine, nn, ops, optim, profile
from tinyres.models import BasicBlock, Bottleneck, PlainBlock, PreActBlock, ResNet, summarize
from tinyres.tape import Node, state, topological_order, watching

pytestmark = pytest.mark.usefixtures("one_thread")

CEILINGS = machine.Ceilings(sgemm=100e9, copy=10e9)
NETS = {
    "residual": lambda: ResNet(BasicBlock, [2, 1], widths=(4, 8), shortcut="A"),
    "plain": lambda: ResNet(PlainBlock, [1, 1], widths=(4, 8), shortcut=None),
    "bottleneck": lambda: ResNet(Bottleneck, [1, 1], widths=(4, 8), stem="imagenet"),
    "grouped": lambda: ResNet(Bottleneck, [1, 1], widths=(8, 16), groups=4, width_per_group=16),
    "preactivation": lambda: ResNet(PreActBlock, [1, 1], widths=(4, 8), shortcut="C"),
}


@pytest.fixture(autouse=True)
def ceilings(monkeypatch):
    """Known ones, at no cost."""
    monkeypatch.setattr(machine, "ceilings", lambda: CEILINGS)


def measure(net, batch_size=2, image_size=16, steps=1, **options):
    return profile.profile(net, batch_size=batch_size, image_size=image_size, steps=steps, **options)


def operations(found):
    return [row for row in found.rows if row.op != profile.SUM]


def sums(found):
    return [row for row in found.rows if row.op == profile.SUM]


# ---------------------------------------------------------------- rows
@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_are_the_operations_of_the_tape(kind, batch_size):
    net = NETS[kind]()
    found = measure(net, batch_size)
    x = tr.Tensor(np.zeros((batch_size, 3, 16, 16), np.float32))
    loss = ops.cross_entropy(net(x), np.zeros(batch_size, int))
    order = topological_order(loss._node)
    nodes = [node for node in order if isinstance(node, Node)]
    rows = [(row.module, row.op, row.output) for row in operations(found)]
    assert Counter(rows) == Counter((node.module, node.name, node.shape) for node in nodes)
    assert rows[0][:2] == ("conv1", "conv2d")
    assert rows[-1] == ("", "cross_entropy", ())
    # a result that is used twice gets two gradients; the one that comes last is added, but a convolution adds its own
    readers = {id(node): [n for n in nodes if any(p is node for p in n.parents)] for node in nodes}
    twice = [node for node in nodes if len(readers[id(node)]) == 2]
    assert bool(twice) == (kind != "plain")
    added = [node for node in twice if readers[id(node)][0].name != "conv2d"]
    assert Counter((r.module, r.output) for r in sums(found)) == Counter((n.module, n.shape) for n in added)


@pytest.mark.parametrize("kind", NETS)
def test_flops_are_the_summarys_multiply_adds_times_two(kind):
    net = NETS[kind]()
    found = measure(net, batch_size=3)
    expected = {row.name: 2 * 3 * row.multiply_adds for row in summarize(net, 16) if row.multiply_adds}
    rows = [row for row in found.rows if row.op in ("conv2d", "linear")]
    assert {row.module: row.forward.flops for row in rows} == expected
    # both factors have a gradient, but the image, which is the first convolution's input
    assert {row.module: row.backward.flops for row in rows} == {
        name: flops * (1 if name == "conv1" else 2) for name, flops in expected.items()
    }
    assert all(not row.forward.flops and not row.backward.flops for row in found.rows if row not in rows)


class Recorder:
    """What the tape tells."""

    def __init__(self):
        self.work = []

    def recorded(self, node, inputs):
        self.work.append((node.name, profile.count_flops(node, inputs), profile.count_bytes(node, inputs)))

    def summed(self, node):
        pass


def work_of(function, *shapes, wanted=None):
    inputs = [
        tr.Tensor(np.ones(shape, np.float32), requires_grad=wanted is None or i in wanted)
        for i, shape in enumerate(shapes)
    ]
    watch = Recorder()
    with watching(watch):
        function(*inputs)
    return watch.work[-1][1:]


def batch_norm(x, weight, bias, residual=None, **options):
    c = len(weight.data)
    return ops.batch_norm(x, np.zeros(c), np.ones(c), weight, bias, residual=residual, **options)


N = 2 * 3 * 4 * 4  # elements of the images below
IMAGE, VECTOR = (2, 3, 4, 4), (3,)


@pytest.mark.parametrize(
    ("function", "shapes", "flops", "elements"),
    [  # elements: read or written forward, and backward
        (lambda x, w: ops.conv2d(x, w, padding=1), [IMAGE, (5, 3, 3, 3)], 2 * 160 * 27, (N + 135 + 160, 2 * 391)),
        (lambda x, w, b: ops.linear(x, w, b), [(2, 7), (5, 7), (5,)], 2 * 2 * 5 * 7, (14 + 35 + 10, 2 * 59 + 10)),
        (lambda a, b: a @ b, [(2, 7), (7, 5)], 2 * 2 * 5 * 7, (14 + 35 + 10, 10 + 49 + 49)),
        (lambda *a: batch_norm(*a, training=True), [IMAGE, VECTOR, VECTOR], 0, (3 * N, 5 * N)),
        (lambda *a: batch_norm(*a, training=True, relu=True), [IMAGE, VECTOR, VECTOR], 0, (3 * N, 5 * N)),
        (lambda *a: batch_norm(*a, training=True, relu=True), [IMAGE, VECTOR, VECTOR, IMAGE], 0, (4 * N, 7 * N)),
        (lambda *a: batch_norm(*a, training=True), [IMAGE, VECTOR, VECTOR, IMAGE], 0, (4 * N, 5 * N)),
        (lambda *a: batch_norm(*a, training=False), [IMAGE, VECTOR, VECTOR], 0, (2 * N, 5 * N)),
        (ops.relu, [IMAGE], 0, (2 * N, 3 * N)),
        (lambda x: ops.max_pool2d(x, 2), [IMAGE], 0, (N + N // 2, N + N // 2)),
        (lambda x: ops.avg_pool2d(x, 2), [IMAGE], 0, (N + N // 4, N + N // 4)),
        (lambda a, b: a + b, [IMAGE, IMAGE], 0, (3 * N, 0)),
        (ops.flatten, [IMAGE], 0, (0, 0)),
        (lambda x: x[:, :, ::2, ::2], [IMAGE], 0, (N // 2, N // 4 + N)),
        (lambda x: ops.pad(x, (0, 0, 0, 0, 0, 3)), [IMAGE], 0, (3 * N, 0)),
        (ops.sigmoid, [IMAGE], 0, (2 * N, 3 * N)),  # one that the table does not have
    ],
)
def test_work_of_one_operation(function, shapes, flops, elements):
    counted, moved = work_of(function, *shapes)
    assert counted == (flops, 2 * flops)
    assert moved == tuple(4 * count for count in elements)


def test_work_of_gradients_that_are_not_wanted():
    def conv(x, w):
        return ops.conv2d(x, w)

    shapes = [IMAGE, (5, 3, 1, 1)]
    whole, once = work_of(conv, *shapes), work_of(conv, *shapes, wanted=[1])
    assert whole[0][1] == 2 * once[0][1] > 0
    assert whole[1][1] == 2 * once[1][1] > 0
    assert work_of(conv, *shapes, wanted=[0]) == once
    assert work_of(lambda a, b: a * b, IMAGE, IMAGE, wanted=[0])[1][1] == 4 * 4 * N  # dy, both inputs, one gradient


# ---------------------------------------------------------------- time
def test_all_time_of_a_step_is_in_one_account_or_another():
    found = measure(NETS["residual"](), steps=1)
    parts = [way.seconds for row in found.rows for way in (row.forward, row.backward)]
    assert all(seconds >= 0 for seconds in parts)
    assert math.fsum([*parts, found.optimizer.seconds, found.rest]) == pytest.approx(found.step, rel=1e-9)
    assert found.uneven == pytest.approx(0, abs=1e-9)
    assert min(row.forward.seconds for row in operations(found)) > 0
    assert min(found.optimizer.seconds, found.rest, *(row.backward.seconds for row in sums(found))) > 0


def test_totals_are_the_rows_and_add_up_to_the_step():
    found = measure(NETS["preactivation"](), steps=4)
    totals = found.totals()
    assert [t.kind for t in totals[-3:]] == ["optimizer", "rest", "uneven"]
    assert [t.kind for t in totals[:-3]] == sorted(
        {row.op for row in found.rows}, key=lambda op: -next(t.cost.seconds for t in totals if t.kind == op)
    )
    for total in totals[:-3]:
        rows = [row for row in found.rows if row.op == total.kind]
        assert total.forward == pytest.approx(sum(row.forward.seconds for row in rows))
        assert total.backward == pytest.approx(sum(row.backward.seconds for row in rows))
        assert total.cost.flops == sum(row.forward.flops + row.backward.flops for row in rows)
        assert total.cost.bytes == sum(row.forward.bytes + row.backward.bytes for row in rows)
    assert sum(t.cost.seconds for t in totals) == pytest.approx(found.step)
    assert sum(t.share for t in totals) == pytest.approx(1)
    assert len(found.step_seconds) == 4


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, but for what a test lets take its time."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def takes(place, name, seconds):
        function = getattr(place, name)

        def slow(*args, **kwargs):
            clock.now += seconds() if callable(seconds) else seconds
            return function(*args, **kwargs)

        monkeypatch.setattr(place, name, slow)

    clock.takes = takes
    return clock


def test_time_goes_to_what_took_it(clock, monkeypatch):
    kernels = tr.backend.active
    for shared in ("measures", "takes_pending"):  # else a convolution does a batch norm's work, at some SIMD widths
        monkeypatch.setattr(kernels, shared, lambda *shapes, **window: False)
    for name, seconds in {
        "conv2d": 1, "conv2d_input_grad": 2, "conv2d_weight_grad": 4, "batch_norm_statistics": 8,
        "batch_norm_apply": 16, "batch_norm_grad": 32, "add_to": 64, "avg_pool2d": 128, "avg_pool2d_grad": 256,
    }.items():  # fmt: skip
        clock.takes(kernels, name, seconds)
    clock.takes(optim.SGD, "zero_grad", 1000)
    clock.takes(optim.SGD, "step", 2000)
    clock.takes(Node, "free", 0.125)  # the tape's own
    found = measure(NETS["residual"](), steps=2)
    expected = {"conv2d": (1, 6), "linear": (1, 6), "batch_norm": (24, 32), profile.SUM: (0, 64)}
    expected |= {"avg_pool2d": (128, 256)}
    for row in found.rows:
        forward, backward = expected.get(row.op, (0, 0))
        backward -= 2 if row.module == "conv1" else 0  # no gradient of the image
        assert (row.forward.seconds, row.backward.seconds) == (forward, backward), row
    assert len(sums(found)) == 1  # of three blocks' inputs; to two a convolution adds its own
    assert found.optimizer.seconds == 3000
    # what is freed before a sum or a pullback starts is neither's
    assert found.rest == 0.125 * len(operations(found))
    assert found.uneven == 0


def test_medians_and_warm_up(clock):
    seconds = itertools.chain([1000] * profile.WARMUP + [5, 1, 9], [1000] * 3, itertools.repeat(2))
    clock.takes(optim.SGD, "step", lambda: next(seconds))
    forward = itertools.chain([1000] * (profile.WARMUP + 1) + [1, 2, 9], itertools.repeat(1000))
    clock.takes(tr.backend.active, "conv2d", lambda: next(forward))
    found = measure(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), batch_size=4, image_size=2, steps=3)
    assert found.step_seconds == [6, 3, 18]
    assert (found.step, found.optimizer.seconds, found.rows[0].forward.seconds) == (6, 5, 2)
    assert found.uneven == 6 - 5 - 2
    assert found.repeated_seconds == [2, 2, 2]  # which call no operation any more
    assert (found.training_step, found.images_per_second, found.epoch_seconds(100)) == (2, 4 / 2, 50)


def test_a_step_that_cannot_be_repeated_counts_as_it_was_measured():
    class Exp(nn.Linear):
        def forward(self, x):
            return super().forward(tr.ops.flatten(x)).exp()

    found = measure(Exp(12, 3), batch_size=4, image_size=2, steps=3)
    assert found.repeated_seconds == []
    assert found.training_step == found.step


def test_a_sum_of_three_gradients_is_two_additions():
    class Thrice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 3)

        def forward(self, x):
            y = self.fc(ops.flatten(x))
            return y + y + y

    (row,) = sums(measure(Thrice(), batch_size=4, image_size=2))
    assert (row.module, row.output) == ("fc", (4, 3))
    assert row.backward.bytes == 2 * 3 * 4 * 12  # two additions, each of which reads two arrays and writes one
    assert row.forward == profile.Cost()


def test_a_parameter_that_is_used_twice_is_a_row():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 12, bias=False)

        def forward(self, x):
            return self.fc(self.fc(ops.flatten(x)))

    found = measure(Twice(), batch_size=4, image_size=2)
    (row,) = sums(found)
    assert (row.module, row.output, found.rows[-1]) == ("fc.weight", (12, 12), row)


def test_an_operation_that_the_loss_does_not_need_has_no_backward():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(12, 3), nn.Linear(12, 30)

        def forward(self, x):
            x = ops.flatten(x)
            for _ in range(3):
                self.idle(x)  # dies at once, and another may get its id
            return self.used(x)

    rows = measure(Idle(), batch_size=4, image_size=2).rows
    assert [row.module for row in rows] == ["idle", "idle", "idle", "used", ""]
    for row in rows[:3]:
        assert row.forward.flops == 2 * 4 * 12 * 30
        assert row.backward == profile.Cost()
    assert rows[3].backward.flops == 2 * 4 * 12 * 3  # the image needs no gradient


def test_ceilings_are_the_better_of_before_and_after(monkeypatch):
    found = iter([machine.Ceilings(3.0, 40.0), machine.Ceilings(30.0, 4.0)])
    monkeypatch.setattr(machine, "ceilings", lambda: next(found))
    assert measure(NETS["plain"]()).ceilings == (30, 40)


# ---------------------------------------------------------------- as JSON
def test_as_dict_is_json_and_says_the_same():
    found = measure(NETS["residual"](), steps=2)
    said = json.loads(json.dumps(found.as_dict(images=1000)))
    assert said["step_seconds"] == found.step
    assert said["epoch"] == {"images": 1000, "seconds": 1000 / 2 * found.training_step}
    assert said["ceilings"] == {"gflop_per_second": 100, "gb_per_second": 10}
    assert said["hardware"] == machine.describe()
    assert len(said["rows"]) == len(found.rows)
    for row, expected in zip(said["rows"], found.rows, strict=True):
        assert (row["module"], row["op"], tuple(row["output"])) == (expected.module, expected.op, expected.output)
        for way in ("forward", "backward"):
            cost = getattr(expected, way)
            assert (row[way]["seconds"], row[way]["flops"], row[way]["bytes"]) == (cost.seconds, cost.flops, cost.bytes)
            if cost.seconds:
                assert row[way]["gflop_per_second"] == pytest.approx(cost.flops / cost.seconds / 1e9)
                assert row[way]["of_sgemm"] == pytest.approx(cost.flops / cost.seconds / 100e9)
                assert row[way]["gb_per_second"] == pytest.approx(cost.bytes / cost.seconds / 1e9)
                assert row[way]["of_copy"] == pytest.approx(cost.bytes / cost.seconds / 10e9)
    for total, expected in zip(said["totals"], found.totals(), strict=True):
        assert (total["kind"], total["seconds"], total["share"]) == (
            expected.kind,
            expected.cost.seconds,
            expected.share,
        )


# ---------------------------------------------------------------- what it leaves, what it refuses
def test_the_model_is_left_as_it_was():
    net = NETS["residual"]()
    net.layer1.eval()
    net.fc.weight.grad = gradient = np.ones_like(net.fc.weight.data)
    before = net.state_dict()
    measure(net)
    after = net.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert net.fc.weight.grad is gradient
    assert net.conv1.weight.grad is None
    assert net.training
    assert not net.layer1.training
    assert net.layer2.training
    assert state.watch is None


def test_the_model_is_left_as_it_was_where_a_step_fails(monkeypatch):
    net = NETS["residual"]()
    before = net.state_dict()
    monkeypatch.setattr(optim.SGD, "step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure(net.eval())
    after = net.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in net.modules())
    assert state.watch is None


@pytest.mark.parametrize("name", ["batch_size", "image_size", "channels", "steps"])
def test_numbers_below_one(name):
    with pytest.raises(ValueError, match=f"{name}: got 0, expected 1 or more"):
        measure(NETS["plain"](), **{name: 0})


def test_a_batch_norm_of_one_value():
    with pytest.raises(ValueError, match=r"x: got shape \(1, 8, 1, 1\), expected more than one value per channel"):
        measure(NETS["residual"](), batch_size=1, image_size=2)


def test_a_model_that_gives_no_logits():
    with pytest.raises(ValueError, match=r"model: it returned shape \(2, 4, 2, 2\), expected logits \(N, K\)"):
        measure(nn.Conv2d(3, 4, 1), image_size=2)
    linear = nn.Linear(12, 3)
    linear.forward = lambda x: (x, x)
    with pytest.raises(ValueError, match="model: it returned tuple, expected logits"):
        measure(linear, image_size=2)


def test_a_model_that_changes_its_mind():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.calls = nn.Linear(12, 3), 0

        def forward(self, x):
            self.calls += 1
            y = self.fc(ops.flatten(x))
            return y * 2 if self.calls % 2 else y

    with pytest.raises(ValueError, match="model: its steps differ from each other"):
        measure(Fickle(), image_size=2, steps=2)
