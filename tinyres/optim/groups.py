"""Settings for groups of parameters (weight decay, learning rate), and clipping of gradients."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinyres.nn import BatchNorm2d
from tinyres.nn.module import Module, Parameter
from tinyres.optim.optimizer import listed
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
    """The trained parameters of a model, in groups with the same weight decay and the same share of the learning rate.

    Parameters
    ----------
    model : Module
    weight_decay : float
    decay_bias : bool
        Whether weight decay also applies to biases and batch norm, not only to weights of layers.
    bias_lr : float
        Factor on the learning rate of batch norm's biases. Their weight decay is divided by it. It is 64 in Jordan,
        "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, section 3.4: a short training has few steps for them.
    layer_decay : float
        The last part of the model has the full learning rate. Each part before it has the rate of the next part times
        this factor (Howard and Ruder, "Universal language model fine-tuning", 2018, section 3.2: discriminative
        fine-tuning).
    parts : iterable of lists of Module, optional
        The parts, from input to output, as ``net.parts().values()`` of a `ResNet`. By default each child of the model
        is a part.

    Returns
    -------
    list of dict
        Groups for an optimizer, each with ``params``, ``weight_decay`` and ``lr_scale``.

    Raises
    ------
    ValueError
        If `bias_lr` is not positive, `layer_decay` is not more than 0, or it is more than 1.

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
    """Scale all gradients so that their joint Euclidean norm is at most `max_norm`. Returns the norm before scaling.

    If this norm is NaN or infinite, gradients are not changed.

    Raises
    ------
    TypeError
        If `parameters` is a single tensor, a module, or not of parameters.
    ValueError
        If `max_norm` is not positive.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> p = tr.nn.Parameter([0.0, 0.0]); p.grad = np.array([3.0, 4.0], np.float32)
    >>> tr.optim.clip_grad_norm([p], 1.0), p.grad
    (5.0, array([0.6, 0.8], dtype=float32))
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm: got {max_norm}, expected more than 0")
    entries = listed(parameters, "parameters")
    if wrong := [type(p).__name__ for p in entries if not isinstance(p, Tensor)]:
        raise TypeError(f"parameters: got a {wrong[0]} among them, expected parameters, as net.parameters() gives")
    with_gradient = [p for p in entries if p.grad is not None]
    norm = float(np.sqrt(sum(float(np.vdot(g, g)) for g in (np.float64(p.grad) for p in with_gradient))))
    if np.isfinite(norm) and norm > max_norm:
        for p in with_gradient:
            p.grad = p.grad * p.dtype.type(max_norm / norm)
    return norm
