"""Checkpoints change no bit of what is computed, hold less, and say where the second run differs from the first.

This file is long because it has a test for each thing in which a second run may differ.
"""

import gc
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import runs
from test_leaks import taken
from typer.testing import CliRunner

import tinyres as tr
from tinyres import Tensor, models, nn, ops, recompute, tape
from tinyres.cli import app
from tinyres.kernels import memory

pytestmark = pytest.mark.usefixtures("one_thread")


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True)


def bits(array):
    return None if array is None else (array.shape, array.dtype, array.tobytes())


class Count:
    """A function that counts its calls."""

    def __init__(self, fn):
        self.fn, self.calls = fn, 0

    def __call__(self, *args):
        self.calls += 1
        return self.fn(*args)


def bytes_held(root):
    """Of all arrays that nodes below a tensor have saved, those that share memory counted once."""
    roots = {}
    for node in tape.topological_order(root._node):
        for array in getattr(node, "saved", ()):
            while isinstance(array.base, np.ndarray):
                array = array.base
            roots[id(array)] = array.nbytes
    return sum(roots.values())


# ---------------------------------------------------------------- networks
NETS = {
    "resnet": lambda: models.ResNet(models.BasicBlock, [3, 2], num_classes=4, widths=[8, 16], shortcut="A"),
    "plain": lambda: models.ResNet(models.PlainBlock, [2, 1], num_classes=4, widths=[8, 16], shortcut=None),
    "bottleneck": lambda: models.ResNet(models.Bottleneck, [2, 1], num_classes=4, widths=[4, 8]),
    "preact": lambda: models.ResNet(models.PreActBlock, [2, 2], num_classes=4, widths=[8, 16]),
    "imagenet": lambda: models.ResNet(models.BasicBlock, [1, 1], num_classes=4, widths=[8, 16], stem="imagenet"),
}


def train(make, length, steps=3):
    """Everything that a few steps of SGD compute, to the bit."""
    tr.manual_seed(0)
    net, rng, found = make(), np.random.default_rng(0), []
    net.recompute(length)
    optimizer = tr.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(steps):
        x = Tensor(rng.standard_normal((4, 3, 16, 16)).astype("f4"), requires_grad=True)
        optimizer.zero_grad()
        loss = ops.cross_entropy(net(x), rng.integers(0, 4, 4))
        loss.backward()
        optimizer.step()
        found += [loss.data, x.grad, *(p.grad for p in net.parameters()), *net.state_dict().values()]
    return [bits(array) for array in found]


@pytest.mark.parametrize("length", [1, 2, 99])
@pytest.mark.parametrize("name", NETS)
def test_networks_train_to_the_same_bits(name, length):
    assert train(NETS[name], 0) == train(NETS[name], length)


@pytest.mark.parametrize("name", ["resnet", "preact"])
def test_networks_train_to_the_same_bits_on_the_reference(name):
    with tr.use_backend("reference"):
        assert train(NETS[name], 0, steps=2) == train(NETS[name], 1, steps=2)


def test_resnet20_holds_less_on_the_tape_and_in_the_pool(monkeypatch):
    monkeypatch.setattr(memory, "SMALLEST", 1024)
    held, peaks = [], []

    class Peak:
        def recorded(self, node, inputs):
            peaks[-1] = max(peaks[-1], taken())

        def summed(self, node):
            pass

    def look(gradient):
        peaks[-1] = max(peaks[-1], taken())

    x = Tensor(np.ones((4, 3, 32, 32), np.float32))
    for length in (0, 1, 3):
        net = models.create("resnet20")
        net.recompute(length)
        before = taken()
        peaks.append(0)
        with tape.watching(Peak()):
            loss = ops.cross_entropy(net(x), np.arange(4))
            held.append(bytes_held(loss) - sum(p.data.nbytes for p in net.parameters()))
            for node in tape.topological_order(loss._node):
                if isinstance(node, tape.Node):
                    node.hooks.append(look)
            loss.backward()
        peaks[-1] -= before
    # of each block two activations were held, or three (none of what is pending), and now one; in backward those of one
    # block come on top
    assert held[1] < held[0] / 2.4
    assert held[2] < held[1] / 1.5
    assert peaks[1] < 0.7 * peaks[0]  # the pool has the arrays of option A's shortcuts too, in either case
    assert peaks[2] < 0.9 * peaks[0]  # a whole stage at once, and the first has half of all activations


