"""Every operation: its gradient, its agreement between backends and dtypes, its errors."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry import REGISTRY

import tinyres as tr
from tinyres import Tensor, backend, ops
from tinyres.testing import gradcheck
from tinyres.testing.strategies import (
    ORDERS,
    batch_norm_problems,
    conv_problems,
    in_order,
    numbers,
    pool_problems,
    tensors,
)

F4, F8 = np.float32, np.float64
CASES = [(name, i) for name, entry in REGISTRY.items() for i in range(len(entry.cases))]
each_case = pytest.mark.parametrize(("name", "i"), CASES)
each_backend = pytest.mark.parametrize("kernels", sorted(backend.BACKENDS))


@pytest.fixture(autouse=True)
def _one_thread():
    """The arrays are tiny; waking a second thread would take longer than the work."""
    before = tr.num_threads()
    tr.set_num_threads(1)
    yield
    tr.set_num_threads(before)


def arrays(name, i, order="contiguous", dtype=F8):
    rng = np.random.default_rng(i)
    return [in_order(numbers(rng, s, dtype, REGISTRY[name].values), order) for s in REGISTRY[name].cases[i].shapes]


def function(name, i):
    entry = REGISTRY[name]
    return lambda *args: entry.call(*args, **entry.cases[i].options)


def leaves(inputs):
    return [Tensor(a, requires_grad=True) for a in inputs]


def run(fn, inputs):
    """The result, and the gradients of sum(v y) for some v."""
    tensors = leaves(inputs)
    y = fn(*tensors)
    y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
    return [y.data, *(t.grad for t in tensors)]


def assert_close(results, expected, tolerance):
    """Each array to `tolerance`, relative to its largest element."""
    assert len(results) == len(expected)
    for r, e in zip(results, expected, strict=True):
        assert r.shape == e.shape
        np.testing.assert_allclose(r, e, rtol=0, atol=tolerance * max(1, np.abs(e).max(initial=0)))


def test_every_operation_is_registered():
    assert sorted(REGISTRY) == sorted(ops.__all__)
    assert all(len(entry.cases) >= 3 for entry in REGISTRY.values())


# ---------------------------------------------------------------- gradients
# "broadcast" makes elements equal, which is a kink for those that want them distinct
LAID_OUT = [(n, i, o) for n, i in CASES for o in ORDERS if (o, REGISTRY[n].values) != ("broadcast", "distinct")]


@each_backend
@pytest.mark.parametrize(("name", "i", "order"), LAID_OUT)
def test_gradient(name, i, order, kernels):
    with tr.use_backend(kernels):
        assert gradcheck(function(name, i), *arrays(name, i, order), full=True)


@pytest.mark.parametrize("algorithm", sorted(backend.ALGORITHMS))
@pytest.mark.parametrize("i", range(len(REGISTRY["conv2d"].cases)))
def test_gradient_of_every_way_to_convolve(i, algorithm):
    with tr.use_algorithm(algorithm):
        assert gradcheck(function("conv2d", i), *arrays("conv2d", i), full=True)


@each_backend
@each_case
def test_float32_follows_float64(name, i, kernels):
    inputs = arrays(name, i, dtype=F4)
    copies = [a.copy() for a in inputs]
    with tr.use_backend(kernels):
        results = run(function(name, i), inputs)
        exact = run(function(name, i), [a.astype(F8) for a in inputs])
        again = run(function(name, i), inputs)
    assert all(r.dtype == F4 for r in results)
    assert_close(results, exact, 1e-5)
    for r, a in zip(results, again, strict=True):
        np.testing.assert_array_equal(r, a)  # bit for bit
    for a, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(a, copy)


@each_case
def test_backends_agree(name, i):
    results = []
    for kernels in sorted(backend.BACKENDS):
        with tr.use_backend(kernels):
            results.append(run(function(name, i), arrays(name, i)))
    assert_close(*results, 1e-12)


@each_backend
@each_case
def test_gradient_of_one_input_alone(name, i, kernels):
    """What is left out where an input needs no gradient does not change the others."""
    with tr.use_backend(kernels):
        together = run(function(name, i), arrays(name, i))
        for k in range(len(together) - 1):
            inputs = [Tensor(a, requires_grad=j == k) for j, a in enumerate(arrays(name, i))]
            y = function(name, i)(*inputs)
            y.backward(np.cos(np.arange(y.size)).reshape(y.shape))
            for j, t in enumerate(inputs):
                assert (t.grad is None) == (j != k)
            np.testing.assert_array_equal(inputs[k].grad, together[1 + k])


@given(conv_problems(F8, max_size=6))
def test_convolution_gradient(p):
    inputs = [p.x, p.weight] + ([] if p.bias is None else [p.bias])
    assert gradcheck(lambda *args: ops.conv2d(*args, **p.options, groups=p.groups), *inputs, full=False)


@given(pool_problems(F8, max_size=6))
def test_pooling_gradients(p):
    assert gradcheck(lambda x: ops.max_pool2d(x, p.kernel_size, **p.options), p.x, full=False)
    assert gradcheck(lambda x: ops.avg_pool2d(x, p.kernel_size, **p.options), p.x, full=False)


# ---------------------------------------------------------------- batch norm
def fused_and_composed(p, eps=1e-5):
    fused, composed = [], []
    for results in (fused, composed):
        inputs = leaves([p.x, p.weight, p.bias] + ([] if p.residual is None else [p.residual]))
        x, weight, bias, *residual = inputs
        mean, var = p.running_mean.copy(), p.running_var.copy()
        options = {"training": p.training, "momentum": 0.3, "eps": eps}
        if results is fused:
            y = ops.batch_norm(
                x, mean, var, weight, bias, residual=residual[0] if residual else None, relu=p.relu, **options
            )
        else:
            y = ops.batch_norm(x, mean, var, weight, bias, **options)
            y = y + residual[0] if residual else y
            y = ops.relu(y) if p.relu else y
        y.backward(p.dy)
        results += [y.data, *(t.grad for t in inputs), mean, var]
    return fused, composed


@each_backend
@given(p=batch_norm_problems(F8))
def test_fused_batch_norm_is_its_composition(kernels, p):
    with tr.use_backend(kernels):
        fused, composed = fused_and_composed(p)
    assert_close(fused, composed, 1e-10)  # gradients are as large as 1 / sqrt(eps) times their terms


def test_batch_norm_from_elementary_operations():
    """The formula, differentiated by the tape instead of by hand."""
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(s) for s in [(3, 4, 2, 3), (4,), (4,)]]

    def spelled_out(x, weight, bias):
        mean = x.mean((0, 2, 3), keepdims=True)
        var = ((x - mean) ** 2).mean((0, 2, 3), keepdims=True)
        return (x - mean) / (var + 1e-5).sqrt() * weight.reshape(4, 1, 1) + bias.reshape(4, 1, 1)

    def fused(x, weight, bias):
        return ops.batch_norm(x, np.zeros(4), np.ones(4), weight, bias, training=True)

    assert_close(run(fused, inputs), run(spelled_out, inputs), 1e-13)


@each_backend
def test_batch_norm_updates_its_running_statistics(kernels):
    x = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(F4)
    one, zero, mean, var = Tensor(np.ones(3, F4)), Tensor(np.zeros(3, F4)), np.zeros(3, F4), np.ones(3, F4)
    with tr.use_backend(kernels):
        ops.batch_norm(Tensor(x), mean, var, one, zero, training=True, momentum=0.25)
        np.testing.assert_allclose(mean, 0.25 * x.mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(var, 0.75 + 0.25 * x.var((0, 2, 3), ddof=1), rtol=1e-5)
        before = mean.copy(), var.copy()
        y = ops.batch_norm(Tensor(x), mean, var, one, zero, training=False)
    np.testing.assert_array_equal((mean, var), before)
    expected = (x - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    np.testing.assert_allclose(y.data, expected, rtol=1e-5, atol=1e-6)


@each_backend
@pytest.mark.parametrize("dtype", [F4, F8])
def test_batch_norms_gradient_is_that_of_the_statistics_it_used(kernels, dtype):
    """Not of what became of the running ones before backward."""
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(s).astype(dtype) for s in [(4, 3, 2, 2), (3,), (3,)]]
    dy = rng.standard_normal((4, 3, 2, 2)).astype(dtype)
    gradients = []
    for updated in (False, True):
        mean, var = np.zeros(3, dtype), np.ones(3, dtype)
        x, weight, bias = leaves(inputs)
        with tr.use_backend(kernels):
            y = ops.batch_norm(x, mean, var, weight, bias, training=False, relu=True)
            if updated:
                ops.batch_norm(x + 5, mean, var, weight, bias, training=True)
            y.backward(dy)
        gradients.append([t.grad for t in (x, weight, bias)])
    for before, after in zip(*gradients, strict=True):
        np.testing.assert_array_equal(before, after)


# ---------------------------------------------------------------- values
@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_huge_logits(dtype, scale):
    logits = np.array([[1.0, -1.0, 0.5], [0.0, 0.0, -1.0]], dtype) * dtype(scale)
    with tr.detect_anomaly():  # nothing on the way may overflow
        results = run(ops.log_softmax, [logits]) + run(lambda x: ops.cross_entropy(x, [1, 0]), [logits])
    assert all(np.isfinite(r).all() for r in results)
    np.testing.assert_allclose(results[0][0], [0, -2 * scale, -scale / 2], rtol=1e-6)
    np.testing.assert_allclose(results[0][1, :2], -np.log(2), rtol=1e-6)
    np.testing.assert_allclose(results[2], (2 * scale + np.log(2)) / 2, rtol=1e-6)
    np.testing.assert_allclose(ops.softmax(Tensor(logits)).data.sum(1), 1, rtol=1e-6)


@given(tensors(F8, (4, 5)), st.floats(-1e3, 1e3))
def test_softmax_ignores_a_shift(x, shift):
    np.testing.assert_allclose(ops.softmax(x + shift).data, ops.softmax(x).data, rtol=1e-11)
    np.testing.assert_allclose(np.exp(ops.log_softmax(x).data), ops.softmax(x).data, rtol=1e-13)


@given(tensors(F8, (4, 5)), st.floats(0, 1), st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_label_smoothing(logits, smoothing, target):
    q = np.full((4, 5), smoothing / 5)
    q[range(4), target] += 1 - smoothing
    expected = -(q * ops.log_softmax(logits).data).sum() / 4
    for kind in (target, np.array(target, np.uint8)):
        loss = ops.cross_entropy(logits, kind, label_smoothing=smoothing)
        np.testing.assert_allclose(loss.data, expected, rtol=1e-12)


def test_sigmoid_does_not_overflow():
    np.testing.assert_array_equal(ops.sigmoid(Tensor([-1e30, 0.0, 1e30])).data, [0, 0.5, 1])


@each_backend
def test_relu_at_its_kink_and_beyond(kernels):
    x = np.array([-np.inf, -1, -0.0, 0.0, 1, np.inf, np.nan])
    with tr.use_backend(kernels):
        t = Tensor(x, requires_grad=True)
        y = ops.relu(t)
        np.testing.assert_array_equal(y.data, [0, 0, 0, 0, 1, np.inf, np.nan])
        y.backward(np.arange(1.0, 8))
        np.testing.assert_array_equal(t.grad, [0, 0, 0, 0, 5, 6, 7])


@each_backend
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
def test_batch_norm_keeps_its_result_only_where_the_gradient_reads_it(kernels, relu, shortcut):
    x, weight, bias, residual = leaves([np.ones((2, 3, 2, 2)), np.ones(3), np.ones(3), np.ones((2, 3, 2, 2))])
    with tr.use_backend(kernels):
        y = ops.batch_norm(
            x, np.zeros(3), np.ones(3), weight, bias, training=True, relu=relu, residual=residual if shortcut else None
        )
        z = ops.global_avg_pool2d(y)  # needs the shape alone
    result = weakref.ref(y.data)
    del y
    assert (result() is not None) == (relu and shortcut)
    z.backward(np.ones((2, 3, 1, 1)))
    assert x.grad is not None


@each_backend
def test_max_pool_gives_ties_to_the_first(kernels):
    x = np.array([[1.0, 3, 3], [3, 0, 2], [2, 2, 2]]).reshape(1, 1, 3, 3)
    with tr.use_backend(kernels):
        t = Tensor(x, requires_grad=True)
        ops.max_pool2d(t, 2, stride=1).backward(np.array([[1.0, 10], [100, 1000]]).reshape(1, 1, 2, 2))
    np.testing.assert_array_equal(t.grad[0, 0], [[0, 11, 0], [100, 0, 1000], [0, 0, 0]])


def test_maximum_shares_where_equal():
    a, b = leaves([np.array([1.0, 2, 3]), np.array([2.0, 2, 2])])
    ops.maximum(a, b).backward([4.0, 4, 4])
    np.testing.assert_array_equal(a.grad, [0, 2, 4])
    np.testing.assert_array_equal(b.grad, [4, 2, 0])


@pytest.mark.parametrize("name", ["conv2d", "avg_pool2d", "max_pool2d", "batch_norm", "relu", "pad"])
def test_images_come_out_channels_last(name):
    i = {"relu": 4, "pad": 1}.get(name, 0)
    for order in ORDERS[:3]:
        y = function(name, i)(*map(Tensor, arrays(name, i, order)))
        assert y.data.transpose(0, 2, 3, 1).flags.c_contiguous


# ---------------------------------------------------------------- errors
def t(*shape, dtype=F4):
    return Tensor(np.ones(shape, dtype))


def conv(x=t(2, 3, 5, 5), weight=t(4, 3, 3, 3), bias=None, **options):  # noqa: B008
    return ops.conv2d(x, weight, bias, **options)


def norm(x=t(2, 3, 2, 2), mean=(3,), var=(3,), weight=t(3), bias=t(3), training=True, **options):  # noqa: B008
    return ops.batch_norm(x, np.zeros(mean, F4), np.ones(var, F4), weight, bias, training=training, **options)


def pools(*args, **options):
    return [lambda: ops.max_pool2d(*args, **options), lambda: ops.avg_pool2d(*args, **options)]


X, D = t(1, 1, 4, 4), t(3, dtype=F8)
ERRORS = [
    *[
        (lambda n=name, v=value: conv(**{n: v}), ValueError, rf"{name}: got .*, expected an int >= {minimum} or a pair")
        for name, minimum in (("stride", 1), ("padding", 0))
        for value in (minimum - 1, (1,), (1, minimum - 1), (1, 1, 1), "a", 1.5, True, None)
    ],
    (lambda: conv(t(3, 5, 5)), ValueError, r"x: got shape \(3, 5, 5\), expected 4 axes \(N, C, H, W\)"),
    (lambda: conv(weight=t(4, 2, 3, 3)), ValueError, r"weight: got shape \(4, 2, 3, 3\), expected \(O, 3, KH, KW\)"),
    (lambda: conv(weight=t(4, 3, 3)), ValueError, r"weight: got shape \(4, 3, 3\)"),
    (lambda: conv(weight=t(0, 3, 3, 3)), ValueError, r"weight: got shape \(0, 3, 3, 3\)"),
    (lambda: conv(bias=t(3)), ValueError, r"bias: got shape \(3,\), expected \(4,\), the output channels of weight"),
    (lambda: conv(weight=t(4, 3, 3, 3, dtype=F8)), TypeError, "weight: got dtype float64, expected float32, that of x"),
    (lambda: conv(bias=t(4, dtype=F8)), TypeError, "bias: got dtype float64, expected float32, that of x"),
    (lambda: conv(residual=t(2, 4, 5, 5)), ValueError, r"residual: got shape \(2, 4, 5, 5\), expected \(2, 4, 3, 3\)"),
    (lambda: conv(residual=t(2, 4, 3, 3, dtype=F8)), TypeError, "residual: got dtype float64, expected float32"),
    (lambda: conv(t(1, 3, 2, 5)), ValueError, "x: got height 2 with padding 0, expected at least the kernel's, 3"),
    (lambda: conv(t(1, 3, 5, 0), padding=1), ValueError, "x: got width 0 with padding 1, expected at least"),
    (lambda: ops.linear(t(2, 3, 4), t(4, 3)), ValueError, r"x: got shape \(2, 3, 4\), expected 2 axes \(N, I\)"),
    (lambda: ops.linear(t(2, 3), t(3, 4)), ValueError, r"weight: got shape \(3, 4\), expected \(O, 3\)"),
    (lambda: ops.linear(t(2, 3), t(3)), ValueError, r"weight: got shape \(3,\), expected \(O, 3\)"),
    (lambda: ops.linear(t(2, 3), t(4, 3), t(3)), ValueError, r"bias: got shape \(3,\), expected \(4,\)"),
    (lambda: ops.linear(t(2, 3), t(4, 3, dtype=F8)), TypeError, "weight: got dtype float64, expected float32"),
    (lambda: norm(t(3, 2, 2)), ValueError, r"x: got shape \(3, 2, 2\), expected 4 axes"),
    (lambda: norm(t(1, 3, 1, 1)), ValueError, r"x: got shape \(1, 3, 1, 1\), expected more than one value per channel"),
    (lambda: norm(t(0, 3, 2, 2)), ValueError, r"x: got shape \(0, 3, 2, 2\), expected more than one value"),
    (lambda: norm(mean=(2,)), ValueError, r"running_mean: got shape \(2,\), expected \(3,\), the channels of x"),
    (lambda: norm(var=(1, 3)), ValueError, r"running_var: got shape \(1, 3\), expected \(3,\)"),
    (lambda: norm(weight=t(4)), ValueError, r"weight: got shape \(4,\), expected \(3,\), the channels of x"),
    (lambda: norm(bias=t(1)), ValueError, r"bias: got shape \(1,\), expected \(3,\), the channels of x"),
    (lambda: norm(residual=t(1, 3, 2, 2)), ValueError, r"residual: got shape \(1, 3, 2, 2\), expected \(2, 3, 2, 2\)"),
    (lambda: norm(weight=D), TypeError, "weight: got dtype float64, expected float32, that of x"),
    (lambda: norm(bias=D), TypeError, "bias: got dtype float64, expected float32, that of x"),
    (lambda: norm(residual=t(2, 3, 2, 2, dtype=F8)), TypeError, "residual: got dtype float64, expected float32"),
    *[(f, ValueError, "kernel_size: got 0, expected an int >= 1") for f in pools(X, 0)],
    *[(f, ValueError, r"kernel_size: got \(2, 2, 2\), expected an int >= 1 or a pair") for f in pools(X, (2, 2, 2))],
    *[(f, ValueError, r"stride: got \(0, 1\), expected an int >= 1") for f in pools(X, 2, stride=(0, 1))],
    *[(f, ValueError, "padding: got -1, expected an int >= 0") for f in pools(X, 2, padding=-1)],
    *[(f, ValueError, "padding: got 2, expected at most half of kernel_size 3") for f in pools(X, 3, padding=2)],
    *[(f, ValueError, r"x: got shape \(4, 4\), expected 4 axes") for f in pools(t(4, 4), 2)],
    *[(f, ValueError, "x: got height 4 with padding 0, expected at least the kernel's, 5") for f in pools(X, (5, 1))],
    (lambda: ops.global_avg_pool2d(t(2, 3)), ValueError, r"x: got shape \(2, 3\), expected 4 axes"),
    *[
        (lambda f=f, s=shape, a=axis: f(t(*s), a), ValueError, rf"axis: got {axis} for shape")
        for f in (ops.softmax, ops.log_softmax)
        for shape, axis in [((2, 3), 2), ((2, 3), -3), ((2, 0), 1), ((), 0)]
    ],
    (lambda: ops.cross_entropy(t(3), [0]), ValueError, r"logits: got shape \(3,\), expected \(N, K\)"),
    (lambda: ops.cross_entropy(t(0, 3), []), ValueError, r"logits: got shape \(0, 3\)"),
    (lambda: ops.cross_entropy(t(2, 3), [0]), ValueError, r"target: got shape \(1,\) int64, expected \(2,\) of int"),
    (lambda: ops.cross_entropy(t(2, 3), [0.0, 1.0]), ValueError, r"target: got shape \(2,\) float64, expected \(2,\)"),
    (lambda: ops.cross_entropy(t(2, 3), t(2, 3)), ValueError, r"target: got shape \(2, 3\) float32"),
    (lambda: ops.cross_entropy(t(2, 3), [0, 3]), ValueError, "target: got classes from 0 to 3, expected 0 to 2"),
    (lambda: ops.cross_entropy(t(2, 3), [-1, 0]), ValueError, "target: got classes from -1 to 0, expected 0 to 2"),
    *[
        (lambda v=value: ops.cross_entropy(t(1, 3), [0], label_smoothing=v), ValueError, f"smoothing: got {value}, exp")
        for value in (-0.1, 1.1, float("nan"))
    ],
    *[
        (lambda p=padding: ops.pad(t(2, 3), p), ValueError, r"padding: got \(.*\), expected pairs >= 0 for at most")
        for padding in ((1,), (1, -1), (1, 1, 1, 1, 1, 1))
    ],
    (lambda: ops.concat([]), ValueError, r"tensors: got shapes \[\] and axis 0, expected one or more"),
    (lambda: ops.concat([t(2, 3)], 2), ValueError, r"tensors: got shapes \[\(2, 3\)\] and axis 2"),
    (lambda: ops.concat([t(), t()]), ValueError, r"tensors: got shapes \[\(\), \(\)\] and axis 0"),
    (lambda: ops.concat([t(2, 3), t(2, 4)]), ValueError, "tensors: got shapes .*, expected them to agree in all axes"),
    (lambda: ops.concat([t(2, 3), t(2)]), ValueError, "tensors: got shapes .*, expected them to agree"),
    (lambda: ops.concat([t(3), D]), TypeError, r"tensors: got dtypes \['float32', 'float64'\], expected one dtype"),
    (lambda: ops.where(True, t(3), D), TypeError, "b: got dtype float64, expected float32, that of a"),
    (lambda: ops.where(True, t(3), t(2)), ValueError, r"broadcast together with shapes .*\(3,\) \(2,\)"),
    (lambda: ops.maximum(t(3), D), TypeError, "b: got dtype float64, expected float32, that of a"),
    (lambda: ops.maximum(t(3), t(2)), ValueError, r"broadcast together with shapes \(3,\) \(2,\)"),
    (lambda: ops.flatten(t(2, 3), 2), ValueError, r"start: got 2, expected 0 to 1 for shape \(2, 3\)"),
    (lambda: ops.flatten(t(2, 3), -1), ValueError, "start: got -1, expected 0 to 1"),
    (lambda: ops.reshape(t(2, 3), (4,)), ValueError, r"cannot reshape array of size 6 into shape \(4,\)"),
    (lambda: ops.transpose(t(2, 3), (0, 0)), ValueError, r"axes: got \(0, 0\), expected each of the 2 axes"),
    (lambda: ops.transpose(t(2, 3), (0, 2)), ValueError, "axis: got 2, expected one from -2 to 1"),
    (lambda: ops.matmul(t(2, 3), t(2, 3)), ValueError, r"matmul: shapes \(2, 3\) and \(2, 3\) do not fit"),
    (lambda: ops.matmul(t(3), D), TypeError, "operands of dtypes float32 and float64"),
    *[
        (lambda f=f: f(t(2, 3), 2), ValueError, "axis: got 2, expected one from -2 to 1 for 2 dimensions")
        for f in (ops.sum, ops.mean, ops.max)
    ],
    (lambda: ops.max(t(0, 3), 0), ValueError, r"max: axis of length 0 in shape \(0, 3\)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[f"{i}-{e[2][:30]}" for i, e in enumerate(ERRORS)])
def test_what_is_wrong_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_nothing_is_changed_where_batch_norm_refuses():
    mean, var = np.zeros(3, F4), np.ones(3, F4)
    with pytest.raises(ValueError, match="residual"):
        ops.batch_norm(t(2, 3, 2, 2), mean, var, t(3), t(3), training=True, residual=t(2, 3, 2, 1))
    np.testing.assert_array_equal(mean, np.zeros(3))
    np.testing.assert_array_equal(var, np.ones(3))


@pytest.mark.parametrize("choose", [tr.use_backend, tr.use_algorithm])
def test_choices(choose):
    before = dict(vars(backend.active))
    with pytest.raises(ValueError, match=r"(backend|algorithm): got 'fast', expected one of '"):
        choose("fast")
    with pytest.raises(KeyError), choose("reference" if choose is tr.use_backend else "im2col"):  # noqa: PT012
        assert vars(backend.active) != before
        raise KeyError
    assert vars(backend.active) == before


def test_pullback_keeps_the_kernels_of_its_forward():
    x = Tensor(np.ones((1, 1, 2, 2)), requires_grad=True)
    with tr.use_backend("reference"):
        y = ops.max_pool2d(x, 2)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad[0, 0], [[1, 0], [0, 0]])
