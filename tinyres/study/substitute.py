"""Examine an operation with another file in place of one of the package's: a program that the gym runs.

It changes the import system before the package is loaded, so even the tape can be replaced. No file is copied, and the
package on the disk is only read.
"""

import faulthandler
import importlib.abc
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any


class _Instead(importlib.abc.MetaPathFinder):
    """Loads one module from a file of its own, and reports when this happens."""

    def __init__(self, module: str, file: str, found: Callable[[], None]) -> None:
        self.module, self.file, self.found = module, file, found

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != self.module:
            return None
        self.found()
        return importlib.util.spec_from_file_location(fullname, self.file)


def main(root: str, module: str, file: str, op: str, expected: str, report: str, trace: str, limit: str) -> None:
    """With `file` in place of the module, write what is wrong with `op` to `report`, as JSON; null if it is right.

    When `limit` seconds have passed since the file was first loaded, write the current traceback to `trace`, and exit.
    """
    with open(trace, "w") as stack:
        watch = partial(faulthandler.dump_traceback_later, float(limit), exit=True, file=stack)
        sys.path.insert(0, root)
        sys.meta_path.insert(0, _Instead(module, file, watch))
        try:
            from tinyres.study import exam

            found: Any = _examine(exam, op, expected)
        except (Exception, SystemExit) as error:  # from the file itself, which may raise anything
            found = {"verdict": "The file cannot be imported.", "message": _message(error, file)}
        faulthandler.cancel_dump_traceback_later()
    with open(report, "w") as out:
        json.dump(found, out)


def _examine(exam: Any, op: str, expected: str) -> dict[str, Any] | None:
    fault = exam.check_gradients(op) or exam.compare(op, exam.load(expected))
    return dict(fault._asdict()) if fault else None


def _message(error: BaseException, file: str) -> str:
    """The error as Python prints it, starting at the learner's file."""
    lines = traceback.extract_tb(error.__traceback__)
    first = next((i for i, line in enumerate(lines) if line.filename == file), len(lines))
    shown = traceback.format_list([line for line in lines[first:] if line.filename == file])
    return "".join([*shown, *traceback.format_exception_only(error)]).rstrip()


if __name__ == "__main__":
    main(*sys.argv[1:])
