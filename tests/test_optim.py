"""Optimizers against their formulas in plain Python, their groups, and what they save.

This file is long because each optimizer has a formula to agree with, and each setting a mistake to refuse.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres import nn, optim

seeds = st.integers(0, 2**32 - 1)
sgd_options = st.fixed_dictionaries(
    {"lr": st.floats(0, 1), "momentum": st.floats(0, 0.99), "weight_decay": st.floats(0, 0.1)}
)
adamw_options = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 0.1),
        "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
        "eps": st.floats(1e-8, 1e-2),
        "weight_decay": st.floats(0, 0.1),
    }
)


def parameter(values):
    return nn.Parameter(np.array(values, np.float64))


def trajectory(optimizer, p, gradients):
    for g in gradients:
        p.grad = None if g is None else np.array(g)
        optimizer.step()
    return p.data.copy()


# ---------------------------------------------------------------- formulas
def sgd_by_hand(p, gradients, lr, momentum, weight_decay, nesterov):
    v = 0.0
    for g in gradients:
        if g is not None:
            g = g + weight_decay * p
            v = momentum * v + g
            p = p - lr * (g + momentum * v if nesterov else v)
    return p


def adamw_by_hand(p, gradients, lr, betas, eps, weight_decay):
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        p = p - lr * weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        p = p - lr * (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


@given(sgd_options, st.booleans(), seeds, st.lists(st.booleans(), min_size=1, max_size=10))
def test_sgd_is_its_formula(options, nesterov, seed, present):
    rng = np.random.default_rng(seed)
    nesterov = nesterov and options["momentum"] > 0
    start = rng.standard_normal(4)
    gradients = [rng.standard_normal(4) if there else None for there in present]
    p = parameter(start)
    found = trajectory(optim.SGD([p], **options, nesterov=nesterov), p, gradients)
    expected = [
        sgd_by_hand(a, [None if g is None else g[i] for g in gradients], **options, nesterov=nesterov)
        for i, a in enumerate(start)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@given(adamw_options, seeds, st.integers(1, 10))
def test_adamw_is_its_formula(options, seed, steps):
    rng = np.random.default_rng(seed)
    start, gradients = rng.standard_normal(4), rng.standard_normal((steps, 4))
    p = parameter(start)
    found = trajectory(optim.AdamW([p], **options), p, gradients)
    expected = [adamw_by_hand(a, gradients[:, i], **options) for i, a in enumerate(start)]
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


rmsprop_options = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 0.1), "alpha": st.floats(0, 0.99), "eps": st.floats(1e-6, 1e-2),
        "weight_decay": st.floats(0, 0.1), "momentum": st.floats(0, 0.99),
    }
)  # fmt: skip


@given(rmsprop_options, seeds, st.integers(1, 10))
def test_rmsprop_is_its_formula(options, seed, steps):
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal(steps)
    p, s, v = 1.0, 0.0, 0.0
    for g in gradients:
        g = g + options["weight_decay"] * p
        s = options["alpha"] * s + (1 - options["alpha"]) * g * g
        v = options["momentum"] * v + g / (math.sqrt(s) + options["eps"])
        p = p - options["lr"] * v
    one = parameter([1.0])
    found = trajectory(optim.RMSprop([one], **options), one, [[g] for g in gradients])
    np.testing.assert_allclose(found, [p], rtol=1e-9, atol=1e-12)


@given(seeds, st.integers(1, 8), st.floats(0, 0.9), st.floats(0, 0.1), st.floats(1e-3, 0.5), st.booleans())
def test_lars_is_its_formula(seed, steps, momentum, weight_decay, trust, matrix):
    rng = np.random.default_rng(seed)
    shape = (2, 3) if matrix else (6,)
    p, gradients = rng.standard_normal(shape), rng.standard_normal((steps, *shape))
    gradients[-1] = 0  # what decays goes on decaying by its share
    w, v = p.copy(), np.zeros(shape)
    for g in gradients:
        size, slope, rate = np.sqrt((w * w).sum()), np.sqrt((g * g).sum()), 0.3
        if matrix:  # biases and batch norm go as with SGD, and do not decay
            rate *= trust * size / (slope + weight_decay * size + 1e-8)
            g = g + weight_decay * w
        v = momentum * v + rate * g
        w = w - v
    one = parameter(p)
    optimizer = optim.LARS([one], 0.3, momentum=momentum, weight_decay=weight_decay, trust=trust)
    np.testing.assert_allclose(trajectory(optimizer, one, gradients), w, rtol=1e-9, atol=1e-12)


@given(st.floats(1e-6, 1e6), seeds)
def test_lars_goes_as_far_whatever_the_size_of_the_gradient(scale, seed):
    p, g = np.random.default_rng(seed).standard_normal((2, 3, 3))
    ends = []
    for factor in (1.0, scale):
        one = parameter(p)
        ends.append(trajectory(optim.LARS([one], 1.0, eps=0.0), one, [factor * g]))
    np.testing.assert_allclose(*ends, rtol=1e-9)


def test_lars_moves_what_is_zero():
    one = parameter(np.zeros((2, 2)))
    trajectory(optim.LARS([one], 0.1), one, [np.ones((2, 2))])
    np.testing.assert_allclose(one.data, -0.1)


def test_adam_leaves_the_gradient_as_it_is():
    one = parameter([1.0])
    one.grad = np.array([2.0])
    optim.Adam([one], weight_decay=0.5).step()
    assert one.grad == 2.0


OPTIMIZERS = {
    "sgd": lambda params, lr=0.1, **options: optim.SGD(params, lr, momentum=0.9, **options),
    "adamw": lambda params, lr=0.1, **options: optim.AdamW(params, lr, **options),
    "adam": lambda params, lr=0.1, **options: optim.Adam(params, lr, **options),
    "rmsprop": lambda params, lr=0.1, **options: optim.RMSprop(params, lr, **options),
    "lars": lambda params, lr=0.1, **options: optim.LARS(params, lr, trust=0.1, **options),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@every_optimizer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(make, dtype):
    p = nn.Parameter(np.ones(3, dtype))
    optimizer = make([p], weight_decay=0.1)
    p.grad = np.ones(3, dtype)
    optimizer.step()
    assert p.dtype == dtype
    assert all(a.dtype == dtype for a in optimizer.state[p].values())


@every_optimizer
def test_minimum_of_a_bowl_is_found(make):
    p = parameter([3.0, -2.0])
    optimizer = make([p], lr=0.05, weight_decay=0.0)
    for step in range(1000):
        optimizer.set_lr(
            0.05 * (1 - step / 1000)
        )  # who divides by the gradient's size goes as far at the end otherwise
        optimizer.zero_grad()
        ((p - [1.0, 2.0]) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(p.data, [1.0, 2.0], atol=1e-3)


@every_optimizer
def test_rate_of_zero_changes_nothing(make):
    p = parameter([1.0, 2.0])
    np.testing.assert_array_equal(trajectory(make([p], lr=0.0), p, np.ones((3, 2))), [1.0, 2.0])


@every_optimizer
def test_parameters_without_gradient_stay(make):
    used, unused = parameter([1.0]), parameter([1.0])
    optimizer = make([used, unused], weight_decay=0.5)
    used.grad = np.ones(1)
    optimizer.step()
    assert used.data != 1
    assert unused.data == 1


# ---------------------------------------------------------------- groups
def test_groups_have_their_own_settings():
    a, b, c = (parameter([1.0]) for _ in range(3))
    groups = [{"params": [a], "lr": 0.5}, {"params": [b], "weight_decay": 1.0}, {"params": iter([c])}]
    optimizer = optim.SGD(groups, 0.1)
    for p in (a, b, c):
        p.grad = np.ones(1)
    optimizer.step()
    np.testing.assert_allclose([a.data[0], b.data[0], c.data[0]], [0.5, 0.8, 0.9])
    optimizer.set_lr(1.0)
    optimizer.step()
    np.testing.assert_allclose([a.data[0], b.data[0], c.data[0]], [-0.5, 0.8 - 1.8, -0.1])
    optimizer.groups[0]["lr"] = 0.0
    optimizer.step()
    np.testing.assert_allclose(a.data, [-0.5])
    assert "params" in groups[0]
    assert groups[0]["lr"] == 0.5


NET = tr.models.ResNet(tr.models.BasicBlock, [1, 1], widths=(4, 8))
NAMES = {p: name for name, p in NET.named_parameters()}


def settings(**options):
    """Weight decay and share of the rate of each parameter, each of which is in one group."""
    groups = optim.parameter_groups(NET, 0.25, **options)
    assert len([p for group in groups for p in group["params"]]) == len(NAMES)
    return {NAMES[p]: (group["weight_decay"], group["lr_scale"]) for group in groups for p in group["params"]}


def test_without_wishes_there_is_one_group_in_the_order_of_the_model():
    (group,) = optim.parameter_groups(NET, 0.25)
    assert group == {"params": list(NET.parameters()), "weight_decay": 0.25, "lr_scale": 1.0}


def test_biases_and_batch_norm_may_be_spared_decay():
    found = settings(decay_bias=False)
    decay = {n for n in NAMES.values() if "conv" in n or n in ("fc.weight", "layer2.0.downsample.0.weight")}
    assert found == {name: (0.25 if name in decay else 0.0, 1.0) for name in NAMES.values()}


def test_biases_of_batch_norm_alone_have_a_rate_of_their_own_and_decay_as_before():
    found = settings(bias_lr=8.0)
    norms = {n for n in NAMES.values() if n.endswith("bias") and ("bn" in n or "downsample.1" in n)}
    assert len(norms) == 6
    assert found == {name: (0.25 / 8, 8.0) if name in norms else (0.25, 1.0) for name in NAMES.values()}


def test_each_part_has_a_share_of_the_rate_of_the_next():
    found = settings(layer_decay=0.5, parts=NET.parts().values())
    depth = {"conv1": 3, "bn1": 3, "layer1": 2, "layer2": 1, "fc": 0}
    assert found == {name: (0.25, 0.5 ** depth[name.split(".")[0]]) for name in NAMES.values()}
    assert settings(layer_decay=0.5)["conv1.weight"] == (0.25, 0.5**4)  # bn1 is a child of its own


def test_what_is_frozen_is_in_no_group():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].freeze()
    (group,) = optim.parameter_groups(net, 0.1)
    assert group["params"] == list(net[1].parameters())


@pytest.mark.parametrize("name", ["bias_lr", "layer_decay"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_shares_of_the_rate_are_positive(name, value):
    with pytest.raises(ValueError, match=f"{name}: got"):
        optim.parameter_groups(NET, 0.1, **{name: value})


@every_optimizer
@given(st.floats(0, 10), st.floats(1e-3, 1))
def test_a_share_of_the_rate_is_a_lower_rate(make, scale, lr):
    found = []
    for group, rate in (({"lr_scale": scale}, lr), ({}, lr * scale)):
        p = parameter([1.0, -2.0])
        optimizer = make([{"params": [p], **group}], lr=rate)
        trajectory(optimizer, p, [[0.5, 1.0]])
        optimizer.set_lr(rate / 2)
        found.append(trajectory(optimizer, p, [[0.5, -1.0]]))
    np.testing.assert_allclose(*found, rtol=1e-12)
    own = make([{"params": [parameter([1.0])], "lr": 0.25, "lr_scale": scale}], lr=lr)
    assert own.groups[0]["lr"] == 0.25


def test_zero_grad():
    p = parameter([1.0])
    p.grad = np.ones(1)
    optim.SGD([p], 0.1).zero_grad()
    assert p.grad is None


# ---------------------------------------------------------------- clipping
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), seeds, st.floats(1e-2, 100), st.sampled_from(["f4", "f8"]))
def test_clipping_bounds_the_joint_norm_and_keeps_the_direction(sizes, seed, max_norm, dtype):
    rng = np.random.default_rng(seed)
    parameters = [nn.Parameter(np.zeros(n, dtype)) for n in sizes]
    for p in parameters:
        p.grad = 10 ** rng.uniform(-2, 2) * rng.standard_normal(p.shape).astype(dtype)
        p.grad = p.grad.astype(dtype)
    before = np.concatenate([p.grad for p in parameters]).astype(np.float64)
    norm = optim.clip_grad_norm([*parameters, nn.Parameter([1.0])], max_norm)
    after = np.concatenate([p.grad for p in parameters])
    assert after.dtype == dtype
    assert norm == pytest.approx(np.linalg.norm(before))
    if norm <= max_norm:
        np.testing.assert_array_equal(after, before)
    else:
        assert np.linalg.norm(after) == pytest.approx(max_norm, rel=1e-5)
        np.testing.assert_allclose(after, before * (max_norm / norm), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_clipping_reports_a_norm_that_is_no_number_and_leaves_it(bad):
    p, q = parameter([1.0]), parameter([1.0])
    p.grad, q.grad = np.array([3e3]), np.array([bad])
    assert not np.isfinite(optim.clip_grad_norm([p, q], 1.0))
    np.testing.assert_array_equal([*p.grad, *q.grad], [3e3, bad])


@pytest.mark.parametrize("max_norm", [0, -1, np.nan])
def test_clipping_needs_a_positive_norm(max_norm):
    with pytest.raises(ValueError, match=rf"max_norm: got {max_norm}, expected more than 0"):
        optim.clip_grad_norm([], max_norm)


def test_clipping_takes_a_list():
    """A tensor is an iterable of rows, which have no gradients."""
    p = nn.Parameter([[1.0], [2.0]])
    p.grad = np.full((2, 1), 100, np.float32)
    with pytest.raises(TypeError, match=r"parameters: got a single tensor, .* write \[parameter\]"):
        optim.clip_grad_norm(p, 1.0)
    with pytest.raises(TypeError, match=r"parameters: got Linear, .* write net\.parameters\(\)"):
        optim.clip_grad_norm(nn.Linear(2, 2), 1.0)
    with pytest.raises(TypeError, match=r"parameters: got a dict among them, expected parameters"):
        optim.clip_grad_norm([{"params": [p]}], 1.0)


# ---------------------------------------------------------------- live graphs
@every_optimizer
def test_a_live_graph_keeps_the_weights_it_was_made_with(make):
    layer = nn.Linear(3, 2)
    x = tr.Tensor(np.random.default_rng(0).standard_normal((4, 3)).astype("f4"), requires_grad=True)
    old = layer.weight.data.copy()
    waiting = layer(x).sum()
    optimizer = make(layer.parameters())
    layer(x.detach()).sum().backward()
    optimizer.step()
    assert not np.array_equal(layer.weight.data, old)
    waiting.backward()
    np.testing.assert_allclose(x.grad, np.tile(old.sum(0), (4, 1)), rtol=1e-6)


@every_optimizer
def test_weights_change_in_place_when_no_graph_is_alive(make):
    layer = nn.Linear(3, 2)
    layer(tr.Tensor(np.ones((1, 3), "f4"))).sum().backward()
    arrays = [p.data for p in layer.parameters()]
    make(layer.parameters()).step()
    assert all(p.data is a for p, a in zip(layer.parameters(), arrays, strict=True))


# ---------------------------------------------------------------- state
def noisy_run(optimizer, parameters, steps, seed):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        for p in parameters:
            p.grad = rng.standard_normal(p.shape)
        optimizer.step()
    return [p.data.copy() for p in parameters]


@every_optimizer
def test_saved_state_goes_on_as_if_nothing_had_happened(make):
    first = [parameter(np.ones((2, 3))), parameter(np.zeros(2))]
    optimizer = make(first)
    noisy_run(optimizer, first, 3, seed=0)
    second = [parameter(p.data) for p in first]
    other = make(second)
    saved = optimizer.state_dict()
    other.load_state_dict(saved)
    assert other.step_count == 3
    for array in saved.values():
        array += 1  # a copy: this changes neither of the two
    for a, b in zip(noisy_run(optimizer, first, 3, 1), noisy_run(other, second, 3, 1), strict=True):
        np.testing.assert_array_equal(a, b)


@every_optimizer
@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "step count missing"])
def test_state_that_does_not_fit_is_named_and_changes_nothing(make, damage):
    parameters = [parameter(np.ones((2, 3))), parameter(np.zeros(2))]
    optimizer = make(parameters)
    noisy_run(optimizer, parameters, 2, seed=0)
    before = optimizer.state_dict()
    slot = optimizer.slots[0]
    state = {name: array * 0 for name, array in before.items()}
    named = f"1.{slot}"
    if damage == "missing":
        del state[named]
    elif damage == "shape":
        state[named] = np.zeros(3)
    elif damage == "unexpected":
        named = "2.momentum"
        state[named] = np.zeros(2)
    else:
        named = "step_count"
        del state[named]
    with pytest.raises(ValueError, match=rf"optimizer state does not fit \w+ .*: {named}$"):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after.keys() == before.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("count", [-4, 2.5, np.inf, np.nan])
def test_step_count_that_is_none_is_refused(count):
    optimizer = optim.Adam([parameter(np.ones(2))], 0.1)
    with pytest.raises(ValueError, match=f"step_count: got {count}, expected 0, 1, 2, "):
        optimizer.load_state_dict({**optimizer.state_dict(), "step_count": np.array(count)})
    assert optimizer.step_count == 0


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.SGD([], 0.1), "params: got no parameters"),
        (lambda p: optim.SGD([{"params": []}], 0.1), "params: got no parameters"),
        (lambda p: optim.SGD([p, p], 0.1), "params: got one parameter twice"),
        (lambda p: optim.SGD([{"params": [p]}, {"params": [p]}], 0.1), "params: got one parameter twice"),
        (lambda p: optim.SGD([p], -0.1), r"lr: got -0\.1, expected 0\.0 or more"),
        (lambda p: optim.SGD([p], math.nan), r"lr: got nan"),
        (lambda p: optim.SGD([{"params": [p], "lr": -1}], 0.1), r"lr: got -1"),
        (lambda p: optim.SGD([p], 0.1, weight_decay=-1), r"weight_decay: got -1"),
        (lambda p: optim.SGD([p], 0.1, momentum=1), r"momentum: got 1, expected 0 or more and less than 1"),
        (lambda p: optim.SGD([p], 0.1, nesterov=True), r"nesterov: got True without momentum"),
        (lambda p: optim.AdamW([p], betas=(0.9, 1.0)), r"betas: got \(0\.9, 1\.0\)"),
        (lambda p: optim.AdamW([p], -1), r"lr: got -1"),
        (lambda p: optim.AdamW([p], eps=-1), r"eps: got -1, expected 0 or more"),
        (lambda p: optim.Adam([p], eps=math.nan), r"eps: got nan, expected 0 or more"),
        (lambda p: optim.RMSprop([p], alpha=1.0), r"alpha: got 1.0, expected 0 or more and less than 1"),
        (lambda p: optim.RMSprop([p], momentum=-0.1), r"momentum: got -0.1"),
        (lambda p: optim.RMSprop([p], eps=-1), r"eps: got -1"),
        (lambda p: optim.LARS([p], 0.1, trust=0), r"trust: got 0, expected a positive number"),
        (lambda p: optim.LARS([p], 0.1, momentum=1), r"momentum: got 1"),
        (lambda p: optim.LARS([p], 0.1, eps=-1), r"eps: got -1"),
    ],
)
def test_optimizers_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make(parameter([1.0]))


def test_an_optimizer_needs_an_update():
    p = parameter([1.0])
    p.grad = np.ones(1)
    with pytest.raises(TypeError, match=r"Optimizer does not define update\(\)"):
        optim.Optimizer([p], {"lr": 0.1, "weight_decay": 0.0}).step()


# ---------------------------------------------------------------- what parameters are, and what follows them
@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.AdamW(p, lr=0.1)])
@pytest.mark.parametrize("there", [np.float64, np.float32])
def test_state_follows_its_parameter_to_another_dtype(make, there):
    """A kernel once wrote past the end of the velocity; the other way round, it read half of each number."""
    back = np.float32 if there == np.float64 else np.float64
    values, g = np.linspace(-1, 1, 1001), np.cos(np.arange(1001.0))
    expected = parameter(values)
    by_hand = trajectory(make([expected]), expected, [g] * 4)
    net = nn.Sequential(nn.Linear(1001, 1, bias=False)).astype(back)
    p = net[0].weight
    p.data[...] = values
    optimizer = make(net.parameters())
    for dtype in (back, back, there, there):
        net.astype(dtype)
        p.grad = g[None].astype(dtype)
        optimizer.step()
        assert {a.dtype for a in optimizer.state[p].values()} == {p.dtype}
    np.testing.assert_allclose(p.data[0], by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [np.ones(3), np.ones(2, np.float32), [1.0, 1.0], tr.Tensor([1.0, 1.0])])
def test_a_gradient_of_another_kind_is_refused(wrong):
    p = parameter([1.0, 2.0])
    p.grad = wrong
    with pytest.raises(TypeError, match=r"grad: got .*, expected an array like the parameter, \(2,\) float64"):
        optim.SGD([p], lr=0.1, momentum=0.9).step()
    np.testing.assert_array_equal(p.data, [1, 2])


LAYER = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (LAYER.weight, r"got a single tensor, expected an iterable of parameters: write \[parameter\]"),
        ([{"params": LAYER.weight}], r"got a single tensor, .* write \[parameter\]"),
        (LAYER, r"got Linear, expected its parameters: write net.parameters\(\)"),
        ({"params": [LAYER.weight]}, "got dict, expected an iterable of parameters, or a list of dicts"),
        (3, "got int, expected an iterable"),
        (LAYER.named_parameters(), "got a tuple among them, expected parameters"),
        ([LAYER.weight.data], "got a ndarray among them"),
        ([tr.Tensor([1.0])], r"got a tensor of shape \(1,\) that requires no gradient among them"),
        ([{"params": [LAYER.weight], "weight_deacy": 0.1}], "got a group .* expected a dict of some of params, lr"),
        ([{"lr": 0.1}], "got a group .* expected a dict of some of params, lr"),
        ([{"params": [LAYER.weight]}, LAYER.bias], "got a group"),
    ],
)
def test_what_cannot_be_trained_is_refused(params, message):
    with pytest.raises(TypeError, match=f"params: {message}"):
        optim.SGD(params, lr=0.1)


def test_what_was_computed_cannot_be_trained():
    with pytest.raises(TypeError, match=r"params: got a computed tensor of shape \(2, 2\) among them"):
        optim.SGD([LAYER.weight * 2], lr=0.1)
