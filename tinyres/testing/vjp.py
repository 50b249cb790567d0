"""Gradcheck for code that knows no tensors: a function of arrays, and the gradient that somebody wrote for it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyres.tape import Array
from tinyres.tensor import Tensor, record
from tinyres.testing.gradcheck import GradcheckError, gradcheck


def check_vjp(fn: Callable[..., Any], vjp: Callable[..., Any], *inputs: Any, **options: Any) -> bool:
    """`gradcheck` of a function of NumPy arrays and of a gradient that was written by hand, or by another library.

    Parameters
    ----------
    fn : callable
        ``fn(*inputs)`` takes float64 arrays and returns one, of any shape, or a number. It must be deterministic, and
        compute in float64 throughout: float32 has too few digits to take differences of.
    vjp : callable
        ``vjp(*inputs, dy)``, where dy is dL/dy and has the shape of the result y, returns dL/dx for each input x: the
        vector-Jacobian product, dL/dx_j = sum_i dL/dy_i dy_i/dx_j, of the shape of x. For one input it may be
        the array itself, for several it is a tuple. None stands for zeros.
    *inputs : array_like
        Where to check; see `gradcheck`. Arrays may be read-only: neither function is to write to them.
    **options
        `eps`, `rtol`, `atol`, `full` and `seed` of `gradcheck`.

    Returns
    -------
    bool
        True, so that it can be asserted.

    Raises
    ------
    GradcheckError
        As `gradcheck`, in the same words, and where a gradient has not exactly its input's shape: broadcasting is
        nobody else's to undo.
    TypeError
        Where `fn` does not return float64, or a gradient has another dtype.
    ValueError
        Where there is no input, or not as many gradients as inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from tinyres.testing import check_vjp
    >>> def scaled(x, w):  # (N, D), (D,)
    ...     return x * w
    >>> check_vjp(scaled, lambda x, w, dy: (dy * w, (dy * x).sum(0)), np.ones((3, 2)), [0.5, 2.0])
    True
    >>> check_vjp(scaled, lambda x, w, dy: (dy * w, dy * x), np.ones((3, 2)), [0.5, 2.0])
    Traceback (most recent call last):
    GradcheckError: vjp: the gradient of input 1 has shape (3, 2), expected (2,)
    """
    return gradcheck(_on_tensors(fn, vjp), *inputs, **options)


def _on_tensors(fn: Callable[..., Any], vjp: Callable[..., Any]) -> Callable[..., Tensor]:
    """The two as an operation of the tape."""

    def operation(*tensors: Tensor) -> Tensor:
        arrays = [t.data for t in tensors]
        y = np.array(fn(*arrays))  # a copy: what fn keeps for itself is not the tape's
        if y.dtype != np.float64:
            raise TypeError(f"fn: returned {y.dtype}, expected float64; compute in float64 all the way")
        return record("fn", y, tensors, lambda dy: _gradients(vjp(*arrays, dy), arrays))

    return operation


def _gradients(given: Any, arrays: Sequence[Array]) -> list[Array | None]:
    several = given if isinstance(given, tuple | list) else [given]
    if len(several) != len(arrays):
        raise ValueError(f"vjp: returned {len(several)} gradients, expected {len(arrays)}, one for each input")
    gradients = [None if g is None else np.asarray(g) for g in several]
    for i, (g, a) in enumerate(zip(gradients, arrays, strict=True)):
        if g is not None and g.shape != a.shape:
            raise GradcheckError(f"vjp: the gradient of input {i} has shape {g.shape}, expected {a.shape}")
        if g is not None and g.dtype != a.dtype:
            raise TypeError(f"vjp: the gradient of input {i} has dtype {g.dtype}, expected {a.dtype}")
    return gradients
