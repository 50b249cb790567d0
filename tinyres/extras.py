"""Packages that only some features need. Each is installed by an extra."""

import importlib
from typing import Any


def missing(what: str, extra: str) -> str:
    """The message for a package that is not installed, with the command that installs it.

    Examples
    --------
    >>> missing("pictures need matplotlib", "plot")
    "pictures need matplotlib: pip install 'tinyres[plot]'"
    """
    return f"{what}: pip install 'tinyres[{extra}]'"


def find(module: str, what: str, extra: str) -> Any:
    """Import a module that may be missing.

    Raises
    ------
    ImportError
        If it is not installed; the message names the command that installs it.

    Examples
    --------
    >>> find("no_such_module", "this needs a module that there is not", "all")
    Traceback (most recent call last):
    ImportError: this needs a module that there is not: pip install 'tinyres[all]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(missing(what, extra)) from error
