"""Kernels look at all of their arguments before compiled code, which asks for no bounds, reads or writes any of them.

Each is called rightly, but for one argument, which has another dtype, shape or memory than it should have. It must
raise an error that names an argument, and change none, or do what the reference does; and never touch the memory around
an array.
"""

import functools
import inspect
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres import backend, kernels, reference
from tinyres.kernels import conv, elementwise, im2col, norm, pool, update, weight_grad, winograd
from tinyres.kernels.arrays import KERNELS
from tinyres.testing.strategies import numbers

F4, F8 = np.float32, np.float64
IN_PLACE = {
    "sgd_update": ("p", "v"),
    "adamw_update": ("p", "m", "v"),
    "add_to": ("total",),
    "conv2d_input_grad": ("total",),
}
HELPERS = {
    "channels_last",
    "groups_of",
    "in_channels_last",
    "fits",
    "pays",
    "measures",
    "takes_pending",
}  # run nothing that is compiled
SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
ADAMW = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3, "weight_decay": 0.01, "step": 3}


@pytest.fixture(autouse=True, scope="module")
def _small(one_thread):
    """Winograd's method for the small problems here too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            winograd, "pays", lambda w, channels, size, _, **window: winograd.fits(w, channels, size, **window)
        )
        yield


def valid(dtype):
    """(kernel, arguments), all of them right."""
    rng = np.random.default_rng(0)

    def a(*shape):
        return numbers(rng, shape, dtype)

    for n, c, size, o, i, kernel, stride, padding in [
        (2, 4, (5, 4), 6, 2, (3, 2), (2, 1), (1, 1)),  # in two groups
        (2, 16, (6, 5), 16, 16, (3, 3), (1, 1), (1, 1)),  # by Winograd's method
        (2, 16, (6, 5), 16, 16, (3, 3), (2, 2), (1, 1)),  # and strided
        (2, 3, (4, 4), 5, 3, (1, 1), (1, 1), (0, 0)),
    ]:
        window = {"stride": stride, "padding": padding}
        out = [(size[k] + 2 * padding[k] - kernel[k]) // stride[k] + 1 for k in (0, 1)]
        x, dy, weight = a(n, c, *size), a(n, o, *out), a(o, i, *kernel)
        yield "conv2d", {"x": x, "weight": weight, "bias": a(o), "residual": a(*dy.shape), "relu": True, **window}
        yield "conv2d_input_grad", {"dy": dy, "weight": weight, "x_shape": x.shape, "total": a(*x.shape), **window}
        yield "conv2d_weight_grad", {"dy": dy, "x": x, "weight_shape": weight.shape, **window}
        if c == 16:
            yield "conv2d_and_statistics", {"x": x, "weight": weight, **window}
        if c == 4:
            yield "im2col", {"x": x, "kernel_size": kernel, **window}
            columns = a(n * out[0] * out[1], kernel[0] * kernel[1] * c)
            yield "col2im", {"columns": columns, "x_shape": x.shape, "kernel_size": kernel, **window}
            window["kernel_size"] = kernel
            dy, taps = a(n, c, *out), reference.max_pool2d(x, **window)[1]
            yield "max_pool2d", {"x": x, **window}
            yield "max_pool2d_grad", {"dy": dy, "taps": taps, "x_shape": x.shape, **window}
            yield "avg_pool2d", {"x": x, **window}
            yield "avg_pool2d_grad", {"dy": dy, "x_shape": x.shape, **window}
    x, dy, y, (mean, scale, bias) = a(2, 5, 3, 4), a(2, 5, 3, 4), a(2, 5, 3, 4), a(3, 5)
    yield "batch_norm_statistics", {"x": x}
    yield "batch_norm_apply", {"x": x, "mean": mean, "scale": scale, "bias": bias, "residual": y, "relu": True}
    weight, y = a(5), reference.batch_norm_apply(x, mean, scale, bias)
    for relu, residual in [(True, True), (True, False)]:
        gradient = {"dy": dy, "x": x, "y": y, "mean": mean, "inv_std": scale / weight, "weight": weight, "bias": bias}
        yield "batch_norm_grad", {**gradient, "training": True, "relu": relu, "residual": residual}
    for shape in [(2, 5, 3, 4), (7, 3)]:
        yield "erf", {"x": a(*shape)}
        yield "relu", {"x": a(*shape)}
        yield "relu_grad", {"dy": a(*shape), "y": a(*shape)}
        yield "add_to", {"total": a(*shape), "part": a(*shape)}
        yield "sgd_update", {"p": a(*shape), "g": a(*shape), "v": a(*shape), **SETTINGS}
        yield "adamw_update", {"p": a(*shape), "g": a(*shape), "m": a(*shape), "v": abs(a(*shape)), **ADAMW}


CALLS = {dtype: list(valid(dtype)) for dtype in (F4, F8)}


def implementations(kernel):
    """All functions of that name, the reference's last, where it has one."""
    sources = [kernels, *backend.ALGORITHMS.values(), reference]
    found = dict.fromkeys(vars(source).get(kernel) for source in sources)
    functions = [function for function in found if inspect.isfunction(function)]
    return [of_one(function) for function in functions] if kernel.endswith("_update") else functions


