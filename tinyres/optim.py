"""Optimizers: how a gradient changes a parameter."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyres import backend
from tinyres.nn import BatchNorm2d
from tinyres.nn.module import Module, Parameter
from tinyres.tape import Array
from tinyres.tensor import Tensor


def parameter_groups(
    model: Module,
    weight_decay: float,
    *,
    decay_bias: bool = True,
    bias_lr: float = 1.0,
    layer_decay: float = 1.0,
    parts: Iterable[Iterable[Module]] | None = None,
) -> list[dict[str, Any]]:
    """The parameters that a model trains, in groups of the same weight decay and the same share of the learning rate.

    Parameters
    ----------
    model : Module
    weight_decay : float
    decay_bias : bool
        Whether biases and batch norm decay as well as weight matrices and kernels.
    bias_lr : float
        Share of the rate for the biases of batch norm, whose decay is divided by it: 64 in Jordan, "94% on CIFAR-10 in
        3.29 seconds on a single GPU", 2024, section 3.4. They say where a ReLU opens, and have few steps to find it.
    layer_decay : float
        The model's last part has all of the rate, the one before it this share, the next one its square, and so on
        back to the images (Howard and Ruder, "Universal language model fine-tuning", 2018, section 3.2: discriminative
        fine-tuning).
    parts : iterable of lists of Module, optional
        From the images on, as ``net.parts().values()`` of a `ResNet`; each of the model's own modules by default.

    Returns
    -------
    list of dict
        For an optimizer: ``params``, ``weight_decay`` and ``lr_scale`` of each.

    Raises
    ------
    ValueError
        If `bias_lr` is not positive, or `layer_decay` not more than 0 and at most 1.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.nn.Sequential(tr.nn.Linear(2, 2), tr.nn.Linear(2, 2))
    >>> [(len(g["params"]), g["weight_decay"]) for g in parameter_groups(net, 5e-4, decay_bias=False)]
    [(2, 0.0005), (2, 0.0)]
    >>> [(len(g["params"]), g["lr_scale"]) for g in parameter_groups(net, 5e-4, layer_decay=0.5)]
    [(2, 0.5), (2, 1.0)]
    """
    if not 0 < bias_lr < np.inf:
        raise ValueError(f"bias_lr: got {bias_lr}, expected a positive number")
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay: got {layer_decay}, expected more than 0 and at most 1")
    norms = {module.bias for module in model.modules() if isinstance(module, BatchNorm2d)}
    modules = ([child] for child in model.children()) if parts is None else parts
    sets = [part for some in modules if (part := {p for module in some for p in module.parameters()})]
    groups: dict[tuple[float, float], list[Parameter]] = {}
    for p in (p for p in model.parameters() if p.requires_grad):
        own = bias_lr if p in norms else 1.0
        decay = weight_decay / own if decay_bias or p.ndim > 1 else 0.0
        above = max((len(sets) - 1 - i for i, part in enumerate(sets) if p in part), default=0)
        groups.setdefault((decay, own * layer_decay**above), []).append(p)
    return [{"params": some, "weight_decay": decay, "lr_scale": scale} for (decay, scale), some in groups.items()]


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients so that their joint Euclidean norm is at most `max_norm`; returns the norm before.

    A norm that is NaN or infinite is returned and leaves the gradients as they are.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> p = tr.nn.Parameter([0.0, 0.0]); p.grad = np.array([3.0, 4.0], np.float32)
    >>> tr.optim.clip_grad_norm([p], 1.0), p.grad
    (5.0, array([0.6, 0.8], dtype=float32))
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm: got {max_norm}, expected more than 0")
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = float(np.sqrt(sum(float(np.vdot(g, g)) for g in (np.float64(p.grad) for p in with_gradient))))
    if np.isfinite(norm) and norm > max_norm:
        for p in with_gradient:
            p.grad = p.grad * p.dtype.type(max_norm / norm)
    return norm


class Optimizer:
    """Base class: parameters in groups, each with its own settings, and named arrays of state for each parameter.

    Parameters
    ----------
    params : iterable of Parameter, or sequence of dict
        Groups as in PyTorch: ``[{"params": [...], "weight_decay": 0.0}, ...]``; what a group leaves out it takes
        from `defaults`.
    defaults : mapping
        Settings; ``groups[i]["lr"]`` can be assigned at any time. A group with an ``lr_scale``, and no ``lr`` of its
        own, has this share of the common rate.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> class Sign(tr.optim.Optimizer):
    ...     def update(self, p, g, state, group):
    ...         p -= p.dtype.type(group["lr"]) * np.sign(g)
    >>> p = tr.nn.Parameter([1.0]); p.grad = np.array([-3.0], np.float32)
    >>> Sign([p], {"lr": 0.5, "weight_decay": 0.0}).step(); p.data
    array([1.5], dtype=float32)
    """

    slots: tuple[str, ...] = ()  # names of the state arrays, each of its parameter's shape

    def __init__(self, params: Iterable[Parameter] | Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
        entries = _listed(params)
        groups: list[Any] = entries if entries and isinstance(entries[0], Mapping) else [{"params": entries}]
        defaults = {**defaults, "lr_scale": 1.0}
        for group in groups:
            if not isinstance(group, Mapping) or "params" not in group or group.keys() - {*defaults, "params", "name"}:
                expected = ", ".join(["params", *defaults])
                raise TypeError(f"params: got a group {reprlib.repr(group)}, expected a dict of some of {expected}")
        self.groups: list[dict[str, Any]] = [
            {**defaults, **group, "params": _trained(group["params"])} for group in groups
        ]
        for own, group in zip(groups, self.groups, strict=True):
            if "lr" not in own:
                group["lr"] *= group["lr_scale"]
        if not any(group["params"] for group in self.groups):
            raise ValueError("params: got no parameters, expected at least one")
        parameters = [p for group in self.groups for p in group["params"]]
        if len(set(parameters)) < len(parameters):
            raise ValueError("params: one parameter is there twice, and would be changed twice in each step")
        for group in self.groups:
            for name in ("lr", "weight_decay", "lr_scale"):
                if not group[name] >= 0:
                    raise ValueError(f"{name}: got {group[name]}, expected 0.0 or more")
        self.step_count = 0
        self.state: dict[Parameter, dict[str, Array]] = {
            p: {slot: np.zeros_like(p.data) for slot in self.slots} for p in parameters
        }

    def set_lr(self, lr: float) -> None:
        """Use this learning rate from now on, in all groups, in each by its ``lr_scale``."""
        for group in self.groups:
            group["lr"] = lr * group["lr_scale"]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.state:
            parameter.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient. Deterministic: parameters are taken in order."""
        self.step_count += 1
        for group in self.groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                self._follow(parameter)
                if not parameter.data.flags.writeable:  # a graph that is still alive has saved the old values
                    parameter.data = parameter.data.copy()
            self.update_group(parameters, group)

    def _follow(self, parameter: Parameter) -> None:
        """Bring the state to the parameter's dtype, which ``net.astype`` may have changed since the last step."""
        gradient, state = parameter.grad, self.state[parameter]
        if not isinstance(gradient, np.ndarray) or (gradient.shape, gradient.dtype) != (
            parameter.shape, parameter.dtype,
        ):  # fmt: skip
            got = f"{gradient.shape} {gradient.dtype}" if isinstance(gradient, np.ndarray) else type(gradient).__name__
            raise TypeError(
                f"grad: got {got}, expected an array like the parameter, {parameter.shape} {parameter.dtype}"
            )
        for slot in self.slots:
            if state[slot].dtype != parameter.dtype:
                state[slot] = state[slot].astype(parameter.dtype)

    def update_group(self, parameters: Sequence[Parameter], group: dict[str, Any]) -> None:
        """Change the parameters of a group, all of which have gradients: one after the other, by `update`."""
        for p in parameters:
            assert p.grad is not None
            self.update(p.data, p.grad, self.state[p], group)

    def _lists(self, parameters: Sequence[Parameter]) -> list[list[Any]]:
        """Of all parameters the arrays, the gradients, and the state of each slot: what a kernel takes."""
        states = [[self.state[p][slot] for p in parameters] for slot in self.slots]
        return [[p.data for p in parameters], [p.grad for p in parameters], *states]

    def update(self, p: Array, g: Array, state: dict[str, Array], group: dict[str, Any]) -> None:
        """Change the array `p` in place, given its gradient; subclasses define it, or `update_group`."""
        raise TypeError(f"{type(self).__name__} defines no update()")

    def state_dict(self) -> dict[str, Array]:
        """Copies of all state arrays (``"0.momentum"``: that of the first parameter) and the step count."""
        arrays = {f"{i}.{slot}": s[slot].copy() for i, s in enumerate(self.state.values()) for slot in self.slots}
        return {"step_count": np.array(self.step_count), **arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of the same optimizer on the same parameters.

        Raises
        ------
        ValueError
            Where names or shapes differ. Nothing has been changed then.
        """
        own = self.state_dict()
        wrong = [
            n for n in own.keys() | state.keys() if n not in own or n not in state or np.shape(state[n]) != own[n].shape
        ]
        if wrong:
            names = ", ".join(sorted(wrong)[:5])
            raise ValueError(f"optimizer state does not fit {type(self).__name__} on these parameters: {names}")
        self.step_count = int(state["step_count"])
        for i, arrays in enumerate(self.state.values()):
            for slot in self.slots:
                arrays[slot][...] = state[f"{i}.{slot}"]


def _listed(params: Any) -> list[Any]:
    if isinstance(params, Tensor):
        raise TypeError("params: got a single tensor, expected an iterable of parameters: write [parameter]")
    if isinstance(params, Module):
        raise TypeError(f"params: got {type(params).__name__}, expected its parameters: write net.parameters()")
    if isinstance(params, Mapping) or not isinstance(params, Iterable):
        raise TypeError(
            f"params: got {type(params).__name__}, expected an iterable of parameters, or a list of dicts of them"
        )
    return list(params)


def _trained(params: Any) -> list[Parameter]:
    """The parameters of a group, each of which can be trained."""
    entries = _listed(params)
    for entry in entries:
        if not isinstance(entry, Tensor):
            got = f"a {type(entry).__name__}"
        elif not entry.is_leaf:
            got = f"a computed tensor of shape {entry.shape}"
        elif not entry.requires_grad:
            got = f"a tensor of shape {entry.shape} that requires no gradient"
        else:
            continue
        raise TypeError(f"params: got {got} among them, expected parameters, as net.parameters() gives")
    return entries


class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    Parameters
    ----------
    params : iterable of Parameter, or groups
    lr : float
    momentum : float
    weight_decay : float
        Adds weight_decay * p to the gradient.
    nesterov : bool

    Notes
    -----
    As in PyTorch, with g the gradient plus weight decay,

        v <- momentum v + g,   p <- p - lr v   (Nesterov: p <- p - lr (g + momentum v)).

    Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013, with the learning
    rate outside of v.

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
        params: Iterable[Parameter] | Sequence[Mapping[str, Any]],
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: got {momentum}, expected 0 or more and less than 1")
        if nesterov and not momentum:
            raise ValueError("nesterov: got True without momentum, expected momentum > 0")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    def update_group(self, parameters: Sequence[Parameter], group: dict[str, Any]) -> None:
        settings = {name: group[name] for name in ("lr", "momentum", "weight_decay", "nesterov")}
        backend.active.sgd_update(*self._lists(parameters), **settings)


class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    Parameters
    ----------
    params : iterable of Parameter, or groups
    lr : float
    betas : pair of float
        Decay of the running mean of the gradient, and of its square.
    eps : float
    weight_decay : float

    Notes
    -----
    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, algorithm 2, in PyTorch's form: at step t,

        p <- p (1 - lr weight_decay),   m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,
        p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps).

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
        params: Iterable[Parameter] | Sequence[Mapping[str, Any]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas: got {betas}, expected two numbers of 0 or more and less than 1")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def update_group(self, parameters: Sequence[Parameter], group: dict[str, Any]) -> None:
        settings = {name: group[name] for name in ("lr", "eps", "weight_decay")}
        settings |= {"beta1": group["betas"][0], "beta2": group["betas"][1], "step": self.step_count}
        backend.active.adamw_update(*self._lists(parameters), **settings)
