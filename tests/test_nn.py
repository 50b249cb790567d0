"""Modules: the tree of names, what it saves and loads, modes, hooks, and how parameters start.

This file is long because it has a test for each method of a module, and for each layer.
"""

import math
import re
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres import nn
from tinyres.nn import init

# ---------------------------------------------------------------- the tree
KINDS = {
    "parameter": lambda: nn.Parameter(np.zeros(2)),
    "module": lambda: nn.Linear(1, 1),
    "buffer": lambda: np.zeros(2),
    "other": lambda: "other",
    "none": lambda: None,
}
names = st.sampled_from("abc")
changes = st.lists(st.tuples(names, st.sampled_from([*KINDS, "deleted"])), max_size=12)


@given(changes)
def test_tree_follows_every_assignment(changes):
    """Against three dicts. A thing that replaces one of its own kind takes its place, as in PyTorch."""
    module = nn.Module()
    expected = {"parameter": {}, "buffer": {}, "module": {}}
    for name, kind in changes:
        if kind == "deleted":
            if not hasattr(module, name):
                continue
            delattr(module, name)
            assert not hasattr(module, name)
        else:
            value = KINDS[kind]()
            if kind == "other" and any(name in members for members in expected.values()):
                with pytest.raises(
                    TypeError, match=rf"Module\.{name}: got str, expected an? (Parameter|ndarray|Module)"
                ):
                    setattr(module, name, value)
                continue
            if kind == "buffer":
                module.register_buffer(name, value)
            else:
                setattr(module, name, value)
            assert getattr(module, name) is value
        for group, members in expected.items():
            if group != kind:
                members.pop(name, None)
        if kind in expected:
            expected[kind][name] = value
    assert module._parameters == expected["parameter"]
    assert list(module._parameters) == list(expected["parameter"])
    assert list(module.children()) == list(expected["module"].values())
    assert [n for n, _ in module.named_modules()] == ["", *expected["module"]]
    own = [*expected["parameter"], *expected["buffer"]]
    below = [f"{name}.{p}" for name in expected["module"] for p in ("weight", "bias")]
    assert list(module.state_dict()) == own + below
    assert [n for n, _ in module.named_parameters()] == [*expected["parameter"], *below]


trees = st.recursive(
    st.dictionaries(st.sampled_from("pq"), st.just(None), max_size=2),
    lambda below: st.dictionaries(st.sampled_from("pqxy"), below | st.none(), max_size=4),
    max_leaves=8,
)


def build(tree):
    module = nn.Module()
    for name, below in tree.items():
        setattr(module, name, nn.Parameter(np.zeros(1)) if below is None else build(below))
    return module


def paths(tree, prefix=""):
    """A module's own parameters, then those of its children, depth first."""
    yield from (prefix + name for name, below in tree.items() if below is None)
    for name, below in tree.items():
        if below is not None:
            yield from paths(below, f"{prefix}{name}.")


@given(trees)
def test_names_are_paths(tree):
    module = build(tree)
    assert [name for name, _ in module.named_parameters()] == list(paths(tree))
    assert list(module.state_dict()) == list(paths(tree))
    assert len(list(module.parameters())) == len(list(paths(tree)))
    for path, child in module.named_modules():
        found = module
        for part in filter(None, path.split(".")):
            found = getattr(found, part)
        assert found is child


@given(trees)
def test_modes_reach_everything_below(tree):
    module = build(tree)
    assert all(m.training for m in module.modules())
    assert module.eval() is module
    assert not any(m.training for m in module.modules())
    children = list(module.children())
    for child in children[:1]:
        child.train()
        assert [c.training for c in children] == [True] + [False] * (len(children) - 1)
        assert not module.training
    assert module.train() is module
    assert all(m.training for m in module.modules())


