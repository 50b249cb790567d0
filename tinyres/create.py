"""Tensors made of numbers that are given, of one number, or of chance."""

from typing import Any

import numpy as np

from tinyres.nn import init
from tinyres.tensor import Tensor, as_dtype


def tensor(data: Any, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of these numbers, which are copied; the same as `Tensor`, by PyTorch's name.

    Parameters
    ----------
    data : array_like
    dtype : float32 or float64, optional
        By default that of `data`, or float32 where it is neither.
    requires_grad : bool

    Raises
    ------
    TypeError
        Where `data` is no numbers, or holds tensors that require a gradient: see `ops.stack`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.tensor([1, 2], dtype=tr.float64)
    Tensor([1., 2.], dtype=float64)
    """
    return Tensor(data, requires_grad, dtype=dtype)


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
        Where the shape is not whole numbers of 0 or more.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.zeros(2, 3).shape, tr.zeros((2,)).shape
    ((2, 3), (2,))
    """
    return Tensor(np.zeros(_shape(shape), as_dtype(dtype)), requires_grad)


def ones(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of ones; parameters and errors as of `zeros`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ones(2, requires_grad=True)
    Tensor([1., 1.], dtype=float32, requires_grad=True)
    """
    return Tensor(np.ones(_shape(shape), as_dtype(dtype)), requires_grad)


def randn(*shape: Any, dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of normal random numbers of mean 0 and variance 1, which follow from `tr.manual_seed`.

    Parameters and errors as of `zeros`.

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
