"""Residual networks from scratch, on NumPy and Numba: a small autograd engine with fast CPU kernels."""

import importlib
from typing import TYPE_CHECKING, Any

from numpy import float32, float64

from tinyres import (
    average,
    callbacks,
    checkpoints,
    data,
    evaluation,
    export,
    machine,
    models,
    nn,
    ops,
    optim,
    parallel,
    profile,
    recipes,
    schedule,
    testing,
    train,
)
from tinyres.backend import num_threads, set_num_threads, use_algorithm, use_backend
from tinyres.create import from_dlpack, ones, randn, tensor, zeros
from tinyres.lr_find import lr_find
from tinyres.nn.init import manual_seed
from tinyres.onnx_import import from_onnx
from tinyres.recompute import checkpoint
from tinyres.replay import Replay
from tinyres.tape import detect_anomaly, enable_grad, no_grad
from tinyres.tensor import Tensor, record
from tinyres.trainer import Trainer
from tinyres.version import __version__ as __version__

__all__ = [
    "Replay",
    "Tensor",
    "Trainer",
    "average",
    "callbacks",
    "checkpoint",
    "checkpoints",
    "data",
    "detect_anomaly",
    "enable_grad",
    "evaluation",
    "export",
    "float32",
    "float64",
    "from_dlpack",
    "from_onnx",
    "lr_find",
    "machine",
    "manual_seed",
    "models",
    "nn",
    "no_grad",
    "num_threads",
    "ones",
    "ops",
    "optim",
    "parallel",
    "profile",
    "randn",
    "recipes",
    "record",
    "schedule",
    "set_num_threads",
    "tensor",
    "testing",
    "train",
    "use_algorithm",
    "use_backend",
    "zeros",
]


if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Load ``tr.sklearn`` only when it is used: it needs scikit-learn, which is an extra."""
        if name == "sklearn":
            return importlib.import_module("tinyres.sklearn")
        raise AttributeError(f"module 'tinyres' has no attribute {name!r}")
