"""What a convolution does for the batch norms around it: no bit differs of what it loads, little of what it measures.

A batch norm with ReLU between two convolutions is computed as the second loads it; its statistics are measured as the
first stores its result.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_winograd import problem, wherever_it_fits  # noqa: F401

import tinyres as tr
from tinyres import kernels, nn, ops, reference
from tinyres.kernels import norm, winograd
from tinyres.kernels.pending import Pending
from tinyres.testing.strategies import numbers

F4, F8 = np.float32, np.float64
pytestmark = pytest.mark.usefixtures("one_thread", "wherever_it_fits")


@st.composite
def problems(draw):
    """3x3 convolutions of stride 1, of images that leave part of a tile unused, or need several strips and parts."""
    n = draw(st.sampled_from([1, 2, 3, 150]))  # the last has more rows of tiles than there are parts
    size = draw(st.tuples(*[st.integers(1, 13 if n < 4 else 6)] * 2))
    channels = draw(st.tuples(*[st.sampled_from([16, 32, 48])] * 2))
    padding = draw(st.tuples(*[st.integers(1, 2)] * 2))
    dtype = draw(st.sampled_from([F4, F8]))
    return problem(n, channels, size, padding, dtype, seed=draw(st.integers(0, 99)))


def pending(x, seed=0, apply=norm.batch_norm_apply):
    rng, c = np.random.default_rng(seed), x.shape[1]
    mean, scale, bias = (numbers(rng, (c,), x.dtype) for _ in range(3))
    return Pending(apply, x, mean, scale, bias)


# ---------------------------------------------------------------- kernels
@given(p=problems())
def test_convolutions_of_what_is_pending_have_the_bits_of_what_was_computed(p):
    x, values = pending(p.x), pending(p.x).array()
    assert (x.shape, x.dtype, x.ndim, x.size, x.nbytes) == (
        values.shape, values.dtype, values.ndim, values.size, values.nbytes,
    )  # fmt: skip
    for got, expected in (
        (winograd.conv2d(x, p.weight, p.bias, **p.options), winograd.conv2d(values, p.weight, p.bias, **p.options)),
        (
            winograd.conv2d_weight_grad(p.dy, x, p.weight.shape, **p.options),
            winograd.conv2d_weight_grad(p.dy, values, p.weight.shape, **p.options),
        ),
    ):
        np.testing.assert_array_equal(got, expected)
    assert x.y is None  # nobody has computed it
    np.testing.assert_array_equal(np.asarray(x), values)


@given(p=problems(), offset=st.sampled_from([0, 3, 1000]), stride=st.sampled_from([1, 2]))
def test_statistics_are_those_of_the_result(p, offset, stride):
    p.weight += offset  # far from 0, where E[x^2] - E[x]^2 would lose all digits
    x, options = (pending(p.x), p.options) if stride == 1 else (p.x, {"stride": (2, 2), "padding": (1, 1)})
    y, mean, var = winograd.conv2d_and_statistics(x, p.weight, **options)
    np.testing.assert_array_equal(y, winograd.conv2d(x, p.weight, **options))
    y = y.astype(F8)
    spread = y.std((0, 2, 3)) + np.abs(y).max() * np.finfo(F8).eps
    tolerance = (
        64 * np.finfo(p.x.dtype).eps * spread
    )  # of sums of up to 30 numbers, each rounded, and then of two parts
    assert (np.abs(mean - y.mean((0, 2, 3))) <= tolerance + 1e-15 * np.abs(y).max()).all()
    assert (np.abs(np.sqrt(var) - y.std((0, 2, 3))) <= tolerance).all()


@pytest.mark.parametrize("n", [1, 5, 40, 150])
def test_statistics_do_not_depend_on_threads(n):
    p, found = problem(n, (16, 32), (9, 11), (1, 1), F4), []
    before = tr.num_threads()
    try:
        for threads in {1, tr.backend.max_threads()}:
            tr.set_num_threads(threads)
            found.append(winograd.conv2d_and_statistics(p.x, p.weight, **p.options))
    finally:
        tr.set_num_threads(before)
    for results in zip(*found, strict=True):
        assert len({r.tobytes() for r in results}) == 1


def test_a_nan_or_infinity_is_not_hidden():
    p = problem(2, (16, 16), (8, 8), (1, 1), F4)
    p.x[1, 3, 2, 2] = np.nan
    y, mean, var = winograd.conv2d_and_statistics(pending(p.x), p.weight, **p.options)
    for array in (y[1, :, 2, 2], mean, var):
        assert np.isnan(array).all()


def test_padding_is_zero_after_the_batch_norm_not_before():
    p = problem(1, (16, 16), (4, 4), (1, 1), F8)
    x = Pending(reference.batch_norm_apply, p.x, np.zeros(16), np.ones(16), np.full(16, 5.0))
    expected = reference.conv2d(x.array(), p.weight, **p.options)
    x.y = None
    np.testing.assert_allclose(kernels.conv2d(x, p.weight, **p.options), expected, rtol=1e-9, atol=1e-9)


def test_what_is_not_measured_is_refused_in_words(monkeypatch):
    p = problem(1, (16, 16), (4, 4), (1, 1), F4)
    monkeypatch.setattr(winograd, "pays", lambda *_, **__: False)
    with pytest.raises(
        ValueError, match=r"conv2d_and_statistics: x, weight: got shapes .* whose convolution is not measured"
    ):
        winograd.conv2d_and_statistics(p.x, p.weight, **p.options)
    with pytest.raises(TypeError, match="x: got Pending, expected a NumPy array"):
        winograd.conv2d(pending(p.x), p.weight, **p.options)


# ---------------------------------------------------------------- on the tape
def block(dtype=F4):
    """Convolution, batch norm with ReLU, convolution."""
    tr.manual_seed(0)
    conv1, bn, conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1)
    net = nn.Sequential(conv1, bn, conv2).astype(dtype)
    bn.bias.data[...] = np.linspace(-1, 1, 16)
    rng = np.random.default_rng(0)
    return net, conv1, bn, conv2, tr.Tensor(numbers(rng, (3, 16, 6, 7), dtype), requires_grad=True)


def run(look, dtype=F4):
    """Values and gradients, where `look` is shown the batch norm's result before it is used."""
    net, conv1, bn, conv2, x = block(dtype)
    y = bn(conv1(x), relu=True)
    look(y)
    z = conv2(y)
    (z * z).sum().backward()
    return y, [z.data, x.grad, *(p.grad for p in net.parameters()), bn.running_mean, bn.running_var]


