"""Batch norm. It can also add the shortcut and apply the ReLU that follow it in a residual block, in one pass."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tinyres import backend
from tinyres.kernels.launch import launch
from tinyres.kernels.pending import Pending
from tinyres.ops import _check
from tinyres.tape import Array, state
from tinyres.tensor import Tensor, as_tensor, record


class Gather(Protocol):
    """How shards of a batch (its parts, computed in parallel) exchange arrays while they run."""

    @property
    def leads(self) -> bool:
        """Whether this shard updates the running statistics, which all shards of a process share."""

    def __call__(self, array: Array) -> Array:
        """The arrays of all shards, stacked in the order of shards. They must have the same shape."""


def batch_norm(  # PyTorch's arguments, and what can be done in the same pass
    x: Tensor,
    running_mean: Array,
    running_var: Array,
    weight: Tensor,
    bias: Tensor,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
    gather: Gather | None = None,
) -> Tensor:
    """Normalise each channel, scale and shift it; optionally add a shortcut and apply ReLU in the same pass.

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
    running_mean, running_var : ndarray of shape (C,)
        Used in evaluation. In training they are updated in place:
        running = (1 - momentum) * running + momentum * batch, with the unbiased variance of the batch.
    weight, bias : Tensor of shape (C,)
        gamma and beta.
    training : bool
        Normalise with the mean and variance of the batch. If False, with the running ones.
    momentum : float
        Weight of the batch in the update of the running statistics.
    eps : float
        Added to the variance.
    residual : Tensor of shape (N, C, H, W), optional
        Added before the ReLU: the shortcut of a residual block.
    relu : bool
        Apply ReLU at the end.
    gather : Gather, optional
        If x is a shard of a batch: a function that takes an array and returns the arrays of all shards, stacked in
        their order. In training, the mean and variance are then those of the whole batch.

    Returns
    -------
    Tensor of shape (N, C, H, W)

    Raises
    ------
    ValueError
        If shapes do not fit, or if there is only one value per channel in training: its variance is always 0.

    Notes
    -----
    Ioffe and Szegedy, "Batch normalization", 2015, algorithm 1. Over the P = N H W values of a channel,

        z = (x - mean) / sqrt(var + eps),   y = relu(gamma z + beta + residual).

    Let g = dL/dy where y > 0, else 0 (without ReLU, g = dL/dy). It is the gradient of the shortcut, and

        dL/dbeta = sum g,   dL/dgamma = sum g z.

    In training, mean and var also depend on x. With r = 1 / sqrt(var + eps), d mean / dx_i = 1/P,
    d var / dx_i = 2 (x_i - mean) / P and dr/dvar = -r^3 / 2,

        dz_k/dx_i = r ([i = k] - 1/P) - (x_k - mean) r^3 (x_i - mean) / P = r ([i = k] - 1/P - z_i z_k / P)
        dL/dx_i   = gamma sum_k g_k dz_k/dx_i = gamma r (g_i - dL/dbeta / P - z_i dL/dgamma / P),

    which is the result of the paper, simplified. In evaluation only gamma r g_i remains.

    If the batch is cut into shards, P, mean and var are those of the whole batch. Let shard s have P_s values with mean
    m_s, and let M_s be the sum of their squared distances from m_s. Then (Chan, Golub and LeVeque, 1979)

        mean = sum_s P_s m_s / P,   P var = sum_s (M_s + P_s (m_s - mean)^2),   P = sum_s P_s.

    The derivation above holds if i and k run over all shards, so dL/dx_i needs dL/dbeta and dL/dgamma of the whole
    batch. Each shard has its part of both sums, and gathers the parts of the others. The dL/dbeta and dL/dgamma that a
    shard returns are only its own parts, since the gradients of all shards are added later, as for any parameter.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.arange(4.0).reshape(4, 1, 1, 1))
    >>> one, zero = tr.Tensor(np.ones(1)), tr.Tensor(np.zeros(1))
    >>> y = tr.ops.batch_norm(x, np.zeros(1), np.ones(1), one, zero, training=True, relu=True)
    >>> y.data.ravel().round(3)
    array([0.   , 0.   , 0.447, 1.342])
    """
    x, weight, bias = as_tensor("x", x), as_tensor("weight", weight), as_tensor("bias", bias)
    residual = None if residual is None else as_tensor("residual", residual)
    _check.images(x)
    channels = x.shape[1]
    _check.vector("weight", weight, channels, "the channels of x")
    _check.vector("bias", bias, channels, "the channels of x")
    for name, array in (("running_mean", running_mean), ("running_var", running_var)):
        if array.shape != (channels,):
            raise ValueError(f"{name}: got shape {array.shape}, expected ({channels},), the channels of x")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual: got shape {residual.shape}, expected {x.shape}, that of x")
    _check.same_dtype(x, weight=weight, bias=bias, residual=residual)
    pixels = x.size // max(channels, 1)
    if training and pixels < 2:
        raise ValueError(f"x: got shape {x.shape}, expected more than one value per channel in training")

    a, gamma, beta = x.data, weight.data, bias.data
    kernels, shortcut = backend.active, residual is not None
    measured = training and x._statistics is not None  # by the convolution before; a is read-only since then
    if training:
        mean, var = x._statistics or kernels.batch_norm_statistics(a)
    else:
        mean, var = running_mean, running_var
    shared = gather if training else None
    if shared:
        mean, var, pixels = _merged(shared(np.array([np.full(channels, float(pixels)), mean, var])))
    centre, inv_std, scale = (np.empty(channels, a.dtype) for _ in range(3))
    launch(_normalisers, mean, var, eps, gamma, centre, inv_std, scale)
    added = None if residual is None else residual.data
    if pending := measured and relu and not shortcut:
        y = Pending(kernels.batch_norm_apply, a, centre, scale, beta)
    else:
        y = kernels.batch_norm_apply(a, centre, scale, beta, added, relu=relu)
    opened = y if relu and shortcut else None  # without a shortcut, x also shows where y > 0, and it is saved anyway

    def whole(total: Array, moment: Array, own: int) -> tuple[Array, Array, int]:
        assert shared is not None
        total, moment = shared(np.array([total, moment], np.float64)).sum(0)  # in the order of shards
        return total, moment, pixels

    def pullback(dy: Array) -> Sequence[Array | None]:
        dx, dgamma, dbeta, dresidual = kernels.batch_norm_grad(
            dy, a, opened, centre, inv_std, gamma, beta,
            training=training, relu=relu, residual=shortcut, whole=whole if shared else None,
        )  # fmt: skip
        return (dx, dgamma, dbeta, dresidual) if shortcut else (dx, dgamma, dbeta)

    parents = (x, weight, bias) + ((residual,) if residual is not None else ())
    how: dict[str, Any] = {"training": training, "mean": centre, "inv_std": inv_std, "relu": relu}
    how |= {"measured": measured, "pending": pending}
    out = record("batch_norm", y, parents, pullback, **how)
    if (
        training and not state.recomputing and (gather is None or gather.leads)
    ):  # last, so that an anomaly leaves them as they were
        launch(_track, running_mean, running_var, momentum, mean, var, pixels)
    return out


def _normalisers(
    mean: Array, var: Array, eps: float, gamma: Array, centre: Array, inv_std: Array, scale: Array
) -> None:
    inv_std[...] = 1 / np.sqrt(np.asarray(var, np.float64) + eps)
    centre[...] = mean  # a copy: the running one will change
    np.multiply(gamma, inv_std, out=scale)


def _track(running_mean: Array, running_var: Array, momentum: float, mean: Array, var: Array, pixels: int) -> None:
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (var * (pixels / (pixels - 1)) - running_var)


def _merged(shards: Array) -> tuple[Array, Array, int]:
    """Mean, variance and number of values per channel of a batch, from (shards, 3, C): count, mean and variance."""
    count, means, variances = shards.transpose(1, 0, 2)
    total = count.sum(0)
    mean = (count * means).sum(0) / total
    var = (count * (variances + (means - mean) ** 2)).sum(0) / total
    return mean, var, int(total[0]) if total.size else 0
