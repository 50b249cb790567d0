"""Residual networks, and a table of all models: He, Zhang, Ren and Sun, "Deep residual learning for image
recognition", CVPR 2016.

A network is a stem, some stages of blocks, and a classifier. The first block of each stage but the first halves the
image and doubles the channels; or each stage does this before its blocks. Modules and parameters have the names of
torchvision.
"""

import difflib
import inspect
import reprlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tinyres import ops
from tinyres.models.blocks import (
    SHORTCUTS,
    BasicBlock,
    Bottleneck,
    PlainBlock,
    PooledConv,
    PreActBlock,
    PreActBottleneck,
    make_shortcut,
)
from tinyres.nn import BatchNorm2d, Conv2d, GlobalAvgPool2d, Linear, MaxPool2d, Module, Sequential
from tinyres.spelling import did_you_mean
from tinyres.tensor import Tensor

STEMS = ("cifar", "imagenet")
DOWN = ("block", "pool")


class ResNet(Module):
    """A residual network.

    Parameters
    ----------
    block : callable
        Class of the blocks, e.g. `BasicBlock` or one of your own with its signature.
    layers : sequence of int
        Number of blocks in each stage.
    num_classes : int
    in_channels : int
        Channels of the images: 3 for colour, 1 for grey, or another number.
    stem : "cifar" or "imagenet"
        A 3x3 convolution; or a 7x7 convolution with stride 2 and a 3x3 max-pool with stride 2 (the paper, table 1).
    widths : sequence of int, optional
        Channels of each stage; 64, 128, 256, 512 by default.
    down : "block" or "pool"
        Where the image is halved. "block": in the first block of each stage but the first, as in the paper. "pool": by
        a `PooledConv` before the blocks of each stage. Then no block changes the shape, and a stage may have no block.
    stem_width : int, optional
        Output channels of the stem; by default those of the first stage.
    shortcut : "A", "A-after", "B", "C" or None
        The shortcut of blocks that change the shape. A pads with zeros, see `PaddedIdentity`; B is a projection. C is
        a projection in every block (the paper, section 4.1). None gives blocks no shortcut module, for plain blocks.
    zero_init_residual : bool
        Whether F(x) = 0 at the start, so that every block is its shortcut. The blocks need a method `zero_residual`.
    **block_options
        Options of each block, e.g. ``groups=32, width_per_group=4`` for `Bottleneck`.

    Raises
    ------
    ValueError
        If `layers`, `widths`, `down`, `stem_width`, `stem` or `shortcut` do not have this form.
    TypeError
        If neither the network nor its blocks have an option of this name. The message lists the options.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> net = tr.models.ResNet(tr.models.BasicBlock, [2, 2, 2, 2], num_classes=10)
    >>> net(tr.Tensor(np.zeros((2, 3, 32, 32), "f4"))).shape
    (2, 10)
    """

    def __init__(  # a table of models has a column for each of them, see `FAMILY`
        self,
        block: Callable[..., Any],
        layers: Sequence[int],
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        stem: str = "cifar",
        widths: Sequence[int] | None = None,
        down: str = "block",
        stem_width: int | None = None,
        shortcut: str | None = "B",
        zero_init_residual: bool = False,
        **block_options: Any,
    ) -> None:
        super().__init__()
        widths = [64 * 2**i for i in range(len(layers))] if widths is None else widths
        if down not in DOWN:
            raise ValueError(f"down: got {down!r}, expected one of {', '.join(map(repr, DOWN))}")
        pooled = down == "pool"
        if not layers or len(layers) != len(widths) or min(widths) < 1 or min(layers) < 1 - pooled:
            raise ValueError(f"layers: got {layers} with widths {widths}, expected as many of each, all 1 or more")
        if shortcut not in (*SHORTCUTS, None):
            raise ValueError(f"shortcut: got {shortcut!r}, expected one of {', '.join(map(repr, SHORTCUTS))} or None")
        if stem not in STEMS:
            raise ValueError(f"stem: got {stem!r}, expected one of {', '.join(map(repr, STEMS))}")
        if num_classes < 1:
            raise ValueError(f"num_classes: got {num_classes}, expected 1 or more")
        _check_options(block, block_options)
        expansion: int = getattr(block, "expansion", 1)
        preactivation: bool = getattr(block, "preactivation", False)

        self.in_channels = in_channels  # kept here, since another module may replace the first convolution
        channels = widths[0] if stem_width is None else stem_width
        large = stem == "imagenet"
        self.conv1 = Conv2d(
            in_channels, channels, 7 if large else 3, stride=2 if large else 1, padding=3 if large else 1, bias=False
        )
        self.bn1 = BatchNorm2d(channels)
        self.maxpool = MaxPool2d(3, stride=2, padding=1) if large else None
        self._stages: list[str] = []
        for i, (blocks, width) in enumerate(zip(layers, widths, strict=True)):
            stage: list[Any] = [PooledConv(channels, width * expansion)] if pooled else []
            channels = width * expansion if pooled else channels
            for j in range(blocks):
                stride = 2 if i and not j and not pooled else 1
                downsample = make_shortcut(shortcut, channels, width * expansion, stride, norm=not preactivation)
                first = {"activated": True} if preactivation and not j and (pooled or not i) else {}
                stage.append(block(channels, width, stride, downsample, **block_options, **first))
                channels = width * expansion
                if zero_init_residual:
                    stage[-1].zero_residual()
            self._stages.append(f"layer{i + 1}")
            setattr(self, self._stages[-1], Sequential(*stage))
        self.norm = BatchNorm2d(channels) if preactivation else None  # the last sum's activation
        self.avgpool = GlobalAvgPool2d()
        self.fc = Linear(channels, num_classes)

    def blocks(self) -> Iterator[tuple[str, Module]]:
        """The blocks of all stages with their paths, e.g. "layer1.0", in the order of their calls."""
        for stage in self._stages:
            for block in self._modules[stage].children():
                if not isinstance(block, PooledConv):
                    yield f"{stage}.{block._name}", block

    def parts(self) -> dict[str, list[Module]]:
        """The parts of the network by name, from input to output: "stem", "layer1" and so on, and "head".

        The head is the part that is replaced when the network is fine-tuned for other classes.

        Examples
        --------
        >>> import tinyres as tr
        >>> list(tr.models.resnet20().parts())
        ['stem', 'layer1', 'layer2', 'layer3', 'head']
        """
        head: list[Module] = [self.fc] if self.norm is None else [self.norm, self.fc]
        return {"stem": [self.conv1, self.bn1], **{s: [self._modules[s]] for s in self._stages}, "head": head}

    def recompute(self, blocks: int = 1) -> None:
        """Save memory in training: keep only the input of every group of `blocks` blocks, and compute the rest again.

        The rest is computed again in backward, see `tinyres.checkpoint`. Gradients are the same to the last bit. Groups
        are counted within each stage. 0 keeps everything, which is the default of a new network. A negative number
        raises ValueError.

        Examples
        --------
        >>> import tinyres as tr
        >>> net = tr.models.resnet56()
        >>> net.recompute()  # batches of about three times the size fit into memory
        """
        if blocks < 0:
            raise ValueError(f"blocks: got {blocks}, expected 0 or more")
        for stage in self._stages:
            self._modules[stage].segment = blocks

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) -> logits (N, num_classes)."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x: got shape {x.shape}, expected images (N, {self.in_channels}, H, W)")
        x = self.bn1(self.conv1(x), relu=True)
        if self.maxpool is not None:
            x = self.maxpool(x)
        for stage in self._stages:
            x = self._modules[stage](x)
        if self.norm is not None:
            x = self.norm(x, relu=True)
        return self.fc(ops.flatten(self.avgpool(x)))


