"""Residual blocks, and their shortcuts.

A block computes y = relu(F(x) + x), or relu(F(x) + W x) if the shape changes (He, Zhang, Ren and Sun, "Deep residual
learning for image recognition", CVPR 2016, equations 1 and 2). A pre-activation block applies batch norm and ReLU
before the convolutions, not after the sum: y = x + F(x) (the same authors, "Identity mappings in deep residual
networks", ECCV 2016).
"""

from tinyres import ops
from tinyres.nn import BatchNorm2d, Conv2d, MaxPool2d, Module, Sequential
from tinyres.tensor import Tensor


class BasicBlock(Module):
    """Two 3x3 convolutions and a shortcut (the paper's figure 2 and figure 5, left).

    Parameters
    ----------
    in_channels, channels : int
        Channels of the input, and of the block. The output has ``channels * expansion`` channels.
    stride : int
        Stride of the first convolution.
    downsample : Module, optional
        The shortcut; the identity by default.

    Notes
    -----
    Any module with this signature and an `expansion` is a block for `ResNet`.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.zeros((2, 16, 8, 8), np.float32))
    >>> shortcut = tr.models.projection(16, 32, stride=2)
    >>> tr.models.BasicBlock(16, 32, 2, shortcut)(x).shape
    (2, 32, 4, 4)
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

    def zero_residual(self) -> None:
        """Make F(x) = 0, so that the block starts as its shortcut.

        Goyal et al., "Accurate, large minibatch SGD", 2017, section 5.1.
        """
        self.bn2.weight.data[...] = 0


class PlainBlock(BasicBlock):
    """A `BasicBlock` without the shortcut: the paper compares residual networks with networks of such blocks.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.zeros((2, 16, 8, 8), np.float32))
    >>> tr.models.PlainBlock(16, 32, 2)(x).shape
    (2, 32, 4, 4)
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x), relu=True)), relu=True)

    def zero_residual(self) -> None:
        """Raises ValueError: a plain block has no shortcut, so its output would be 0."""
        raise ValueError("zero_init_residual: a plain block has no shortcut, so its output would always be 0")


class Bottleneck(Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: the first reduces the channels, the last restores them.

    It is the block of the paper's figure 5, right.

    Parameters
    ----------
    in_channels, channels, stride, downsample
        As for `BasicBlock`. The output has ``4 * channels`` channels.
    groups : int
        Groups of the 3x3 convolution: the cardinality of ResNeXt.
    width_per_group : int
        Channels of each group if `channels` is 64, and in proportion otherwise. The 3x3 convolution has
        ``channels * width_per_group // 64 * groups`` channels. With 128 it is a wide residual network; with 4 and 32
        groups it is ResNeXt-50 32x4d.
    stride_on_1x1 : bool
        If True, the first 1x1 convolution has the stride, as in the paper ("v1"). If False, the 3x3 convolution has it,
        as in torchvision ("v1.5"), which is half a percent more accurate and more expensive.

    References
    ----------
    Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016; Xie, Girshick, Dollár, Tu and He, "Aggregated residual
    transformations for deep neural networks", CVPR 2017.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.zeros((2, 16, 8, 8), np.float32))
    >>> tr.models.Bottleneck(16, 4)(x).shape
    (2, 16, 8, 8)
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        downsample: Module | None = None,
        *,
        groups: int = 1,
        width_per_group: int = 64,
        stride_on_1x1: bool = False,
    ) -> None:
        super().__init__()
        width = channels * width_per_group // 64 * groups
        first, second = (stride, 1) if stride_on_1x1 else (1, stride)
        self.conv1 = Conv2d(in_channels, width, 1, stride=first, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = Conv2d(width, width, 3, stride=second, padding=1, groups=groups, bias=False)
        self.bn2 = BatchNorm2d(width)
        self.conv3 = Conv2d(width, channels * self.expansion, 1, bias=False)
        self.bn3 = BatchNorm2d(channels * self.expansion)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn1(self.conv1(x), relu=True)
        y = self.bn2(self.conv2(y), relu=True)
        return self.bn3(self.conv3(y), residual=shortcut, relu=True)

    def zero_residual(self) -> None:
        """Make F(x) = 0, so that the block starts as its shortcut."""
        self.bn3.weight.data[...] = 0


# ---------------------------------------------------------------- activation before the convolutions
class PreActBlock(Module):
    """Batch norm and ReLU before each of two 3x3 convolutions: y = x + F(relu(bn(x))) ("Identity mappings", figure 1b).

    Parameters
    ----------
    in_channels, channels, stride, downsample
        As for `BasicBlock`. If the shape changes, the shortcut's input is the activated input, too.
    activated : bool
        Whether the input has already been activated, as for the first block. Both paths then use it directly
        (appendix).

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.zeros((2, 16, 8, 8), np.float32))
    >>> tr.models.PreActBlock(16, 16)(x).shape
    (2, 16, 8, 8)
    """

    expansion = 1
    preactivation = True

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        downsample: Module | None = None,
        *,
        activated: bool = False,
    ) -> None:
        super().__init__()
        self.bn1 = None if activated else BatchNorm2d(in_channels)
        self.make_residual(in_channels, channels, stride)
        self.downsample = downsample

    def make_residual(self, in_channels: int, channels: int, stride: int) -> None:
        """Make the layers of F."""
        self.conv1 = Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a = x if self.bn1 is None else self.bn1(x, relu=True)
        shortcut = x if self.downsample is None else self.downsample(a)
        return shortcut + self.residual(a)

    def residual(self, a: Tensor) -> Tensor:
        """F, of the activated input."""
        return self.conv2(self.bn2(self.conv1(a), relu=True))

    def zero_residual(self) -> None:
        """Make F(x) = 0, so that the block starts as its shortcut."""
        self.conv2.weight.data[...] = 0


