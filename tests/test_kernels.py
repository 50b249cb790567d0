"""The kernels against their definition in plain NumPy; threads and memory.

This file is long because each kernel is compared with its definition, and then in all layouts and on threads.
"""

import os
import signal
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numba.core.codegen import JITCodeLibrary
from numba.core.dispatcher import Dispatcher

import tinyres as tr
from tinyres import backend, kernels, reference
from tinyres.kernels import compile, conv, elementwise, groups, im2col, layout, memory, norm, pool, weight_grad
from tinyres.kernels.threads import Parallel
from tinyres.testing.strategies import (
    ORDERS,
    batch_norm_problems,
    conv_problems,
    in_order,
    numbers,
    pool_problems,
    shapes,
)

F4, F8 = np.float32, np.float64
ALL_ORDERS = (*ORDERS, "read-only")
dtypes = st.sampled_from([F4, F8])
seeds = st.integers(0, 2**32 - 1)
each_algorithm = pytest.mark.parametrize("algorithm", sorted(backend.ALGORITHMS))


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = tr.num_threads()
    tr.set_num_threads(1)  # most arrays here are tiny
    yield
    tr.set_num_threads(before)


def assert_close(result, expected, tolerance):
    """To `tolerance`, relative to the largest element."""
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max(initial=0)))


# ---------------------------------------------------------------- convolution
def convolutions(functions, p):
    """Forward without and with bias, input gradient, weight gradient."""
    return (
        functions.conv2d(p.x, p.weight, **p.options),
        functions.conv2d(p.x, p.weight, p.bias, **p.options),
        functions.conv2d_input_grad(p.dy, p.weight, p.x.shape, **p.options),
        functions.conv2d_weight_grad(p.dy, p.x, p.weight.shape, **p.options),
    )


def changed(p, f):
    """The same problem with `f` of each of its arrays."""
    names = ("x", "weight", "bias", "dy")
    arrays = {name: None if (a := getattr(p, name)) is None else f(a) for name in names}
    return SimpleNamespace(**arrays, options=p.options)


def assert_convolutions_are_exact(results, p):
    """Each sum of products to the rounding errors that its terms allow: terms * u * sum of their absolute values."""
    exact = convolutions(reference, changed(p, lambda a: a.astype(F8)))
    sizes = convolutions(reference, changed(p, lambda a: np.abs(a).astype(F8)))
    o, c, kh, kw = p.weight.shape
    terms = (c * kh * kw, c * kh * kw + 1, o * kh * kw, p.dy.shape[0] * p.dy.shape[2] * p.dy.shape[3])
    for result, value, size, count in zip(results, exact, sizes, terms, strict=True):
        assert result.shape == value.shape
        assert result.dtype == p.x.dtype
        bound = 2 * (count + 1) * np.finfo(p.x.dtype).eps * size
        assert (np.abs(result - value) <= bound).all()


@each_algorithm
@given(p=dtypes.flatmap(lambda dtype: conv_problems(dtype, min_batch=0, orders=ALL_ORDERS)))
def test_convolution_is_its_definition(algorithm, p):
    before = changed(p, np.array)
    results = convolutions(backend.ALGORITHMS[algorithm], p)
    assert_convolutions_are_exact(results, p)
    for name in ("x", "weight", "dy"):
        np.testing.assert_array_equal(getattr(p, name), getattr(before, name))
    for y in results[:3]:
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous


@given(st.sampled_from([1, 2, 3, 4, 8, 16]), st.sampled_from([1, 2, 3, 4, 8]), st.integers(1, 9), dtypes, seeds)
def test_groups_side_by_side_compute_what_each_would(c, o, count, dtype, seed):
    """Narrow groups are merged, with zeros between them: forward, both gradients, and back to each group's weights."""
    rng, window = np.random.default_rng(seed), {"stride": (1, 2), "padding": (1, 0)}
    x, weight = numbers(rng, (2, c * count, 4, 5), dtype), numbers(rng, (o * count, c, 3, 2), dtype)
    dy = numbers(rng, (2, o * count, 4, 2), dtype)
    wide = groups.merged(weight, x.shape[1])
    assert wide.shape == groups.merged_shape(x.shape[1], weight.shape, weight.itemsize)
    np.testing.assert_array_equal(groups.own(wide, weight.shape, x.shape[1]), weight)
    np.testing.assert_array_equal(np.sort(wide[wide != 0]), np.sort(weight[weight != 0]))
    channels = [(slice(g * c, g * c + c), slice(g * o, g * o + o)) for g in range(count)]
    tolerance = 1e-5 if dtype == F4 else 1e-13
    y = conv.conv2d(x, weight, **window)
    dx = conv.conv2d_input_grad(dy, weight, x.shape, **window)
    dw = weight_grad.conv2d_weight_grad(dy, x, weight.shape, **window)
    for reads, writes in channels:
        ours = x[:, reads], weight[writes], dy[:, writes]
        assert_close(y[:, writes], reference.conv2d(ours[0], ours[1], **window), tolerance)
        assert_close(dx[:, reads], reference.conv2d_input_grad(ours[2], ours[1], ours[0].shape, **window), tolerance)
        assert_close(dw[writes], reference.conv2d_weight_grad(ours[2], ours[0], ours[1].shape, **window), tolerance)