def test_replaced_layer_of_a_sequence_runs_in_its_place():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    setattr(net, "0", nn.Linear(5, 3))
    assert net(tr.Tensor(np.zeros((1, 5)).astype("f4"))).shape == (1, 1)
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("change", ["in place", "anew", "scalar"])
def test_buffer_stays_a_buffer_when_it_changes(change):
    module = nn.Module()
    module.register_buffer("count", np.zeros((), np.int64))
    if change == "in place":
        module.count += 3
    elif change == "anew":
        module.count = np.array(3)
    else:
        module.count = module.count + 3  # NumPy makes a scalar of it, no array of zero axes
    state = module.state_dict()
    assert state["count"] == 3
    assert state["count"].shape == ()
    assert isinstance(state["count"], np.ndarray)
    assert module.count is module._buffers["count"]
    module.load_state_dict({"count": np.array(7)})
    assert module.count == 7


def test_shared_parameters_come_once_but_are_saved_under_both_names():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.weight = a.weight
    net = nn.Sequential(a, b, a)
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert list(net.state_dict()) == [f"{i}.{name}" for i in range(3) for name in ("weight", "bias")]
    assert list(net.modules()) == [net, a, b]
    optimizer = tr.optim.SGD(net.parameters(), 1.0)
    before = a.weight.data.copy()
    for parameter in net.parameters():
        parameter.grad = np.ones_like(parameter.data)
    optimizer.step()
    np.testing.assert_array_equal(b.weight.data, before - 1)


@pytest.mark.parametrize("value", [lambda: nn.Parameter([1.0]), nn.ReLU])
def test_missing_super_init_is_named(value):
    class Forgetful(nn.Module):
        def __init__(self):
            self.layer = value()

    with pytest.raises(AttributeError, match=r"Forgetful: call super\(\).__init__\(\) before assigning 'layer'"):
        Forgetful()


def test_missing_super_init_is_named_for_a_buffer():
    class Forgetful(nn.Module):
        def __init__(self):
            self.register_buffer("mean", np.zeros(1))

    with pytest.raises(AttributeError, match=r"Forgetful: call super\(\).__init__\(\) before assigning 'mean'"):
        Forgetful()


def test_missing_forward_is_named():
    class Idle(nn.Module):
        pass

    with pytest.raises(TypeError, match=r"Idle does not define forward\(\)"):
        Idle()(1)


# ---------------------------------------------------------------- Sequential
def test_sequential_is_a_sequence():
    layers = [nn.ReLU(), nn.Linear(3, 2), nn.Identity()]
    net = nn.Sequential(*layers)
    assert len(net) == 3
    assert list(net) == layers
    assert net[1] is layers[1]
    assert net[-1] is layers[2]
    with pytest.raises(IndexError):
        net[3]
    x = tr.Tensor([[-1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(net(x).data, layers[1](layers[0](x)).data)
    assert nn.Sequential()(x) is x
    assert list(net[1:]) == layers[1:]
    assert [n for n, _ in net[1:].named_parameters()] == ["1.weight", "1.bias"]


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_sequential_of_names(kind):
    net = nn.Sequential(kind([("first", nn.Linear(2, 3)), ("act", nn.ReLU())]))
    assert list(net.state_dict()) == ["first.weight", "first.bias"]
    assert net.act is net[1]
    for name in ("", "a.b", "forward", 3):
        with pytest.raises(ValueError, match="Sequential: got the name"):
            nn.Sequential({name: nn.ReLU()})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (tr.ops.relu, "1: got the function relu, expected a Module such as nn.ReLU"),
        ([nn.ReLU()], r"1: got a list, expected a Module: write Sequential\(\*modules\)"),
        (nn.ReLU, r"1: got the class ReLU, expected a Module: write ReLU\(...\)"),
        (None, "1: got NoneType, expected a Module"),
    ],
)
def test_sequential_takes_modules_only(wrong, message):
    with pytest.raises(TypeError, match=message):
        nn.Sequential(nn.Linear(2, 3), wrong)
    if isinstance(wrong, list):
        with pytest.raises(TypeError, match="0: got a list"):
            nn.Sequential(wrong)


# ---------------------------------------------------------------- state
def small_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4, 2))