def of_one(function):
    """A kernel that takes lists of arrays, for one array of each."""

    @functools.wraps(function)
    def call(*arrays, **arguments):
        names = {text.split(":")[0] for text in KERNELS[function.__name__]}
        return function(*([a] for a in arrays), **{n: [a] if n in names else a for n, a in arguments.items()})

    return call


# ---------------------------------------------------------------- arrays with guards around them
GUARD, MARK = 4096, 0xA5  # bytes on both sides, and what they hold
MEMORIES = ("channels-last", "contiguous", "fortran", "reversed", "strided", "unaligned", "read-only")


def place(raw, array, memory):
    """Room for an array amid raw bytes."""
    order = range(array.ndim)
    if array.ndim == 4 and memory in ("channels-last", "unaligned", "read-only"):
        order = (0, 2, 3, 1)
    elif memory == "fortran":
        order = order[::-1]
    shape = [array.shape[axis] for axis in order]
    if memory == "strided" and shape:
        shape[-1] *= 2
    start, size = GUARD + (memory == "unaligned"), int(np.prod(shape)) * array.itemsize
    view = raw[start : start + size].view(array.dtype).reshape(shape)
    if memory == "strided" and shape:
        view = view[..., ::2]
    if memory == "reversed":
        view = np.flip(view)
    return view.transpose(np.argsort(order)) if array.ndim else view


class Guarded:
    """A copy of an array in some memory, with bytes around it that nobody may change."""

    def __init__(self, array, memory):
        size = 2 * GUARD + 2 * array.nbytes + 8
        self.raw, self.outside = np.full(size, MARK, np.uint8), np.ones(size, np.uint8)
        self.array = place(self.raw, array, memory)
        self.array[...] = array
        place(self.outside, array, memory)[...] = np.zeros((), array.dtype)
        self.array.flags.writeable = memory != "read-only"

    def is_intact(self):
        return bool((self.raw[self.outside == 1] == MARK).all())


def run(function, arguments, memories=None):
    """Result or error, the arrays afterwards, and whether what lies around them is as it was."""
    guarded = {
        name: Guarded(a, (memories or {}).get(name, "channels-last"))
        for name, a in arguments.items()
        if isinstance(a, np.ndarray) and not a.dtype.hasobject
    }
    given = {**arguments, **{name: g.array for name, g in guarded.items()}}
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN
            result = function(**given)
    except (TypeError, ValueError) as error:
        result = error
    return (
        result,
        {name: np.array(g.array) for name, g in guarded.items()},
        all(g.is_intact() for g in guarded.values()),
    )


def same(result, expected, dtype):
    if isinstance(expected, tuple):
        return all(same(r, e, dtype) for r, e in zip(result, expected, strict=True))
    if expected is None:
        return result is None
    tolerance = 1e-4 if dtype == F4 else 1e-11
    return result.shape == expected.shape and np.allclose(result, expected, tolerance, tolerance, equal_nan=True)


def assert_refused_or_right(kernel, arguments, dtype, memories=None):
    for function in implementations(kernel):
        expected, changed, _ = run(reference_of(kernel), arguments)
        result, after, intact = run(function, arguments, memories)
        assert intact, "wrote outside of its arrays"
        if isinstance(result, Exception):
            assert f"{kernel}: " in str(result)
            assert any(f" {name}: got" in str(result) for name in arguments), result
            for name, array in after.items():
                np.testing.assert_array_equal(array, arguments[name])
        else:
            assert not isinstance(expected, Exception), f"{function.__module__} takes what {expected} says"
            assert same(result, expected, dtype)
            for name, array in after.items():
                assert same(array, changed[name], dtype), f"{name} is not as the reference leaves it"
        yield function, result