LOOKS = {
    "nobody": lambda y: None,
    "data": lambda y: y.data,
    "repr": repr,
    "hook": lambda y: y.register_hook(lambda g: None),
    "numpy": lambda y: np.mean(y.detach()),
    "another operation": lambda y: y.max(),
}


@pytest.mark.parametrize("look", LOOKS)
def test_nobody_sees_the_difference(look):
    y, found = run(LOOKS[look])
    assert y._pending is not None
    assert (y._pending.y is None) == (look in ("nobody", "hook"))
    _, expected = run(LOOKS["data"])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_strided_convolution_takes_no_pending_but_is_measured():
    """What is pending is computed for it, and what follows it is pending again."""
    _, conv1, bn, conv2, x = block()
    strided = nn.Conv2d(16, 16, 3, stride=2, padding=1, bias=False)
    y = bn(conv1(x), relu=True)
    z = bn(strided(y), relu=True)
    assert y._pending is not None
    assert y._pending.y is not None
    assert z._pending is not None
    conv2(z).sum().backward()
    assert z._pending.y is None


def test_gradients_through_what_is_pending_are_those_of_finite_differences():
    _, conv1, bn, conv2, x = block(F8)

    def fn(x, weight, gamma, beta):
        y = ops.batch_norm(
            ops.conv2d(x, weight, padding=1, measure=True), np.zeros(16), np.ones(16), gamma, beta, training=True,
            relu=True,
        )  # fmt: skip
        assert y._pending is not None
        return ops.conv2d(y, conv2.weight.detach(), padding=1)

    tr.testing.gradcheck(fn, x.data[:1], conv1.weight.data, bn.weight.data, bn.bias.data)


def test_values_that_are_asked_for_late_are_those_of_the_forward_pass():
    net, conv1, bn, conv2, x = block()
    y = bn(conv1(x), relu=True)
    expected = np.maximum(
        ops.batch_norm(conv1(x).detach(), *np.ones((2, 16), F4), bn.weight, bn.bias, training=True).data, 0
    )
    conv2(y).sum().backward()
    for p in net.parameters():
        p.data = p.data + 1  # as an optimizer's step does
    bn.bias.data[...] += 1
    np.testing.assert_allclose(y.data, expected, atol=1e-5)


def test_what_was_measured_stays_as_it_was_measured():
    _, conv1, bn, _, x = block()
    measured = conv1(x)
    with pytest.raises(ValueError, match="read-only"):
        measured.data[...] = 0
    measured.data = measured.data + 7  # other values, which nobody has measured
    np.testing.assert_allclose(bn(measured).data.mean((0, 2, 3)), bn.bias.data, atol=1e-5)


@pytest.mark.parametrize("also", [{"relu": True}, {"bias": np.zeros(16)}, {"residual": np.zeros((3, 16, 6, 7))}])
def test_what_is_done_to_the_result_is_not_measured(also):
    x, weight = (tr.Tensor(np.ones(shape)) for shape in ((3, 16, 6, 7), (16, 16, 3, 3)))
    with pytest.raises(ValueError, match="measure: got True with a bias, a residual or relu"):
        ops.conv2d(x, weight, padding=1, measure=True, **{k: v if v is True else tr.Tensor(v) for k, v in also.items()})


def test_only_training_measures_and_only_without_a_bias():
    _, conv1, bn, conv2, x = block()
    assert conv1(x)._statistics is not None
    assert conv2(x)._statistics is None
    conv1.eval()
    assert conv1(x)._statistics is None
    assert bn(conv1.train()(x))._pending is None  # without ReLU
    with tr.use_backend("reference"):
        assert bn(conv1(x), relu=True)._pending is None
    with tr.use_algorithm("direct"):
        assert bn(conv1(x), relu=True)._pending is None


def test_a_chain_holds_no_array_for_what_is_pending():
    _, conv1, bn, conv2, x = block()
    measured = conv1(x)
    y = bn(measured, relu=True)
    z = conv2(y)
    held = {id(a) for node in (y._node, z._node) for a in node.saved}
    assert id(measured.data) in held
    assert y._pending.y is None
    assert not measured.data.flags.writeable
