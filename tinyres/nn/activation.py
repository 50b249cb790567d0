"""Activations as layers."""

from tinyres import ops
from tinyres.nn.module import Module
from tinyres.tensor import Tensor


class ReLU(Module):
    """max(x, 0).

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.nn.ReLU()(tr.Tensor([-1.0, 2.0])).data
    array([0., 2.], dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)), see `ops.sigmoid`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.nn.Sigmoid()(tr.Tensor([-1.0, 2.0])).data.round(3)
    array([0.269, 0.881], dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent, see `ops.tanh`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.nn.Tanh()(tr.Tensor([-1.0, 2.0])).data.round(3)
    array([-0.762,  0.964], dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.tanh(x)


class SiLU(Module):
    """x sigmoid(x), see `ops.silu`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.nn.SiLU()(tr.Tensor([-1.0, 2.0])).data.round(3)
    array([-0.269,  1.762], dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.silu(x)


class GELU(Module):
    """x times the probability that a standard normal variable is at most x, see `ops.gelu`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.nn.GELU()(tr.Tensor([-1.0, 2.0])).data.round(3)
    array([-0.159,  1.954], dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.gelu(x)
