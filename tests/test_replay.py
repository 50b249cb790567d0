"""A repeated step is the step: the same bits in loss, gradients, parameters and statistics as where Python runs it.

This file is long because it has a test for each thing that may change between steps, or cannot be repeated.
"""

import copy
import operator
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyres as tr
from tinyres.kernels import launch, memory

F4 = np.float32


def batch(seed, n=4, size=8, dtype=F4, classes=10):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n, size, size, 3)).astype(dtype).transpose(0, 3, 1, 2)
    return images, rng.integers(0, classes, n)


def network(block="BasicBlock", shortcut="B", dtype=F4):
    tr.manual_seed(0)
    kind = getattr(tr.models, block)
    return tr.models.ResNet(kind, (1, 1), widths=(4, 8), shortcut=None if block == "PlainBlock" else shortcut).astype(
        dtype
    )


class Pair:
    """One network whose step is repeated, and its twin, in which Python runs each step."""

    def __init__(self, net, loss=None):
        self.nets = net, copy.deepcopy(net)
        self.optimizers = [tr.optim.SGD(n.parameters(), 0.1, momentum=0.9, weight_decay=1e-3) for n in self.nets]
        loss = loss or (lambda net, x, y: (logits := net(x), tr.ops.cross_entropy(logits, y))[::-1])
        self.functions = [lambda x, y, net=n: loss(net, x, y) for n in self.nets]
        self.replay = tr.Replay(self.nets[0], self.functions[0])

    def step(self, x, y, *, zero=True, update=True):
        for net in self.nets:
            if zero:
                net.zero_grad()
        results = self.replay(x, y), self.eager(x, y)
        for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True):
            np.testing.assert_array_equal(a.data, b.data)
            assert not a.requires_grad
        self.compare()
        for optimizer in self.optimizers if update else ():
            optimizer.step()

    def eager(self, x, y):
        results = self.functions[1](tr.Tensor(x), y)
        if tr.tape.state.grad_enabled:
            (results[0] if isinstance(results, tuple) else results).backward()
        return results

    def compare(self):
        ours, theirs = self.nets
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            np.testing.assert_array_equal(p.data, q.data, name)
            assert (p.grad is None) == (q.grad is None), name
            if p.grad is not None:
                np.testing.assert_array_equal(p.grad, q.grad, name)
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
            np.testing.assert_array_equal(a, b)

    def both(self, change):
        for net in self.nets:
            change(net)


def repeated(net, **options):
    """A pair whose step is repeated already."""
    pair = Pair(net)
    for seed in range(4):
        pair.step(*batch(seed, **options))
    assert pair.replay.repeats
    return pair


# ---------------------------------------------------------------- the same bits
@settings(max_examples=25)
@given(
    st.sampled_from(["BasicBlock", "PlainBlock", "Bottleneck", "PreActBlock", "PreActBottleneck"]),
    st.sampled_from("ABC"),
    st.sampled_from([F4, np.float64]),
    st.integers(0, 1),
    st.lists(st.integers(1, 3), max_size=6),
    st.booleans(),
)
def test_a_repeated_step_is_the_step(block, shortcut, dtype, recompute, sizes, zero):
    """Whatever comes in between: batches of other sizes, gradients that are added up, and checkpoints."""
    net = network(block, shortcut, dtype)
    net.recompute(recompute)
    pair = Pair(net)
    for seed, n in enumerate([4, 4, 4, 4, *(2 * s for s in sizes), 4, 4, 4, 4]):
        pair.step(*batch(seed, n, dtype=dtype), zero=zero or seed % 2 == 0)
    assert pair.replay.repeats or not zero