def test_a_run_gives_the_same_files(tiny, tmp_path, monkeypatch):
    runs.fit(tmp_path / "a", epochs=2)
    seen, run_again = [], recompute._Segment.run_again
    monkeypatch.setattr(recompute._Segment, "run_again", lambda self: seen.append(self) or run_again(self))
    options = ["--dataset", "shapes", "--model", "tiny", "--epochs", 2, "--batch-size", 12, "--validation", 8]
    run = CliRunner().invoke(
        app, ["train", *map(str, options), "--lr", "0.05", "--recompute", "1", "--out", str(tmp_path / "b")]
    )
    assert run.exit_code == 0, run.output
    assert len(seen) == 2 * 4 * 2  # blocks, steps, epochs
    assert runs.result(tmp_path / "a") == runs.result(tmp_path / "b")


def test_fewer_blocks_than_none():
    with pytest.raises(ValueError, match="blocks: got -1, expected 0 or more"):
        models.create("resnet20").recompute(-1)


# ---------------------------------------------------------------- any graph
STEPS = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b * 0.5,
    "tanh": lambda a, b: ops.tanh(a),
    "index": lambda a, b: a[:, [0, 0, 2]],
    "div": lambda a, b: a / (b * b + 1),
    "transpose": lambda a, b: a.T.T,
    "linear": lambda a, b: ops.linear(a, b, None),
    "bn": lambda a, b: ops.batch_norm(
        a.reshape(3, 3, 1, 1), np.zeros(3, "f4"), np.ones(3, "f4"), b[0], b[1], training=True, relu=True
    ).reshape(3, 3),
}
PROGRAM = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 99), st.integers(0, 99)), max_size=6)


