"""New tensors: from given numbers, from another library's memory, filled with one number, or random."""

import ctypes
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from tinyres.nn import init
from tinyres.tape import Array
from tinyres.tensor import DTYPES, Tensor, as_dtype

ON_THE_PROCESSOR = (1, 3, 11)  # DLPack's device numbers for main memory, also if CUDA or ROCm has pinned it


def tensor(data: Any, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor with a copy of these numbers. It is the same as `Tensor`, with PyTorch's name.

    Parameters
    ----------
    data : array_like
    dtype : float32 or float64, optional
        By default that of `data`, or float32 if it is neither.
    requires_grad : bool

    Raises
    ------
    TypeError
        If `data` does not consist of numbers, or has tensors that require a gradient (for these, see `ops.stack`).

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.tensor([1, 2], dtype=tr.float64)
    Tensor([1., 2.], dtype=float64)
    """
    return Tensor(data, requires_grad, dtype=dtype)


def from_dlpack(x: Any) -> Tensor:
    """A tensor that shares the memory of another library's array. A change on one side is seen on the other.

    Parameters
    ----------
    x : object with ``__dlpack__`` and ``__dlpack_device__``
        An array of PyTorch, NumPy, JAX or another library that follows the array API standard. Its dtype is float32 or
        float64. Any strides are allowed, such as those of PyTorch's channels-last images. The tensor keeps it alive.

    Returns
    -------
    Tensor
        A leaf that requires no gradient. It is read-only if `x` is (as arrays of JAX are).

    Raises
    ------
    TypeError
        If `x` does not support DLPack, or has another dtype.
    ValueError
        If it is not in main memory, or its library refuses to share it: PyTorch does so for a tensor that requires a
        gradient.

    Notes
    -----
    The way back is ``torch.from_dlpack(t)``. See https://dmlc.github.io/dlpack/latest/.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> theirs = np.zeros(2)
    >>> ours = tr.from_dlpack(theirs)
    >>> theirs[0] = 1
    >>> ours
    Tensor([1., 0.], dtype=float64)
    """
    if not (hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__")):
        raise TypeError(f"x: got {type(x).__name__}, expected an array with __dlpack__; tr.tensor copies others")
    if _device(x) not in ON_THE_PROCESSOR:
        raise ValueError(
            f"x: got an array on {getattr(x, 'device', 'another device')}, expected it in the processor's memory"
        )
    try:
        array = np.from_dlpack(x)
    except RuntimeError as error:  # from NumPy, for a dtype that it does not have
        raise _wrong_dtype(x) from error
    except BufferError as error:
        raise ValueError(f"x: its library does not share it: {error}") from error
    if array.dtype not in DTYPES:
        raise _wrong_dtype(x)
    return Tensor._wrap(_lockable(array))


def _device(x: Any) -> int | None:
    """DLPack's number of the kind of device that holds an array, or None if there is none."""
    try:
        return x.__dlpack_device__()[0]
    except (ValueError, BufferError):  # for example PyTorch's device "meta", which has no memory
        return None


def _wrong_dtype(x: Any) -> TypeError:
    return TypeError(f"x: got dtype {x.dtype}, expected float32 or float64: convert it first, or copy it by tr.tensor")


def _lockable(array: Array) -> Array:
    """The same memory as an array that can be made read-only by the tape, and writable again afterwards: NumPy does not
    allow this for an array whose memory belongs to another library."""
    if not array.flags.writeable:
        return array
    start, stop = byte_bounds(array)
    memory = (ctypes.c_char * (stop - start)).from_address(start)
    memory.owner = array  # type: ignore[attr-defined]  # kept alive
    return np.ndarray(array.shape, array.dtype, memoryview(memory), array.ctypes.data - start, array.strides)


def zeros(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros.

    Parameters
    ----------
    *shape : int, or one tuple of them
    dtype : float32 or float64
    requires_grad : bool

    Raises
    ------
    TypeError, ValueError
        If the shape does not consist of whole numbers of 0 or more.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.zeros(2, 3).shape, tr.zeros((2,)).shape
    ((2, 3), (2,))
    """
    return Tensor(np.zeros(_shape(shape), as_dtype(dtype)), requires_grad)


def ones(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of ones. Parameters and errors are those of `zeros`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ones(2, requires_grad=True)
    Tensor([1., 1.], dtype=float32, requires_grad=True)
    """
    return Tensor(np.ones(_shape(shape), as_dtype(dtype)), requires_grad)


def randn(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of normal random numbers with mean 0 and variance 1. They depend on the seed of `tr.manual_seed`.

    Parameters and errors are those of `zeros`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.manual_seed(0)
    >>> tr.randn(2, 3).shape
    (2, 3)
    """
    return Tensor(init.standard_normal(_shape(shape), dtype=as_dtype(dtype)), requires_grad)


def _shape(lengths: tuple[Any, ...]) -> tuple[int, ...]:
    shape = lengths[0] if len(lengths) == 1 and isinstance(lengths[0], tuple | list) else lengths
    for n in shape:
        if isinstance(n, bool) or not isinstance(n, int | np.integer):
            raise TypeError(f"shape: got {n!r} in {tuple(shape)}, expected whole numbers")
        if n < 0:
            raise ValueError(f"shape: got {tuple(shape)}, expected lengths of 0 or more")
    return tuple(int(n) for n in shape)
