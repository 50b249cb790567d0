"""What the package offers, by module."""

import importlib
import inspect

import tinyres as tr

MODULES = [
    "tinyres",
    *(f"tinyres.{name}" for name in tr.__all__ if inspect.ismodule(getattr(tr, name))),
    "tinyres.nn.init",
    "tinyres.runs",
    "tinyres.testing.mutation",
    "tinyres.testing.strategies",
    "tinyres.verify",
]


def public(module):
    """Functions and classes that a module offers, by name."""
    found = importlib.import_module(module)
    for name in getattr(found, "__all__", vars(found)):
        value = getattr(found, name)
        if name.startswith("_") or not (inspect.isfunction(value) or inspect.isclass(value)):
            continue
        ours = value.__module__.startswith("tinyres") if hasattr(found, "__all__") else value.__module__ == module
        if ours:  # tr.float32 is NumPy's
            yield name, value
