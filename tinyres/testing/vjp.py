"""Gradcheck for code without tensors: a function of arrays, and its gradient as a second function."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyres.tape import Array
from tinyres.tensor import Tensor, record
from tinyres.testing.gradcheck import GradcheckError, gradcheck


def check_vjp(fn: Callable[..., Any], vjp: Callable[..., Any], *inputs: Any, **options: Any) -> bool:
    """`gradcheck` for a function of NumPy arrays and its gradient, written by hand or taken from another library.

    Parameters
    ----------
    fn : callable
        ``fn(*inputs)`` takes float64 arrays and returns a float64 array of any shape, or a number. It must be
        deterministic, and compute in float64 throughout: float32 has too few digits for differences.
    vjp : callable
        ``vjp(*inputs, dy)`` takes dy = dL/dy, which has the shape of the result y. It returns dL/dx for each input x,
        with the shape of x. This is the vector-Jacobian product, dL/dx_j = sum_i dL/dy_i dy_i/dx_j. For one input,
        the result may be the array itself; for several it is a tuple. None stands for zeros.
    *inputs : array_like
        The point at which to check; see `gradcheck`. Arrays may be read-only: neither function may write to them.
    **options
        `eps`, `rtol`, `atol`, `full` and `seed` of `gradcheck`.

    Returns
    -------
    bool
        True, so that it can be asserted.

    Raises
    ------
    GradcheckError
        As in `gradcheck`. Also if a gradient does not have exactly its input's shape: `vjp` itself must undo
        broadcasting.
    TypeError
        If `fn` does not return float64, or a gradient has another dtype.
    ValueError
        If there is no input, or not as many gradients as inputs.

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
    """The two functions as one operation on the tape."""

    def operation(*tensors: Tensor) -> Tensor:
        arrays = [t.data for t in tensors]
        y = np.array(fn(*arrays))  # a copy: the tape must not make an array read-only that fn keeps
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
