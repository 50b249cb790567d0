"""Residual networks: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016.

A network is a stem, some stages of blocks, and a classifier. Each stage halves the image and doubles the
channels in its first block. A block computes y = relu(F(x) + x), or F(x) + W x where shapes change (the paper's
equations 1 and 2). Names of modules and parameters are torchvision's.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from tinyres import ops
from tinyres.nn import BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, Module, Sequential
from tinyres.tensor import Tensor


class BasicBlock(Module):
    """Two 3x3 convolutions and a shortcut (the paper's figure 2 and figure 5, left).

    Parameters
    ----------
    in_channels, channels : int
        Of the input, and of the block; the output has ``channels * expansion``.
    stride : int
        Of the first convolution.
    downsample : Module, optional
        The shortcut where it is not the identity.

    Notes
    -----
    Any module with this signature and an `expansion` is a block for `ResNet`.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: Module | None = None) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn1(self.conv1(x), relu=True)
        return self.bn2(self.conv2(y), residual=shortcut, relu=True)  # relu(F(x) + shortcut)


class PlainBlock(BasicBlock):
    """The same two convolutions without the shortcut: what the paper compares with."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x), relu=True)), relu=True)


# ---------------------------------------------------------------- shortcuts where shapes change
class PaddedIdentity(Module):
    """Every stride-th pixel, and zeros for the channels that are new: no parameters (the paper's option A)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = out_channels - in_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return ops.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def projection(in_channels: int, out_channels: int, stride: int) -> Module:
    """W x: a 1x1 convolution with batch norm (the paper's options B and C)."""
    return Sequential(Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), BatchNorm2d(out_channels))


def _shortcut(option: str | None, in_channels: int, out_channels: int, stride: int) -> Module | None:
    changes = stride != 1 or in_channels != out_channels
    if option == "C" or (option == "B" and changes):
        return projection(in_channels, out_channels, stride)
    return PaddedIdentity(in_channels, out_channels, stride) if option == "A" and changes else None


# ---------------------------------------------------------------- the network
class ResNet(Module):
    """A residual network.

    Parameters
    ----------
    block : callable
        Class of the blocks, e.g. `BasicBlock` or one of your own with its signature.
    layers : sequence of int
        Number of blocks in each stage.
    num_classes : int
    widths : sequence of int, optional
        Channels of each stage; 64, 128, 256, 512 by default.
    shortcut : "A", "B", "C" or None
        Where shapes change: A pads with zeros, B projects; C projects in every block (the paper, section 4.1).
        None gives blocks no shortcut module at all, for blocks that have no shortcut.

    Raises
    ------
    ValueError
        Where `layers`, `widths` or `shortcut` are not of this form.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> net = tr.models.ResNet(tr.models.BasicBlock, [2, 2, 2, 2], num_classes=10)
    >>> net(tr.Tensor(np.zeros((2, 3, 32, 32), "f4"))).shape
    (2, 10)
    """

    def __init__(
        self,
        block: Callable[..., Module],
        layers: Sequence[int],
        num_classes: int = 10,
        *,
        widths: Sequence[int] | None = None,
        shortcut: str | None = "B",
    ) -> None:
        super().__init__()
        widths = [64 * 2**i for i in range(len(layers))] if widths is None else widths
        if not layers or len(layers) != len(widths) or min(*layers, *widths) < 1:
            raise ValueError(f"layers: got {layers} with widths {widths}, expected as many of each, all 1 or more")
        if shortcut not in ("A", "B", "C", None):
            raise ValueError(f"shortcut: got {shortcut!r}, expected 'A', 'B', 'C' or None")
        expansion: int = getattr(block, "expansion", 1)

        self.conv1 = Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(widths[0])
        self._stages: list[str] = []
        channels = widths[0]
        for i, (blocks, width) in enumerate(zip(layers, widths, strict=True)):
            stage = []
            for j in range(blocks):
                stride = 2 if i and not j else 1
                downsample = _shortcut(shortcut, channels, width * expansion, stride)
                stage.append(block(channels, width, stride, downsample))
                channels = width * expansion
            self._stages.append(f"layer{i + 1}")
            setattr(self, self._stages[-1], Sequential(*stage))
        self.avgpool = GlobalAvgPool2d()
        self.fc = Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> logits (N, num_classes)."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"x: got shape {x.shape}, expected images (N, 3, H, W)")
        x = self.bn1(self.conv1(x), relu=True)
        for stage in self._stages:
            x = self._modules[stage](x)
        return self.fc(ops.flatten(self.avgpool(x)))


# ---------------------------------------------------------------- the family
_CIFAR = {"widths": (16, 32, 64), "num_classes": 10}

FAMILY: dict[str, dict[str, Any]] = {
    **{
        f"resnet{6 * n + 2}": {"block": BasicBlock, "layers": [n] * 3, "shortcut": "A", **_CIFAR}
        for n in (3, 5, 7, 9, 18, 200)
    },
    **{f"plain{6 * n + 2}": {"block": PlainBlock, "layers": [n] * 3, "shortcut": None, **_CIFAR} for n in (3, 5, 7, 9)},
}
"""Each model's arguments for `ResNet`. The CIFAR nets have 6 n + 2 layers (the paper, section 4.2)."""


def create(name: str, **options: Any) -> ResNet:
    """Make a model of the family.

    Parameters
    ----------
    name : str
        One of `FAMILY`, e.g. ``"resnet20"``.
    **options
        For `ResNet`, e.g. ``num_classes=100`` or ``shortcut="B"``.

    Raises
    ------
    ValueError
        Where there is no such model, with the nearest names.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.create("resnet20")
    >>> sum(p.size for p in net.parameters())
    269722
    """
    check_name(name)
    return ResNet(**{**FAMILY[name], **options})


def check_name(name: str) -> None:
    """Raise ValueError, with the nearest names, where the family has no such model."""
    if name not in FAMILY:
        near = difflib.get_close_matches(name, FAMILY, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(FAMILY)}"
        raise ValueError(f"model: there is no {name!r}; {hint}")