@pytest.mark.parametrize(
    ("c", "o", "kernel", "stride", "padding", "groups"),
    [
        (256, 520, 3, 1, 1, 1),
        (264, 256, 3, 2, 1, 1),
        (1024, 512, 1, 1, 0, 1),
        (512, 640, 1, 2, 0, 1),
        (560, 512, 3, 1, 1, 2),
    ],
)
def test_convolution_of_many_weights(c, o, kernel, stride, padding, groups, monkeypatch):
    """Workers share out the weights, not the images: the same bits with any number of them, and as with few weights."""
    rng = np.random.default_rng(0)
    x, weight = numbers(rng, (2, c, 5, 6), F4), numbers(rng, (o, c // groups, kernel, kernel), F4)
    options = {"stride": (stride, stride), "padding": (padding, padding)}
    y = reference.conv2d(x, weight, **options)
    p = SimpleNamespace(x=x, weight=weight, bias=numbers(rng, o, F4), dy=numbers(rng, y.shape, F4), options=options)
    residual = numbers(rng, y.shape, F4)

    def results():
        finished = conv.conv2d(x, weight, p.bias, residual, relu=True, **options)
        return (*convolutions(backend.ALGORITHMS["direct"], p), finished)

    assert weight.nbytes // groups > conv.WEIGHT_BYTES
    one = results()
    assert_convolutions_are_exact(one[:4], p)
    np.testing.assert_allclose(one[4], np.maximum(one[1] + residual, 0), rtol=1e-6, atol=1e-6)
    tr.set_num_threads(2)
    two = results()
    monkeypatch.setattr(conv, "WEIGHT_BYTES", 2**40)
    for result, other, shared in zip(one, two, results(), strict=True):
        np.testing.assert_array_equal(result, other)
        np.testing.assert_array_equal(result, shared)


@each_algorithm
@given(p=dtypes.flatmap(conv_problems))
def test_gradients_are_adjoint_to_the_forward(algorithm, p):
    """<conv(x, w), dy> = <x, input gradient> = <w, weight gradient>: conv is linear in x, and in w."""
    y, _, dx, dw = (r.astype(F8) for r in convolutions(backend.ALGORITHMS[algorithm], p))
    products = [(y * p.dy).sum(), (dx * p.x).sum(), (dw * p.weight).sum()]
    sizes = convolutions(reference, changed(p, lambda a: np.abs(a).astype(F8)))[0]
    tolerance = 200 * np.finfo(p.x.dtype).eps * (sizes * np.abs(p.dy)).sum()
    assert abs(products[0] - products[1]) <= tolerance
    assert abs(products[0] - products[2]) <= tolerance


@each_algorithm
@given(p=dtypes.flatmap(conv_problems), seed=seeds)
def test_convolution_adds_its_input_gradient_to_a_total(algorithm, p, seed):
    """In place, and bit for bit as if it were added afterwards, also where no tap meets the input."""
    input_grad = backend.ALGORITHMS[algorithm].conv2d_input_grad
    dx = input_grad(p.dy, p.weight, p.x.shape, **p.options)
    total = in_order(numbers(np.random.default_rng(seed), p.x.shape, p.x.dtype), "channels-last")
    expected = total + dx
    assert input_grad(p.dy, p.weight, p.x.shape, total, **p.options) is total
    np.testing.assert_array_equal(total, expected)


@given(dtypes.flatmap(lambda dtype: conv_problems(dtype, orders=["contiguous"])))
def test_col2im_is_the_transpose_of_im2col(p):
    size, x = p.weight.shape[2:], p.x.astype(F8)
    columns = im2col.im2col(x, size, **p.options)
    other = numbers(np.random.default_rng(0), columns.shape)
    back = im2col.col2im(other, x.shape, size, **p.options)
    np.testing.assert_allclose((columns * other).sum(), (x * back).sum(), rtol=1e-10, atol=1e-10)


# Several strips of an image, several images to a strip, several slots of weight gradients, ragged ends everywhere.
CHANNELS = [(3, 16), (16, 17), (17, 33), (33, 64), (64, 3)]
LARGE = [
    ((n, c, *size), (o, c, k, k), (s, s), (p, p))
    for n, size in [(20, (17, 19)), (1, (17, 19)), (2, (45, 50))]
    for c, o in CHANNELS
    for k in (1, 3, 5, 7)
    for s, p in [(1, k // 2), (2, 0), (3, k - 1)]
    if n == 20 or s + k in (4, 5, 8)
]
# More weights than L2 holds, fewer slots, channels of whole vectors and not.
DEEP = [(512, 288), (96, 200)]
LARGE += [((5, c, 13, 11), (o, c, k, k), s, p) for c, o in DEEP for k, s, p in [
    (1, (1, 1), (0, 0)), (1, (2, 3), (0, 0)), (1, (1, 1), (1, 0)), (3, (2, 2), (1, 1)), (3, (1, 2), (0, 1)),
]]  # fmt: skip


def large_problem(x, weight, stride, padding):
    rng = np.random.default_rng(sum(x) + sum(weight))
    out = [(x[i + 2] + 2 * padding[i] - weight[i + 2]) // stride[i] + 1 for i in (0, 1)]
    arrays = (numbers(rng, s, F4) for s in (x, weight, (weight[0],), (x[0], weight[0], *out)))
    x, weight, bias, dy = (in_order(a, "channels-last") if a.ndim == 4 else a for a in arrays)
    return SimpleNamespace(x=x, weight=weight, bias=bias, dy=dy, options={"stride": stride, "padding": padding})


@pytest.mark.parametrize("channels", CHANNELS + DEEP)
def test_large_convolutions_are_those_of_the_textbook(channels):
    """im2col, which the tests above compare with the definition, in float64: the definition itself is slow."""
    for case in LARGE:
        if case[1][1::-1] == channels:
            p = large_problem(*case)
            exact = convolutions(im2col, changed(p, lambda a: a.astype(F8)))
            for result, value in zip(convolutions(kernels, p), exact, strict=True):
                assert_close(result, value, 1e-5)


# ---------------------------------------------------------------- threads
@pytest.fixture
def on_one_and_two_threads():
    if tr.backend.max_threads() < 2:
        pytest.skip("needs two cores")

    def compare(run):
        results = []
        for n in (1, 2):
            tr.set_num_threads(n)
            results.append(run())
        for one, two in zip(*results, strict=True):
            np.testing.assert_array_equal(one, two)  # bit for bit

    return compare


@pytest.mark.parametrize("channels", CHANNELS + DEEP)
def test_convolution_does_not_depend_on_threads(channels, on_one_and_two_threads):
    for case in LARGE:
        if case[1][1::-1] == channels:
            p = large_problem(*case)
            on_one_and_two_threads(lambda p=p: convolutions(kernels, p))


@pytest.mark.parametrize("channels", [(17, 33), *DEEP])
def test_direct_convolution_does_not_depend_on_how_many_share_it(channels, monkeypatch):
    """Be they more than there are strips, slots or blocks of channels."""
    for case in [case for case in LARGE if case[1][1::-1] == channels][:5]:
        p, results = large_problem(*case), []
        for workers in (1, 2, 3, 7, 64):
            for module in (conv, weight_grad):
                monkeypatch.setattr(module, "get_num_threads", lambda workers=workers: workers)
            results.append(convolutions(backend.ALGORITHMS["direct"], p))
            for first, now in zip(results[0], results[-1], strict=True):
                np.testing.assert_array_equal(first, now)


def test_linear_does_not_depend_on_threads(on_one_and_two_threads):
    for n, c, o in [(300, 64, 10), (1, 64, 10), (128, 33, 17)]:
        p = large_problem((n, c, 1, 1), (o, c, 1, 1), (1, 1), (0, 0))
        on_one_and_two_threads(lambda p=p: convolutions(kernels, p))


@pytest.mark.parametrize("shape", [(20, 5, 17, 19), (1, 33, 17, 19), (64, 16, 16, 16), (300, 3, 1, 1), (2, 1, 1, 1)])
def test_other_kernels_do_not_depend_on_threads(shape, on_one_and_two_threads):
    rng = np.random.default_rng(0)
    x, dy, residual = (in_order(numbers(rng, shape, F4), "channels-last") for _ in range(3))
    mean, inv_std, weight, bias = (numbers(rng, shape[1:2], F4) for _ in range(4))

    def run():
        results = [*norm.batch_norm_statistics(x), elementwise.relu(x), elementwise.relu_grad(dy, x)]
        for relu in (False, True):
            y = norm.batch_norm_apply(x, mean, weight * inv_std, bias, residual, relu=relu)
            for shortcut in (False, True):
                gradients = norm.batch_norm_grad(
                    dy, x, y, mean, inv_std, weight, bias, training=True, relu=relu, residual=shortcut
                )
                results += [y, *(g for g in gradients if g is not None)]
        total = x.copy(order="K")
        elementwise.add_to(total, dy)
        results.append(total)
        if shape[2] > 3:
            options = {"stride": (2, 1), "padding": (1, 1)}
            y, taps = pool.max_pool2d(x, (3, 3), **options)
            results += [y, taps, pool.max_pool2d_grad(y, taps, shape, (3, 3), **options)]
            results += [pool.avg_pool2d(x, (3, 3), **options), pool.avg_pool2d_grad(y, shape, (3, 3), **options)]
        return results

    on_one_and_two_threads(run)


def test_number_of_threads():
    assert 1 <= tr.num_threads() <= backend.max_threads()
    for wrong in (0, -1, backend.max_threads() + 1):
        with pytest.raises(ValueError, match=rf"n: got {wrong} threads, expected 1 to {backend.max_threads()}"):
            tr.set_num_threads(wrong)


# ---------------------------------------------------------------- batch norm
def batch_norms(functions, p):
    """Statistics, result, and gradients."""
    inv_std = 1 / np.sqrt(p.running_var)
    y = functions.batch_norm_apply(
        p.x, p.running_mean, p.weight * inv_std, p.bias, p.residual, relu=p.relu
    )  # fmt: skip
    read = y if p.relu and p.residual is not None else None
    gradients = functions.batch_norm_grad(
        p.dy, p.x, read, p.running_mean, inv_std, p.weight, p.bias,
        training=p.training, relu=p.relu, residual=p.residual is not None,
    )  # fmt: skip
    return [*functions.batch_norm_statistics(p.x), y, *(g for g in gradients if g is not None)]


@given(dtypes.flatmap(lambda dtype: batch_norm_problems(dtype, orders=ALL_ORDERS)))
def test_batch_norm_is_its_definition(p):
    names = ("x", "dy", "residual", "running_mean", "running_var", "weight", "bias")
    wide = {name: None if (a := getattr(p, name)) is None else a.astype(F8) for name in names}
    exact = SimpleNamespace(**wide, training=p.training, relu=p.relu)
    before_relu = batch_norms(reference, SimpleNamespace(**{**vars(exact), "relu": False}))[2]
    assume(np.abs(before_relu).min() > 1e-5)  # where rounding decides the sign, gradients jump
    results, expected = batch_norms(kernels, p), batch_norms(reference, exact)
    for result, value in zip(results, expected, strict=True):
        assert_close(result, value, 1e-5 if p.x.dtype == F4 else 1e-13)
    assert all(r.dtype == F8 for r in results[:2])
    assert all(r.dtype == p.x.dtype for r in results[2:])
    for name in names:
        if (a := getattr(p, name)) is not None:
            np.testing.assert_array_equal(a, wide[name])


@pytest.mark.parametrize("shape", [(64, 16, 32, 32), (8, 17, 33, 31), (128, 3, 1, 1), (2, 1, 7, 5), (1, 64, 100, 100)])
@pytest.mark.parametrize("mean", [0, 1e4, -1e4])
def test_statistics_keep_their_digits(shape, mean):
    """E[x^2] - E[x]^2 in float32 would be wrong in every digit."""
    x = (np.random.default_rng(0).standard_normal(shape) + mean).astype(F4)
    expected_mean, expected_var = x.astype(F8).mean((0, 2, 3)), x.astype(F8).var((0, 2, 3))
    result_mean, result_var = norm.batch_norm_statistics(x)
    np.testing.assert_allclose(result_mean, expected_mean, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(result_var, expected_var, rtol=1e-5)


def test_a_channel_that_is_constant_has_no_variance():
    x = np.full((9, 3, 20, 20), 0.1, F4)
    mean, var = norm.batch_norm_statistics(x)
    np.testing.assert_array_equal(mean, np.float64(F4(0.1)))
    np.testing.assert_array_equal(var, 0)


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("shape", [(4, 16, 16, 17), (4, 64, 16, 17), (4, 80, 16, 17), (5, 101, 15, 17)])
@pytest.mark.parametrize("threads", [1, 2])
def test_batch_norm_past_the_caches_has_the_same_bits(shape, threads, dtype, monkeypatch):
    """Not every row of the last begins a register: it is written as ever."""
    rng, channels = np.random.default_rng(0), shape[1]
    x, dy, residual = (numbers(rng, shape, dtype) for _ in range(3))
    weight, bias, mean, inv_std = (numbers(rng, channels, dtype) for _ in range(4))

    def results():
        for relu, shortcut in np.ndindex(2, 2):
            added = residual if shortcut else None
            yield (y := norm.batch_norm_apply(x, mean, weight * inv_std, bias, added, relu=bool(relu)))
            options = {"training": True, "relu": bool(relu), "residual": bool(shortcut)}
            yield from norm.batch_norm_grad(dy, x, y, mean, inv_std, weight, bias, **options)[:3]

    tr.set_num_threads(threads)
    near = list(results())
    monkeypatch.setattr(norm, "FAR_BYTES", memory.SMALLEST)
    assert norm._far(norm._rows(x)) == (channels != 101)
    for one, other in zip(near, results(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_batch_norm_shows_nan_and_infinity():
    x = np.ones((2, 3, 4, 4), F4)
    x[0, 0, 1, 1], x[0, 1, 1, 1] = np.nan, np.inf
    one = np.ones(3, F4)
    y = norm.batch_norm_apply(x, 0 * one, one, 0 * one, relu=True)
    np.testing.assert_array_equal(y, x)
    mean, var = norm.batch_norm_statistics(x)
    np.testing.assert_array_equal(np.isfinite(mean), [False, False, True])
    np.testing.assert_array_equal(np.isfinite(var), [False, False, True])


# ---------------------------------------------------------------- pooling
def poolings(functions, p):
    y, taps = functions.max_pool2d(p.x, p.kernel_size, **p.options)
    return (
        y,
        taps,
        functions.max_pool2d_grad(p.dy, taps, p.x.shape, p.kernel_size, **p.options),
        functions.avg_pool2d(p.x, p.kernel_size, **p.options),
        functions.avg_pool2d_grad(p.dy, p.x.shape, p.kernel_size, **p.options),
    )


@given(dtypes.flatmap(lambda dtype: pool_problems(dtype, min_batch=0, orders=ALL_ORDERS)))
def test_pooling_is_its_definition(p):
    results, expected = poolings(kernels, p), poolings(reference, p)
    for result, value in zip(results, expected, strict=True):
        assert_close(result, value, 1e-5 if p.x.dtype == F4 else 1e-13)
    for i in (0, 1):
        np.testing.assert_array_equal(results[i], expected[i])
    assert results[1].dtype == np.int32
    assert all(r.dtype == p.x.dtype for i, r in enumerate(results) if i != 1)


@given(dtypes.flatmap(pool_problems), seeds)
def test_max_pooling_of_ties_nan_and_infinity(p, seed):
    x = np.random.default_rng(seed).choice([np.nan, -np.inf, -np.inf, np.inf, 0, 1], p.x.shape).astype(p.x.dtype)
    x[0] = -np.inf  # not even there is padding the maximum
    q = SimpleNamespace(x=x, dy=p.dy, kernel_size=p.kernel_size, options=p.options)
    with np.errstate(invalid="ignore"):  # of the means
        results, expected = poolings(kernels, q), poolings(reference, q)
    for i in (0, 1):
        np.testing.assert_array_equal(results[i], expected[i])
    np.testing.assert_allclose(results[2], expected[2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(results[2].sum((1, 2, 3)), p.dy.sum((1, 2, 3)), rtol=1e-4, atol=1e-4)  # none is lost


@given(dtypes.flatmap(lambda dtype: pool_problems(dtype, values="normal")))
def test_average_pooling_is_adjoint_to_its_gradient(p):
    y = kernels.avg_pool2d(p.x, p.kernel_size, **p.options).astype(F8)
    dx = kernels.avg_pool2d_grad(p.dy, p.x.shape, p.kernel_size, **p.options).astype(F8)
    tolerance = 1e-5 if p.x.dtype == F4 else 1e-13
    size = np.abs(y * p.dy).sum() + np.abs(dx * p.x).sum()
    assert abs((y * p.dy).sum() - (dx * p.x).sum()) <= tolerance * size


# ---------------------------------------------------------------- elementwise
@given(shapes(max_dims=5, min_side=0), dtypes, st.sampled_from(ALL_ORDERS), st.sampled_from(ALL_ORDERS), seeds)
def test_relu_and_its_gradient_are_their_definitions(shape, dtype, order, dy_order, seed):
    rng = np.random.default_rng(seed)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0])
    x = np.where(rng.random(shape) < 0.3, rng.choice(special, shape), rng.standard_normal(shape)).astype(dtype)
    x, dy = in_order(x, order), in_order(numbers(rng, shape, dtype), dy_order)
    y = kernels.relu(x)
    np.testing.assert_array_equal(y, reference.relu(x))
    np.testing.assert_array_equal(kernels.relu_grad(dy, y), reference.relu_grad(dy, y))
    assert y.dtype == dtype
    assert y.shape == shape


@given(shapes(max_dims=5, min_side=0), dtypes, st.sampled_from(ALL_ORDERS), seeds)
def test_erf_is_the_error_function(shape, dtype, order, seed):
    rng = np.random.default_rng(seed)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 9.0])
    x = np.where(rng.random(shape) < 0.3, rng.choice(special, shape), 2 * rng.standard_normal(shape)).astype(dtype)
    y = kernels.erf(in_order(x, order))
    assert (y.dtype, y.shape) == (dtype, shape)
    np.testing.assert_allclose(y, reference.erf(in_order(x, order)), rtol=4 * np.finfo(dtype).eps)


@given(shapes(max_dims=4, min_side=0), dtypes, st.sampled_from(ORDERS[:3]), st.sampled_from(ALL_ORDERS), seeds)
def test_add_to(shape, dtype, order, part_order, seed):
    rng = np.random.default_rng(seed)
    total, part = in_order(numbers(rng, shape, dtype), order), in_order(numbers(rng, shape, dtype), part_order)
    expected, before = total + part, part.copy()
    kernels.add_to(total, part)
    np.testing.assert_array_equal(total, expected)
    np.testing.assert_array_equal(part, before)


@given(
    shapes(max_dims=4, min_side=0),
    dtypes,
    st.sampled_from(ORDERS[:3]),
    st.sampled_from(ALL_ORDERS),
    st.booleans(),
    seeds,
)
def test_update_is_its_definition(shape, dtype, order, g_order, nesterov, seed):
    rng = np.random.default_rng(seed)
    p, g, v = (in_order(numbers(rng, shape, dtype), o) for o in (order, g_order, order))
    settings = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.1, "nesterov": nesterov}
    expected_p, expected_v = p.astype(F8), v.astype(F8)
    reference.sgd_update([expected_p], [g.astype(F8)], [expected_v], **settings)
    kernels.sgd_update([p], [g], [v], **settings)
    assert_close(p, expected_p, 1e-6 if dtype == F4 else 1e-14)
    assert_close(v, expected_v, 1e-6 if dtype == F4 else 1e-14)


@given(
    shapes(max_dims=4, min_side=0),
    dtypes,
    st.sampled_from(ORDERS[:3]),
    st.sampled_from(ALL_ORDERS),
    st.integers(1, 1000),
    seeds,
)
def test_adamw_update_is_its_definition(shape, dtype, order, g_order, step, seed):
    rng = np.random.default_rng(seed)
    p, g, m, v = (in_order(numbers(rng, shape, dtype), o) for o in (order, g_order, order, order))
    np.abs(v, out=v)
    settings = {"lr": 0.3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3, "weight_decay": 0.1, "step": step}
    exact = [a.astype(F8) for a in (p, g, m, v)]
    reference.adamw_update(*([a] for a in exact), **settings)
    kernels.adamw_update([p], [g], [m], [v], **settings)
    for changed, expected in zip((p, m, v), (exact[0], exact[2], exact[3]), strict=True):
        assert_close(changed, expected, 1e-6 if dtype == F4 else 1e-14)


@given(st.lists(st.integers(0, 300), max_size=6), dtypes, st.integers(1, 2), seeds)
def test_parameters_are_updated_together_as_each_alone(sizes, dtype, threads, seed):
    """Threads share numbers out, not parameters, and each gets what it would get alone, to the last bit."""
    rng = np.random.default_rng(seed)
    lists = [[numbers(rng, (n,), dtype) for n in sizes] for _ in range(4)]
    alone = [[a.copy() for a in arrays] for arrays in lists]
    settings = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}
    adam = {"lr": 0.3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3, "weight_decay": 0.1, "step": 3}
    before = tr.num_threads()
    tr.set_num_threads(min(threads, backend.max_threads()))
    try:
        kernels.sgd_update(*lists[:3], **settings)
        kernels.adamw_update(*lists[:3], [np.abs(v) for v in lists[3]], **adam)
    finally:
        tr.set_num_threads(before)
    for arrays in zip(*alone, strict=True):
        kernels.sgd_update(*([a] for a in arrays[:3]), **settings)
        kernels.adamw_update(*([a] for a in arrays[:3]), [np.abs(arrays[3])], **adam)
    for together, ones in zip(lists, alone, strict=True):
        for a, b in zip(together, ones, strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_compiled_kernel_serves_every_memory_order():
    """A read-only or strided array is another type to Numba: it would compile for seconds, each time."""

    def run(order):
        rng = np.random.default_rng(0)
        a = {name: in_order(numbers(rng, s, F4), order) for name, s in dict(x=(2, 3, 4, 4), w=(3, 3, 1, 1)).items()}
        v = [in_order(numbers(rng, (3,), F4, "positive"), order) for _ in range(4)]
        one = {"stride": (1, 1), "padding": (0, 0)}
        x = a["x"]
        for functions in (kernels, im2col):
            functions.conv2d(x, a["w"], v[0], **one)
            functions.conv2d_input_grad(x, a["w"], x.shape, **one)
            functions.conv2d_weight_grad(x, x, a["w"].shape, **one)
        kernels.batch_norm_statistics(x)
        kernels.batch_norm_apply(x, *v[:3], x, relu=True)
        kernels.batch_norm_grad(x, x, x, *v, training=True, relu=True, residual=True)
        kernels.relu_grad(x, kernels.relu(x))
        part = in_order(x, "channels-last")  # as the total lies: else NumPy adds
        part.flags.writeable = order != "read-only"
        kernels.add_to(in_order(x, "channels-last"), part)
        y, taps = kernels.max_pool2d(x, (2, 2), **one)
        kernels.max_pool2d_grad(y, taps, x.shape, (2, 2), **one)
        kernels.avg_pool2d_grad(kernels.avg_pool2d(x, (2, 2), **one), x.shape, (2, 2), **one)

    def compiled():
        modules = (conv, elementwise, im2col, norm, pool, weight_grad)
        return {
            f"{module.__name__}.{name}": len(f.signatures)
            for module in modules
            for name, f in vars(module).items()
            if isinstance(f, Dispatcher | Parallel)
        }

    run("contiguous")
    before = compiled()
    assert sum(before.values()) > 8
    for order in ALL_ORDERS:
        run(order)
    assert compiled() == before


# ---------------------------------------------------------------- memory
@pytest.fixture
def own_pool(monkeypatch):
    monkeypatch.setattr(memory, "_pool", memory.Pool())
    return memory._pool


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_with_the_last_view(own_pool):
    a = memory.empty((4, memory.SMALLEST), np.uint8)
    place, view = address(a), a.reshape(-1).view(F4)[::2].reshape(2, -1).T[3:5]
    del a
    b = memory.empty((4, memory.SMALLEST), np.uint8)
    assert address(b) != place
    view[...] = 1
    del view
    c = memory.empty((memory.SMALLEST,), F4)  # as many bytes, of another shape
    assert address(c) == place
    assert len(own_pool.regions) == 1


def test_memory_of_read_only_aliases_is_not_handed_out(own_pool):
    a = memory.empty((2 * memory.SMALLEST,), np.uint8)
    a[...] = 1
    a.flags.writeable = False
    alias = layout.contiguous(a)
    assert alias.flags.writeable
    assert address(alias) == address(a)
    del a
    b = memory.empty((2 * memory.SMALLEST,), np.uint8)
    b[...] = 2
    assert (alias == 1).all()


def test_small_arrays_are_numpys_own(own_pool):
    small = memory.empty((memory.SMALLEST - 1,), np.uint8)
    assert own_pool.regions == []
    assert small.flags.owndata
    assert memory.empty((0, 3), F4).shape == (0, 3)
    assert memory.empty((), F4).shape == ()


def test_zeros_are_zero_in_used_memory(own_pool):
    a = memory.empty((memory.SMALLEST,), F4)
    place = address(a)
    a[...] = 7
    del a
    b = memory.zeros((memory.SMALLEST,), F4)
    assert address(b) == place
    assert not b.any()
    assert b.flags.c_contiguous


@pytest.fixture
def own_scratch(monkeypatch):
    monkeypatch.setattr(memory, "_scratch", memory._Scratch())


def test_scratch_is_the_same_memory_again_by_the_same_name(own_scratch, own_pool):
    a = memory.scratch("a", (100, 3), F8)
    assert address(a) % memory.CACHE_LINE == 0
    assert address(memory.scratch("a", (200,), F4)) == address(a)  # smaller, of another shape and dtype
    a[...] = 1
    memory.scratch("b", (100, 3), F8)[...] = 2
    memory.scratch("a", (1000, 3), F8)[...] = 3  # larger: elsewhere, and who holds the first may go on
    assert (a == 1).all()
    assert own_pool.regions == []


def test_large_scratch_is_the_pools(own_scratch, own_pool):
    large = (memory.LARGEST_SCRATCH + 1,)
    a, b = (memory.scratch("a", large, np.uint8) for _ in range(2))
    assert address(a) != address(b)
    assert len(own_pool.regions) == 1
    assert memory._scratch.buffers == {}


def test_scratch_is_not_kept_as_made_of_what_became_a_constant_meanwhile(own_scratch):
    weight = np.ones(100, F4)
    made, ready = memory.made_of(weight, "key", (50,))
    assert not ready
    memory.make_constant(weight)  # by another thread, say
    memory.keep_made(weight, "key", made)
    assert memory.made_of(weight, "key", (50,))[1] is False


def test_threads_have_each_their_own_scratch(own_scratch):
    with ThreadPoolExecutor(1) as other:
        theirs = other.submit(memory.scratch, "a", (100,), F4).result()
    assert not np.shares_memory(theirs, memory.scratch("a", (100,), F4))


def bytes_of(n):
    """An array of n times the smallest size that comes from the pool."""
    return memory.empty((n * memory.SMALLEST,), np.uint8)


def test_neighbours_that_died_serve_one_larger_array(own_pool):
    for order in ((0, 1, 2), (2, 1, 0), (0, 2, 1)):
        arrays = [bytes_of(2) for _ in range(4)]
        place, last = address(arrays[0]), arrays.pop()  # which keeps the three from the rest of the region
        for i in order:
            arrays[i] = None
        assert address(bytes_of(6)) == place
        del last
    assert len(own_pool.regions) == 1


@pytest.mark.usefixtures("own_pool")
def test_an_array_takes_the_smallest_gap():
    large, _between, small, _after = bytes_of(4), bytes_of(1), bytes_of(2), bytes_of(1)
    places = address(large), address(small)
    del large, small
    one = bytes_of(1)
    other = bytes_of(3)
    assert (address(other), address(one)) == places


def test_memory_that_is_not_needed_returns_to_the_system(own_pool, monkeypatch):
    monkeypatch.setattr(memory, "REGION", 4 * memory.SMALLEST)
    first, second = bytes_of(3), bytes_of(4)
    regions = [weakref.ref(region) for region in own_pool.regions]
    assert [region().size // memory.SMALLEST for region in regions] == [4, 4]
    del second
    third = bytes_of(9)  # fits none of them, and only the first one is in use
    assert [region() is None for region in regions] == [False, True]
    assert [region.size // memory.SMALLEST for region in own_pool.regions] == [4, 9]
    del first, third


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40))
def test_memory_is_in_one_array_or_gap_and_new_only_where_no_gap_is_large_enough(steps):
    before = memory._pool, memory.REGION
    pool, memory.REGION = memory.Pool(), 8 * memory.SMALLEST
    memory._pool = pool
    try:
        live = []
        for i, (make, k) in enumerate(steps):
            if make:
                free, regions = largest_gap(pool), list(pool.regions)
                array = memory.empty((memory.SMALLEST * (k + 1) - k,), np.uint8)
                array[:: memory.SMALLEST // 4] = i
                assert (pool.regions == regions) == (free >= array.nbytes)
                live.append((i, array))
                del array
            elif live:
                live.pop(k % len(live))
            assert all((array[:: memory.SMALLEST // 4] == j).all() for j, array in live)
            assert all(address(array) % memory.CACHE_LINE == 0 for _, array in live)
            for region in pool.regions:
                check_that_arrays_and_gaps_fill(region, pool, [array for _, array in live])
        live.clear()
        assert largest_gap(pool) == max((region.size for region in pool.regions), default=0)
    finally:
        memory._pool, memory.REGION = before


def collect(pool):
    """What `take` does first."""
    while pool.returned:
        region, start, stop = pool.returned.pop()
        region.give(start, stop)


def largest_gap(pool):
    collect(pool)
    return max((stop - start for region in pool.regions for start, stop in region.gaps), default=0)


def check_that_arrays_and_gaps_fill(region, pool, arrays):
    collect(pool)
    line, origin = memory.CACHE_LINE, address(np.asarray(region.memory))
    starts = [(address(a) - origin, -(-a.nbytes // line) * line) for a in arrays]
    taken = [(start, start + size) for start, size in starts if 0 <= start < region.size]
    spans = sorted([*taken, *region.gaps])
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == region.size
    stops = {stop for _, stop in region.gaps}
    assert not any(start in stops for start, _ in region.gaps)  # neighbours are one gap


def test_threads_never_share_memory(own_pool):
    def run(mark):
        random, live = np.random.default_rng(mark), []
        for _ in range(300):
            array = bytes_of(int(random.integers(1, 4)))
            array[:: memory.SMALLEST // 4] = mark
            live.append(array)
            if len(live) > 4:
                live.pop(int(random.integers(5)))
            assert all((a[:: memory.SMALLEST // 4] == mark).all() for a in live)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(run, mark) for mark in range(4)]:
                done.result()
    finally:
        sys.setswitchinterval(before)
    assert largest_gap(own_pool) == own_pool.regions[0].size


# ---------------------------------------------------------------- constants
def test_what_is_made_of_a_constant_is_made_once_and_dies_with_it():
    weight = np.ones((4, 4), F4)
    first, ready = memory.made_of(weight, "key", (3,))
    assert not ready
    assert memory.made_of(weight, "key", (3,))[0] is not first  # it may have changed meanwhile
    memory.make_constant(weight)
    made, ready = memory.made_of(weight, "key", (3,))
    assert not ready
    assert not memory.made_of(weight, "key", (3,))[1]  # nobody has said that it is complete
    memory.keep_made(weight, "key", made)
    again, ready = memory.made_of(weight, "key", (3,))
    assert ready
    assert again is made
    assert not memory.made_of(weight, "other", (3,))[1]
    with pytest.raises(ValueError, match="read-only"):
        weight[0] = 2
    key = id(weight)
    del weight
    assert key not in memory._made


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("o", [64, 32])  # as many as there are input channels: then only the order tells them apart
def test_constant_weights_give_the_same_bits(size, o):
    rng = np.random.default_rng(0)
    x, w = in_order(numbers(rng, (8, 32, 16, 16), F4), "channels-last"), numbers(rng, (o, 32, size, size), F4)
    options = {"stride": (1, 1), "padding": (size // 2, size // 2)}
    dy = kernels.conv2d(x, w, **options)
    dx = kernels.conv2d_input_grad(dy, w, x.shape, **options)
    memory.make_constant(w)
    for _ in range(2):
        np.testing.assert_array_equal(kernels.conv2d(x, w, **options), dy)
        np.testing.assert_array_equal(kernels.conv2d_input_grad(dy, w, x.shape, **options), dx)


# ---------------------------------------------------------------- compilation
def test_cache_folder_depends_on_source_and_processor(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYRES_CACHE", str(tmp_path))
    folder = compile.cache_folder()
    assert folder == compile.cache_folder()
    assert folder.parent == tmp_path / "kernels"
    monkeypatch.setattr(compile, "features", lambda: frozenset({"another"}))
    assert compile.cache_folder() != folder


def test_contiguous_copies_only_what_is_not():
    a = np.ones((3, 4), F4)
    assert layout.contiguous(a) is a
    assert layout.contiguous(a.T).flags.c_contiguous
    a.flags.writeable = False
    alias = layout.contiguous(a)
    assert address(alias) == address(a)
    assert alias.flags.writeable
    np.testing.assert_array_equal(alias, a)


CALLS = """
import numba
import numpy as np
from tinyres.kernels.compile import inner, jit

@inner
def ones(n):
    return np.full(n, 1.0)

@jit
def count(n):
    return ones(n).sum()

@jit(parallel=True)
def counts(n):
    out = np.zeros(n)
    for k in numba.prange(n):
        out[k] = count(np.int64(k))
    return out

@numba.njit
def users(n):  # calls what Numba has compiled as a part of a kernel
    return np.full(n, 1.0).sum()

def refuses(function):
    try:
        function(-1)
    except ValueError:
        return True

assert counts(3).tolist() == [0, 1, 2] and count(3) == users(3) == 3
assert refuses(counts) and refuses(count) and refuses(users)
print(len(count.stats.cache_hits), len(counts.stats.cache_hits))
"""


def test_kernels_that_call_others(tmp_path):
    """Results and errors are right, whichever kernels come from the cache."""
    script = tmp_path / "calls.py"
    script.write_text(CALLS)
    env = {**os.environ, "TINYRES_CACHE": str(tmp_path)}
    for hits in "0 0", "1 1", "1 0":
        if hits == "1 0":
            for file in tmp_path.rglob("calls.counts-*"):
                file.unlink()
        result = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
        assert (result.stdout.strip(), result.returncode) == (hits, 0), result.stderr


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("cached", [False, True])
def test_ctrl_c_comes_after_a_kernel_is_there(monkeypatch, tmp_path, cached, times):
    """It would be lost in LLVM's calls of Python. The kernel is whole; the handler is as it was, and told each time."""
    came = []

    def tell(*signal_and_frame):
        came.append(signal_and_frame)
        if len(came) == times:
            raise KeyboardInterrupt

    def sum_of_two(a, b):
        return a + b

    monkeypatch.setattr(compile, "_FOLDER", tmp_path)
    if cached:
        compile.jit(sum_of_two)(1, 2)
    add = compile.jit(sum_of_two)
    finalize = JITCodeLibrary._finalize_final_module

    def interrupted(library):
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return finalize(library)

    monkeypatch.setattr(JITCodeLibrary, "_finalize_final_module", interrupted)
    before = signal.signal(signal.SIGINT, tell)
    try:
        with pytest.raises(KeyboardInterrupt):
            add(1, 2)
    finally:
        handler = signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert handler is tell
    assert len(came) == times
    assert len(add.overloads) == 1
    assert add(1, 2) == 3
    assert bool(add.stats.cache_hits) == cached
