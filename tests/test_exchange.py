"""Tensors and other libraries' arrays in the same memory, models as ONNX files made elsewhere, objects as HTML."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres import Tensor, ops
from tinyres.kernels import memory
from tinyres.testing.strategies import ORDERS, in_order, shapes

pytestmark = pytest.mark.usefixtures("one_thread")

F4, F8 = np.float32, np.float64
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip(
        "torch", reason="compares with PyTorch, which is not installed: pip install torch==2.13.0"
    )


def outcome(function):
    """What a function returns, or the class of what it raises."""
    try:
        return function()
    except (ValueError, TypeError) as error:
        return type(error)


# ---------------------------------------------------------------- NumPy's protocol
@given(
    shapes(), st.sampled_from(ORDERS), st.sampled_from([F4, F8]), st.sampled_from([None, F4, F8, np.int64]),
    st.sampled_from([None, True, False]), st.booleans(), seeds,
)  # fmt: skip
def test_a_tensor_becomes_an_array_as_its_array_does(shape, order, own, dtype, copy, writeable, seed):
    a = in_order(np.random.default_rng(seed).standard_normal(shape).astype(own), order)
    a.flags.writeable = writeable
    t = Tensor._wrap(a)
    expected, found = (outcome(lambda x=x: np.array(x, dtype, copy=copy)) for x in (a, t))
    if expected is ValueError:
        assert copy is False
        assert found is ValueError
        return
    assert found.dtype == expected.dtype
    assert found.strides == expected.strides
    np.testing.assert_array_equal(found, expected)
    assert np.shares_memory(found, a) == np.shares_memory(expected, a)
    assert found.flags.writeable == expected.flags.writeable
    assert copy is not True or not np.shares_memory(found, a)


def test_an_array_of_a_tensor_is_its_data_and_of_one_with_a_gradient_refused():
    t = Tensor([1.0, 2.0], requires_grad=True)
    for copy in (None, True, False):
        with pytest.raises(TypeError, match=r"would lose its gradient: .* t.detach\(\)"):
            np.array(t, copy=copy)
        with tr.no_grad():
            np.testing.assert_array_equal(np.array(t, copy=copy), [1, 2])
    assert np.asarray(t.detach()) is t.data
    y = t * t
    assert not np.asarray(t.detach()).flags.writeable  # the tape needs it
    assert np.array(t.detach()).flags.writeable  # this is a copy
    y.sum().backward()
    assert np.asarray(t.detach()).flags.writeable


# ---------------------------------------------------------------- DLPack
def layouts(torch):
    """The same shape and numbers, lying in memory in several ways."""
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    wide = torch.zeros(2, 3, 8, 10)
    wide[:, :, ::2, 1::2] = images
    return {
        "channels first": images.clone(),
        "channels last": images.clone().to(memory_format=torch.channels_last),
        "part": wide[:, :, ::2, 1::2],
    }


@pytest.mark.parametrize("layout", ["channels first", "channels last", "part"])
def test_memory_of_pytorch_is_shared(torch, layout):
    theirs = layouts(torch)[layout]
    ours = tr.from_dlpack(theirs)
    assert (ours.shape, ours.dtype, ours.requires_grad) == ((2, 3, 4, 5), F4, False)
    assert ours.data.strides == tuple(4 * s for s in theirs.stride())
    np.testing.assert_array_equal(ours.data, np.arange(120.0).reshape(2, 3, 4, 5))
    theirs[1, 2, 3, 4] = -1.0
    assert ours.data[1, 2, 3, 4] == -1
    ours.data[0, 1, 2, 3] = -2.0
    assert theirs[0, 1, 2, 3] == -2
    back = torch.from_dlpack(ours)
    assert back.data_ptr() == theirs.data_ptr()
    assert back.stride() == theirs.stride()


def test_memory_of_ours_is_shared_with_pytorch(torch):
    """A channels-last view of the pool's memory, as every activation is."""
    with tr.no_grad():
        ours = ops.relu(ops.conv2d(tr.randn(2, 3, 64, 64), tr.randn(16, 3, 3, 3), padding=1))
    assert ours.data.nbytes >= memory.SMALLEST
    theirs = torch.from_dlpack(ours)
    assert theirs.is_contiguous(memory_format=torch.channels_last)
    assert theirs.data_ptr() == ours.data.ctypes.data
    theirs[1, 15, 63, 63] = 7.0
    assert ours.data[1, 15, 63, 63] == 7
    ours.data[0, 0, 0, 0] = 8.0
    assert theirs[0, 0, 0, 0] == 8


@given(shapes(), st.sampled_from([o for o in ORDERS if o != "broadcast"]), st.sampled_from([F4, F8]), seeds)
def test_there_and_back_is_the_same_memory(shape, order, dtype, seed):
    a = in_order(np.random.default_rng(seed).standard_normal(shape).astype(dtype), order)
    t = Tensor._wrap(a)
    back = tr.from_dlpack(t)
    assert (back.shape, back.dtype) == (t.shape, t.dtype)
    np.testing.assert_array_equal(back.data, a)
    a += 1
    np.testing.assert_array_equal(back.data, a)


