"""The optimizer's update of one parameter, in one pass over it, its gradient and its momentum."""

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.arrays import check, check_in_place
from tinyres.kernels.compile import contiguous, inner, jit
from tinyres.kernels.elementwise import share
from tinyres.kernels.simd import fma, lanes, load, single, splat, store, wide


def sgd_update(p, g, v, *, lr, momentum, weight_decay, nesterov):
    """With g += weight_decay * p: v = momentum * v + g, then p -= lr * v, or lr * (g + momentum * v) with Nesterov.

    All three have one shape and dtype; p and v are changed in place.
    """
    check("sgd_update", p, g, v)
    check_in_place("sgd_update", "p", p, g=g, v=v)
    check_in_place("sgd_update", "v", v, g=g)
    numbers = np.array([lr, momentum, weight_decay], p.dtype)
    flat = [contiguous(a).reshape(-1) for a in (p, g, v)]
    _sgd(*flat, numbers, nesterov, get_num_threads())
    for array, changed in ((p, flat[0]), (v, flat[2])):
        if not array.flags.carray:  # then what changed is a copy
            array[...] = changed.reshape(array.shape)


@jit(parallel=True)
def _sgd(p, g, v, numbers, nesterov, workers):
    """Cost: reads p, g and v, writes p and v."""
    for worker in prange(workers):
        start, stop, rest = share(p, np.int64(worker), workers)
        _sgd_in(wide(p), p, g, v, numbers, nesterov, start, stop)
        if worker == 0:
            _sgd_in(single(p), p, g, v, numbers, nesterov, rest, p.size)


@inner
def _sgd_in(zero, p, g, v, numbers, nesterov, start, stop):
    lr, momentum, decay = splat(zero, -numbers[0]), splat(zero, numbers[1]), splat(zero, numbers[2])
    for i in range(start, stop, lanes(zero)):
        before = load(zero, p, i)
        gradient = fma(decay, before, load(zero, g, i))
        velocity = fma(momentum, load(zero, v, i), gradient)
        store(v, i, velocity)
        way = fma(momentum, velocity, gradient) if nesterov else velocity
        store(p, i, fma(lr, way, before))
