"""Functions for programs with several processes, named as in torch.distributed."""

from collections.abc import Iterable

import numpy as np

from tinyres.parallel.exchange import Exchange, Shards
from tinyres.parallel.world import world
from tinyres.tape import Array


def rank() -> int:
    """Number of this process, from 0.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.parallel.rank()
    0
    """
    return world().rank


def world_size() -> int:
    """Number of processes that work together.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.parallel.world_size()
    1
    """
    return world().size


def barrier() -> None:
    """Wait until all processes have called this.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.parallel.barrier()
    """
    world().barrier()


def broadcast(arrays: Array | Iterable[Array], source: int = 0) -> None:
    """Copy arrays of one process to all others, in place.

    Parameters
    ----------
    arrays : ndarray or iterable of ndarray
        They must have the same shapes and dtypes in all processes.
    source : int
        Rank of the process whose values are copied. ValueError if there is no such process.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.parallel.broadcast(np.arange(3.0))
    """
    if not 0 <= source < world().size:
        raise ValueError(f"source: got {source}, expected 0 to {world().size - 1}, the rank of a process")
    for array in [arrays] if isinstance(arrays, np.ndarray) else arrays:
        memory = np.ascontiguousarray(array)
        world().broadcast(memory, source)
        if memory is not array:
            array[...] = memory


def all_reduce(array: Array, op: str = "sum") -> Array:
    """Sum or mean of an array over all processes. All get the same result, to the last bit.

    Parameters
    ----------
    array : ndarray of floats
        It must have the same shape and dtype in all processes.
    op : str
        ``"sum"`` or ``"mean"``.

    Returns
    -------
    ndarray
        A new array, of the same shape and dtype.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.parallel.all_reduce(np.array([1.0, 2.0]))
    array([1., 2.])
    """
    if op not in ("sum", "mean"):
        raise ValueError(f"op: got {op!r}, expected 'sum' or 'mean'")
    array = np.asarray(array)
    exchange = Exchange(Shards(world().size, world()), [(array.size, array.dtype)], world().channels)
    exchange.put(0, world().rank, [array])
    (total,) = exchange.wait()
    if op == "mean":
        total = total / total.dtype.type(world().size)
    return total.reshape(array.shape)