NAMES = [
    "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
    "3.weight", "3.bias",
]  # fmt: skip


def bits(state):
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in state.items()}


def test_state_dict_has_pytorchs_names_in_its_order():
    assert list(small_net().state_dict()) == NAMES


def test_state_dict_is_a_copy():
    net = small_net()
    state = net.state_dict()
    before = bits(state)
    for array in state.values():
        array += 1
    assert bits(net.state_dict()) == before
    net.load_state_dict(state)
    loaded = bits(net.state_dict())
    for array in state.values():
        array += 1
    assert bits(net.state_dict()) == loaded != before


@given(st.sampled_from([np.float32, np.float64]), st.sampled_from([np.float32, np.float64]), st.integers(0, 99))
def test_loading_gives_the_values_in_ones_own_dtype(mine, theirs, seed):
    rng = np.random.default_rng(seed)
    net, other = small_net().astype(mine), small_net().astype(theirs)
    other.load_state_dict({n: rng.integers(1, 9, a.shape) / 8 for n, a in other.state_dict().items()})
    net.load_state_dict(other.state_dict())
    for name, array in net.state_dict().items():
        assert array.dtype == (np.int64 if name.endswith("tracked") else mine)
        np.testing.assert_array_equal(array, other.state_dict()[name])  # eighths are exact in both
    x = tr.Tensor(rng.standard_normal((2, 3, 2, 2)).astype(mine))
    net.eval()
    assert net(x).dtype == mine


@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from("xyz")))
def test_strict_loading_names_all_that_is_wrong_and_changes_nothing(missing, reshaped, unexpected):
    net = small_net()
    before = bits(net.state_dict())
    state = {n: np.full(a.shape, 7) for n, a in net.state_dict().items() if n not in missing}
    reshaped -= missing
    state |= {n: np.zeros((*state[n].shape, 5)) for n in reshaped} | {n: np.zeros(3) for n in unexpected}
    if not (missing or reshaped or unexpected):
        net.load_state_dict(state)
        assert all((a == 7).all() for a in net.state_dict().values())
        return
    with pytest.raises(ValueError, match="state does not fit Sequential") as caught:
        net.load_state_dict(state)
    lines = set(str(caught.value).splitlines()[1:])
    expected = {f"  {n}: missing" for n in missing} | {f"  {n}: unexpected" for n in unexpected}
    own = net.state_dict()
    expected |= {f"  {n}: got shape {(*own[n].shape, 5)}, expected {own[n].shape}" for n in reshaped}
    assert lines == expected
    assert bits(own) == before


@given(st.sets(st.sampled_from(NAMES)))
def test_loading_that_is_not_strict_takes_what_fits(present):
    net = small_net()
    before = net.state_dict()
    state = {n: np.full(before[n].shape, 7) for n in present} | {"other": np.zeros(1)}
    missing, unexpected = keys = net.load_state_dict(state, strict=False)
    assert missing == keys.missing_keys == [n for n in NAMES if n not in present]
    assert unexpected == keys.unexpected_keys == ["other"]
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, 7 if name in present else before[name])


def test_loading_that_is_not_strict_still_checks_shapes():
    net = small_net()
    before = bits(net.state_dict())
    with pytest.raises(ValueError, match=r"3\.bias: got shape \(3,\), expected \(2,\)"):
        net.load_state_dict({"0.bias": np.ones(4), "3.bias": np.ones(3)}, strict=False)
    assert bits(net.state_dict()) == before


def test_loading_what_is_no_number_changes_nothing():
    net = small_net()
    before = bits(net.state_dict())
    state = net.state_dict() | {"0.weight": np.zeros((4, 3, 3, 3)), "3.bias": np.array(["a", "b"])}
    with pytest.raises(ValueError, match=r"3\.bias: got dtype <U1, expected float32"):
        net.load_state_dict(state)
    assert bits(net.state_dict()) == before


