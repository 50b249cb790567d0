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
    target : array of int, shape (N,), or of float, shape (N, K)
        Class of each sample, 0 to K - 1; or the probability of each class, as of mixed images.
    label_smoothing : float
        From 0 to 1: this much of the target's mass is spread evenly over all K classes (Szegedy et al.,
        "Rethinking the Inception architecture", 2016, section 7).

    Returns
    -------
    Tensor of shape ()

    Raises
    ------
    ValueError
        Where shapes do not fit, a class is out of range, or probabilities do not add up to 1.

    Notes
    -----
    With p = softmax(logits) and q the smoothed target (one-hot, where it is a class), L = -1/N sum_{n,k} q[n,k]
    log p[n,k]. Since d log p_k / d logit_j = [j = k] - p_j and sum_k q_k = 1, dL/dlogits = (p - q) / N.

    Examples
    --------
    >>> import tinyres as tr
    >>> round(tr.ops.cross_entropy(tr.Tensor([[0.0, 0.0]]), [1]).item(), 4)
    0.6931
    >>> round(tr.ops.cross_entropy(tr.Tensor([[0.0, 3.0]]), [[0.25, 0.75]]).item(), 4)
    0.7986
    """
    logits = as_tensor("logits", logits)
    target = np.asarray(target.data if isinstance(target, Tensor) else target)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits: got shape {logits.shape}, expected (N, K), N samples of K classes")
    n = len(logits)
    classes = target.shape == (n,) and target.dtype.kind in "iu"
    if not classes and not (target.shape == logits.shape and target.dtype.kind == "f"):
        raise ValueError(
            f"target: got shape {target.shape} {target.dtype}, expected ({n},) of int, a class for each sample, or "
            f"{logits.shape} of float, a probability for each class"
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
    _check_values(target, x.shape[1])
    shifted = x - x.max(1, keepdims=True)
    np.subtract(shifted, np.log(np.exp(shifted).sum(1, keepdims=True)), out=log_p)
    q = _smoothed(target, label_smoothing, log_p)
    # not 0 times log_p: a class with logit -inf has no part in the loss of another
    loss[...] = -np.multiply(q, log_p, out=np.zeros_like(log_p), where=q > 0).sum() / len(x)


def _cross_entropy_grad(dy: Array, target: Array, label_smoothing: float, log_p: Array, dx: Array) -> None:
    np.divide(dy * (np.exp(log_p) - _smoothed(target, label_smoothing, log_p)), len(log_p), out=dx)


def _check_values(target: Array, classes: int) -> None:
    if target.ndim == 1:
        if target.min() < 0 or target.max() >= classes:
            raise ValueError(f"target: got classes from {target.min()} to {target.max()}, expected 0 to {classes - 1}")
    elif not (target.min() >= 0 and np.abs(target.sum(1) - 1).max() < 1e-3):
        raise ValueError("target: got probabilities that are negative or do not add up to 1, expected those of classes")


def _smoothed(target: Array, label_smoothing: float, log_p: Array) -> Array:
    """q: a probability for each sample and class."""
    q = np.full(log_p.shape, label_smoothing / log_p.shape[1], log_p.dtype)
    if target.ndim == 1:
        q[np.arange(len(q)), target] += 1 - label_smoothing
    else:
        q += (1 - label_smoothing) * target.astype(q.dtype)
    return q
