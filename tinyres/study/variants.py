"""Models with another activation or without batch norm, for comparisons in studies."""

import numpy as np

from tinyres import ops
from tinyres.models import ResNet
from tinyres.nn import BatchNorm2d, Module, Parameter
from tinyres.tensor import Tensor

ACTIVATIONS = {"relu": ops.relu, "sigmoid": ops.sigmoid}


class Activated(Module):
    """A module that is called like a `BatchNorm2d`, but applies another activation instead of ReLU.

    So blocks need no change. Each step is a separate operation on the tape, while batch norm computes them in one.

    Parameters
    ----------
    channels : int
    activation : "relu" or "sigmoid"
    norm : BatchNorm2d or None
        If None, a bias of shape (1, channels, 1, 1) is added instead.

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
    """Replace the activation of a model, or remove its batch norms, and return the model.

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
