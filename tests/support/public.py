"""What the package offers, by module and by command.

    python tests/support/public.py

writes it into tests/data/public_names.txt, where `tests/test_release.py` finds what has changed.
"""

import importlib
import inspect
from pathlib import Path

from typer.main import get_command

import tinyres as tr
from tinyres import cli

NAMES = Path(__file__).parents[1] / "data" / "public_names.txt"
MODULES = [
    "tinyres",
    *(f"tinyres.{name}" for name in tr.__all__ if inspect.ismodule(getattr(tr, name))),
    "tinyres.nn.init",
    "tinyres.runs",
    "tinyres.testing.mutation",
    "tinyres.testing.strategies",
    "tinyres.verify",
]


class Something:
    """A default, whichever it is: in a signature there is nothing after its `=`."""

    def __repr__(self):
        return ""


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


def parameters(value):
    """As in `(x, bias=, *, stride=)`: what a caller may write. Nothing, if it is not called, or as Python says."""
    if not (inspect.isfunction(value) or inspect.ismethod(value) or inspect.isclass(value)):
        return ""
    if inspect.isclass(value) and issubclass(value, BaseException):
        return ""
    found = inspect.signature(value)
    plain = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else Something())
        for name, p in found.parameters.items()
        if name != "self"
    ]
    return str(found.replace(parameters=plain, return_annotation=found.empty))


def commands(group, *path):
    """Each command, and the words that call it; a group too, if it does something by itself."""
    for name, command in group.commands.items():
        if getattr(command, "invoke_without_command", True):
            yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)


def options():
    """Each command's, as in `tinyres train --model`."""
    app = get_command(cli.app)
    for path, command in [((), app), *commands(app)]:
        words = " ".join(["tinyres", *path])
        yield words
        for parameter in command.params:
            if parameter.param_type_name == "option":
                yield from (f"{words} {option}" for option in (*parameter.opts, *parameter.secondary_opts))


def every_name():
    """What the promise of docs/versions.md is about, sorted: dotted names with their parameters, and options."""
    found, by_module = set(options()), {module: dict(public(module)) for module in MODULES}
    classes = {value for offered in by_module.values() for value in offered.values()}
    for module, offered in by_module.items():
        listed = getattr(importlib.import_module(module), "__all__", ())
        found |= {f"{module}.{name}" for name in listed if name not in offered}
        for name, value in offered.items():
            found.add(f"{module}.{name}{parameters(value)}")
            if inspect.isclass(value):
                for member in members(value, classes):
                    found.add(f"{module}.{name}.{member}{parameters(getattr(value, member, None))}")
    return sorted(found)


if __name__ == "__main__":
    NAMES.write_text("\n".join(every_name()) + "\n")
