"""Normalisation layers."""

from collections.abc import Sequence

import numpy as np

from tinyres import ops
from tinyres.kernels.launch import launch
from tinyres.nn.layers import positive
from tinyres.nn.module import Module, Parameter
from tinyres.ops.norm import Gather
from tinyres.tape import Array, state
from tinyres.tensor import Tensor


class BatchNorm2d(Module):
    """Batch norm, see `ops.batch_norm`. With ``residual=`` and ``relu=True`` it also adds a shortcut and applies ReLU.

    Attributes
    ----------
    gather : Gather or None
        Used if a batch is cut into shards but normalised as a whole, see `ops.batch_norm`. None by default.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> bn = tr.nn.BatchNorm2d(2)
    >>> bn(tr.Tensor(np.ones((4, 2, 1, 1), "f4")), relu=True).shape, int(bn.num_batches_tracked)
    ((4, 2, 1, 1), 1)
    """

    running_mean: Array
    running_var: Array
    num_batches_tracked: Array

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        positive(type(self).__name__, num_features=num_features)
        self.eps, self.momentum = eps, momentum
        self.gather: Gather | None = None
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.register_buffer("running_mean", np.zeros(num_features, np.float32))
        self.register_buffer("running_var", np.ones(num_features, np.float32))
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64))

    def forward(self, x: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        if self.training and not state.recomputing and (self.gather is None or self.gather.leads):
            launch(_count, self.num_batches_tracked)
        return ops.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias,
            training=self.training, momentum=self.momentum, eps=self.eps, residual=residual, relu=relu,
            gather=self.gather,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, momentum={self.momentum}"


class BatchNorm1d(BatchNorm2d):
    """Batch norm of vectors (N, C) or sequences (N, C, L), computed as images of one pixel, or of one row.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.nn.BatchNorm1d(2)(tr.Tensor([[1.0, 5.0], [3.0, 5.0]])).data.round(3)
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """

    def forward(self, x: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        if x.ndim not in (2, 3):
            raise ValueError(f"x: got shape {x.shape}, expected (N, C) or (N, C, L)")
        if self.training and self.gather is None and x.size == x.shape[1]:
            raise ValueError(f"x: got shape {x.shape}, expected more than one value per channel in training")
        shape = (*x.shape[:2], 1, x.shape[2] if x.ndim == 3 else 1)
        shortcut = None if residual is None else residual.reshape(shape)
        return super().forward(x.reshape(shape), residual=shortcut, relu=relu).reshape(x.shape)


class LayerNorm(Module):
    """Normalises the last axes of each sample, see `ops.layer_norm`.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        Lengths of these axes.
    eps : float
        Added to the variance.
    elementwise_affine, bias : bool
        Whether there are gamma and beta. Whether there is beta, if `elementwise_affine`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.nn.LayerNorm(2)(tr.Tensor([[1.0, 3.0]])).data.round(2)
    array([[-1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        *,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        if not shape or min(shape) < 1:
            raise ValueError(f"LayerNorm: normalized_shape: got {shape}, expected one number or more, all 1 or more")
        self.normalized_shape, self.eps = shape, eps
        self.weight = Parameter(np.ones(shape, np.float32)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(shape, np.float32)) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.normalized_shape, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class GroupNorm(Module):
    """Normalises each sample's channels in groups, see `ops.group_norm`.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.nn.GroupNorm(2, 4)(tr.Tensor(np.ones((1, 4, 8, 8), "f4"))).shape
    (1, 4, 8, 8)
    """

    def __init__(self, num_groups: int, num_channels: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        positive("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_groups: got {num_groups}, expected a divisor of {num_channels} channels")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight = Parameter(np.ones(num_channels, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(num_channels, np.float32)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"x: got shape {x.shape}, expected (N, {self.num_channels}, ...)")
        return ops.group_norm(x, self.num_groups, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.weight is not None}"


def _count(batches: Array) -> None:
    batches += 1
