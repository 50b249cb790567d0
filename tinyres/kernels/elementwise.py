"""Functions of each element: ReLU, its gradient, and a sum in place."""

from numba import get_num_threads, prange

from tinyres.kernels.compile import contiguous, jit
from tinyres.kernels.conv import channels_last
from tinyres.kernels.memory import empty


def relu(x):
    """max(x, 0), NaN where x is NaN. Any shape; the result has x's memory layout."""
    flat = _flat(x)
    y = empty(flat.shape, flat.dtype)
    _where_positive(flat, flat, y, get_num_threads())
    return _like(y, x)


def relu_grad(dy, y):
    """dy where y > 0 (or is NaN), else 0. y is ReLU's result."""
    flat = _flat(y)
    dx = empty(flat.shape, flat.dtype)
    _where_positive(_flat(dy), flat, dx, get_num_threads())
    return _like(dx, y)


def add_to(total, part):
    """total += part, on all threads where both lie alike in memory."""
    if (
        total.size
        and total.strides == part.strides
        and total.ndim == 4
        and total.transpose(0, 2, 3, 1).flags.c_contiguous
    ):
        _add_to(_flat(total), _flat(part), get_num_threads())
    else:
        total += part


def _flat(x):
    """All elements in the order of memory: channels-last for images."""
    return (channels_last(x) if x.ndim == 4 else contiguous(x)).reshape(-1)


def _like(flat, x):
    """Undo `_flat`."""
    if x.ndim != 4:
        return flat.reshape(x.shape)
    n, c, h, w = x.shape
    return flat.reshape(n, h, w, c).transpose(0, 3, 1, 2)


@jit(parallel=True)
def _where_positive(source, test, out, workers):
    """out = source where test > 0 or is NaN, else 0: ReLU with test = source, its gradient with test = y."""
    for worker in prange(workers):
        for i in range(worker * out.size // workers, (worker + 1) * out.size // workers):
            out[i] = 0 if test[i] <= 0 else source[i]


@jit(parallel=True)
def _add_to(total, part, workers):
    """total += part."""
    for worker in prange(workers):
        for i in range(worker * total.size // workers, (worker + 1) * total.size // workers):
            total[i] += part[i]
