"""Initial values of parameters. All come from one random generator: `tr.manual_seed` makes a network reproducible."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinyres import chance
from tinyres.tape import Array

_generator = np.random.default_rng()
_most: int | None = None


def manual_seed(seed: int) -> None:
    """Set the seed of all random numbers of networks: initial values of parameters, and dropout.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.manual_seed(0); a = tr.nn.Linear(2, 2).weight.data
    >>> tr.manual_seed(0); b = tr.nn.Linear(2, 2).weight.data
    >>> (a == b).all()
    np.True_
    """
    global _generator
    _generator = np.random.default_rng(seed)
    chance.start(seed)


@contextmanager
def nothing_drawn(most: int = sys.maxsize) -> Iterator[None]:
    """Inside this block, new parameters are zeros instead of random numbers, which takes no time.

    This is for a model that is only inspected, or that gets its values from a file afterwards. A damaged file may
    describe a model of any size: a parameter of more than `most` numbers raises ValueError.

    Examples
    --------
    >>> import tinyres as tr
    >>> with nothing_drawn(most=100):
    ...     tr.nn.Linear(50, 10)
    Traceback (most recent call last):
    ValueError: a parameter of shape (10, 50) has more numbers than the 100 that are allowed
    """
    global _most
    _most = most
    try:
        yield
    finally:
        _most = None


def _undrawn(shape: tuple[int, ...], dtype: Any, most: int) -> Array:
    if math.prod(shape) > most:
        raise ValueError(f"a parameter of shape {shape} has more numbers than the {most:,} that are allowed")
    return np.zeros(shape, dtype)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight: how many inputs each output depends on, and how many outputs each input affects.

    Examples
    --------
    >>> fans((16, 3, 5, 5))
    (75, 400)
    """
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def kaiming_normal(shape: tuple[int, ...], *, mode: str = "fan_out", dtype: Any = np.float32) -> Array:
    """Normal numbers with mean 0 and variance 2 / fan, so that signals keep their variance in layers with ReLU.

    With `mode` "fan_in", activations keep their variance in forward; with "fan_out", gradients keep theirs in backward.
    He et al., "Delving deep into rectifiers", 2015, equations 10 and 14. Another mode raises ValueError.

    Examples
    --------
    >>> w = kaiming_normal((64, 32, 3, 3))
    >>> bool(abs(w.std() - np.sqrt(2 / (64 * 9))) < 0.01)
    True
    """
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode: got {mode!r}, expected 'fan_in' or 'fan_out'")
    if _most is not None:
        return _undrawn(shape, dtype, _most)
    fan = fans(shape)[mode == "fan_out"]
    return (_generator.standard_normal(shape) * math.sqrt(2 / fan)).astype(dtype)


def whitening(shape: tuple[int, ...], covariance: Array, *, eps: float = 5e-4, dtype: Any = np.float32) -> Array:
    """Whitening filters: the outputs of half of them are uncorrelated and have the same variance.

    Parameters
    ----------
    shape : (int, int, int, int)
        (F, C, kh, kw) of a convolution's weights.
    covariance : float64 array of shape (C kh kw, C kh kw)
        Covariance of image patches, see `tinyres.data.patch_covariance`.
    eps : float
        Added to variances, so that directions of small variance are not amplified too much.
    dtype : dtype

    Raises
    ------
    ValueError
        If `covariance` does not have the shape for these filters.

    Notes
    -----
    Let cov = V diag(l) V', with the largest eigenvalues first. Filter i is v_i / sqrt(l_i + eps), for at most F / 2
    filters. Next come the same filters with the opposite sign, since a ReLU cuts off half of each output. The remaining
    filters are drawn by `kaiming_normal`. v_i' cov v_j is l_i for i = j and 0 otherwise, so the output of filter i has
    the variance l_i / (l_i + eps).

    Page, "How to train your ResNet 8: bag of tricks", 2019; Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU",
    2024, section 3.2, with patches of 2 x 2.

    Examples
    --------
    >>> whitening((4, 1, 1, 2), np.array([[2.0, 0.0], [0.0, 0.5]]), eps=0).reshape(4, 2).round(2)
    array([[ 0.71,  0.  ],
           [ 0.  ,  1.41],
           [-0.71, -0.  ],
           [-0.  , -1.41]], dtype=float32)
    """
    numbers = math.prod(shape[1:])
    if covariance.shape != (numbers, numbers):
        raise ValueError(f"covariance: got shape {covariance.shape}, expected {(numbers, numbers)} for filters {shape}")
    values, vectors = np.linalg.eigh(covariance)
    best = np.argsort(-values, kind="stable")[: shape[0] // 2]
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, np.arange(numbers)])  # both signs are eigenvectors: choose one
    filters = (vectors[:, best] / np.sqrt(values[best] + eps)).T.reshape(-1, *shape[1:])
    rest = kaiming_normal(shape, dtype=dtype)[2 * len(filters) :]
    return np.concatenate([filters, -filters, rest]).astype(dtype)


def standard_normal(shape: tuple[int, ...], *, dtype: Any = np.float32) -> Array:
    """Normal numbers with mean 0 and variance 1.

    Examples
    --------
    >>> standard_normal((2, 3)).shape
    (2, 3)
    """
    return _generator.standard_normal(shape).astype(dtype)


def uniform(shape: tuple[int, ...], bound: float, *, dtype: Any = np.float32) -> Array:
    """Uniform numbers between -bound and bound.

    Examples
    --------
    >>> w = uniform((2, 3), 0.5)
    >>> w.shape, bool(abs(w).max() <= 0.5)
    ((2, 3), True)
    """
    if _most is not None:
        return _undrawn(shape, dtype, _most)
    return _generator.uniform(-bound, bound, shape).astype(dtype)
