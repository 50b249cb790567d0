"""Layer norm and group norm: they normalise within each sample, so they need no batch and no running statistics."""

from collections.abc import Sequence
from math import prod

import numpy as np

from tinyres.ops import _check
from tinyres.tape import Array, Pullback
from tinyres.tensor import Tensor, as_tensor, record


def layer_norm(
    x: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    *, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalise the last axes of each sample to mean 0 and variance 1, then scale and shift each of their elements.

    Parameters
    ----------
    x : Tensor
        Its last axes are `normalized_shape`.
    normalized_shape : int or sequence of int
    weight, bias : Tensor of shape `normalized_shape`, optional
        gamma and beta; 1 and 0 by default.
    eps : float
        Added to the variance.

    Returns
    -------
    Tensor of x's shape

    Raises
    ------
    ValueError
        If shapes do not fit, or `normalized_shape` is empty or has a length 0.

    Notes
    -----
    Ba, Kiros and Hinton, "Layer normalization", 2016, equation 4. Over the P values x_k that are normalised together,

        m = 1/P sum_k x_k,   z_k = (x_k - m) / sqrt(1/P sum_j (x_j - m)^2 + eps),   y = gamma z + beta.

    With g = dL/dz = gamma dL/dy, the derivation in `batch_norm` for the values of a channel holds for these values:

        dL/dx_k = (g_k - 1/P sum_j g_j - z_k/P sum_j g_j z_j) / sqrt(var + eps).

    Scaling by gamma and adding beta are operations on tensors, which have their own gradients.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.layer_norm(tr.Tensor([[1.0, 3.0], [2.0, 8.0]]), 2).data.round(2)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """
    x = as_tensor("x", x)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or 0 in shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"normalized_shape: got {shape}, expected the last axes of x, {x.shape}, none of them 0")
    z, pullback = _standardised(x.data, prod(shape), eps)
    return _affine(record("layer_norm", z, (x,), pullback, normalized_shape=shape), weight, bias, shape)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5
) -> Tensor:
    """Normalise groups of channels in each sample, over all pixels; then scale and shift each channel.

    Parameters
    ----------
    x : Tensor of shape (N, C, ...)
    num_groups : int
        A divisor of C. With C groups it is instance norm. With one group it is layer norm over (C, ...), except that
        gamma and beta have one number per channel.
    weight, bias : Tensor of shape (C,), optional
        gamma and beta; 1 and 0 by default.
    eps : float
        Added to the variance.

    Returns
    -------
    Tensor of x's shape

    Raises
    ------
    ValueError
        If shapes do not fit, x has no channel or no pixel, or `num_groups` is not a divisor of C.

    Notes
    -----
    Wu and He, "Group normalization", ECCV 2018, section 3. Over the P values x_k of a group, with mean m and variance
    var, and with g = dL/dz, the derivation in `batch_norm` gives

        z_k = (x_k - m) / sqrt(var + eps),   y = gamma z + beta,
        dL/dx_k = (g_k - 1/P sum_j g_j - z_k/P sum_j g_j z_j) / sqrt(var + eps).

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.group_norm(tr.Tensor([[1.0, 3.0, 2.0, 8.0]]), 2).data.round(2)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    x = as_tensor("x", x)
    channels = x.shape[1] if x.ndim > 1 else 0
    if 0 in (*x.shape[1:], channels):
        raise ValueError(f"x: got shape {x.shape}, expected (N, C, ...), with a channel and a pixel or more")
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"num_groups: got {num_groups}, expected a divisor of {channels}, the channels of x")
    z, pullback = _standardised(x.data, prod(x.shape[1:]) // num_groups, eps)
    return _affine(
        record("group_norm", z, (x,), pullback, num_groups=num_groups), weight, bias, (channels,), x.ndim - 2
    )


def _standardised(x: Array, size: int, eps: float) -> tuple[Array, Pullback]:
    """x with each run of `size` numbers in memory order normalised to mean 0 and variance 1, and the pullback."""
    flat = x.reshape(-1, size)
    centred = flat - flat.mean(1, keepdims=True)
    r = 1 / np.sqrt((centred * centred).mean(1, keepdims=True) + x.dtype.type(eps))
    z = centred * r

    def pullback(dy: Array) -> Sequence[Array]:
        g = dy.reshape(-1, size)
        return ((r * (g - g.mean(1, keepdims=True) - z * (g * z).mean(1, keepdims=True))).reshape(dy.shape),)

    return z.reshape(x.shape), pullback


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...], after: int = 0) -> Tensor:
    """gamma y + beta. Both have this shape: the axes of y just before its last `after` axes."""
    gamma, beta = (None if t is None else as_tensor(n, t) for n, t in (("weight", weight), ("bias", bias)))
    _check.same_dtype(y, weight=gamma, bias=beta)
    for name, tensor in (("weight", gamma), ("bias", beta)):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name}: got shape {tensor.shape}, expected {shape}, that of the axes it applies to")
    wide = (*shape, *[1] * after)
    y = y if gamma is None else y * gamma.reshape(wide)
    return y if beta is None else y + beta.reshape(wide)
