"""How Python starts work on arrays: a kernel, or a few lines of NumPy.

The work is done at once. While a step is recorded (see `tinyres.replay`), it is also written to a list, and can then be
repeated without the Python code that led to it. So launched work must not return a result that is used: it writes to
arrays among its arguments, and these values depend only on the other arguments.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Work = Callable[..., Any]
Note = Callable[[Work, tuple[Any, ...]], None]


class _Here(threading.local):
    note: Note | None = None


_here = _Here()


@contextlib.contextmanager
def noting(told: Note) -> Iterator[None]:
    """Tell `told` of everything that this thread launches inside this block, before it is done."""
    if _here.note is not None:
        raise RuntimeError("noting: got a step within one that is being noted, expected one at a time")
    _here.note = told
    try:
        yield
    finally:
        _here.note = None


def note(work: Work, *arguments: Any) -> None:
    """Record some work, if a step is being recorded."""
    if _here.note is not None:
        _here.note(work, arguments)


def launch(work: Work, *arguments: Any) -> None:
    """Do some work on arrays, and record it if a step is being recorded."""
    note(work, *arguments)
    work(*arguments)


def compute(function: Work, *arguments: Any, **options: Any) -> np.ndarray:
    """A new array, ``function(*arguments, **options)``, for a NumPy function that has ``out``."""
    result = np.asarray(function(*arguments, **options))
    note(_compute_into, result, function, options, *arguments)
    return result


def _compute_into(result: np.ndarray, function: Work, options: dict[str, Any], *arguments: Any) -> None:
    function(*arguments, **options, out=result)


def formula(function: Work, *arrays: np.ndarray) -> np.ndarray:
    """A new array, ``function(*arrays)``, where this is several operations of NumPy."""
    result = np.asarray(function(*arrays))
    note(_formula_into, result, function, *arrays)
    return result


def _formula_into(result: np.ndarray, function: Work, *arrays: np.ndarray) -> None:
    result[...] = function(*arrays)


def add_up(
    array: np.ndarray, axis: tuple[int, ...], *, keepdims: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """``np.sum``, added in float64 and rounded once, which takes two to four times as long.

    NumPy adds rows one after the other, so that in float32 the sum of three million rows is wrong by percents.

    Examples
    --------
    >>> rows = np.full((3_000_000, 2), 0.1, np.float32)
    >>> rows.sum(0).round(-2), add_up(rows, (0,)).round(-2)
    (array([290800., 290800.], dtype=float32), array([300000., 300000.], dtype=float32))
    """
    total = np.asarray(np.sum(array, axis, np.float64, keepdims=keepdims))
    if out is None:
        return total.astype(array.dtype)
    out[...] = total
    return out


def reshaped(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The same numbers in another shape: a view if possible, else a copy."""
    result = array.reshape(shape)
    if not np.may_share_memory(result, array):
        note(np.copyto, result.reshape(array.shape), array)
    return result


def assign(arrays: Any, *values: Any) -> None:
    """arrays[0][...] = values[0], and so on. For `launch`."""
    for array, value in zip(arrays, values, strict=True):
        array[...] = value