def _check_options(block: Callable[..., Any], options: dict[str, Any]) -> None:
    """Raise TypeError for an option that neither the network nor its blocks have; the message lists those of both."""
    own = {p.name: p.kind for p in inspect.signature(block).parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in own.values():
        return
    named = [name for name, kind in own.items() if kind is inspect.Parameter.KEYWORD_ONLY and name != "activated"]
    network = [p.name for p in inspect.signature(ResNet).parameters.values() if p.default is not p.empty]
    for name in options:
        if name not in own:
            there = [*network, *named]
            known = ", ".join(there)
            raise TypeError(
                f"{name}: this network and its blocks have no such option, expected {known}{did_you_mean(name, there)}"
            )


# ---------------------------------------------------------------- the family
_CIFAR = {"widths": (16, 32, 64), "num_classes": 10}
_IMAGENET = {"stem": "imagenet", "num_classes": 1000}
_STAGES = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}  # table 1


def _cifar(block: Any, n: int, shortcut: str | None = "A") -> dict[str, Any]:
    """n blocks in each of three stages (section 4.2)."""
    return {"block": block, "layers": [n] * 3, "shortcut": shortcut, **_CIFAR}


def _imagenet(block: Any, depth: int, **options: Any) -> dict[str, Any]:
    return {"block": block, "layers": _STAGES[depth], **_IMAGENET, **options}


