"""Gradient descent: SGD, and LARS, which scales the step to the size of each weight."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres import backend
from tinyres.nn.module import Parameter
from tinyres.optim.optimizer import Optimizer, Params, expect
from tinyres.tape import Array


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    Parameters
    ----------
    params : iterable of Parameter, or groups
    lr : float
        Learning rate.
    momentum : float
        Decay of the running sum of gradients; 0 or more and less than 1.
    weight_decay : float
        Adds weight_decay * p to the gradient.
    nesterov : bool
        Whether to use Nesterov's form, see below. It needs momentum: ValueError without.

    Notes
    -----
    As in PyTorch. With g, the gradient plus weight decay,

        v <- momentum v + g,   p <- p - lr v,

    and in Nesterov's form the second formula is

        p <- p - lr (g + momentum v).

    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013. Unlike in the paper, v
    does not contain the learning rate.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> p = tr.nn.Parameter([1.0]); p.grad = np.ones(1, np.float32)
    >>> tr.optim.SGD([p], lr=0.5).step(); p.data
    array([0.5], dtype=float32)
    """

    slots = ("momentum",)

    def __init__(
        self,
        params: Params,
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        expect("momentum", momentum, 0 <= momentum < 1, "0 or more and less than 1")
        if nesterov and not momentum:
            raise ValueError("nesterov: got True without momentum, expected momentum > 0")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    def update_group(self, parameters: Sequence[Parameter], group: dict[str, Any]) -> None:
        settings = {name: group[name] for name in ("lr", "momentum", "weight_decay", "nesterov")}
        backend.active.sgd_update(*self._lists(parameters), **settings)


class LARS(Optimizer):
    """SGD with steps in proportion to the norm of each weight array: for batches of thousands of images.

    Parameters
    ----------
    params : iterable of Parameter, or groups
    lr : float
        Learning rate.
    momentum : float
        Decay of the running sum of steps; 0 or more and less than 1.
    weight_decay : float
        Adds weight_decay * w to the gradient.
    trust : float
        eta: the norm of a step divided by the norm of the weights, at a learning rate of 1 and without momentum.
    eps : float
        Added to the divisor.

    Notes
    -----
    You, Gitman and Ginsburg, "Large batch training of convolutional networks", 2017, algorithm 1. For each parameter w,

        l = eta |w| / (|g| + weight_decay |w| + eps),   v <- momentum v + lr l (g + weight_decay w),   w <- w - v.

    Parameters with one axis (biases, batch norm) have l = 1 and do not decay, as in the paper's experiments. A weight
    array that is 0 also has l = 1: with the formula, it would stay 0.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> p = tr.nn.Parameter([[3.0, 4.0]]); p.grad = np.array([[1000.0, 0.0]], np.float32)
    >>> tr.optim.LARS([p], lr=1.0, trust=0.1).step(); p.data
    array([[2.5, 4. ]], dtype=float32)
    """

    slots = ("momentum",)

    def __init__(
        self,
        params: Params,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        eps: float = 1e-8,
    ) -> None:
        expect("momentum", momentum, 0 <= momentum < 1, "0 or more and less than 1")
        expect("trust", trust, trust > 0, "a positive number")
        expect("eps", eps, eps >= 0, "0 or more")
        settings = {"momentum": momentum, "weight_decay": weight_decay, "trust": trust, "eps": eps}
        super().__init__(params, {"lr": lr, **settings})

    def update(self, p: Array, g: Array, state: dict[str, Array], group: dict[str, Any]) -> None:
        rate, v = group["lr"], state["momentum"]
        if p.ndim > 1:
            size, slope, decay = float(np.linalg.norm(p)), float(np.linalg.norm(g)), group["weight_decay"]
            if size and (norm := slope + decay * size + group["eps"]):
                rate *= group["trust"] * size / norm
            g = g + p.dtype.type(decay) * p
        v *= p.dtype.type(group["momentum"])
        v += p.dtype.type(rate) * g
        p -= v
