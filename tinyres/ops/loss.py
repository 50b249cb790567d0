"""The training loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres.kernels.launch import launch
from tinyres.tape import Array
from tinyres.tensor import Tensor, as_tensor, record


def cross_entropy(logits: Tensor, target: Any, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy between the softmax of `logits` and the true classes.

    Parameters
    ----------
    logits : Tensor of shape (N, K)
    target : array of int, shape (N,)
        Class of each sample, 0 to K - 1.
    label_smoothing : float
        From 0 to 1: this much of the target's mass is spread evenly over all K classes (Szegedy et al.,
        "Rethinking the Inception architecture", 2016, section 7).

    Returns
    -------
    Tensor of shape ()

    Raises
    ------
    ValueError
        Where shapes do not fit, or a class is out of range.

    Notes
    -----
    With p = softmax(logits) and q the smoothed one-hot target, L = -1/N sum_{n,k} q[n,k] log p[n,k]. Since
    d log p_k / d logit_j = [j = k] - p_j and sum_k q_k = 1, dL/dlogits = (p - q) / N.

    Examples
    --------
    >>> import tinyres as tr
    >>> round(tr.ops.cross_entropy(tr.Tensor([[0.0, 0.0]]), [1]).item(), 4)
    0.6931
    """
    logits = as_tensor("logits", logits)
    target = np.asarray(target.data if isinstance(target, Tensor) else target)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits: got shape {logits.shape}, expected (N, K), N samples of K classes")
    n = len(logits)
    if target.shape != (n,) or target.dtype.kind not in "iu":
        raise ValueError(
            f"target: got shape {target.shape} {target.dtype}, expected ({n},) of int, a class for each sample"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: got {label_smoothing}, expected 0 to 1")

    x = logits.data
    log_p, loss = np.empty_like(x), np.empty((), x.dtype)
    launch(_cross_entropy, x, target, label_smoothing, log_p, loss)

    def pullback(dy: Array) -> Sequence[Array]:
        dx = np.empty_like(log_p)
        launch(_cross_entropy_grad, dy, target, label_smoothing, log_p, dx)
        return (dx,)

    return record("cross_entropy", loss, (logits,), pullback)


def _cross_entropy(x: Array, target: Array, label_smoothing: float, log_p: Array, loss: Array) -> None:
    if target.min() < 0 or target.max() >= x.shape[1]:
        raise ValueError(f"target: got classes from {target.min()} to {target.max()}, expected 0 to {x.shape[1] - 1}")
    shifted = x - x.max(1, keepdims=True)
    np.subtract(shifted, np.log(np.exp(shifted).sum(1, keepdims=True)), out=log_p)
    loss[...] = -(1 - label_smoothing) * log_p[np.arange(len(x)), target].mean()
    if label_smoothing:  # not 0 times log_p: a class with logit -inf has no part in the loss of another
        loss -= label_smoothing * log_p.mean()


def _cross_entropy_grad(dy: Array, target: Array, label_smoothing: float, log_p: Array, dx: Array) -> None:
    n, k = log_p.shape
    q = np.full((n, k), label_smoothing / k, log_p.dtype)
    q[np.arange(n), target] += 1 - label_smoothing
    np.divide(dy * (np.exp(log_p) - q), n, out=dx)
