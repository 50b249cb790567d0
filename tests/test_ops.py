"""Every operation: its gradient, its agreement between backends and dtypes, its errors."""

import weakref

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.registry import ON_KERNELS, REGISTRY, backends_of

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
LAID_OUT = [(name, i, order) for name, i in CASES for order in REGISTRY[name].cases[i].orders]
REFUSED = [(name, i) for name, entry in REGISTRY.items() for i in range(len(entry.refused))]


def each(names, rows):
    """A parametrization by the name of an operation, and others. Those of NumPy alone have a mark: `make widths` leaves
    them out."""
    marks = {True: (), False: pytest.mark.numpy_alone}
    return pytest.mark.parametrize(names, [pytest.param(*row, marks=marks[row[0] in ON_KERNELS]) for row in rows])


each_backend = pytest.mark.parametrize("kernels", sorted(backend.BACKENDS))
each_dtype = pytest.mark.parametrize("dtype", [F4, F8])
each_case_on_backends = each("name, i, kernels", [(*case, k) for case in CASES for k in backends_of(case[0])])
each_layout_on_backends = each(
    "name, i, order, kernels", [(*case, k) for case in LAID_OUT for k in backends_of(case[0])]
)

pytestmark = pytest.mark.usefixtures("one_thread")  # the arrays are tiny


def arrays(name, i, order="contiguous", dtype=F8):
    rng = np.random.default_rng(i)
    return [in_order(numbers(rng, s, dtype, REGISTRY[name].values), order) for s in REGISTRY[name].cases[i].shapes]


def function(name, i):
    entry = REGISTRY[name]
    return lambda *args: entry.call(*args, **entry.cases[i].options)


def leaves(inputs):
    return [Tensor(a, requires_grad=True) for a in inputs]


def upstream(y):
    """Some dL/dy."""
    return np.cos(np.arange(y.size)).reshape(y.shape).astype(y.dtype)


def run(fn, inputs):
    """The result, and the gradients of sum(v y) for some v."""
    tensors = leaves(inputs)
    y = fn(*tensors)
    y.backward(upstream(y))
    return [y.data, *(t.grad for t in tensors)]


def assert_close(results, expected, tolerance):
    """Each array to `tolerance`, relative to its largest element."""
    assert len(results) == len(expected)
    for r, e in zip(results, expected, strict=True):
        assert r.shape == e.shape
        np.testing.assert_allclose(r, e, rtol=0, atol=tolerance * max(1, np.abs(e).max(initial=0)))


def assert_same_bits(results, expected):
    assert [(r.shape, r.dtype, r.tobytes()) for r in results] == [(e.shape, e.dtype, e.tobytes()) for e in expected]


# ---------------------------------------------------------------- the registry itself
def test_every_operation_is_registered():
    assert sorted(REGISTRY) == sorted(ops.__all__)


@pytest.mark.parametrize("name", REGISTRY)
def test_an_entry_has_all_that_the_tests_need(name):
    entry = REGISTRY[name]
    everywhere = {c.shapes for c in entry.cases if c.kind == "ordinary" and set(c.orders) == set(ORDERS)}
    assert len(everywhere) >= 3, "three shapes in every memory layout"
    assert "size 1" in {c.kind for c in entry.cases}, "a case with single numbers only"
    empty = {c.kind for c in (entry.cases if entry.empty else entry.refused)}
    assert "size 0" in empty, "a case with size 0, or, where that is never legal, what is said then"
    assert entry.refused, "what it refuses, and what it says then"


def calls_kernels(name, i):
    """Whether an operation, forward or backward, calls any kernel of the backend."""
    called = []
    with pytest.MonkeyPatch.context() as patch:
        for kernel, function_ in vars(backend.active).items():
            patch.setattr(backend.active, kernel, lambda *a, f=function_, **b: called.append(f) or f(*a, **b))
        run(function(name, i), arrays(name, i))
    return bool(called)


@pytest.mark.parametrize("name", REGISTRY)
def test_what_is_tested_on_one_backend_calls_no_kernel(name):
    called = [calls_kernels(name, i) for i in range(len(REGISTRY[name].cases))]
    assert any(called) == (name in ON_KERNELS)


@each("name, i", REFUSED)
def test_what_is_wrong_is_said(name, i):
    error, message, arguments, options = REGISTRY[name].refused[i]
    with pytest.raises(error, match=message):
        getattr(ops, name)(*arguments, **options)


# ---------------------------------------------------------------- gradients
@each_layout_on_backends
def test_gradient(name, i, order, kernels):
    with tr.use_backend(kernels):
        assert gradcheck(function(name, i), *arrays(name, i, order), full=True)


@pytest.mark.parametrize("algorithm", sorted(backend.ALGORITHMS))
@pytest.mark.parametrize("i", range(len(REGISTRY["conv2d"].cases)))
def test_gradient_of_every_way_to_convolve(i, algorithm):
    with tr.use_algorithm(algorithm):
        assert gradcheck(function("conv2d", i), *arrays("conv2d", i), full=True)