def test_loading_leaves_a_live_graph_its_old_weights():
    layer = nn.Linear(2, 1, bias=False)
    x = tr.Tensor([[1.0, 2.0]], requires_grad=True)
    old = layer.weight.data.copy()
    y = layer(x).sum()
    layer.load_state_dict({"weight": np.full((1, 2), 9.0)})
    y.backward()
    np.testing.assert_array_equal(x.grad, old)
    np.testing.assert_array_equal(layer.weight.data, [[9.0, 9.0]])


def test_astype_converts_numbers_and_leaves_counts():
    net = small_net()
    before = net.state_dict()
    next(iter(net.parameters())).grad = np.zeros((4, 3, 3, 3), np.float32)
    assert net.astype(np.float64) is net
    for name, array in net.state_dict().items():
        assert array.dtype == (np.int64 if name.endswith("tracked") else np.float64)
        np.testing.assert_array_equal(array, before[name])
    assert all(p.grad is None for p in net.parameters())
    x = tr.Tensor(np.random.default_rng(0).standard_normal((2, 3, 2, 2)))
    assert net(x).dtype == np.float64
    assert int(net[1].num_batches_tracked) == 1
    assert net[1].running_mean.any()  # the buffer that is saved is the one that forward updates
    np.testing.assert_array_equal(net.state_dict()["1.running_mean"], net[1].running_mean)


def test_zero_grad():
    net = small_net()
    net(tr.Tensor(np.random.default_rng(0).standard_normal((2, 3, 2, 2)).astype("f4"))).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


# ---------------------------------------------------------------- calling
def test_batch_norm_counts_and_learns_only_in_training():
    bn = nn.BatchNorm2d(2)
    x = tr.Tensor(np.random.default_rng(0).standard_normal((4, 2, 3, 3)).astype("f4"))
    bn(x)
    after = bits(bn.state_dict())
    assert bn.num_batches_tracked == 1
    np.testing.assert_allclose(bn.running_mean, 0.1 * x.data.mean((0, 2, 3)), rtol=1e-5)
    bn.eval()(x)
    assert bits(bn.state_dict()) == after


def test_nodes_know_the_module_that_made_them():
    net = tr.models.create("resnet20")
    x = tr.Tensor(np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("f4"))
    logits = net(x)
    seen, stack = {}, [logits._node]
    while stack:
        node = stack.pop()
        if isinstance(node, tr.tape.Node) and id(node) not in seen:
            seen[id(node)] = node
            stack.extend(node.parents)
    places = {(node.name, node.module) for node in seen.values()}
    assert ("conv2d", "layer1.0.conv1") in places
    assert ("batch_norm", "layer3.2.bn2") in places
    assert ("pad", "layer2.0.downsample") in places
    assert ("conv2d", "conv1") in places
    assert ("linear", "fc") in places
    assert not tr.tape.state.scope
    convolutions = {m for n, m in places if n == "conv2d"}
    assert convolutions == {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}


def test_scope_is_left_after_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    net = nn.Sequential(nn.ReLU(), Broken())
    with pytest.raises(ZeroDivisionError):
        net(tr.Tensor([1.0]))
    assert (net[0](tr.Tensor([1.0], requires_grad=True)) * 1)._node.module == ""


def test_forward_hooks_hear_of_each_call_until_removed():
    net, calls = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), []
    remove = net[1].register_forward_hook(lambda module, args, out: calls.append((module, args, out)))
    x = tr.Tensor([[1.0, 2.0]])
    y = net(x)
    ((module, (given,), out),) = calls
    assert module is net[1]
    assert out is y
    assert given.shape == (1, 2)
    remove()
    remove.remove()  # a second time does no harm
    net(x)
    assert len(calls) == 1


