"""Training losses: a number that says how far the network's outputs are from the right answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres.kernels.launch import launch
from tinyres.tape import Array
from tinyres.tensor import Tensor, as_tensor, record

REDUCTIONS = ("mean", "sum", "none")


# ---------------------------------------------------------------- of classes
def cross_entropy(
    logits: Tensor, target: Any, *, weight: Any = None, reduction: str = "mean", label_smoothing: float = 0.0
) -> Tensor:
    """Cross entropy between the softmax of `logits` and the true classes.

    Parameters
    ----------
    logits : Tensor of shape (N, K)
    target : array of int, shape (N,), or of float, shape (N, K)
        Class of each sample, 0 to K - 1; or the probability of each class, as for mixed images (mixup, CutMix).
    weight : array of float, shape (K,), optional
        Weight of each class, 0 or more; 1 for each by default.
    reduction : "mean", "sum" or "none"
        What is done with the losses of the samples. With `weight` and targets of int, "mean" is the weighted mean.
        With targets of float it is the sum divided by N, as in PyTorch.
    label_smoothing : float
        From 0 to 1: this part of the target's probability is spread evenly over all K classes (Szegedy et al.,
        "Rethinking the Inception architecture", 2016, section 7).

    Returns
    -------
    Tensor of shape (), or (N,) with reduction "none"

    Raises
    ------
    ValueError
        If shapes do not fit, a class is out of range, probabilities do not add up to 1, or weights are negative. Also
        if, for a weighted mean, the weight of every class in `target` is 0.

    Notes
    -----
    With p = softmax(logits) and the smoothed target q (one-hot, if it is a class),

        L[n] = -sum_k r[n,k] log p[n,k],   r[n,k] = weight[k] q[n,k].

    Since d log p_k / d logit_j = [j = k] - p_j,

        dL[n]/dlogits_j = p[n,j] sum_k r[n,k] - r[n,j],

    which without weights is p - q. The mean is the sum divided by N, or by sum_n weight[target[n]].

    Examples
    --------
    >>> import tinyres as tr
    >>> round(tr.ops.cross_entropy(tr.Tensor([[0.0, 0.0]]), [1]).item(), 4)
    0.6931
    >>> round(tr.ops.cross_entropy(tr.Tensor([[0.0, 3.0]]), [[0.25, 0.75]]).item(), 4)
    0.7986
    >>> logits = tr.Tensor([[0.0, 0.0], [0.0, 3.0]])
    >>> tr.ops.cross_entropy(logits, [0, 1], weight=[1.0, 2.0], reduction="none").data.round(4)
    array([0.6931, 0.0972], dtype=float32)
    """
    logits = as_tensor("logits", logits)
    target = np.asarray(target.data if isinstance(target, Tensor) else target)
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(f"logits: got shape {logits.shape}, expected (N, K), N samples of K classes")
    n, k = logits.shape
    classes = target.shape == (n,) and target.dtype.kind in "iu"
    if not classes and not (target.shape == logits.shape and target.dtype.kind == "f"):
        raise ValueError(
            f"target: got shape {target.shape} {target.dtype}, expected ({n},) of int, a class for each sample, or "
            f"{logits.shape} of float, a probability for each class"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: got {label_smoothing}, expected 0 to 1")
    _check_reduction(reduction)
    weights = _class_weights(weight, k, logits.dtype)

    x = logits.data
    log_p, r = np.empty_like(x), np.empty_like(x)
    loss, mass = np.empty(n if reduction == "none" else (), x.dtype), np.empty((), x.dtype)
    launch(_target, target, label_smoothing, weights, r)
    launch(_mass, target, weights, reduction, mass)
    launch(_cross_entropy, x, r, mass, log_p, loss)

    def pullback(dy: Array) -> Sequence[Array]:
        dx = np.empty_like(log_p)
        launch(_cross_entropy_grad, dy, log_p, r, weights, mass, dx)
        return (dx,)

    return record("cross_entropy", loss, (logits,), pullback)


def _target(target: Array, label_smoothing: float, weights: Array | None, r: Array) -> None:
    """r: the smoothed probability of each class, times its weight."""
    _check_values(target, r.shape[1])
    r[...] = label_smoothing / r.shape[1]
    if target.ndim == 1:
        r[np.arange(len(r)), target] += 1 - label_smoothing
    else:
        r += (1 - label_smoothing) * target.astype(r.dtype)
    if weights is not None:
        r *= weights


def _mass(target: Array, weights: Array | None, reduction: str, mass: Array) -> None:
    """The divisor of the sum of losses: in a mean, the total weight of all samples."""
    mass[...] = 1 if reduction != "mean" else len(target)
    if reduction == "mean" and weights is not None and target.ndim == 1:
        mass[...] = weights[target].sum()
        if not mass:
            raise ValueError(
                "weight: got 0 for every class that occurs in target, expected more than 0 for one of them"
            )


def _cross_entropy(x: Array, r: Array, mass: Array, log_p: Array, loss: Array) -> None:
    shifted = x - x.max(1, keepdims=True)
    np.subtract(shifted, np.log(np.exp(shifted).sum(1, keepdims=True)), out=log_p)
    # not 0 times log_p: a class with logit -inf has no part in the loss of another
    losses = -np.multiply(r, log_p, out=np.zeros_like(log_p), where=r > 0)
    loss[...] = losses.sum(1 if loss.ndim else None) / mass


def _cross_entropy_grad(
    dy: Array, log_p: Array, r: Array, weights: Array | None, mass: Array, dx: Array
) -> None:  # fmt: skip
    p = np.exp(log_p)
    if weights is not None:  # else r, a probability, adds up to 1
        p *= r.sum(1, keepdims=True)
    np.divide(dy.reshape(-1, 1) * (p - r), mass, out=dx)


def _check_values(target: Array, classes: int) -> None:
    if target.ndim == 1:
        if target.min() < 0 or target.max() >= classes:
            raise ValueError(f"target: got classes from {target.min()} to {target.max()}, expected 0 to {classes - 1}")
    elif not (target.min() >= 0 and np.abs(target.sum(1) - 1).max() < 1e-3):
        raise ValueError(
            "target: got numbers that are negative or do not add up to 1, expected probabilities of classes"
        )


def _class_weights(weight: Any, classes: int, dtype: Any) -> Array | None:
    if weight is None:
        return None
    weights = np.array(weight.data if isinstance(weight, Tensor) else weight, dtype)  # the tape locks what it keeps
    if weights.shape != (classes,) or not (weights >= 0).all():
        raise ValueError(f"weight: got {weight!r}, expected {classes} numbers of 0 or more, one for each class")
    return weights


# ---------------------------------------------------------------- of numbers
def mse_loss(x: Tensor, target: Any, *, reduction: str = "mean") -> Tensor:
    """Mean squared error: the mean squared distance of x from the target, over all elements.

    Parameters
    ----------
    x : Tensor
    target : Tensor or array of x's shape
    reduction : "mean", "sum" or "none"

    Raises
    ------
    ValueError
        If shapes differ: there is no broadcasting here.

    Notes
    -----
    For the mean over P elements, with the target t,

        L = 1/P sum_i (x_i - t_i)^2,   dL/dx_i = 2/P (x_i - t_i) = -dL/dt_i.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.mse_loss(tr.Tensor([1.0, 2.0]), [1.0, 4.0]).item()
    2.0
    """
    x, target = _alike(x, target)
    return _reduced((x - target) ** 2, reduction)


def l1_loss(x: Tensor, target: Any, *, reduction: str = "mean") -> Tensor:
    """Mean absolute error: the mean distance of x from the target, over all elements.

    Parameters and errors are those of `mse_loss`.

    Notes
    -----
    For the mean over P elements, with the target t and sign(0) = 0,

        L = 1/P sum_i |x_i - t_i|,   dL/dx_i = 1/P sign(x_i - t_i) = -dL/dt_i.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.l1_loss(tr.Tensor([1.0, 2.0]), [1.0, 4.0]).item()
    1.0
    """
    x, target = _alike(x, target)
    return _reduced((x - target).abs(), reduction)


def binary_cross_entropy_with_logits(
    logits: Tensor, target: Any, *, pos_weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """Cross entropy for yes-or-no answers. The probability of yes is sigmoid(logits).

    Parameters
    ----------
    logits : Tensor
    target : array of the shape of `logits`
        1 for yes, 0 for no, or a probability between them.
    pos_weight : array that broadcasts to this shape, optional
        Factor on the loss of a yes; 1 by default.
    reduction : "mean", "sum" or "none"

    Raises
    ------
    ValueError
        If shapes differ, or a target is not from 0 to 1.

    Notes
    -----
    For a logit x with target t and weight w, let s = sigmoid(x). Then

        L = -w t log s - (1 - t) log(1 - s).

    Since log s = -softplus(-x) and log(1 - s) = -x - softplus(-x), with softplus(z) = log(1 + e^z),

        L = (1 - t) x + (1 + (w - 1) t) softplus(-x),     softplus(-x) = max(-x, 0) + log(1 + e^-|x|),

    which cannot overflow. The gradient is

        dL/dx = (1 - t) - (1 + (w - 1) t) sigmoid(-x),

    which without a weight is s - t.

    Examples
    --------
    >>> import tinyres as tr
    >>> round(tr.ops.binary_cross_entropy_with_logits(tr.Tensor([0.0, 1000.0]), [1.0, 1.0]).item(), 4)
    0.3466
    """
    logits = as_tensor("logits", logits)
    x, t = logits.data, _same_shape("logits", logits, target)
    if not ((t >= 0) & (t <= 1)).all():
        raise ValueError(f"target: got numbers from {t.min()} to {t.max()}, expected 0 to 1")
    _check_reduction(reduction)
    yes = np.ones_like(x) if pos_weight is None else 1 + (_stretched("pos_weight", pos_weight, x) - 1) * t
    losses = (1 - t) * x + yes * (np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x))))

    def pullback(dy: Array) -> Sequence[Array]:
        return (dy * ((1 - t) - yes * (0.5 - 0.5 * np.tanh(0.5 * x))),)

    return _reduced(record("binary_cross_entropy", losses, (logits,), pullback), reduction)


def _alike(x: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors of the same shape. A target that is a tensor gets a gradient, too."""
    x = as_tensor("x", x)
    if not isinstance(target, Tensor):
        return x, Tensor(_same_shape("x", x, target))
    if target.shape != x.shape:
        raise ValueError(f"target: got shape {target.shape}, expected {x.shape}, that of x")
    return x, target


def _same_shape(name: str, x: Tensor, target: Any) -> Array:
    found = np.asarray(target.data if isinstance(target, Tensor) else target, x.dtype)
    if found.shape != x.shape:
        raise ValueError(f"target: got shape {found.shape}, expected {x.shape}, that of {name}")
    return found


def _stretched(name: str, value: Any, x: Array) -> Array:
    found = np.asarray(value.data if isinstance(value, Tensor) else value, x.dtype)
    try:
        return np.broadcast_to(found, x.shape)
    except ValueError:
        raise ValueError(f"{name}: got shape {found.shape}, expected one that broadcasts to {x.shape}") from None


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    _check_reduction(reduction)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: got {reduction!r}, expected one of {', '.join(REDUCTIONS)}")