def test_memory_that_is_shared_is_not_given_to_another_array(torch):
    """The pool takes memory back with the last view of an array: the other library's is one."""
    shape = (512, 1024)  # 2 MiB
    before = memory._pool.held()
    array = memory.empty(shape, F4)
    array[...] = 3
    place, t = array.ctypes.data, Tensor._wrap(array)
    theirs, there = torch.from_dlpack(t), np.from_dlpack(t)
    del array, t
    gc.collect()
    assert memory._pool.held() == before + 4 * 512 * 1024
    others = [memory.zeros(shape, F4) for _ in range(4)]
    assert place not in [other.ctypes.data for other in others]
    assert bool((theirs == 3).all())
    del theirs
    assert memory._pool.held() == before + 5 * 4 * 512 * 1024  # NumPy still has it
    np.testing.assert_array_equal(there, 3)
    del there, others
    assert memory._pool.held() == before
    assert memory.empty(shape, F4).ctypes.data == place  # and now it is


def test_memory_of_pytorch_stays_as_long_as_ours(torch):
    theirs = torch.full((256, 256), 3.0)
    place = theirs.data_ptr()
    ours = tr.from_dlpack(theirs)
    view = ours.reshape(-1)
    del theirs, ours
    gc.collect()
    others = [torch.zeros(256, 256) for _ in range(4)]
    assert place not in [other.data_ptr() for other in others]
    np.testing.assert_array_equal(view.data, 3)


def test_what_is_shared_can_be_trained(torch):
    """It is read-only while the tape needs it, and can be written to again afterwards, which NumPy would not allow."""
    theirs = torch.ones(4, 3)
    p = tr.from_dlpack(theirs)
    p.requires_grad = True
    y = (p * p).sum()
    with pytest.raises(ValueError, match="read-only"):
        p.data[0, 0] = 5
    y.backward()
    tr.optim.SGD([p], lr=0.25).step()
    assert p.data.flags.writeable
    np.testing.assert_array_equal(theirs.numpy(), np.full((4, 3), 0.5))  # 1 - 0.25 * 2


def test_values_that_must_stay_are_not_shared(torch):
    t = Tensor(np.ones((2, 2), F4), requires_grad=True)
    for share in (torch.from_dlpack, np.from_dlpack, tr.from_dlpack):
        with pytest.raises((BufferError, ValueError), match=r"requires a gradient, .* share t.detach\(\)"):
            share(t)
    y = t * t
    for held in (t.detach(), Tensor._wrap(np.broadcast_to(F4(1), (2, 2)))):
        for share in (torch.from_dlpack, np.from_dlpack, tr.from_dlpack):
            with pytest.raises((BufferError, ValueError), match=r"read-only, .* share a copy, tr.tensor\(t\)"):
                share(held)
        copy = torch.from_dlpack(tr.tensor(held))
        copy += 1
        assert bool((copy == 2).all())
        np.testing.assert_array_equal(held.data, 1)
    y.sum().backward()
    theirs = torch.from_dlpack(t.detach())
    theirs[0, 0] = 5.0
    assert t.data[0, 0] == 5
    assert t.detach().__dlpack_device__() == (1, 0)


def test_an_array_that_is_read_only_stays_so():
    """As those of JAX are."""
    a = np.arange(3.0)
    a.flags.writeable = False
    t = tr.from_dlpack(a)
    assert np.shares_memory(t.data, a)
    assert not t.data.flags.writeable
    t.requires_grad = True
    (t * t).sum().backward()
    np.testing.assert_array_equal(t.grad, 2 * a)
    assert not t.data.flags.writeable


class Elsewhere:
    """An array on the second graphics card."""

    device = "cuda:1"

    def __dlpack_device__(self):
        return 2, 1

    def __dlpack__(self, **options):
        raise AssertionError("never asked for")


def test_what_cannot_be_shared_is_refused(torch):
    for wrong, error, message in [
        ([1.0], TypeError, "x: got list, expected an array with __dlpack__; tr.tensor copies others"),
        (Elsewhere(), ValueError, "x: got an array on cuda:1, expected it in the processor's memory"),
        (torch.ones(2, device="meta"), ValueError, "x: got an array on meta, expected"),
        (torch.ones(2, dtype=torch.bfloat16), TypeError, "x: got dtype torch.bfloat16, expected float32 or float64"),
        (torch.ones(2, dtype=torch.float16), TypeError, "x: got dtype torch.float16, expected float32 or float64"),
        (np.arange(2), TypeError, "x: got dtype int64, expected float32 or float64"),
        (torch.ones(2, requires_grad=True), ValueError, "x: its library does not share it: .* use tensor.detach"),
    ]:
        with pytest.raises(error, match=message):
            tr.from_dlpack(wrong)
