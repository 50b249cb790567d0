"""The optimizer's update of one parameter, in one pass over it, its gradient and the optimizer's state."""

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.arrays import check, check_in_place
from tinyres.kernels.compile import contiguous, inner, jit
from tinyres.kernels.elementwise import share
from tinyres.kernels.simd import fma, lanes, load, single, splat, sqrt, store, wide


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
    _put_back((p, flat[0]), (v, flat[2]))


def adamw_update(p, g, m, v, *, lr, beta1, beta2, eps, weight_decay, step):
    """With g's running mean m and that of its square v, at step t = 1, 2, ...:

    m += (1 - beta1) (g - m), v += (1 - beta2) (g^2 - v), then
    p = p (1 - lr weight_decay) - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps).

    All four have one shape and dtype; p, m and v are changed in place.
    """
    check("adamw_update", p, g, m, v)
    check_in_place("adamw_update", "p", p, g=g, m=m, v=v)
    check_in_place("adamw_update", "m", m, g=g, v=v)
    check_in_place("adamw_update", "v", v, g=g)
    rate, scale = lr / (1 - beta1**step), np.sqrt(1 - beta2**step)
    numbers = np.array([1 - lr * weight_decay, 1 - beta1, 1 - beta2, 1 / scale, eps, rate], p.dtype)
    flat = [contiguous(a).reshape(-1) for a in (p, g, m, v)]
    _adamw(*flat, numbers, get_num_threads())
    _put_back((p, flat[0]), (m, flat[2]), (v, flat[3]))


def _put_back(*pairs):
    """What has changed into arrays of another memory order, of which the kernel had copies."""
    for array, changed in pairs:
        if not array.flags.carray:
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


@jit(parallel=True)
def _adamw(p, g, m, v, numbers, workers):
    """Cost: reads p, g, m and v, writes p, m and v."""
    for worker in prange(workers):
        start, stop, rest = share(p, np.int64(worker), workers)
        _adamw_in(wide(p), p, g, m, v, numbers, start, stop)
        if worker == 0:
            _adamw_in(single(p), p, g, m, v, numbers, rest, p.size)


@inner
def _adamw_in(zero, p, g, m, v, numbers, start, stop):
    keep, of_mean, of_square = splat(zero, numbers[0]), splat(zero, numbers[1]), splat(zero, numbers[2])
    scale, eps, rate = splat(zero, numbers[3]), splat(zero, numbers[4]), splat(zero, numbers[5])
    for i in range(start, stop, lanes(zero)):
        gradient, mean, square = load(zero, g, i), load(zero, m, i), load(zero, v, i)
        mean = fma(of_mean, gradient - mean, mean)
        square = fma(of_square, gradient * gradient - square, square)
        store(m, i, mean)
        store(v, i, square)
        store(p, i, keep * load(zero, p, i) - rate * mean / fma(sqrt(square), scale, eps))