@each("name, i, order, dtype", [(*c, t) for c in LAID_OUT for t in (F4, F8) if t is F4 or c[0] in ON_KERNELS])
def test_backends_agree(name, i, order, dtype):
    """The reference is exact here: it computes in float64 what the kernels compute in `dtype`. Without a kernel both
    run the same code, and differ in float32 only."""
    inputs = arrays(name, i, order, dtype)
    results = run(function(name, i), inputs)
    assert all(r.dtype == dtype for r in results)
    with tr.use_backend("reference"):
        exact = run(function(name, i), [in_order(a.astype(F8), order) for a in inputs])
    assert_close(results, exact, 1e-5 if dtype == F4 else 1e-12)


@each("name, i", [case for case in CASES if case[0] in ON_KERNELS])
def test_reference_in_float32_follows_float64(name, i):
    inputs = arrays(name, i, dtype=F4)
    with tr.use_backend("reference"):
        results, exact = run(function(name, i), inputs), run(function(name, i), [a.astype(F8) for a in inputs])
    assert all(r.dtype == F4 for r in results)
    assert_close(results, exact, 1e-5)


@each_dtype
@each_layout_on_backends
def test_again_bit_for_bit(name, i, order, dtype, kernels):
    """Backward through the same graph again, and all of it again; and nobody has written to what is not his."""
    inputs = arrays(name, i, order, dtype)
    copies = [a.copy() for a in inputs]
    with tr.use_backend(kernels):
        tensors = leaves(inputs)
        y = function(name, i)(*tensors)
        came = []
        y.register_hook(lambda dy: came.append((dy, dy.copy())))
        runs = []
        for _ in range(2):
            for t in tensors:
                t.grad = None
            y.backward(upstream(y), retain_graph=True)
            runs.append([y.data, *(t.grad for t in tensors)])
        runs.append(run(function(name, i), inputs))
    assert_same_bits(runs[1], runs[0])
    assert_same_bits(runs[2], runs[0])
    assert_same_bits(inputs, copies)
    assert_same_bits(*zip(*came, strict=True))


@each_case_on_backends
def test_gradient_of_one_input_alone(name, i, kernels):
    """What is left out where an input needs no gradient does not change the others."""
    with tr.use_backend(kernels):
        together = run(function(name, i), arrays(name, i))
        for k in range(len(together) - 1):
            inputs = [Tensor(a, requires_grad=j == k) for j, a in enumerate(arrays(name, i))]
            y = function(name, i)(*inputs)
            y.backward(upstream(y))
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
@given(st.floats(-30, 30), st.floats(-30, 30))
def test_gradient_of_a_quotient_overflows_only_if_it_is_too_large(a, b):
    """The square of the divisor may leave float32, where the gradient -a / b^2 does not."""
    assume(abs(a - b) < 37)
    assume(abs(a - 2 * b) < 37)
    x, y = Tensor([10.0**a], True), Tensor([10.0**b], True)
    (x / y).sum().backward()
    np.testing.assert_allclose([*x.grad, *y.grad], [10.0**-b, -(10.0 ** (a - 2 * b))], rtol=1e-5)


@pytest.mark.parametrize("n", [1000, 3_000_000])
def test_sum_of_many_rows_is_not_rounded_row_by_row(n):
    """In float32, each addition to 3e5 would be wrong by up to 0.016: NumPy adds rows one after the other."""
    x = Tensor(np.full((n, 2), 0.1, np.float32))
    np.testing.assert_allclose(x.sum(0).data, n * np.float64(np.float32(0.1)), rtol=1e-7)
    np.testing.assert_allclose(x.mean(0).data, 0.1, rtol=1e-6)
    np.testing.assert_allclose(x.var(0).data, 0, atol=1e-15)
    bias = Tensor([0.0, 0.0], True)
    (x + bias).backward(x.data)
    np.testing.assert_allclose(bias.grad, n * np.float64(np.float32(0.1)), rtol=1e-7)
    assert x.sum(0).dtype == np.float32


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
    for kind in (target, np.array(target, np.uint8), np.eye(5)[target], np.eye(5, dtype=np.float32)[target]):
        loss = ops.cross_entropy(logits, kind, label_smoothing=smoothing)
        np.testing.assert_allclose(loss.data, expected, rtol=1e-12)


@given(tensors(F8, (4, 5)), st.floats(0, 1), st.integers(0, 999))
def test_the_loss_is_linear_in_the_probabilities(logits, share, seed):
    a, b = np.random.default_rng(seed).dirichlet(np.ones(5), (2, 4))
    mixed, *ends = (ops.cross_entropy(logits, q).item() for q in (share * a + (1 - share) * b, a, b))
    np.testing.assert_allclose(mixed, share * ends[0] + (1 - share) * ends[1], rtol=1e-9)


def test_a_class_without_probability_has_no_part_in_the_loss():
    logits = Tensor([[0.0, 0.0, -np.inf]], requires_grad=True)
    loss = ops.cross_entropy(logits, [[0.5, 0.5, 0.0]])
    loss.backward()
    np.testing.assert_allclose(loss.data, np.log(2))
    np.testing.assert_array_equal(logits.grad, [[0, 0, 0]])


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
def test_nothing_is_changed_where_batch_norm_refuses():
    def ones(*shape):
        return Tensor(np.ones(shape, F4))

    mean, var = np.zeros(3, F4), np.ones(3, F4)
    with pytest.raises(ValueError, match="residual"):
        ops.batch_norm(ones(2, 3, 2, 2), mean, var, ones(3), ones(3), training=True, residual=ones(2, 3, 2, 1))
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