def test_a_removed_hook_leaves_its_like():
    """Registered twice, it is called twice, and each handle removes one."""
    layer, calls = nn.ReLU(), []

    def hook(module, args, y):
        calls.append(y)

    first, _ = layer.register_forward_hook(hook), layer.register_forward_hook(hook)
    first.remove()
    first.remove()
    layer(tr.Tensor([1.0]))
    assert len(calls) == 1


@pytest.mark.parametrize("segment", [0, 1])
def test_what_a_forward_hook_returns_is_the_output(segment):
    """In a checkpoint, too, which repeats the forward: there the hook that changes it has to act again."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net.segment, looked = segment, []
    with net[1].register_forward_hook(lambda module, args, y: y * 3):
        net[1].register_forward_hook(lambda module, args, y: looked.append(y.data.copy()))
        x = tr.Tensor([[1.0, 2.0]], requires_grad=True)
        y = net(x)
        y.sum().backward()
    h = np.maximum(net[0].weight.data @ x.data[0] + net[0].bias.data, 0)
    np.testing.assert_allclose(y.data[0], 3 * h, rtol=1e-6)
    np.testing.assert_allclose(x.grad[0], 3 * (h > 0) @ net[0].weight.data, rtol=1e-6)
    assert len(looked) == 1
    np.testing.assert_array_equal(looked[0], y.data)  # each hook sees what the one before made of it
    np.testing.assert_allclose(net(x).data[0], h, rtol=1e-6)  # removed


@pytest.mark.parametrize("value", [tr.Tensor([1.0]), np.ones(2), 3, "a"])
def test_a_parameter_is_not_replaced_by_what_is_none(value):
    layer = nn.Linear(2, 2)
    before = layer.weight
    with pytest.raises(TypeError, match=r"Linear.weight: got \w+, expected a Parameter: wrap it as nn.Parameter"):
        layer.weight = value
    assert layer.weight is before is next(layer.parameters())
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]


# ---------------------------------------------------------------- layers
def test_repr_shows_the_tree():
    expected = """
    Sequential(
      (0): Conv2d(3, 4, kernel_size=(3, 3), stride=1, padding=1, bias=True)
      (1): BatchNorm2d(4, eps=1e-05, momentum=0.1)
      (2): Flatten()
      (3): Linear(16, 2, bias=True)
    )"""
    assert repr(small_net()) == re.sub("^    ", "", expected, flags=re.M).strip()
    assert repr(nn.Sequential(nn.Sequential(nn.ReLU()))) == ("Sequential(\n  (0): Sequential(\n    (0): ReLU()\n  )\n)")
    assert repr(nn.MaxPool2d(2)) == "MaxPool2d(kernel_size=2, stride=None, padding=0)"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv2d(3, 5, (1, 3), stride=(2, 1), padding=(0, 1), bias=False), (2, 5, 3, 6)),
        (lambda: nn.MaxPool2d(3, stride=2, padding=1), (2, 3, 3, 3)),
        (lambda: nn.AvgPool2d(2), (2, 3, 3, 3)),
        (nn.GlobalAvgPool2d, (2, 3, 1, 1)),
        (nn.Flatten, (2, 108)),
        (nn.Identity, (2, 3, 6, 6)),
        (nn.ReLU, (2, 3, 6, 6)),
    ],
)
def test_layers_give_the_shapes_they_should(layer, shape):
    assert layer()(tr.Tensor(np.ones((2, 3, 6, 6), "f4"))).shape == shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(0, 1, 3), r"Conv2d: in_channels: got 0, expected 1 or more"),
        (lambda: nn.Conv2d(1, -1, 3), r"Conv2d: out_channels: got -1"),
        (lambda: nn.Linear(0, 1), r"Linear: in_features: got 0"),
        (lambda: nn.Linear(1, 0), r"Linear: out_features: got 0"),
        (lambda: nn.BatchNorm2d(0), r"BatchNorm2d: num_features: got 0"),
    ],
)
def test_layers_say_which_size_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- first values
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.sampled_from(["fan_in", "fan_out"]), st.data())
def test_kaiming_variance_is_two_over_fan(o, c, k, mode, data):
    """n draws of variance s2 have one of s2 (1 +- sqrt(2 / n)), a mean of 0 +- s / sqrt(n). Six times is let pass."""
    tr.manual_seed(data.draw(st.integers(0, 2**32)))
    w = init.kaiming_normal((o, c, k, k), mode=mode, dtype=np.float64)
    expected = 2 / ((c if mode == "fan_in" else o) * k * k)
    if w.size >= 100:  # fewer are not normal enough for a bound
        assert abs(w.var(ddof=1) / expected - 1) < 6 * math.sqrt(2 / w.size)
    assert abs(w.mean()) < 6 * math.sqrt(expected / w.size)
    assert init.fans((o, c, k, k)) == (c * k * k, o * k * k)


def test_kaiming_knows_two_modes():
    with pytest.raises(ValueError, match=r"mode: got 'fan_avg', expected 'fan_in' or 'fan_out'"):
        init.kaiming_normal((1, 1, 1, 1), mode="fan_avg")


def test_layers_start_as_they_say():
    tr.manual_seed(0)
    conv, linear, bn = nn.Conv2d(16, 32, 3), nn.Linear(400, 100), nn.BatchNorm2d(3)
    assert abs(conv.weight.data.var() / (2 / (32 * 9)) - 1) < 6 * math.sqrt(2 / conv.weight.size)
    assert not conv.bias.data.any()
    bound = 1 / math.sqrt(400)
    for array in (linear.weight.data, linear.bias.data):
        assert np.abs(array).max() <= bound
        assert np.abs(array).max() > 0.9 * bound  # of 100 uniform draws all less: chance 0.9^100 = 3e-5, seed fixed
    assert [a.tolist() for a in bn.state_dict().values()] == [[1.0] * 3, [0.0] * 3, [0.0] * 3, [1.0] * 3, 0]


@given(st.integers(0, 2**40))
def test_one_seed_gives_one_network(seed):
    def made(seed):
        tr.manual_seed(seed)
        return bits(small_net().state_dict())

    assert made(seed) == made(seed)
    assert made(seed) != made(seed + 1)


def test_what_is_frozen_stays_as_it_is():
    """Weights and running statistics, in a network that trains."""
    net = tr.models.ResNet(tr.models.BasicBlock, [1, 1], widths=(4, 8))
    for module in (net.conv1, net.bn1, net.layer1):
        assert module.freeze() is module
    before = net.state_dict()
    optimizer = tr.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype("f4")
    for _ in range(2):
        tr.ops.cross_entropy(net.train()(tr.Tensor(x)), np.arange(4)).backward()
        optimizer.step()
    after = net.state_dict()
    changed = {name.split(".")[0] for name in before if (before[name] != after[name]).any()}
    assert changed == {"layer2", "fc"}
    assert all(p.grad is None for p in net.layer1.parameters())
    assert net.layer2[0].bn1.training
    assert not net.eval().layer2[0].bn1.training


@pytest.mark.parametrize("segment", [0, 1])
@pytest.mark.parametrize("one", [True, False])
def test_what_a_pre_hook_returns_is_what_goes_in(segment, one):
    """Alone or in a tuple; where a checkpoint repeats the forward it acts again, and one that only looks does not."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net.segment, looked = segment, []
    with net[0].register_forward_pre_hook(lambda module, args: args[0] * 3 if one else (args[0] * 3,)):
        net[0].register_forward_pre_hook(lambda module, args: looked.append((module, args[0].data.copy())))
        x = tr.Tensor([[1.0, 2.0]], requires_grad=True)
        y = net(x)
        y.sum().backward()
    h = net[0].weight.data @ (3 * x.data[0]) + net[0].bias.data
    np.testing.assert_allclose(y.data[0], np.maximum(h, 0), rtol=1e-6)
    np.testing.assert_allclose(x.grad[0], 3 * (h > 0) @ net[0].weight.data, rtol=1e-6)
    ((module, seen),) = looked
    assert module is net[0]
    np.testing.assert_array_equal(seen, 3 * x.data)
    np.testing.assert_allclose(net[0](x).data[0], net[0].weight.data @ x.data[0] + net[0].bias.data, rtol=1e-6)