def reference_of(kernel):
    return implementations(kernel)[-1]


# ---------------------------------------------------------------- changes
def other_dtype(draw, value):
    others = (np.float16, F4, F8, np.int32, np.int64, np.complex64, np.bool_, object, ">f4", ">f8", ">i4")
    return value.astype(draw(st.sampled_from([d for d in others if np.dtype(d) != value.dtype])))


def other_length(draw, value):
    axis = draw(st.integers(0, value.ndim - 1))
    length = draw(st.sampled_from([n for n in (0, 1, *range(value.shape[axis] + 3)) if n != value.shape[axis]]))
    return np.resize(value, (*value.shape[:axis], length, *value.shape[axis + 1 :]))


def other_axes(draw, value):
    return draw(st.sampled_from([value[None], value[..., None], value[0], value.reshape(-1), value.sum()]))


def no_array(draw, value):
    return draw(
        st.sampled_from(
            [None, value.tolist(), "x", 1.0, value.shape, tr.Tensor(value) if value.dtype != np.int32 else 1]
        )
    )


def other_ints(draw, value):
    i = draw(st.integers(0, len(value) - 1))
    numbers = (-1, 0, 1, value[i] + 1, value[i] - 1, 1.5, True, "a", None, 40)
    changed = (*value[:i], draw(st.sampled_from(numbers)), *value[i + 1 :])
    return draw(st.sampled_from([changed, changed, changed, list(value), value[:-1], (*value, 1), 1, None]))


@st.composite
def spoilt(draw):
    """A kernel, its arguments with one of them changed, and the dtype they were."""
    dtype = draw(st.sampled_from([F4, F8]))
    kernel, arguments = draw(st.sampled_from(CALLS[dtype]))
    name = draw(st.sampled_from([name for name in arguments if isinstance(arguments[name], np.ndarray | tuple)]))
    changes = (other_dtype, other_length, other_axes, no_array)
    change = draw(st.sampled_from(changes if isinstance(arguments[name], np.ndarray) else (other_ints,)))
    return kernel, {**arguments, name: change(draw, arguments[name])}, dtype


@given(spoilt())
def test_an_argument_that_does_not_fit_is_refused_or_right(problem):
    for _ in assert_refused_or_right(*problem):
        pass


@pytest.mark.parametrize("height", [23, 24])  # images that no other test has, so that nothing is remembered of them
@pytest.mark.parametrize(("width", "wrong"), [(5, (1, True)), (6, (1, 1.0))])
def test_what_is_equal_to_the_right_argument_is_not_taken_for_it(width, wrong, height):
    """What was found of one is not remembered of the other, whichever comes first."""
    x, weight = np.ones((1, 2, height, width), F4), np.ones((2, 2, 1, 1), F4)
    for padding in [wrong, (1, 1)] if height == 23 else [(1, 1), wrong]:
        given = {"bias": None, "residual": None, "relu": False, "stride": (1, 1), "padding": padding}
        if padding is wrong:
            with pytest.raises(TypeError, match=r"conv2d: padding: got \(1, (True|1\.0)\), expected a tuple of ints"):
                kernels.conv2d(x, weight, **given)
        else:
            assert kernels.conv2d(x, weight, **given).shape == (1, 2, height + 2, width + 2)


@st.composite
def elsewhere(draw):
    """A kernel, right arguments, and in what memory each of its arrays lies."""
    dtype = draw(st.sampled_from([F4, F8]))
    kernel, arguments = draw(st.sampled_from(CALLS[dtype]))
    arrays = [name for name, a in arguments.items() if isinstance(a, np.ndarray)]
    return kernel, arguments, dtype, {name: draw(st.sampled_from(MEMORIES)) for name in arrays}


@given(elsewhere())
def test_any_memory_is_right_but_what_is_changed_must_be_writable(problem):
    kernel, memories = problem[0], problem[3]
    read_only = any(memories[name] == "read-only" for name in IN_PLACE.get(kernel, ()))
    for function, result in assert_refused_or_right(*problem):
        if read_only:
            assert isinstance(result, ValueError)
        elif kernel != "conv2d_input_grad" or function is reference_of(kernel):  # its total must be channels-last
            assert not isinstance(result, Exception)


