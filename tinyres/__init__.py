"""Residual networks from scratch, on NumPy and Numba: a small autograd engine with fast CPU kernels."""

import importlib
from typing import TYPE_CHECKING, Any

from numpy import float32, float64

from tinyres import average, models, nn, ops, optim, schedule
from tinyres.backend import num_threads, set_num_threads, use_algorithm, use_backend
from tinyres.create import from_dlpack, ones, randn, tensor, zeros
from tinyres.nn.init import manual_seed
from tinyres.recompute import checkpoint
from tinyres.replay import Replay
from tinyres.tape import detect_anomaly, enable_grad, no_grad
from tinyres.tensor import Tensor, record
from tinyres.version import __version__ as __version__

if TYPE_CHECKING:  # what __getattr__ loads, for those who read types
    from tinyres import (
        callbacks,
        checkpoints,
        data,
        evaluation,
        export,
        machine,
        parallel,
        profile,
        recipes,
        testing,
        train,
    )
    from tinyres.lr_range import lr_find
    from tinyres.onnx_import import from_onnx
    from tinyres.trainer import Trainer

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


# A network, its gradients and its optimizers are there at once. The rest is loaded by the first who uses it: it took
# three quarters of the time that the package adds to Numba's import, and scikit-learn is an extra.
_MODULES = ("callbacks", "checkpoints", "data", "evaluation", "export", "machine", "parallel", "profile", "recipes",
            "sklearn", "testing", "train")  # fmt: skip
_LATER = {**{name: name for name in _MODULES}, "Trainer": "trainer", "from_onnx": "onnx_import", "lr_find": "lr_range"}

if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Load what is not loaded yet: a module, or what a module holds (PEP 562)."""
        if name not in _LATER:
            raise AttributeError(f"module 'tinyres' has no attribute {name!r}")
        module = importlib.import_module(f"tinyres.{_LATER[name]}")
        globals()[name] = found = module if _LATER[name] == name else getattr(module, name)
        return found


def __dir__() -> list[str]:
    return sorted(globals().keys() | _LATER)