# ---------------------------------------------------------------- PyTorch's words
def test_apply_begins_below_and_reaches_all():
    net, seen = nn.Sequential(nn.Sequential(nn.Linear(1, 1)), nn.ReLU()), []
    assert net.apply(seen.append) is net
    assert seen == [net[0][0], net[0], net[1], net]
    assert [name for name, _ in net.named_children()] == ["0", "1"]


def test_requires_grad_is_for_parameters_and_leaves_modes():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    assert net.train()[1].training
    y = net(tr.Tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert not y.requires_grad
    assert net[1].num_batches_tracked == 1
    assert all(p.requires_grad for p in net.requires_grad_().parameters())


@pytest.mark.parametrize(
    "convert",
    [
        lambda net: net.to(np.float64),
        lambda net: net.to("cpu", "float64"),
        lambda net: net.to("cpu:0", dtype=np.float64),
        lambda net: net.double(),
    ],
)
def test_a_network_goes_to_another_precision(convert):
    net = nn.BatchNorm2d(2)
    assert convert(net) is net
    assert {a.dtype for _, a in net.named_arrays()} == {np.dtype("f8"), np.dtype("i8")}
    assert net.float().running_mean.dtype == np.float32
    assert net.to("cpu").weight.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("cuda:0",), ValueError, "got device 'cuda:0', expected 'cpu'"),
        (("cpu", "mps"), ValueError, "got device 'mps'"),
        (("disk",), TypeError, "got 'disk', expected 'cpu', float32 or float64"),
        ((3,), TypeError, "got 3, expected 'cpu', float32 or float64"),
        ((np.int64,), TypeError, "got .*int64.*, expected 'cpu', float32 or float64"),
    ],
)
def test_there_is_no_other_device_or_precision(arguments, error, message):
    with pytest.raises(error, match=message):
        nn.Linear(1, 1).to(*arguments)