class PreActBottleneck(PreActBlock):
    """A bottleneck with batch norm and ReLU before each convolution; parameters as for `PreActBlock`.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.zeros((2, 16, 8, 8), np.float32))
    >>> tr.models.PreActBottleneck(16, 4)(x).shape
    (2, 16, 8, 8)
    """

    expansion = 4

    def make_residual(self, in_channels: int, channels: int, stride: int) -> None:
        """Make the layers of F."""
        self.conv1 = Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = BatchNorm2d(channels)
        self.conv3 = Conv2d(channels, channels * self.expansion, 1, bias=False)

    def residual(self, a: Tensor) -> Tensor:
        """F, of the activated input."""
        y = self.bn2(self.conv1(a), relu=True)
        return self.conv3(self.bn3(self.conv2(y), relu=True))

    def zero_residual(self) -> None:
        """Make F(x) = 0, so that the block starts as its shortcut."""
        self.conv3.weight.data[...] = 0


# ---------------------------------------------------------------- downsampling between blocks
class PooledConv(Module):
    """relu(bn(pool(conv(x)))): a 3x3 convolution that adds channels, and a max-pool that halves the image.

    In a network that downsamples only by this module, every shortcut is the identity, as in Page's ResNet-9 ("How to
    train your ResNet 4", 2018). Batch norm comes after the pool, where there are only a quarter of the pixels, as in
    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024.

    Parameters
    ----------
    in_channels, out_channels : int

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.zeros((2, 16, 8, 8), np.float32))
    >>> tr.models.PooledConv(16, 32)(x).shape
    (2, 32, 4, 4)
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.pool = MaxPool2d(2)
        self.bn = BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pool(self.conv(x)), relu=True)


# ---------------------------------------------------------------- shortcuts that change the shape
class PaddedIdentity(Module):
    """Take every stride-th pixel, and add channels of zeros: no parameters (the paper's option A).

    Parameters
    ----------
    in_channels, out_channels, stride : int
    before : int, optional
        How many of the new channels come before the old ones. By default half of them, rounded down, as in the networks
        of the most widely used CIFAR-10 weights. The paper does not say.

    Raises
    ------
    ValueError
        If `before` is not from 0 to the number of new channels.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x = tr.Tensor(np.zeros((2, 16, 8, 8), np.float32))
    >>> tr.models.PaddedIdentity(16, 32, stride=2)(x).shape
    (2, 32, 4, 4)
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, before: int | None = None) -> None:
        super().__init__()
        new = out_channels - in_channels
        self.before = new // 2 if before is None else before
        self.after, self.stride = new - self.before, stride
        if not 0 <= self.before <= new:
            raise ValueError(f"before: got {before}, expected 0 to {new}, the number of new channels")

    def forward(self, x: Tensor) -> Tensor:
        return ops.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def projection(in_channels: int, out_channels: int, stride: int, *, norm: bool = True) -> Module:
    """W x: a 1x1 convolution (the paper's options B and C), followed by batch norm if `norm` is True.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.models.projection(16, 32, stride=2)
    Sequential(
      (0): Conv2d(16, 32, kernel_size=(1, 1), stride=2, padding=0, bias=False)
      (1): BatchNorm2d(32, eps=1e-05, momentum=0.1)
    )
    """
    conv = Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return Sequential(conv, BatchNorm2d(out_channels)) if norm else Sequential(conv)


SHORTCUTS = ("A", "A-after", "B", "C")
"""The paper's options. "A-after" has all new channels after the old ones, as A had in checkpoints of format 1 and 2."""


def make_shortcut(
    option: str | None, in_channels: int, out_channels: int, stride: int, *, norm: bool = True
) -> Module | None:
    """The shortcut module of a block, by one of `SHORTCUTS`. None if it is the identity or the option is None.

    Examples
    --------
    >>> import tinyres as tr
    >>> print(tr.models.make_shortcut("B", 16, 16, 1), tr.models.make_shortcut("A", 16, 32, 2))
    None PaddedIdentity()
    """
    changes = stride != 1 or in_channels != out_channels
    if option == "C" or (option == "B" and changes):
        return projection(in_channels, out_channels, stride, norm=norm)
    if option in ("A", "A-after") and changes:
        return PaddedIdentity(in_channels, out_channels, stride, before=0 if option == "A-after" else None)
    return None
