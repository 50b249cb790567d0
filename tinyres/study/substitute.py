"""Examine an operation with one file of the package taken from elsewhere: a program, which the gym runs.

It puts itself in the way of imports before the package is loaded, so even the tape can be another. Nothing is copied,
and the package on the disk is only read.
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
    """Finds one module in a file of its own, and tells when."""

    def __init__(self, module: str, file: str, found: Callable[[], None]) -> None:
        self.module, self.file, self.found = module, file, found

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != self.module:
            return None
        self.found()
        return importlib.util.spec_from_file_location(fullname, self.file)


def main(root: str, module: str, file: str, op: str, expected: str, report: str, trace: str, limit: str) -> None:
    """Write what is wrong with `op` to `report`, as JSON, with `file` in place of the module; null where it is right.

    `limit` seconds after the file is first needed, write to `trace` where the program is, and end.
    """
    with open(trace, "w") as stack:
        watch = partial(faulthandler.dump_traceback_later, float(limit), exit=True, file=stack)
        sys.path.insert(0, root)
        sys.meta_path.insert(0, _Instead(module, file, watch))
        try:
            from tinyres.study import exam

            found: Any = _examine(exam, op, expected)
        except (Exception, SystemExit) as error:  # of the file itself, which may do anything
            found = {"verdict": "The file cannot be imported.", "message": _message(error, file)}
        faulthandler.cancel_dump_traceback_later()
    with open(report, "w") as out:
        json.dump(found, out)


def _examine(exam: Any, op: str, expected: str) -> dict[str, Any] | None:
    fault = exam.check_gradients(op) or exam.compare(op, exam.load(expected))
    return dict(fault._asdict()) if fault else None


def _message(error: BaseException, file: str) -> str:
    """As Python prints it, from where the file comes in."""
    lines = traceback.extract_tb(error.__traceback__)
    first = next((i for i, line in enumerate(lines) if line.filename == file), len(lines))
    shown = traceback.format_list([line for line in lines[first:] if line.filename == file])
    return "".join([*shown, *traceback.format_exception_only(error)]).rstrip()


if __name__ == "__main__":
    main(*sys.argv[1:])
