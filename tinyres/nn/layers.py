"""Layers: an operation together with its parameters."""

import math

import numpy as np

from tinyres import ops
from tinyres.nn import init
from tinyres.nn.module import Module, Parameter
from tinyres.tensor import Tensor

_Size = int | tuple[int, int]


def _pair(value: _Size) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def positive(layer: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{layer}: {name}: got {value}, expected 1 or more")


def _windows(layer: str, kernel_size: _Size, stride: _Size | None, padding: _Size) -> None:
    sizes = {"kernel_size": (kernel_size, 1), "stride": (1 if stride is None else stride, 1), "padding": (padding, 0)}
    for name, (value, least) in sizes.items():
        if min(_pair(value)) < least:
            raise ValueError(f"{layer}: {name}: got {value}, expected {least} or more")


class Conv2d(Module):
    """Convolution, see `ops.conv2d`. Initial weights are `init.kaiming_normal` (fan-out), the initial bias is zero.

    A convolution without a bias is probably followed by a batch norm. In training it therefore measures the mean and
    variance that a batch norm needs.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.nn.Conv2d(3, 16, 3, padding=1)(tr.Tensor(np.zeros((1, 3, 8, 8), "f4"))).shape
    (1, 16, 8, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Size,
        *,
        stride: _Size = 1,
        padding: _Size = 0,
        dilation: _Size = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        positive("Conv2d", in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: groups: got {groups}, expected a divisor of in_channels {in_channels} and of "
                f"out_channels {out_channels}"
            )
        _windows("Conv2d", kernel_size, stride, padding)
        positive("Conv2d", dilation=min(_pair(dilation)))
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight = Parameter(init.kaiming_normal((out_channels, in_channels // groups, *_pair(kernel_size))))
        self.bias = Parameter(np.zeros(out_channels, np.float32)) if bias else None

    def forward(self, x: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        alone = self.bias is None and residual is None and not relu
        return ops.conv2d(
            x, self.weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups, residual=residual, relu=relu, measure=self.training and alone,
        )  # fmt: skip

    def extra_repr(self) -> str:
        o, c, *kernel = self.weight.shape
        options = f"kernel_size={tuple(kernel)}, stride={self.stride}, padding={self.padding}"
        options += f", dilation={self.dilation}" if self.dilation not in (1, (1, 1)) else ""
        options += f", groups={self.groups}" if self.groups > 1 else ""
        return f"{c * self.groups}, {o}, {options}, bias={self.bias is not None}"


class Linear(Module):
    """Affine map, see `ops.linear`. Initial values are uniform within 1 / sqrt(in_features), as in PyTorch.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.nn.Linear(3, 2)(tr.Tensor([[1.0, 2.0, 3.0]])).shape
    (1, 2)
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        positive("Linear", in_features=in_features, out_features=out_features)
        bound = 1 / math.sqrt(in_features)
        self.weight = Parameter(init.uniform((out_features, in_features), bound))
        self.bias = Parameter(init.uniform((out_features,), bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, bias={self.bias is not None}"


class MaxPool2d(Module):
    """Largest element of each window, see `ops.max_pool2d`.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.arange(16.0).reshape(1, 1, 4, 4))
    >>> tr.nn.MaxPool2d(2)(x).data[0, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """

    def __init__(self, kernel_size: _Size, *, stride: _Size | None = None, padding: _Size = 0) -> None:
        super().__init__()
        _windows(type(self).__name__, kernel_size, stride, padding)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return ops.max_pool2d(x, self.kernel_size, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(MaxPool2d):
    """Mean of each window, see `ops.avg_pool2d`.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.arange(16.0).reshape(1, 1, 4, 4))
    >>> tr.nn.AvgPool2d(2)(x).data[0, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.avg_pool2d(x, self.kernel_size, stride=self.stride, padding=self.padding)


class AdaptiveAvgPool2d(Module):
    """Mean over windows that cover the image, as many as `output_size` says, see `ops.adaptive_avg_pool2d`.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.nn.AdaptiveAvgPool2d((2, 3))(tr.zeros(1, 8, 7, 7)).shape
    (1, 8, 2, 3)
    """

    def __init__(self, output_size: _Size) -> None:
        super().__init__()
        positive("AdaptiveAvgPool2d", output_size=min(_pair(output_size)))
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return ops.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class GlobalAvgPool2d(Module):
    """Mean over all pixels of each channel: (N, C, H, W) -> (N, C, 1, 1).

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.arange(16.0).reshape(1, 1, 4, 4))
    >>> tr.nn.GlobalAvgPool2d()(x).data
    array([[[[7.5]]]])
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.global_avg_pool2d(x)


class Dropout(Module):
    """In training, sets elements to 0 at random, see `ops.dropout`.

    Examples
    --------
    >>> import tinyres as tr
    >>> layer = tr.nn.Dropout(0.5).eval()
    >>> layer(tr.Tensor([1.0, 2.0])).data
    array([1., 2.], dtype=float32)
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p: got {p}, expected 0 to 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout(x, self.p, training=self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """(N, C, H, W) -> (N, C * H * W).

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> tr.nn.Flatten()(tr.Tensor(np.zeros((2, 3, 4, 4)))).shape
    (2, 48)
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.flatten(x)


class Identity(Module):
    """x itself: for example the shortcut of a block that does not change the shape.

    Examples
    --------
    >>> import tinyres as tr
    >>> x = tr.Tensor([1.0])
    >>> tr.nn.Identity()(x) is x
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        return x