# ---------------------------------------------------------------- whether that is all
def test_every_kernel_is_among_the_calls_and_in_the_table():
    modules = (conv, elementwise, im2col, norm, pool, update, weight_grad, winograd)
    public = {
        name
        for module in modules
        for name, f in vars(module).items()
        if inspect.isfunction(f) and f.__module__ == module.__name__ and not name.startswith("_")
    }
    assert set(kernels.__all__) <= public
    assert public - HELPERS == set(KERNELS) == {kernel for kernel, _ in CALLS[F4]}


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_table_has_all_arguments_and_they_are_right(kernel):
    named = [text.split(":")[0].split(" ")[0].rstrip("?") for text in KERNELS[kernel]]
    for function in implementations(kernel):
        assert [name for name in inspect.signature(function).parameters if name in named] == named
    for dtype, calls in CALLS.items():
        for name, arguments in calls:
            if name == kernel:
                assert {n for n, a in arguments.items() if isinstance(a, np.ndarray | tuple)} == set(named)
                for _, result in assert_refused_or_right(kernel, arguments, dtype):
                    assert not isinstance(result, Exception)


# ---------------------------------------------------------------- what happened
each_backend = pytest.mark.parametrize("functions", [kernels, reference])


@each_backend
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"v": np.ones(9, F8)}, TypeError, "sgd_update: v: got dtype float64, expected float32, that of p"),
        ({"p": np.ones(9, F8)}, TypeError, "sgd_update: g: got dtype float32, expected float64, that of p"),
        ({"g": np.ones(9, F8)}, TypeError, "sgd_update: g: got dtype float64, expected float32, that of p"),
        ({"v": np.ones(8, F4)}, ValueError, r"sgd_update: v: got shape \(8,\), expected \(9,\), that of p"),
        ({"g": np.ones((9, 1), F4)}, ValueError, r"sgd_update: g: got shape \(9, 1\), expected \(9,\), that of p"),
        ({"v": None}, TypeError, "sgd_update: v: got None, expected a NumPy array"),
    ],
)
def test_update_refuses_what_is_not_like_the_parameter(functions, change, error, message):
    given = {name: np.ones(9, F4) for name in "pgv"} | change
    with pytest.raises(error, match=message):
        of_one(functions.sgd_update)(**given, **SETTINGS)
    for array in given.values():
        assert array is None or (array == 1).all()


@each_backend
def test_updates_take_lists_whose_arrays_have_nothing_to_do_with_each_other(functions):
    memory = np.ones(30, F4)
    a, b, c, d, e, f = (memory[5 * i : 5 * i + 5] for i in range(6))
    for lists, error, message in [
        (([a, b], [c, d], [e]), ValueError, "sgd_update: got 2 of p, 2 of g, 1 of v, expected lists of one length"),
        ((a, [b], [c]), TypeError, "sgd_update: p: got an array, expected a list of arrays"),
        (([a, b], [c, d], [e, memory[:3]]), ValueError, "shape"),
        (([a, b], [c, d], [e, a]), ValueError, "got memory that [pv] has too"),
        (([a, a], [c, d], [e, f]), ValueError, "p: got memory that p has too"),
        (([a, b], [c, a], [e, f]), ValueError, "p: got memory that g has too"),
    ]:
        with pytest.raises(error, match=message):
            functions.sgd_update(*lists, **SETTINGS)
        assert (memory == 1).all()
    functions.sgd_update([a, b], [c, c], [e, f], **SETTINGS)  # one gradient for both
    np.testing.assert_array_equal(a, b)
    assert (c == 1).all()
    functions.sgd_update([], [], [], **SETTINGS)
    one, v = np.ones((), F4), np.zeros((), F4)
    for _ in range(2):
        functions.sgd_update([one], [F4(0.5)], [v], **SETTINGS)  # NumPy's scalars are arrays as well
    assert one != 1


