"""NaN and infinity pass through the kernels as through NumPy: forward, and in every gradient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.registry import ON_KERNELS, REGISTRY

import tinyres as tr
from tinyres import Tensor
from tinyres.testing.strategies import numbers

F4 = np.float32

pytestmark = pytest.mark.usefixtures("one_thread")


def results(name, case, arrays, dy):
    """What an operation gives, and the gradients of all its inputs."""
    leaves = [Tensor(array, requires_grad=True) for array in arrays]
    y = REGISTRY[name].call(*leaves, **case.options)
    y.backward(dy if dy is not None else np.ones(y.shape, F4))
    return [y.data, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("name", sorted(ON_KERNELS))
@given(data=st.data())
def test_what_is_not_finite_is_so_in_numpy_too(name, data):
    entry = REGISTRY[name]
    case = data.draw(st.sampled_from([c for c in entry.cases if all(np.prod(s) for s in c.shapes)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    arrays = [numbers(rng, shape, F4, entry.values) for shape in case.shapes]
    with np.errstate(all="ignore"):
        shape = entry.call(*map(Tensor, arrays), **case.options).shape
        arrays.append(numbers(rng, shape, F4))
        for _ in range(data.draw(st.integers(1, 2))):
            array = arrays[data.draw(st.integers(0, len(arrays) - 1))]
            array.reshape(-1)[int(rng.integers(array.size))] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        found = results(name, case, arrays[:-1], arrays[-1])
        with tr.use_backend("reference"):
            expected = results(name, case, arrays[:-1], arrays[-1])
    for i, (kernel, numpy) in enumerate(zip(found, expected, strict=True)):
        ours, theirs = np.isfinite(kernel), np.isfinite(numpy)
        if name == "conv2d" and (case.options.get("groups", 1) > 1 or (i == 1 and not np.isfinite(arrays[1]).all())):
            # 0 times NaN: at the border the padding's zeros meet such a weight too, and what is not finite in one
            # narrow group meets the zeros between it and its neighbours
            assert not ours[~theirs].any()
        else:
            np.testing.assert_array_equal(ours, theirs)
