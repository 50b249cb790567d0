"""Residual networks, the plain ones they are compared with, and the table of both.

Each model of `FAMILY` is a function here as well: ``tr.models.resnet18(num_classes=10, stem="cifar")``.
"""

from collections.abc import Callable
from functools import partial

from tinyres.models.blocks import (
    BasicBlock,
    Bottleneck,
    PaddedIdentity,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    make_shortcut,
    projection,
)
from tinyres.models.resnet import FAMILY, STEMS, ResNet, check_name, create
from tinyres.models.summary import Row, summarize
from tinyres.models.weights import load_weights


def __getattr__(name: str) -> Callable[..., ResNet]:
    if name in FAMILY:
        return partial(create, name)
    raise AttributeError(f"module 'tinyres.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *FAMILY]


__all__ = [
    "FAMILY",
    "STEMS",
    "BasicBlock",
    "Bottleneck",
    "PaddedIdentity",
    "PlainBlock",
    "PreActBlock",
    "PreActBottleneck",
    "ResNet",
    "Row",
    "check_name",
    "create",
    "load_weights",
    "make_shortcut",
    "projection",
    "summarize",
]
