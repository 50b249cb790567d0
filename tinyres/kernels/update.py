"""The optimizer's update of all parameters of a group: one pass over parameters, gradients and optimizer state.

Most parameters have few numbers (two thirds of ResNet-20's have 16 to 64), and launching a kernel takes longer than
updating them. So one launch updates all parameters: it takes a table of their addresses, and its threads divide the
numbers among them, not the parameters.
"""

import weakref
from typing import Any

import numpy as np
from numba import get_num_threads, prange

from tinyres.kernels.arrays import check_each, check_in_place
from tinyres.kernels.compile import inner, jit
from tinyres.kernels.layout import contiguous
from tinyres.kernels.simd import address_of, fma, lanes, load, single, splat, sqrt, store, wide

MOST = 16  # groups of parameters that are remembered
_remembered: dict[Any, Any] = {}  # for each group: its arrays in the last call (weak references), and their tables


def sgd_update(p, g, v, *, lr, momentum, weight_decay, nesterov):
    """With g += weight_decay * p: v = momentum * v + g, then p -= lr * v, or lr * (g + momentum * v) with Nesterov.

    The arguments are lists with one array for each parameter; the three arrays of a parameter have the same shape and
    dtype. p and v are changed in place.
    """
    in_place = "p", "v"
    for dtype, table, copies in _tables("sgd_update", in_place, p=p, g=g, v=v):
        _sgd(table, np.array([lr, momentum, weight_decay], dtype), nesterov, get_num_threads())
        _put_back(copies, in_place)


# every number of the paper's algorithm, by name
def adamw_update(p, g, m, v, *, lr, beta1, beta2, eps, weight_decay, step):
    """With the running mean m of g and the running mean v of g^2, at step t = 1, 2, ...:

    m += (1 - beta1) (g - m), v += (1 - beta2) (g^2 - v), then
    p = p (1 - lr weight_decay) - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps).

    The arguments are lists with one array for each parameter; the four arrays of a parameter have the same shape and
    dtype. p, m and v are changed in place.
    """
    rate, scale = lr / (1 - beta1**step), np.sqrt(1 - beta2**step)
    in_place = "p", "m", "v"
    for dtype, table, copies in _tables("adamw_update", in_place, p=p, g=g, m=m, v=v):
        numbers = np.array([1 - lr * weight_decay, 1 - beta1, 1 - beta2, 1 / scale, eps, rate], dtype)
        _adamw(table, numbers, get_num_threads())
        _put_back(copies, in_place)


def _tables(kernel, in_place, **lists):
    """For each dtype of the parameters, a table and a list of copies.

    A row of the table has the size and the addresses of the arrays of a parameter. The list has (name, array, copy) for
    arrays that are not in C order, since the table points to copies of them. The result for the arrays of the last step
    is remembered: a repeated step has the same arrays.
    """
    arrays = [array for many in lists.values() for array in many]
    key = kernel, *map(id, arrays[:1])
    refs, tables = _remembered.get(key, ([], []))
    if len(refs) == len(arrays) and all(ref() is array for ref, array in zip(refs, arrays, strict=True)):
        for name in in_place:
            for array in lists[name]:
                check_in_place(kernel, name, array)
        return tables
    check_each(kernel, in_place, **lists)
    found = {}
    for of_one in zip(*lists.values(), strict=True):
        flat = [contiguous(np.asarray(array)) for array in of_one]
        rows, copies = found.setdefault(flat[0].dtype, ([], []))
        rows.append((flat[0].size, *[array.ctypes.data for array in flat]))
        both = zip(lists, of_one, flat, strict=True)
        copies += [(name, array, copy) for name, array, copy in both if not np.may_share_memory(array, copy)]
    tables = [(dtype, np.array(rows, np.int64), copies) for dtype, (rows, copies) in found.items()]
    if len(_remembered) >= MOST:
        _remembered.clear()
    if not any(copies for _, _, copies in tables):
        _remembered[key] = [weakref.ref(array) for array in arrays], tables
    return tables


def _put_back(copies, in_place):
    """Write the changed copies back to the arrays that they are copies of."""
    for name, array, copy in copies:
        if name in in_place:
            array[...] = copy


@jit(parallel=True)
def _sgd(table, numbers, nesterov, workers):
    """Cost: reads p, g and v, writes p and v."""
    for worker in prange(workers):
        _sgd_share(table, numbers, nesterov, np.int64(worker), workers)


@inner
def _sgd_share(table, numbers, nesterov, worker, workers):
    before = 0  # numbers in all earlier parameters
    for row in table:
        start, whole, stop = _part(numbers, table, before, row[0], worker, workers)
        p, g, v = address_of(numbers, row[1]), address_of(numbers, row[2]), address_of(numbers, row[3])
        _sgd_in(wide(numbers), p, g, v, numbers, nesterov, start, whole)
        _sgd_in(single(numbers), p, g, v, numbers, nesterov, whole, stop)
        before += row[0]


@inner
def _part(numbers, table, before, size, worker, workers):
    """A worker's share of a parameter's numbers: `start` to `whole` in whole vectors, then `whole` to `stop`."""
    total, n = table[:, 0].sum(), lanes(wide(numbers))
    start = min(max(worker * total // workers - before, 0), size)
    stop = min(max((worker + 1) * total // workers - before, 0), size)
    return start, start + (stop - start) // n * n, stop


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
def _adamw(table, numbers, workers):
    """Cost: reads p, g, m and v, writes p, m and v."""
    for worker in prange(workers):
        _adamw_share(table, numbers, np.int64(worker), workers)


@inner
def _adamw_share(table, numbers, worker, workers):
    before = 0  # numbers in all earlier parameters
    for row in table:
        start, whole, stop = _part(numbers, table, before, row[0], worker, workers)
        p, g = address_of(numbers, row[1]), address_of(numbers, row[2])
        m, v = address_of(numbers, row[3]), address_of(numbers, row[4])
        _adamw_in(wide(numbers), p, g, m, v, numbers, start, whole)
        _adamw_in(single(numbers), p, g, m, v, numbers, whole, stop)
        before += row[0]


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