@each_backend
def test_what_was_found_of_lists_is_not_taken_for_others(functions):
    """The same arrays come again, then one that is read-only, then others of the same shapes."""
    p, g, v = ([np.ones(n, F4) for n in (3, 20)] for _ in range(3))
    functions.sgd_update(p, g, v, **SETTINGS)
    functions.sgd_update(p, g, v, **SETTINGS)
    after = [a.copy() for a in p]
    p[1].flags.writeable = False
    with pytest.raises(ValueError, match="sgd_update: p: got a read-only array"):
        functions.sgd_update(p, g, v, **SETTINGS)
    others = [np.ones(n, F4) for n in (3, 20)]
    functions.sgd_update(others, g, [np.ones(n, F4) for n in (3, 20)], **SETTINGS)
    for array, before in zip(p, after, strict=True):
        np.testing.assert_array_equal(array, before)
    with pytest.raises(ValueError, match="g: got shape"):
        functions.sgd_update(others, g[::-1], v, **SETTINGS)


@each_backend
def test_what_is_changed_has_memory_of_its_own(functions):
    memory, other = np.ones(20, F4), np.ones(9, F4)
    for p, g, v, message in [
        (memory[:9], other, memory[5:14], "p: got memory that v has too"),
        (memory[:9], memory[:9], other, "p: got memory that g has too"),
        (other, memory[:9], memory[:9], "v: got memory that g has too"),
    ]:
        with pytest.raises(ValueError, match=message):
            of_one(functions.sgd_update)(p, g, v, **SETTINGS)
    of_one(functions.sgd_update)(memory[:18:2], other, memory[1:18:2], **SETTINGS)  # side by side, but not the same
    other, third = np.ones(9, F4), np.ones(9, F4)
    for arrays, message in [
        ((memory[:9], other, memory[5:14], third), "p: got memory that m has too"),
        ((memory[:9], other, third, memory[5:14]), "p: got memory that v has too"),
        ((other, third, memory[:9], memory[5:14]), "m: got memory that v has too"),
        ((other, memory[:9], third, memory[5:14]), "v: got memory that g has too"),
    ]:
        with pytest.raises(ValueError, match=f"adamw_update: {message}"):
            of_one(functions.adamw_update)(*arrays, **ADAMW)
        assert (other == 1).all()
        assert (third == 1).all()
    both = np.ones((1, 2, 2, 1), F4).transpose(0, 3, 1, 2)
    with pytest.raises(ValueError, match="total: got memory that dy has too"):
        functions.conv2d_input_grad(both, np.ones((1, 1, 1, 1), F4), both.shape, both, stride=(1, 1), padding=(0, 0))


@each_backend
def test_sums_of_arrays_that_overlap_are_of_what_they_were(functions):
    memory = numbers(np.random.default_rng(0), (9, 5, 5, 3), F4).transpose(0, 3, 1, 2)
    expected = memory[1:] + memory[:-1]
    functions.add_to(memory[1:], memory[:-1])
    np.testing.assert_array_equal(memory[1:], expected)


@each_backend
@pytest.mark.parametrize(("place", "tap"), [(0, -1), (0, 9), (0, 10**6), (0, 0), (3, 5), (12, 6), (15, 8)])
def test_taps_that_are_not_of_the_image_are_refused(functions, place, tap):
    """Not of a window, or in the padding around each corner."""
    dy, taps = np.ones((1, 1, 4, 4), F4), np.full((1, 1, 4, 4), 4, np.int32)
    taps.flat[place] = tap
    with pytest.raises(ValueError, match="max_pool2d_grad: taps: got 1 outside of their window or of the image"):
        functions.max_pool2d_grad(dy, taps, dy.shape, (3, 3), stride=(1, 1), padding=(1, 1))


@each_backend
@pytest.mark.parametrize(("shape", "padding"), [((1, 1, 0, 4), 1), ((1, 1, 4, 4), 2)])
def test_a_window_without_any_of_the_image_has_no_largest_element(functions, shape, padding):
    with pytest.raises(ValueError, match=rf"max_pool2d: padding: got {padding}, expected some of H = {shape[2]}"):
        functions.max_pool2d(np.ones(shape, F4), (2, 2), stride=(1, 1), padding=(padding, padding))


@each_backend
def test_the_gradient_of_batch_norm_with_relu_and_residual_needs_y(functions):
    x, v = np.ones((2, 3, 2, 2), F4), np.ones(3, F4)
    options = {"training": True, "relu": True}
    functions.batch_norm_grad(x, x, None, v, v, v, v, residual=False, **options)
    with pytest.raises(TypeError, match="batch_norm_grad: y: got None"):
        functions.batch_norm_grad(x, x, None, v, v, v, v, residual=True, **options)
