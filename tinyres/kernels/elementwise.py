"""Elementwise functions: ReLU, its gradient, the error function, and a sum in place."""

import math

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.arrays import check, check_in_place, overlap
from tinyres.kernels.compile import inner, jit
from tinyres.kernels.launch import launch
from tinyres.kernels.layout import channels_last, contiguous
from tinyres.kernels.memory import empty
from tinyres.kernels.simd import lanes, load, single, store, where_positive, wide


def relu(x):
    """max(x, 0), NaN where x is NaN. Any shape; the result has the memory layout of x."""
    check("relu", x)
    flat = _flat(x)
    y = empty(flat.shape, flat.dtype)
    _where_positive(flat, flat, y, get_num_threads())
    return _like(y, x)


def relu_grad(dy, y):
    """dy where y > 0 (or is NaN), else 0. y is the result of ReLU."""
    check("relu_grad", dy, y)
    flat = _flat(y)
    dx = empty(flat.shape, flat.dtype)
    _where_positive(_flat(dy), flat, dx, get_num_threads())
    return _like(dx, y)


def erf(x):
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x, by the C library's function. Any shape.

    It computes one number at a time, on all threads.
    """
    check("erf", x)
    flat = _flat(x)
    y = empty(flat.shape, flat.dtype)
    _erf(flat, y, get_num_threads())
    return _like(y, x)


def add_to(total, part):
    """total += part, on all threads if both have the same memory layout."""
    check("add_to", total, part)
    check_in_place("add_to", "total", total)
    if (
        total.size
        and total.strides == part.strides
        and total.ndim == 4
        and total.transpose(0, 2, 3, 1).flags.carray
        and not overlap(total, part)
    ):
        _add_to(_flat(total), _flat(part), get_num_threads())
    else:
        launch(np.add, total, part, total)


def _flat(x):
    """All elements in memory order: channels-last for images."""
    return (channels_last(x) if x.ndim == 4 else contiguous(x)).reshape(-1)


def _like(flat, x):
    """Give flat numbers the shape and memory layout of x: the inverse of `_flat`."""
    if x.ndim != 4:
        return flat.reshape(x.shape)
    n, c, h, w = x.shape
    return flat.reshape(n, h, w, c).transpose(0, 3, 1, 2)


@inner
def share(out, worker, workers):
    """First and last index of a worker's share of whole vectors, and the index of the numbers that fill no vector."""
    n = lanes(wide(out))
    vectors = out.size // n
    return worker * vectors // workers * n, (worker + 1) * vectors // workers * n, vectors * n


@jit(parallel=True)
def _where_positive(source, test, out, workers):
    """out = source where test > 0 or is NaN, else 0: ReLU with test = source, its gradient with test = y."""
    for worker in prange(workers):
        start, stop, rest = share(out, np.int64(worker), workers)
        _where_positive_in(wide(out), source, test, out, start, stop)
        if worker == 0:
            _where_positive_in(single(out), source, test, out, rest, out.size)


@inner
def _where_positive_in(zero, source, test, out, start, stop):
    for i in range(start, stop, lanes(zero)):
        store(out, i, where_positive(load(zero, test, i), load(zero, source, i), zero))


@jit(parallel=True)
def _erf(x, y, workers):
    for worker in prange(workers):
        k = np.int64(worker)
        for i in range(k * x.size // workers, (k + 1) * x.size // workers):
            y[i] = math.erf(x[i])


@jit(parallel=True)
def _add_to(total, part, workers):
    """total += part."""
    for worker in prange(workers):
        start, stop, rest = share(total, np.int64(worker), workers)
        _add_in(wide(total), total, part, start, stop)
        if worker == 0:
            _add_in(single(total), total, part, rest, total.size)


@inner
def _add_in(zero, total, part, start, stop):
    for i in range(start, stop, lanes(zero)):
        store(total, i, load(zero, total, i) + load(zero, part, i))
