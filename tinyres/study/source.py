"""The source lines that computed a node: the call in the model, the operation, and the pullback."""

import ast
import functools
import inspect
import linecache
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

from tinyres.tape import Pullback

ENGINE = ("tinyres.tape", "tinyres.tensor", "tinyres.ops")
LAYERS = "tinyres.nn"


class Source(NamedTuple):
    """Lines of a file.

    Attributes
    ----------
    file : str
        Relative to the folder that contains the package, else the path that Python has.
    line : int
        The number of the first line, counted from 1.
    text : str
        The lines, without their common indentation; empty if the file cannot be read.
    mark : tuple of int or None
        First and last column of the call that ran, if `text` is one line.
    """

    file: str
    line: int
    text: str
    mark: tuple[int, int] | None = None


def calls(frame: FrameType | None, inside: str) -> tuple[Source, Source, Source]:
    """The code that recorded an operation, found from a frame between it and `record`.

    Parameters
    ----------
    frame : frame
        The frame of `tinyres.record`.
    inside : str
        Name of the module that runs the model: its frames do not count as the model.

    Returns
    -------
    model, layer, op : Source
        The line in the model's own code, the line in the layer that it called, and the line in the operation that
        computes the result. If the model consists of layers only, the first equals the second.
    """
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    outer = [f for f in frames if not _is_in(f, ENGINE)]
    layer = outer[0]
    model = next((f for f in outer if not _is_in(f, (LAYERS,))), layer)
    if model.f_globals.get("__name__") == inside:
        model = layer
    recorder = frames[1]
    return _running(model), _running(layer), _computing(recorder)


def pullback(function: Pullback) -> Source:
    """The source lines of a pullback. For a lambda, the whole statement."""
    code: CodeType = function.__code__
    lines, first = _definition(code)
    return Source(_file(code), first, _dedent(lines))


def _is_in(frame: FrameType, packages: tuple[str, ...]) -> bool:
    name = frame.f_globals.get("__name__", "")
    return any(name == package or name.startswith(package + ".") for package in packages)


def _running(frame: FrameType) -> Source:
    """The call that a frame is executing."""
    first, last, start, end = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    first, last = first or frame.f_lineno, last or frame.f_lineno
    lines = _lines(frame.f_code, first, last)
    mark = None
    if len(lines) == 1 and start is not None and end is not None:
        raw = lines[0].encode()  # columns count bytes
        blank = len(lines[0]) - len(lines[0].lstrip())
        mark = len(raw[:start].decode()) - blank, len(raw[:end].decode()) - blank
    return Source(_file(frame.f_code), first, _dedent(lines), mark)


def _computing(frame: FrameType) -> Source:
    """The line that computed the array given to `record`: that of `record` itself, or of the variable's assignment."""
    first, last = _assignment(frame.f_code, frame.f_lineno)
    if not first:
        return _running(frame)
    return Source(_file(frame.f_code), first, _dedent(_lines(frame.f_code, first, last)))


@functools.cache  # reading source is slower than most operations
def _definition(code: CodeType) -> tuple[tuple[str, ...], int]:
    """The lines that define a function, and the number of the first; empty if there is no file."""
    try:
        lines, first = inspect.getsourcelines(code)
    except OSError:
        return (), 0
    return tuple(lines), first


@functools.cache
def _assignment(code: CodeType, recorded: int) -> tuple[int, int]:
    """First and last line that compute the variable which line `recorded` records, or zeros."""
    lines, start = _definition(code)
    try:
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except SyntaxError:  # the lines of a lambda may not be a statement
        return 0, 0
    line = recorded - start + 1
    names = {
        call.args[1].id
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and call.lineno <= line <= (call.end_lineno or 0)
        if _called(call) == "record" and len(call.args) > 1 and isinstance(call.args[1], ast.Name)
    }
    set_at = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.Expr)
        and node.lineno < line
        and any(isinstance(leaf, ast.Name) and leaf.id in names for target in _set(node) for leaf in ast.walk(target))
    ]
    if not set_at:
        return 0, 0
    last = max(set_at, key=lambda node: node.lineno)
    return start + last.lineno - 1, start + (last.end_lineno or last.lineno) - 1


def _set(statement: ast.Assign | ast.Expr) -> list[ast.expr]:
    """The expressions that a statement writes to: its targets, or arguments of the work that it launches."""
    if isinstance(statement, ast.Assign):
        return statement.targets
    call = statement.value
    return call.args if isinstance(call, ast.Call) and _called(call) == "launch" else []


def _called(call: ast.Call) -> str:
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


def _lines(code: CodeType, first: int, last: int) -> list[str]:
    found = (linecache.getline(code.co_filename, number) for number in range(first, last + 1))
    return [line for line in found if line]


def _dedent(lines: Sequence[str]) -> str:
    """Remove the indentation of the first line. Lines of a string may have less indentation, and stay as they are."""
    blank = lines[0][: len(lines[0]) - len(lines[0].lstrip())] if lines else ""
    return "".join(line.removeprefix(blank) for line in lines).rstrip()


def _file(code: CodeType) -> str:
    path, top = Path(code.co_filename), Path(__file__).parents[2]
    return path.relative_to(top).as_posix() if path.is_relative_to(top / "tinyres") else path.name


def frame_of(function: CodeType) -> FrameType | None:
    """The innermost frame that runs this function, among the caller's frames."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not function:
        frame = frame.f_back
    return frame