@pytest.mark.parametrize("model", ["resnet20", "resnet18"])
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_for_large_images_are_repeated_as_well(model, threads):
    """Winograd's, what is pending between them, and memory of the pool: large enough for all of it."""
    if threads > tr.backend.max_threads():
        pytest.skip("this machine has one core")
    before = tr.num_threads()
    tr.set_num_threads(threads)
    try:
        tr.manual_seed(0)
        pair = repeated(tr.models.create(model, stem="cifar", num_classes=10), n=16, size=32)
        pair.step(*batch(9, 8, size=32))
        pair.step(*batch(10, 16, size=32))
        assert pair.replay.repeats
        pair.both(lambda net: net.eval())
        with tr.no_grad():
            for seed in range(4):
                pair.step(*batch(seed, 16, size=32), update=False)
    finally:
        tr.set_num_threads(before)


def test_a_block_of_ones_own_is_repeated():
    class Own(tr.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = tr.nn.Conv2d(3, 3, 3, padding=1)
            self.norm = tr.nn.BatchNorm2d(3)
            self.head = tr.nn.Linear(3 * 8 * 8, 10)

        def forward(self, x):
            y = tr.ops.relu(self.norm(self.conv(x))) + x
            y = tr.ops.max_pool2d(y + y, 3, stride=1, padding=1)
            return self.head(tr.ops.flatten(y[:, ::-1]))

    tr.manual_seed(0)
    repeated(Own())


@pytest.mark.parametrize("gate", [tr.ops.sigmoid, tr.ops.silu, lambda x: -x, lambda x: x - x * x])
def test_a_block_with_a_gate_is_repeated(gate):
    """As of squeeze and excitation: a number for each channel is multiplied with all of its pixels."""

    class Gated(tr.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.excite = tr.nn.Conv2d(3, 4, 3, padding=1), tr.nn.Linear(4, 4)
            self.head = tr.nn.Linear(4 * 8 * 8, 10)

        def forward(self, x):
            y = self.conv(x)
            scale = gate(self.excite(tr.ops.flatten(tr.ops.global_avg_pool2d(y))))
            return self.head(tr.ops.flatten(y * scale.reshape(*scale.shape, 1, 1)))

    tr.manual_seed(0)
    repeated(Gated())


def test_inputs_may_lie_anyhow_in_memory():
    pair = repeated(network())
    for order in (np.ascontiguousarray, np.asfortranarray, lambda x: np.repeat(x, 2, 3)[..., ::2]):
        x, y = batch(7)
        before = x.copy()
        pair.step(order(x), y)
        np.testing.assert_array_equal(x, before)
    x, y = batch(8)
    pair.step(tr.Tensor(x), y.astype(np.uint8))


def test_predictions_are_repeated_where_no_gradient_is_wanted():
    net = network().eval()
    predict = tr.Replay(net, net)
    with tr.no_grad():
        for seed in range(6):
            x, _ = batch(seed)
            np.testing.assert_array_equal(predict(x).data, net(tr.Tensor(x)).data)
    assert predict.repeats
    assert all(p.grad is None for p in net.parameters())


# ---------------------------------------------------------------- what changes is noticed
CHANGES = {
    "mode": lambda net: net.eval(),
    "mode of one": lambda net: net.layer1[0].bn1.eval(),
    "weights": lambda net: net.load_state_dict({n: a * F4(0.5) for n, a in net.state_dict().items()}),
    "one weight": lambda net: setattr(net.fc.weight, "data", net.fc.weight.data * 2),
    "frozen": lambda net: setattr(net.conv1.weight, "requires_grad", False),
    "momentum": lambda net: setattr(net.bn1, "momentum", 0.5),
    "eps": lambda net: setattr(net.layer2[0].bn2, "eps", 0.1),
    "precision": lambda net: net.astype(np.float64),
    "a layer": lambda net: setattr(net, "fc", tr.nn.Sequential(net.fc, tr.nn.ReLU())),
    "statistics": lambda net: net.bn1.register_buffer("running_mean", net.bn1.running_mean + 1),
    "recompute": lambda net: net.recompute(1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_model_is_noticed(change):
    pair = repeated(network())
    pair.both(CHANGES[change])
    dtype = np.float64 if change == "precision" else F4
    for seed in range(5):
        pair.step(*batch(seed, dtype=dtype), update=change != "precision")
    assert pair.replay.repeats


def test_a_change_of_backend_or_algorithm_is_noticed():
    pair = repeated(network("BasicBlock", "A"), n=8, size=16)
    for use, name in ((tr.use_algorithm, "direct"), (tr.use_algorithm, "im2col"), (tr.use_backend, "reference")):
        with use(name):
            for seed in range(4):
                pair.step(*batch(seed, 8, size=16))


def test_hooks_are_called_at_each_step():
    pair, calls = repeated(network()), []
    handles = [
        pair.nets[0].bn1.register_forward_hook(lambda *_: calls.append("forward")),
        pair.nets[0].bn1.register_forward_pre_hook(lambda *_: calls.append("before")),
        pair.nets[0].fc.weight.register_hook(lambda _: calls.append("gradient")),
        pair.nets[0].fc.bias.register_post_accumulate_grad_hook(lambda _: calls.append("accumulated")),
    ]
    for seed in range(3):
        pair.step(*batch(seed))
    assert sorted(calls) == sorted(["before", "forward", "gradient", "accumulated"] * 3)
    for handle in handles:
        handle.remove()
        pair.step(*batch(seed))
    assert pair.replay.repeats


def test_an_anomaly_is_named():
    pair = repeated(network())
    pair.both(lambda net: net.fc.weight.data.fill(np.inf))
    with tr.detect_anomaly(), pytest.raises(FloatingPointError, match="forward of 'linear' in fc"):
        pair.replay(*batch(0))


def test_another_thread_notes_its_own_step():
    """Kernels keep scratch memory for each thread: what one has noted is not repeated in another."""
    pair = repeated(network(), n=16, size=32)
    noted, failed = pair.replay._noted, []

    def steps():
        try:
            for seed in range(4):
                pair.step(*batch(seed, 16, size=32))
        except AssertionError as error:
            failed.append(error)

    thread = threading.Thread(target=steps)
    thread.start()
    other = network()
    while thread.is_alive():
        other(tr.Tensor(batch(0, 16, size=32)[0]))
    thread.join()
    assert not failed
    assert pair.replay.repeats
    assert pair.replay._noted is not noted


# ---------------------------------------------------------------- what cannot be repeated
@pytest.mark.parametrize(
    ("loss", "where"),
    [
        (lambda net, x, y: tr.ops.cross_entropy(net(x).exp(), y), "'exp'"),
        (lambda net, x, y: tr.ops.cross_entropy(net(x) / 1, y), "'div'"),
        (lambda net, x, y: tr.ops.cross_entropy(net(tr.Tensor(np.sign(x.data))), y), "'conv2d' in conv1"),
        (lambda net, x, y: tr.ops.cross_entropy(net(x), y) / 2, "'div'"),
        (lambda net, x, y: tr.ops.cross_entropy(net(x) * 2, y), "'mul'"),
        (lambda net, x, y: tr.ops.cross_entropy(net(x) + 2, y), "'add'"),
    ],
)
def test_an_operation_that_launches_nothing_is_named(loss, where):
    """Also where nothing changes from call to call, and a comparison would show nothing."""
    pair = Pair(network(), loss)
    pair.step(*batch(0), update=False)
    with pytest.warns(RuntimeWarning, match=f"Replay: {where} is not computed by recorded calls"):
        pair.step(*batch(0), update=False)
    for seed in range(3, 7):
        pair.step(*batch(seed))
    assert not pair.replay.repeats


@pytest.mark.parametrize("combine", [operator.mul, operator.add, operator.sub])
def test_a_number_from_elsewhere_may_change(combine):
    """Nothing that Python can see of a step tells so, and without a warning nobody would know."""
    number = [0.5]
    pair = Pair(network(), lambda net, x, y: (tr.ops.cross_entropy(logits := net(x), y), combine(logits, number[0])))
    pair.replay.warn = False
    for seed in range(8):
        number[0] += seed > 4
        pair.step(*batch(seed))


def test_a_pullback_that_launches_nothing_is_named():
    def double(x):
        y = np.empty_like(x.data)
        launch.launch(np.add, x.data, x.data, y)
        return tr.record("double", y, (x,), lambda dy: (dy + dy,))

    pair = Pair(network(), lambda net, x, y: tr.ops.cross_entropy(double(net(x)), y))
    pair.step(*batch(0))
    with pytest.warns(RuntimeWarning, match="Replay: backward of 'double' is not computed by recorded calls"):
        pair.step(*batch(1))


@pytest.mark.parametrize("constant", range(6))
def test_work_that_an_operation_hides_is_found_out(constant):
    """It launches what writes its result, but not all that this follows from. A comparison of other inputs shows that,
    even if it is not the first."""

    def centred(x):
        y, mean = np.empty_like(x.data), x.data.mean()
        launch.launch(np.subtract, x.data, mean, y)
        return tr.record("centred", y, (x,), lambda dy: (launch.compute(np.positive, dy),))

    pair = Pair(network(), lambda net, x, y: tr.ops.cross_entropy(net(centred(x)), y))
    for _ in range(max(2, constant)):
        pair.step(*batch(0), update=False)
    assert pair.replay.repeats == (constant > 2)
    with pytest.warns(RuntimeWarning, match="Replay: the repeated step gave other results than the computed one"):
        pair.step(*batch(1))
    for seed in range(2, 5):
        pair.step(*batch(seed))
    assert not pair.replay.repeats


def test_random_numbers_are_found_out():
    rng, net = np.random.default_rng(0), network()
    replay = tr.Replay(net, lambda x, y: tr.ops.cross_entropy(net(x + rng.standard_normal(x.shape).astype(F4)), y))
    with pytest.warns(RuntimeWarning, match="Replay: 'add' is not computed by recorded calls"):
        losses = [replay(*batch(0)).item() for _ in range(4) if not net.zero_grad()]
    assert len({*losses}) == 4


def test_an_input_that_was_the_same_until_now_is_looked_at_again():
    pair = repeated(network())
    x, y = batch(0)
    for seed in range(3):
        pair.step(batch(seed)[0], y)
    fresh = Pair(network())
    for _ in range(5):
        fresh.step(x, y)  # a single batch, again and again, is repeated
    assert fresh.replay.repeats
    for seed in range(3):
        fresh.step(*batch(seed))
        assert fresh.replay.repeats


@pytest.mark.parametrize("calls", range(6))
def test_a_wrong_label_is_refused_in_each_phase_and_harms_nothing(calls):
    pair = Pair(network())
    for seed in range(calls):
        pair.step(*batch(seed))
    x, y = batch(9)
    for wrong in (np.full_like(y, 10), np.full_like(y, -1)):
        pair.both(lambda net: net.zero_grad())
        for run in (pair.replay, pair.eager):
            with pytest.raises(ValueError, match=r"target: got classes from (10 to 10|-1 to -1), expected 0 to 9"):
                run(x, wrong)
        pair.compare()
    pair.step(*batch(8), update=False)
    for run in (pair.replay, pair.eager):  # gradients that are to be added to stay, too
        with pytest.raises(ValueError, match="target: got classes"):
            run(x, wrong)
    pair.compare()
    for seed in range(5):
        pair.step(*batch(seed))
    assert pair.replay.repeats


def test_an_interrupted_note_is_forgotten():
    stop, net = [], network()

    def loss(net, x, y):
        found = tr.ops.cross_entropy(net(x), y)
        if stop and stop.pop():
            raise KeyboardInterrupt
        return found

    pair = Pair(net, loss)
    pair.step(*batch(0))
    stop.append(True)
    pair.nets[0].zero_grad()
    with pytest.raises(KeyboardInterrupt):
        pair.replay(*batch(1))
    pair.both(lambda net: net.load_state_dict(pair.nets[1].state_dict()))
    for seed in range(5):
        pair.step(*batch(seed))
    assert pair.replay.repeats


# ---------------------------------------------------------------- memory
def test_what_the_function_keeps_of_a_computed_step_stays():
    """The step of a smaller batch is computed in the memory that others are repeated in: if anything of it lives on,
    they are repeated there no more."""
    kept = []

    def loss(net, x, y):
        logits = net(x)
        if len(y) == 12:
            kept.append((logits.detach(), images := net.relu_of(x), images.data.copy()))
        return tr.ops.cross_entropy(logits, y)

    class Net(tr.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = tr.nn.Conv2d(3, 16, 3, padding=1), tr.nn.Linear(16 * 32 * 32, 10)

        def relu_of(self, x):
            return tr.ops.relu(self.conv(x))

        def forward(self, x):
            return self.fc(tr.ops.flatten(self.relu_of(x)))

    tr.manual_seed(0)
    pair = Pair(Net(), loss)
    for seed in range(4):
        pair.step(*batch(seed, 16, size=32))
    assert pair.replay.repeats
    pair.step(*batch(5, 12, size=32))
    assert not pair.replay.repeats
    for seed in range(4):
        pair.step(*batch(seed, 16, size=32))
    for _, images, values in kept:
        np.testing.assert_array_equal(images.data, values)
    assert pair.replay.repeats


def test_a_step_takes_the_memory_it_takes_once():
    """Computed, noted, compared and repeated in the same bytes, none of which is held in between."""
    pair = Pair(network(), None)
    most = []
    for seed, n in enumerate([16, 16, 16, 16, 8, 16]):
        pair.step(*batch(seed, n, size=32))
        pool = pair.replay._pool
        assert pool.held() == 0
        most.append(len(pool.regions))
    assert most == [1] * 6


def test_gradients_are_added_where_they_are_not_forgotten():
    pair = repeated(network(), n=16, size=32)
    for seed in range(4):
        pair.step(*batch(seed, 16, size=32), zero=seed == 0, update=False)
    pair.step(*batch(4, 8, size=32), zero=False, update=False)
    pair.step(*batch(5, 16, size=32), zero=False, update=False)


def test_memory_that_is_not_held_is_the_same_memory():
    pool = memory.Pool()
    with memory.within(pool):
        array = memory.empty((3, 5, 64, 64), F4).transpose(0, 3, 1, 2)[1:, ::2]
    array[...] = 1
    other = pool.unheld(array)
    assert (other == 1).all()
    other[0, 1, 2, 3] = 7
    assert array[0, 1, 2, 3] == 7
    assert pool.held()
    del array
    assert not pool.held()
    mine = np.zeros(3)
    assert pool.unheld(mine) is mine


# ---------------------------------------------------------------- launches
def test_one_step_is_noted_at_a_time():
    noted = []
    with launch.noting(lambda work, arguments: noted.append((work, arguments))):
        with pytest.raises(RuntimeError, match="expected one at a time"), launch.noting(lambda *_: None):
            pass
        total = memory.zeros((2,), F4)
    memory.zeros((2,), F4)
    assert len(noted) == 1
    total += 1
    for work, arguments in noted:
        work(*arguments)
    assert (total == 0).all()


@given(st.data())
def test_computed_arrays_are_computed_again(data):
    a, b = (np.array(data.draw(st.lists(st.floats(-9, 9), min_size=3, max_size=3))) for _ in range(2))
    noted = []
    with launch.noting(lambda work, arguments: noted.append((work, arguments))):
        results = launch.compute(np.add, a, b), launch.compute(np.sum, a, axis=0)
    a += 1
    for work, arguments in noted:
        work(*arguments)
    np.testing.assert_array_equal(results[0], a + b)
    np.testing.assert_array_equal(results[1], a.sum(0))


@given(st.permutations(range(4)), st.integers(0, 4), st.booleans())
def test_empty_like_lies_as_numpys(axes, length, reverse):
    array = np.zeros((length, 2, 3, 5), F4).transpose(axes)
    array = array[::-1] if reverse else array
    mine, numpys = memory.empty_like(array), np.empty_like(array)
    assert (mine.shape, mine.dtype) == (numpys.shape, numpys.dtype)
    long = [axis for axis, n in enumerate(array.shape) if n > 1]  # the stride of another says nothing
    if array.size:
        assert [mine.strides[axis] for axis in long] == [numpys.strides[axis] for axis in long]
