"""Residual networks, plain networks to compare them with, and a table of all models.

Each model of `FAMILY` is also a function: ``tr.models.resnet18(num_classes=10, stem="cifar")``.
"""

from collections.abc import Callable
from functools import partial

from tinyres.models.blocks import (
    SHORTCUTS,
    BasicBlock,
    Bottleneck,
    PaddedIdentity,
    PlainBlock,
    PooledConv,
    PreActBlock,
    PreActBottleneck,
    make_shortcut,
    projection,
)
from tinyres.models.resnet import FAMILY, STEMS, ResNet, check_name, create, image_size
from tinyres.models.summary import BLOCKS, Cost, Row, compare_blocks, summarize
from tinyres.models.weights import load_weights, upgrade


def __getattr__(name: str) -> Callable[..., ResNet]:
    if name in FAMILY:
        return partial(create, name)
    raise AttributeError(f"module 'tinyres.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *FAMILY]


__all__ = [
    "BLOCKS",
    "FAMILY",
    "SHORTCUTS",
    "STEMS",
    "BasicBlock",
    "Bottleneck",
    "Cost",
    "PaddedIdentity",
    "PlainBlock",
    "PooledConv",
    "PreActBlock",
    "PreActBottleneck",
    "ResNet",
    "Row",
    "check_name",
    "compare_blocks",
    "create",
    "image_size",
    "load_weights",
    "make_shortcut",
    "projection",
    "summarize",
    "upgrade",
]
