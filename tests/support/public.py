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


def members(kind, classes):
    """Names of a class's public methods, properties and fields: its own, and those of bases that are not public."""
    bases = [c for c in kind.__mro__[1:] if c.__module__.startswith("tinyres") and c not in classes]
    names = (name for c in (kind, *bases) for name in vars(c) | getattr(c, "__annotations__", {}))
    return {name for name in names if not name.startswith("_")}


def every_name():
    """The dotted names that the promise of docs/versions.md is about, sorted."""
    found, by_module = set(), {module: dict(public(module)) for module in MODULES}
    classes = {value for offered in by_module.values() for value in offered.values()}
    for module, offered in by_module.items():
        found |= {f"{module}.{name}" for name in {*offered, *getattr(importlib.import_module(module), "__all__", ())}}
        for name, value in offered.items():
            if inspect.isclass(value):
                found |= {f"{module}.{name}.{member}" for member in members(value, classes)}
    return sorted(found)
