"""Dropout."""

import numpy as np

from tinyres import chance
from tinyres.kernels.launch import compute, launch
from tinyres.tape import Array
from tinyres.tensor import Tensor, as_tensor, record


def dropout(x: Tensor, p: float = 0.5, *, training: bool = True) -> Tensor:
    """Set each element to 0 with probability `p`, and divide the others by 1 - p: the expected value stays the same.

    Parameters
    ----------
    x : Tensor
    p : float
        Probability from 0 to 1.
    training : bool
        If False, the result is x.

    Raises
    ------
    ValueError
        If `p` is not from 0 to 1.

    Notes
    -----
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014. Unlike the paper, the
    division is done in training, not in evaluation. With a mask m of 0 and 1 / (1 - p),

        y = m x,   dL/dx = m dL/dy.

    A mask depends only on the seed of `tinyres.manual_seed` and on the number of draws since then. A `checkpoint`
    draws the same masks again.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.manual_seed(0)
    >>> y = tr.ops.dropout(tr.Tensor(np.ones(1000, "f4")), 0.2).data
    >>> np.unique(y), bool(abs(y.mean() - 1) < 0.05)
    (array([0.  , 1.25], dtype=float32), True)
    """
    x = as_tensor("x", x)
    if not 0 <= p <= 1:
        raise ValueError(f"p: got {p}, expected 0 to 1")
    if not training or p == 0:
        return x
    mask = np.empty(x.shape, x.dtype)
    launch(_draw, mask, p)
    y = compute(np.multiply, x.data, mask)
    return record("dropout", y, (x,), lambda dy: (compute(np.multiply, dy, mask),), p=p)


def _draw(mask: Array, p: float) -> None:
    np.multiply(chance.uniform(*mask.shape) >= p, 1 / (1 - p) if p < 1 else 0, out=mask)
