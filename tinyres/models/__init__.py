"""Residual networks, the plain ones they are compared with, and the table of both."""

from functools import partial

from tinyres.models.resnet import FAMILY, BasicBlock, PaddedIdentity, PlainBlock, ResNet, check_name, create, projection
from tinyres.models.summary import Row, summarize

resnet20, resnet32, resnet44, resnet56, resnet110, resnet1202, plain20, plain32, plain44, plain56 = (
    partial(create, name) for name in FAMILY
)

__all__ = [
    "FAMILY",
    "BasicBlock",
    "PaddedIdentity",
    "PlainBlock",
    "ResNet",
    "Row",
    "check_name",
    "create",
    "plain20",
    "plain32",
    "plain44",
    "plain56",
    "projection",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet1202",
    "summarize",
]
