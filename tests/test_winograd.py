"""Winograd convolution against direct convolution: exact in float64, with a known error in float32."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres import backend
from tinyres.kernels import winograd
from tinyres.kernels.memory import make_constant
from tinyres.kernels.winograd import maps
from tinyres.testing.strategies import ORDERS, in_order, numbers

F4, F8 = np.float32, np.float64
fits = winograd.fits
DIRECT = backend.ALGORITHMS["direct"]
FUNCTIONS = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")


@pytest.fixture
def wherever_it_fits(monkeypatch):
    """Use Winograd's method for the small problems of tests too."""
    monkeypatch.setattr(
        winograd, "pays", lambda weight, channels, size, _, **window: fits(weight, channels, size, **window)
    )


def problem(n, channels, size, padding, dtype=F8, seed=0, orders=("channels-last",) * 2, stride=1):
    """Inputs as they are behind a ReLU, zero every other time."""
    rng, (c, o) = np.random.default_rng(seed), channels
    x = np.maximum(numbers(rng, (n, c, *size), F8), 0)
    weight, bias = numbers(rng, (o, c, 3, 3), F8) / c**0.5, numbers(rng, (o,), F8)
    dy = numbers(rng, (n, o, *((s + 2 * p - 3) // stride + 1 for s, p in zip(size, padding, strict=True))), F8)
    x, weight, bias, dy = (a.astype(dtype) for a in (x, weight, bias, dy))
    x, dy = in_order(x, orders[0]), in_order(dy, orders[1])
    return SimpleNamespace(x=x, weight=weight, bias=bias, dy=dy, options={"stride": (stride,) * 2, "padding": padding})


def convolutions(functions, p):
    """Forward, input gradient, weight gradient."""
    return (
        functions.conv2d(p.x, p.weight, p.bias, **p.options),
        functions.conv2d_input_grad(p.dy, p.weight, p.x.shape, **p.options),
        functions.conv2d_weight_grad(p.dy, p.x, p.weight.shape, **p.options),
    )


def in_float64(p):
    arrays = {name: getattr(p, name).astype(F8) for name in ("x", "weight", "bias", "dy")}
    return SimpleNamespace(**arrays, options=p.options)


def rms_error(result, exact):
    """Relative to the root mean square of what is exact."""
    return float(np.sqrt(np.mean((result - exact) ** 2) / np.mean(exact**2)))


# ---------------------------------------------------------------- in one dimension
def toom_cook(points, outputs, taps):
    """B^T, G and A^T of finite points, and infinity as the last, by their definition."""
    count = len(points) + 1
    bt, g, at = np.zeros((count, count)), np.zeros((count, taps)), np.zeros((outputs, count))
    for j, point in enumerate(points):
        others = [other for k, other in enumerate(points) if k != j]
        bt[j, : count - 1] = np.poly(others)[::-1]
        g[j] = [point**k / np.prod([point - other for other in others]) for k in range(taps)]
        at[:, j] = [point**i for i in range(outputs)]
    bt[-1], g[-1, -1], at[-1, -1] = np.poly(points)[::-1], 1, 1
    return bt, g, at


def matrix(function, count):
    """Of a linear function of so many numbers."""
    return np.array([function(*row) for row in np.eye(count)]).T


def test_maps_of_stride_1_are_those_of_their_points():
    bt, g, at = toom_cook([0, maps.A, -maps.A, maps.B, -maps.B], 4, 3)
    np.testing.assert_allclose(matrix(maps.same_input, 6), bt, atol=1e-15)
    np.testing.assert_allclose(matrix(maps.same_weight, 3), g, atol=1e-15)
    np.testing.assert_allclose(matrix(maps.same_output, 6), at, atol=1e-15)


def test_maps_of_stride_2_are_those_of_their_points_and_the_middle_tap():
    bt, g, at = toom_cook([1, -1, 0.5, -0.5], 4, 2)
    down, up, weight = matrix(maps.down_input, 9), matrix(maps.up_input, 5), matrix(maps.strided_weight, 3)
    np.testing.assert_allclose(down[:5, ::2], bt, atol=1e-15)
    np.testing.assert_array_equal(down[5:, 1::2], np.eye(4))
    assert not down[:5, 1::2].any()
    assert not down[5:, ::2].any()
    np.testing.assert_allclose(up, np.vstack([bt, np.eye(4, 5)]), atol=1e-15)
    np.testing.assert_allclose(weight[:5, ::2], g, atol=1e-15)
    np.testing.assert_array_equal(weight[5], [0, 1, 0])
    np.testing.assert_allclose(matrix(maps.down_output, 9), np.hstack([at, np.eye(4)]), atol=1e-15)
    np.testing.assert_allclose(matrix(maps.up_output, 9)[1::2], np.hstack([at, np.zeros((4, 4))]), atol=1e-15)
    np.testing.assert_array_equal(matrix(maps.up_output, 9)[::2], np.eye(4, 9, 5))


@pytest.mark.parametrize(
    ("name", "count"), [("same_weight", 3), ("same_output", 6), ("strided_weight", 3), ("down_output", 9)]
)
def test_transposed_maps(name, count):
    forward = matrix(getattr(maps, name), count)
    np.testing.assert_allclose(matrix(getattr(maps, f"{name}_transposed"), len(forward)), forward.T, atol=1e-15)


# ---------------------------------------------------------------- in two dimensions
@st.composite
def problems(draw):
    stride = draw(st.sampled_from([1, 2]))
    size = draw(st.tuples(*[st.integers(1, 14 * stride)] * 2))
    padding = tuple(draw(st.integers(max(0, -(-(3 - s) // 2)), 3)) for s in size) if stride == 1 else (1, 1)
    channels = draw(st.tuples(st.sampled_from([16, 32, 48]), st.sampled_from([16, 32, 48, 80])))
    orders = draw(st.tuples(*[st.sampled_from((*ORDERS, "read-only"))] * 2))
    dtype, seed = draw(st.sampled_from([F4, F8])), draw(st.integers(0, 2**32 - 1))
    return problem(draw(st.integers(1, 5)), channels, size, padding, dtype, seed, orders, stride)


@pytest.mark.usefixtures("wherever_it_fits")
@given(problems())
def test_winograd_is_direct_convolution(p):
    before = in_float64(p)
    results, exact = convolutions(winograd, p), convolutions(DIRECT, before)
    tolerance = 1e-12 if p.x.dtype == F8 else 5e-6
    for result, value in zip(results, exact, strict=True):
        assert result.shape == value.shape
        assert result.dtype == p.x.dtype
        np.testing.assert_allclose(result, value, rtol=0, atol=tolerance * max(1, np.abs(value).max()))
    for y in results[:2]:
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    for name in ("x", "weight", "bias", "dy"):
        np.testing.assert_array_equal(getattr(p, name), getattr(before, name))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(32, 32), (7, 7), (5, 14), (13, 33)])
@pytest.mark.parametrize("channels", [(16, 16), (16, 64), (64, 32), (128, 128), (512, 256), (256, 512)])
@pytest.mark.usefixtures("wherever_it_fits")
def test_error_in_float32(channels, size, stride):
    """Relative rms at most 2.5e-6 forward and for the input gradient, 5e-6 for the weight gradient; float64: 1e-12."""
    n = 2 if max(channels) > 128 else 16
    p = problem(n, channels, size, (1, 1), F4, stride=stride)
    exact = convolutions(DIRECT, in_float64(p))
    errors = [rms_error(r, e) for r, e in zip(convolutions(winograd, p), exact, strict=True)]
    assert errors[0] <= 2.5e-6
    assert errors[1] <= 2.5e-6
    assert errors[2] <= 5e-6
    for result, value in zip(convolutions(winograd, in_float64(p)), exact, strict=True):
        assert rms_error(result, value) <= 1e-12


def test_error_of_a_large_weight_gradient():
    """A sum over 32,768 tiles, which float32 adds up in rounds."""
    p = problem(512, (16, 16), (32, 32), (1, 1), F4)
    arguments = (p.weight.shape,)
    exact = DIRECT.conv2d_weight_grad(p.dy.astype(F8), p.x.astype(F8), *arguments, **p.options)
    assert rms_error(winograd.conv2d_weight_grad(p.dy, p.x, *arguments, **p.options), exact) <= 5e-6


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.usefixtures("wherever_it_fits")
def test_nan_and_infinity_reach_the_output(value, stride):
    """Wherever direct convolution gives one; around it, in the same tile, there may be more."""
    p = problem(2, (16, 16), (9, 10), (1, 1), F4, stride=stride)
    rng = np.random.default_rng(1)
    for array in (p.x, p.dy, p.weight):
        before = array.copy()
        array[tuple(rng.integers(0, n) for n in array.shape)] = value
        with np.errstate(invalid="ignore"):
            results, direct = convolutions(winograd, p), convolutions(DIRECT, p)
        assert not all(np.isfinite(r).all() for r in direct)
        for result, expected in zip(results, direct, strict=True):
            assert not np.isfinite(result[~np.isfinite(expected)]).any()
        array[...] = before


@pytest.mark.usefixtures("wherever_it_fits")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "case",
    [
        (9, (16, 32), (33, 30)),
        (1, (16, 16), (4, 4)),
        (3, (512, 512), (4, 4)),
        (40, (64, 64), (8, 8)),
        (32, (128, 128), (16, 16)),
        (80, (256, 256), (4, 4)),
    ],
)
def test_results_do_not_depend_on_threads(case, stride, monkeypatch):
    """Nor on how many workers share the strips, be they more than there are strips."""
    n, channels, size = case
    p = problem(n, channels, [stride * s for s in size], (1, 1), F4, stride=stride)
    expected = None
    for workers in (1, 2, 3, 7, 64):
        monkeypatch.setattr(winograd, "get_num_threads", lambda workers=workers: workers)
        results = convolutions(winograd, p)
        expected = expected or results
        for result, first in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, first)


@pytest.mark.usefixtures("wherever_it_fits")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("constant", [False, True])
def test_shares_of_the_weights_give_the_same_as_shares_of_the_images(constant, stride, monkeypatch):
    """In one round or several, of weights that are transformed each time or once."""
    p = problem(9, (48, 96), (13 * stride, 6 * stride), (1, 1), F4, stride=stride)
    expected = convolutions(winograd, p)[:2]
    if constant:
        make_constant(p.weight)
    monkeypatch.setattr(winograd, "DEEP_BYTES", 0)
    for workers in (1, 2, 3):
        monkeypatch.setattr(winograd, "get_num_threads", lambda workers=workers: workers)
        for size in (1, winograd.INPUT_BYTES):
            monkeypatch.setattr(winograd, "INPUT_BYTES", size)
            for result, first in zip(convolutions(winograd, p)[:2], expected, strict=True):
                np.testing.assert_array_equal(result, first)


def test_where_it_pays():
    """All 3x3 convolutions of the family, but not the first; never what has no Winograd form."""

    def pays(weight, channels, images, stride=(1, 1), padding=(1, 1)):
        return winograd.pays(weight, channels, 4, images, stride=stride, padding=padding)

    for channels, side, n in [(16, 32, 128), (64, 8, 128), (512, 4, 64), (64, 56, 16), (512, 7, 8), (16, 32, 1)]:
        assert pays((channels, channels, 3, 3), channels, (n, side, side))
    for channels, side, n in [(16, 16, 128), (32, 8, 128), (64, 16, 64), (256, 4, 64), (64, 28, 16), (256, 7, 8)]:
        assert pays((2 * channels, channels, 3, 3), channels, (n, side, side), (2, 2))
    images = (64, 32, 32)
    assert pays((64, 64, 3, 3), 64, images)
    assert pays((64, 64, 3, 3), 64, images, (2, 2))
    assert pays((64, 64, 3, 3), 64, images, padding=(0, 2))
    assert not pays((64, 3, 3, 3), 3, images)
    assert not pays((65, 64, 3, 3), 64, images)
    assert not pays((64, 64, 3, 3), 64, images, (2, 2), (0, 0)), "tiles of dx would begin outside of it"
    assert not pays((64, 64, 3, 3), 64, images, (1, 2))
    assert not pays((64, 64, 3, 3), 64, images, (3, 3))
    assert not pays((64, 64, 5, 5), 64, images)
    assert not pays((64, 64, 3, 1), 64, images)
    assert not pays((64, 64, 3, 3), 128, images), "groups"
    assert not pays((16, 16, 3, 3), 16, images, (2, 2)), "transforms are the most of the work"
    assert not pays((512, 512, 3, 3), 512, (1, 4, 4)), "weights are the most of the work"
    assert not pays((64, 64, 3, 3), 64, (64, 1, 1)), "1 of 16 outputs of a tile is wanted"
    assert not pays((64, 64, 3, 3), 64, (0, 32, 32)), "nothing to do"


@pytest.mark.parametrize(
    ("weight", "stride"),
    [
        ((16, 16, 3, 3), (2, 1)),
        ((16, 16, 3, 3), (2, 2)),
        ((16, 16, 3, 3), (1, 1)),
        ((16, 8, 3, 3), (1, 1)),
        ((5, 16, 3, 3), (1, 1)),
    ],
)
def test_what_does_not_pay_is_convolved_directly(weight, stride):
    rng = np.random.default_rng(0)
    x, w = numbers(rng, (1, 16, 3, 3), F4), numbers(rng, weight, F4)
    options = {"stride": stride, "padding": (1, 1)}
    y = DIRECT.conv2d(x, w, **options)
    np.testing.assert_array_equal(winograd.conv2d(x, w, **options), y)
    for name, arguments in [("conv2d_input_grad", (y, w, x.shape)), ("conv2d_weight_grad", (y, x, w.shape))]:
        expected = getattr(DIRECT, name)(*arguments, **options)
        np.testing.assert_array_equal(getattr(winograd, name)(*arguments, **options), expected)


def test_use_algorithm_turns_it_off():
    p = problem(8, (16, 16), (16, 16), (1, 1), F4)
    x, weight = tr.Tensor(p.x), tr.Tensor(p.weight)
    with tr.use_algorithm("direct"):
        direct = tr.ops.conv2d(x, weight, padding=1).data
    np.testing.assert_array_equal(direct, DIRECT.conv2d(p.x, p.weight, **p.options))
    auto = tr.ops.conv2d(x, weight, padding=1).data
    assert (auto != direct).any()
    np.testing.assert_array_equal(auto, winograd.conv2d(p.x, p.weight, **p.options))
