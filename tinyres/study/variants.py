"""Networks of the family with another activation, or without batch norm: what the studies compare with."""

import numpy as np

from tinyres import ops
from tinyres.models import ResNet
from tinyres.nn import BatchNorm2d, Module, Parameter
from tinyres.tensor import Tensor

ACTIVATIONS = {"relu": ops.relu, "sigmoid": ops.sigmoid}


class Activated(Module):
    """What is called like a `BatchNorm2d`, but applies the activation of its choice where that applies ReLU.

    So blocks need not know of it. Each step is an operation of its own on the tape, where batch norm fuses them.

    Parameters
    ----------
    channels : int
    activation : "relu" or "sigmoid"
    norm : BatchNorm2d or None
        Without it, a bias of shape (1, channels, 1, 1) is added in its place.

    Examples
    --------
    >>> import tinyres as tr
    >>> layer = Activated(2, "sigmoid", None)
    >>> layer(tr.Tensor(np.zeros((1, 2, 1, 1), "f4")), relu=True).data.ravel()
    array([0.5, 0.5], dtype=float32)
    """

    def __init__(self, channels: int, activation: str, norm: BatchNorm2d | None) -> None:
        super().__init__()
        self.activation, self.norm = activation, norm
        self.bias = Parameter(np.zeros((1, channels, 1, 1), np.float32)) if norm is None else None

    def forward(self, x: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        y = x + self.bias if self.norm is None else self.norm(x)
        y = y if residual is None else y + residual
        return ACTIVATIONS[self.activation](y) if relu else y

    def extra_repr(self) -> str:
        return self.activation


def vary(model: ResNet, *, activation: str = "relu", batch_norm: bool = True) -> ResNet:
    """Put another activation into a model, or take its batch norms out, and return it.

    Parameters
    ----------
    model : ResNet
        Changed in place. With ReLU and batch norm it stays as it is.
    activation : "relu" or "sigmoid"
        Everywhere, in the stem as well.
    batch_norm : bool
        If not, a bias for each channel takes the place of each batch norm.

    Raises
    ------
    ValueError
        If there is no such activation.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = vary(tr.models.create("plain20"), activation="sigmoid", batch_norm=False)
    >>> net.bn1
    Activated(sigmoid)
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: got {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    if activation == "relu" and batch_norm:
        return model
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, BatchNorm2d):
                stand_in = Activated(child.weight.size, activation, child if batch_norm else None)
                setattr(module, name, stand_in)
    return model
