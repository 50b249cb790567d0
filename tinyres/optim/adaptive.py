"""Optimizers that divide each gradient by its average size so far: Adam, AdamW and RMSprop."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres import backend
from tinyres.nn.module import Parameter
from tinyres.optim.optimizer import Optimizer, Params, expect
from tinyres.tape import Array


class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    Parameters
    ----------
    params : iterable of Parameter, or groups
    lr : float
        Learning rate.
    betas : pair of float
        Decay of the running means of the gradient and of its square; each 0 or more and less than 1.
    eps : float
        Added to the divisor.
    weight_decay : float
        In each step, weights are multiplied by 1 - lr weight_decay.

    Notes
    -----
    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, algorithm 2, in PyTorch's form: at step t,

        p <- p (1 - lr weight_decay),   m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,
        a = m / (1 - b1^t),   b = v / (1 - b2^t),   p <- p - lr a / (sqrt(b) + eps).

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> p = tr.nn.Parameter([1.0]); p.grad = np.ones(1, np.float32)
    >>> tr.optim.AdamW([p], lr=0.1, weight_decay=0.0).step(); p.data.round(3)
    array([0.9], dtype=float32)
    """

    slots = ("mean", "square")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        expect("betas", betas, all(0 <= beta < 1 for beta in betas), "two numbers of 0 or more and less than 1")
        expect("eps", eps, eps >= 0, "0 or more")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def update_group(self, parameters: Sequence[Parameter], group: dict[str, Any]) -> None:
        self._update(self._lists(parameters), group, group["weight_decay"])

    def _update(self, lists: list[list[Any]], group: dict[str, Any], weight_decay: float) -> None:
        settings = {"lr": group["lr"], "eps": group["eps"], "weight_decay": weight_decay, "step": self.step_count}
        backend.active.adamw_update(*lists, beta1=group["betas"][0], beta2=group["betas"][1], **settings)


class Adam(AdamW):
    """Adam: weight decay is added to the gradient. Parameters are those of `AdamW`; by default there is no decay.

    Notes
    -----
    Kingma and Ba, "Adam", 2015, algorithm 1, with g + weight_decay p instead of g. The decay is then also divided by
    the size of the gradient, so weights with large gradients decay less. With weight decay, prefer `AdamW`.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> p = tr.nn.Parameter([1.0]); p.grad = np.ones(1, np.float32)
    >>> tr.optim.Adam([p], lr=0.1).step(); p.data.round(3)
    array([0.9], dtype=float32)
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update_group(self, parameters: Sequence[Parameter], group: dict[str, Any]) -> None:
        weights, gradients, *states = self._lists(parameters)
        if decay := group["weight_decay"]:
            gradients = [g + p.dtype.type(decay) * p for p, g in zip(weights, gradients, strict=True)]
        self._update([weights, gradients, *states], group, 0.0)


class RMSprop(Optimizer):
    """RMSprop: each gradient is divided by the root of its running mean square, with momentum.

    Parameters
    ----------
    params : iterable of Parameter, or groups
    lr : float
        Learning rate.
    alpha : float
        Decay of the running mean square; 0 or more and less than 1.
    eps : float
        Added to the divisor.
    weight_decay : float
        Adds weight_decay * p to the gradient.
    momentum : float

    Notes
    -----
    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5, 2012, in PyTorch's form:

        s <- alpha s + (1 - alpha) g^2,   v <- momentum v + g / (sqrt(s) + eps),   p <- p - lr v.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> p = tr.nn.Parameter([1.0]); p.grad = np.ones(1, np.float32)
    >>> tr.optim.RMSprop([p], lr=0.01).step(); p.data.round(3)
    array([0.9], dtype=float32)
    """

    slots = ("square", "momentum")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        for name, value in (("alpha", alpha), ("momentum", momentum)):
            expect(name, value, 0 <= value < 1, "0 or more and less than 1")
        expect("eps", eps, eps >= 0, "0 or more")
        settings = {"alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {"lr": lr, **settings})

    def update(self, p: Array, g: Array, state: dict[str, Array], group: dict[str, Any]) -> None:
        number, s, v = p.dtype.type, state["square"], state["momentum"]
        g = g + number(group["weight_decay"]) * p
        s *= number(group["alpha"])
        s += number(1 - group["alpha"]) * g * g
        v *= number(group["momentum"])
        v += g / (np.sqrt(s) + number(group["eps"]))
        p -= number(group["lr"]) * v
