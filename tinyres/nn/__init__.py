"""Modules, parameters and layers, named as in PyTorch."""

from tinyres.nn import init
from tinyres.nn.activation import GELU, ReLU, Sigmoid, SiLU, Tanh
from tinyres.nn.containers import ModuleDict, ModuleList, Sequential
from tinyres.nn.fuse import fuse
from tinyres.nn.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Identity,
    Linear,
    MaxPool2d,
)
from tinyres.nn.module import Module, Parameter
from tinyres.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm

__all__ = [
    "GELU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GroupNorm",
    "Identity",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Tanh",
    "fuse",
    "init",
]