_RESNET9 = {"block": BasicBlock, "layers": [1, 0, 1], "shortcut": None, "down": "pool", "num_classes": 10}  # Page, 2018

FAMILY: dict[str, dict[str, Any]] = {
    **{f"resnet{6 * n + 2}": _cifar(BasicBlock, n) for n in (3, 5, 7, 9, 18, 200)},
    **{f"plain{6 * n + 2}": _cifar(PlainBlock, n, None) for n in (3, 5, 7, 9)},
    **{f"preact_resnet{6 * n + 2}": _cifar(PreActBlock, n) for n in (3, 9, 18)},
    "resnet164": _cifar(Bottleneck, 18, "B"),
    **{f"preact_resnet{9 * n + 2}": _cifar(PreActBottleneck, n, "B") for n in (18, 111)},
    **{f"resnet{depth}": _imagenet(BasicBlock, depth) for depth in (18, 34)},
    **{f"resnet{depth}": _imagenet(Bottleneck, depth) for depth in (50, 101, 152)},
    **{f"resnet{depth}_v1": _imagenet(Bottleneck, depth, stride_on_1x1=True) for depth in (50, 101, 152)},
    **{f"plain{depth}": _imagenet(PlainBlock, depth, shortcut=None) for depth in (18, 34)},
    **{f"preact_resnet{depth}": _imagenet(PreActBlock, depth) for depth in (18, 34)},
    "preact_resnet50": _imagenet(PreActBottleneck, 50),
    "wide_resnet50_2": _imagenet(Bottleneck, 50, width_per_group=128),
    "resnet9": {**_RESNET9, "widths": (128, 256, 512), "stem_width": 64},
    "slim_resnet9": {**_RESNET9, "widths": (64, 128, 256), "stem_width": 32},
    "resnext50_32x4d": _imagenet(Bottleneck, 50, groups=32, width_per_group=4),
}
"""Each model's arguments for `ResNet`. Networks for CIFAR have 6 n + 2 layers, or 9 n + 2 with bottlenecks."""


def create(name: str, **options: Any) -> ResNet:
    """Make a model of the family.

    Parameters
    ----------
    name : str
        One of `FAMILY`, e.g. ``"resnet20"``.
    **options
        Options of `ResNet`, e.g. ``num_classes=100``, ``stem="cifar"`` or ``shortcut="B"``.

    Raises
    ------
    ValueError
        If there is no such model. The message has the nearest names.
    TypeError
        If there is no such option. The message lists the options.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.create("resnet20")
    >>> sum(p.size for p in net.parameters())
    269722
    """
    check_name(name)
    return ResNet(**{**FAMILY[name], **options})


def image_size(name: str, stem: str | None = None) -> int:
    """Height and width of the images that a model was designed for, with its own stem or another.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.models.image_size("resnet20"), tr.models.image_size("resnet50")
    (32, 224)
    """
    check_name(name)
    return 224 if (stem or FAMILY[name].get("stem")) == "imagenet" else 32


def check_name(name: str) -> None:
    """Raise ValueError, with the nearest names, if the family has no such model.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.models.check_name("resnet21")
    Traceback (most recent call last):
    ValueError: model: there is no 'resnet21'; did you mean resnet20 or resnet152 or resnet110?
    """
    if name not in FAMILY:
        near = difflib.get_close_matches(name, FAMILY, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(FAMILY)}"
        raise ValueError(f"model: there is no {reprlib.repr(name)}; {hint}")