@given(PROGRAM, PROGRAM, PROGRAM, st.integers(0, 2), st.integers(0, 99))
def test_any_graph_has_the_same_gradients(before, inside, after, nested, seed):
    """What goes into the checkpoint, through arguments or from around it, is used before, inside and after it."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((3, 3)).astype(np.float32) for _ in range(3)]

    def run(program, values):
        values = list(values)
        for name, i, j in program:
            values.append(STEPS[name](values[i % len(values)], values[j % len(values)]))
        return values

    def gradients(checkpoint):
        leaves = [Tensor(a, requires_grad=True) for a in arrays]
        values = run(before, leaves)

        def fn(*args):
            made = run(inside, [*args, *values])
            for _ in range(nested):
                made = checkpoint(lambda *some: run(inside[:3], some), *made[-4:])
            return made

        made = checkpoint(fn, *values[-2:])
        made = run(after, [*leaves, *made])
        loss = sum((v.mean() for v in made[-3:]), made[-1].sum())
        loss.backward()
        return [bits(loss.data), *(bits(l.grad) for l in leaves)]

    assert gradients(lambda fn, *args: fn(*args)) == gradients(tr.checkpoint)


def test_sum_of_many_uses_is_in_the_same_order():
    """Three uses of a weight, one of them before the checkpoint: float addition is not associative."""

    def gradient(checkpoint):
        w = Tensor(np.float32(0.1), requires_grad=True)
        x = ops.exp(w * 1.7)
        y = checkpoint(lambda x: ops.tanh(x * w) + ops.exp(w) * x, x)
        (y + w / 3).backward()
        return bits(w.grad)

    assert gradient(lambda fn, *args: fn(*args)) == gradient(tr.checkpoint)


# ---------------------------------------------------------------- what it takes and returns
def test_tuples_and_other_things_pass_through():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)

    def fn(x, options, pair):
        return {"a": ops.exp(x) * options["scale"], "b": (pair[0] * x, x), "n": 7}

    out = tr.checkpoint(fn, x, {"scale": 2.0}, [y])
    assert out["n"] == 7
    assert out["b"][1] is x
    out["b"][0].sum().backward()
    out["a"].sum().backward()  # the other output, later
    assert np.allclose(x.grad, [3 + 2 * np.e, 4 + 2 * np.exp(2)])
    assert np.array_equal(y.grad, [1, 2])


def test_fn_runs_twice_and_with_a_retained_graph_once_more():
    x, fn = leaf(0.5), Count(lambda x: ops.exp(x) * ops.exp(x))
    y = tr.checkpoint(fn, x)
    for calls in (2, 3):
        y.backward([1.0], retain_graph=True)
        assert fn.calls == calls
    y.backward([1.0])
    assert np.allclose(x.grad, 6 * np.e)
    with pytest.raises(RuntimeError, match="was freed by an earlier backward"):
        y.backward([1.0])
    assert fn.calls == 4


def test_without_gradients_fn_runs_once():
    fn = Count(ops.exp)
    with tr.no_grad():
        assert not tr.checkpoint(fn, leaf(1.0)).requires_grad
    assert not tr.checkpoint(fn, Tensor([1.0])).requires_grad
    assert fn.calls == 2


def test_no_grad_and_detach_inside_fn():
    def gradient(checkpoint):
        x = leaf(0.5, 0.25)

        def fn(x):
            with tr.no_grad():
                scale = ops.exp(x)
            return x * scale + x.detach() * ops.tanh(x)

        checkpoint(fn, x).sum().backward()
        return bits(x.grad)

    assert gradient(lambda fn, x: fn(x)) == gradient(tr.checkpoint)


def test_backward_under_no_grad_in_another_thread():
    """As ever, what is recorded depends on the forward pass; the second run records, whatever is set around it."""
    w = leaf(0.5)
    y = tr.checkpoint(lambda: ops.exp(w) * w)

    def backward():
        with tr.no_grad():
            y.backward([1.0])

    thread = threading.Thread(target=backward)
    thread.start()
    thread.join()
    assert np.allclose(w.grad, 1.5 * np.exp(0.5))
    assert tape.state.grad_enabled


def test_a_random_generator_is_replayed():
    def gradient(checkpoint):
        rng, x = np.random.default_rng(3), leaf(*np.linspace(1, 2, 50))

        def dropout(x, rng):
            return ops.exp(x * (rng.random(50) < 0.5))

        y = checkpoint(dropout, checkpoint(dropout, x, rng) * 0.1, rng)
        y.sum().backward(retain_graph=True)
        y.sum().backward()
        return bits(x.grad), rng.random()

    assert gradient(lambda fn, *args: fn(*args)) == gradient(tr.checkpoint)


def test_nested_checkpoints_drop_inside_the_second_run():
    x, calls = leaf(0.3), []

    def inner(x):
        calls.append("inner")
        return ops.exp(x) * x

    def outer(x):
        calls.append("outer")
        return tr.checkpoint(inner, tr.checkpoint(inner, x))

    y = tr.checkpoint(outer, x)
    y.sum().backward()
    assert calls == ["outer", "inner", "inner"] * 2 + ["inner"] * 2
    z = leaf(0.3)
    inner(inner(z)).sum().backward()
    assert bits(x.grad) == bits(z.grad)


# ---------------------------------------------------------------- what runs once, and what is told
class Noted(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        return ops.exp(self.bn(x))


def test_running_statistics_and_forward_hooks_run_once():
    model, seen = nn.Sequential(Noted(), Noted()), []
    model.segment = 2
    model[0].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype("f4"), requires_grad=True)
    loss = model(x).sum()
    before = {name: bits(array) for name, array in model.state_dict().items()}
    loss.backward()
    assert {name: bits(array) for name, array in model.state_dict().items()} == before
    assert int(model[1].bn.num_batches_tracked) == 1
    assert seen == [(4, 3, 2, 2)]


def test_gradient_hooks_inside_run_once_and_may_replace():
    x, seen = leaf(0.5), []

    def fn(x):
        y = ops.exp(x)
        y.register_hook(lambda gradient: seen.append(1) or gradient * 2)
        y.retain_grad()
        kept.append(y)
        return y * 3

    kept = []
    tr.checkpoint(fn, x).backward([1.0])
    assert seen == [1]
    assert np.array_equal(kept[0].grad, [6.0])
    assert kept[1].grad is None
    assert np.allclose(x.grad, 6 * np.exp(0.5))


def test_the_watch_is_told_of_both_runs_with_the_same_modules():
    class Watch:
        def __init__(self):
            self.told = []

        def recorded(self, node, inputs):
            self.told.append((node.module, node.name, node.pullback.__class__.__name__))

        def summed(self, node):
            self.told.append("sum")

    model = nn.Sequential(Noted())
    model.segment, model._name = 1, "net"
    x = Tensor(np.ones((2, 3, 1, 1), np.float32), requires_grad=True)
    with tape.watching(watch := Watch()):
        model(x * x).sum().backward()
    run = [("net.0.bn", "batch_norm", "function"), ("net.0", "exp", "function")]
    mul, total = ("", "mul", "function"), ("", "sum", "function")
    assert watch.told == [mul, *run, total, *run, "sum"]
    assert tape.state.scope == []
    assert tape.state.watch is None


def test_anomaly_names_operation_and_module_in_both_runs():
    model = nn.Sequential(Noted())
    model._name, model.segment = "net", 1
    x = Tensor(np.ones((2, 3, 1, 1), np.float32), requires_grad=True)
    model[0].bn.bias.data[...] = 100
    message = r"forward of 'exp' in net\.0 gave inf"
    with np.errstate(over="ignore"):
        with tr.detect_anomaly(), pytest.raises(FloatingPointError, match=message):
            model(x)
        loss = model(x).sum()
        with tr.detect_anomaly(), pytest.raises(FloatingPointError, match=message):
            loss.backward()
    assert (tape.state.scope, tape.state.recomputing, tape.state.watch) == ([], False, None)
    x = leaf(0.0)
    y = tr.checkpoint(lambda x: x.sqrt() * 1, x)
    with np.errstate(all="ignore"), tr.detect_anomaly(), pytest.raises(FloatingPointError, match="backward of 'sqrt'"):
        y.backward([1.0])


def test_profile_counts_the_second_run_as_work(monkeypatch):
    monkeypatch.setattr(tr.machine, "ceilings", lambda: tr.machine.Ceilings(1e9, 1e9))
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten(), nn.Linear(4, 2))
    model[0].segment = 2
    found = tr.profile.profile(model, batch_size=2, image_size=3, steps=2)
    rows = [(row.module, row.op, row.forward.flops > 0, row.backward.flops > 0) for row in found.rows]
    assert rows.count(("0.0", "conv2d", True, False)) == 1  # whose pullback was dropped
    assert rows.count(("0.0", "conv2d", True, True)) == 1


# ---------------------------------------------------------------- what is held
def test_only_arguments_and_parameters_are_held():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    net.segment = 4
    x = Tensor(np.ones((2, 4, 8, 8), np.float32))  # needs no gradient, but the weights' need it
    y = net(x)
    assert bytes_held(y) == x.data.nbytes + sum(p.data.nbytes for p in net.parameters())
    assert not x.data.flags.writeable
    assert all(not p.data.flags.writeable for p in net.parameters())
    y.sum().backward()
    assert x.data.flags.writeable
    assert all(p.data.flags.writeable for p in net.parameters())


def test_intermediate_arrays_die_at_once_and_the_graph_with_its_last_reference():
    refs = []

    def fn(x):
        y = ops.exp(x)
        refs.append(weakref.ref(y.data))
        return y * y

    x = leaf(1.0, 2.0)
    gc.disable()
    try:
        out = tr.checkpoint(fn, x)
        assert refs[0]() is None
        assert not x.data.flags.writeable
        node = weakref.ref(out._node)
        del out
        assert node() is None
        assert x.data.flags.writeable
        tr.checkpoint(fn, x).sum().backward()
        assert [ref() for ref in refs] == [None] * 3
        assert x.data.flags.writeable
    finally:
        gc.enable()


def test_many_checkpoints_do_not_recurse():
    x = y = leaf(0.5)
    for _ in range(3000):
        y = tr.checkpoint(lambda y: y * 1.0 + 0.0, y)
    y.sum().backward()
    assert np.array_equal(x.grad, [1.0])
    y = x
    for _ in range(3000):
        y = tr.checkpoint(lambda y: y * 1.0 + 0.0, y)
    del y
    assert x.data.flags.writeable


# ---------------------------------------------------------------- what differs the second time
def second_run(fn, *args, between=lambda: None):
    y = tr.checkpoint(fn, *args)
    between()
    y.sum().backward()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda x: ops.tanh(x) * x, r"at operation 0: got 'tanh' of shape \(2,\) float64, expected 'exp'"),
        (lambda x: ops.exp(x), r"at operation 1: got nothing, expected 'mul' of shape \(2,\)"),
        (lambda x: ops.exp(x) * x * x, r"at operation 2: got 'mul' of shape \(2,\) float64, expected nothing"),
        (lambda x: ops.exp(x[:1]) * x, r"at operation 0: got 'getitem' of shape \(1,\)"),
    ],
)
def test_other_operations_the_second_time(second, message):
    runs = iter([lambda x: ops.exp(x) * x, second])
    with pytest.raises(RuntimeError, match=message):
        second_run(lambda x: next(runs)(x), leaf(1.0, 2.0))


def test_other_module_or_dtype_the_second_time():
    names = iter("ab")

    def fn(x):
        with tape.scope(next(names)):
            return ops.exp(x)

    with pytest.raises(RuntimeError, match=r"got 'exp' in b of shape \(1,\) float64, expected 'exp' in a of"):
        second_run(fn, leaf(1.0))


def test_parameter_that_was_replaced():
    layer = nn.Linear(2, 2)
    optimizer = tr.optim.SGD(layer.parameters(), lr=1.0)
    layer.weight.grad = np.ones((2, 2), np.float32)
    with pytest.raises(RuntimeError, match=r"input 1 of 'linear' of shape \(1, 2\) float32 is not the array"):
        second_run(layer, Tensor(np.ones((1, 2), "f4")), between=optimizer.step)
    assert layer.bias.grad is None


def test_arguments_and_parameters_cannot_be_changed_in_place():
    layer, x = nn.Linear(2, 2), Tensor(np.ones((1, 2), "f4"))
    y = tr.checkpoint(layer, x)
    for array in (x.data, layer.weight.data, layer.bias.data):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    y.sum().backward()
    x.data[...] = 0


def test_leaf_that_fn_makes():
    with pytest.raises(RuntimeError, match=r"must not be replaced before backward .*, nor be created in fn"):
        second_run(lambda x: x * leaf(1.0), leaf(2.0))


def test_mode_or_statistics_or_values_that_changed():
    bn = nn.BatchNorm2d(1)
    x = np.arange(4.0, dtype="f4").reshape(4, 1, 1, 1)
    with pytest.raises(RuntimeError, match=r"'training' of 'batch_norm' .* is not what it was"):
        second_run(bn, Tensor(x, requires_grad=True), between=bn.eval)
    with pytest.raises(RuntimeError, match=r"'mean' of 'batch_norm' .* is not what it was"):
        second_run(bn, Tensor(x), between=lambda: bn.running_mean.__iadd__(1))
    bn.train()
    noise = iter([0.0, 1e-6])
    with pytest.raises(RuntimeError, match=r"'mean' of 'batch_norm' .* is not what it was"):
        second_run(lambda x: bn(x + next(noise)), Tensor(x, requires_grad=True))


def test_index_that_changed():
    index = [0, 1]
    with pytest.raises(RuntimeError, match=r"'index' of 'getitem' .* is not what it was"):
        second_run(lambda x: x[np.array(index), :1], leaf([1.0], [2.0]), between=lambda: index.reverse())


def test_fn_that_calls_backward():
    def fn(x):
        ops.exp(x).sum().backward()
        return x * 2

    with pytest.raises(RuntimeError, match="fn called backward on its own result; call it after checkpoint"):
        tr.checkpoint(fn, leaf(1.0))
    assert tape.state.watch is None


def test_an_error_in_fn_leaves_nothing_behind_and_backward_can_be_called_again():
    x, fail = leaf(1.0), iter([False, True, False])

    def fn(x):
        y = ops.exp(x)
        if next(fail):
            raise KeyboardInterrupt
        return y * y

    y = tr.checkpoint(fn, x)
    with pytest.raises(KeyboardInterrupt):
        y.backward([1.0])
    assert (tape.state.scope, tape.state.recomputing, tape.state.watch) == ([], False, None)
    y.backward([1.0])
    assert np.allclose(x.grad, 2 * np.exp(2))