# ---------------------------------------------------------------- lists and dicts of modules
changes_of_lists = st.lists(
    st.tuples(st.sampled_from(["append", "insert", "set", "delete", "extend"]), st.integers(-4, 4)), max_size=12
)


@given(changes_of_lists)
def test_a_list_of_modules_is_a_list(changes):
    """Against a list. Names are the numbers, whatever was put in or taken out before."""
    found, expected = nn.ModuleList(), []
    for change, i in changes:
        new = nn.ReLU()
        if change == "append":
            assert found.append(new) is found
            expected.append(new)
        elif change == "insert":
            found.insert(i, new)
            expected.insert(i, new)
        elif change == "extend":
            found += [new, nn.Linear(1, 1)]
            expected += list(found)[-2:]
        elif -len(expected) <= i < len(expected):
            if change == "set":
                found[i] = expected[i] = new
            else:
                del found[i], expected[i]
        else:
            with pytest.raises(IndexError):
                found.__setitem__(i, new) if change == "set" else found.__delitem__(i)
        assert list(found) == expected
        assert len(found) == len(expected)
        assert [name for name, _ in found.named_children()] == [str(k) for k in range(len(expected))]
        assert list(found[1:]) == expected[1:]
    assert len(list(found.parameters())) == 2 * sum(isinstance(m, nn.Linear) for m in expected)


def test_modules_by_name_are_a_dict():
    a, b = nn.Linear(1, 1), nn.ReLU()
    found = nn.ModuleDict({"a": a})
    found["b"] = b
    assert (list(found), list(found.values()), dict(found.items()), len(found)) == (
        ["a", "b"],
        [a, b],
        {"a": a, "b": b},
        2,
    )
    assert list(found.state_dict()) == ["a.weight", "a.bias"]
    assert found.pop("a") is a
    assert list(found.keys()) == ["b"]
    assert "a" not in found
    for missing in (lambda: found["a"], lambda: found.pop("a"), lambda: found.__delitem__("training")):
        with pytest.raises(KeyError):
            missing()
    found["b"] = a
    assert found["b"] is a


@pytest.mark.parametrize("container", [lambda m: nn.ModuleList([m]), lambda m: nn.ModuleDict({"a": m})])
def test_containers_hold_modules_only(container):
    for wrong in (nn.ReLU, tr.ops.relu, 3, None):
        with pytest.raises(TypeError, match=r"Module(List|Dict): [0a]: got .*, expected a Module"):
            container(wrong)


@pytest.mark.parametrize("name", ["", "a.b", "training", "forward", 3])
def test_names_of_a_dict_of_modules_are_free_and_without_dots(name):
    with pytest.raises(ValueError, match=r"ModuleDict: got the name .*, expected one without a dot that is not taken"):
        nn.ModuleDict({name: nn.ReLU()})


# ---------------------------------------------------------------- norms
@given(st.integers(2, 4), st.integers(1, 3), st.none() | st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_batch_norm_of_vectors_is_that_of_their_numbers(n, channels, length, training, seed):
    rng = np.random.default_rng(seed)
    shape = (n, channels) if length is None else (n, channels, length)
    x = rng.standard_normal(shape).astype("f4")
    norm, images = nn.BatchNorm1d(channels).train(training), nn.BatchNorm2d(channels).train(training)
    y, z = norm(tr.Tensor(x)), images(tr.Tensor(x.reshape(n, channels, 1, length or 1)))
    np.testing.assert_array_equal(y.data, z.data.reshape(shape))
    np.testing.assert_array_equal(norm.running_var, images.running_var)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4, 4)])
def test_batch_norm_of_vectors_is_not_for_images(shape):
    with pytest.raises(ValueError, match=r"x: got shape .*, expected \(N, C\) or \(N, C, L\)"):
        nn.BatchNorm1d(3)(tr.Tensor(np.zeros(shape)))


def test_batch_norm_of_one_vector_says_which_shape_came():
    with pytest.raises(ValueError, match=r"x: got shape \(1, 3\), expected more than one value per channel"):
        nn.BatchNorm1d(3)(tr.Tensor(np.zeros((1, 3))))


def test_norms_within_a_sample_have_what_they_are_asked_for():
    assert list(nn.LayerNorm((2, 3)).state_dict()) == ["weight", "bias"]
    assert list(nn.LayerNorm(3, bias=False).state_dict()) == ["weight"]
    assert list(nn.LayerNorm(3, elementwise_affine=False).state_dict()) == []
    assert list(nn.GroupNorm(1, 3, affine=False).state_dict()) == []
    norm = nn.GroupNorm(2, 4)
    norm.bias.data[...] = [0, 1, 2, 3]
    y = norm(tr.Tensor(np.random.default_rng(0).standard_normal((2, 4, 5)).astype("f4"))).data
    np.testing.assert_allclose(y[:, :2].mean((1, 2)), 0.5, atol=1e-6)
    np.testing.assert_allclose(y[:, 2:].mean((1, 2)), 2.5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LayerNorm(0), "LayerNorm: normalized_shape: got"),
        (lambda: nn.LayerNorm(()), "LayerNorm: normalized_shape: got"),
        (lambda: nn.GroupNorm(2, 3), "GroupNorm: num_groups: got 2, expected a divisor of 3"),
        (lambda: nn.GroupNorm(0, 3), "GroupNorm: num_groups: got 0, expected 1 or more"),
        (lambda: nn.GroupNorm(1, 3)(tr.zeros(2, 4)), r"x: got shape \(2, 4\), expected \(N, 3, ...\)"),
        (lambda: nn.BatchNorm1d(0), "BatchNorm1d: num_features: got 0"),
    ],
)
def test_norms_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
