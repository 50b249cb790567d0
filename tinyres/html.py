"""Tensors, modules and runs as HTML, for notebooks.

There are only a few tags, without scripts and colours, so that they fit a light or dark page. Text from outside, such
as a name, is escaped. The functions do not use tensors: they take only what they show.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

SHOWN = 8  # up to this many rows and columns, all numbers of an array are shown


def of_tensor(array: np.ndarray[Any, Any], *, requires_grad: bool = False) -> str:
    """Shape and dtype, and the numbers themselves if they are few, else a summary.

    The summary uses only the finite numbers, in float64, with the deviation of `Tensor.std`. It also gives the count of
    numbers that are not finite.

    Examples
    --------
    >>> "(2,) float32" in of_tensor(np.array([1.5, 2.0], np.float32))
    True
    """
    head = _tag("b", "Tensor") + f" {array.shape} {array.dtype}{', requires_grad' if requires_grad else ''}"
    if array.size and array.ndim <= 2 and max(array.shape, default=1) <= SHOWN:
        return _tag("div", head, _table(np.atleast_2d(array).tolist()))
    finite = array[np.isfinite(array)].astype(np.float64)
    summary: dict[str, Any] = {}
    if finite.size:
        summary = {"min": finite.min(), "mean": finite.mean(), "max": finite.max()}
    if finite.size > 1:
        summary["std"] = finite.std(ddof=1)
    if finite.size < array.size:
        summary["not finite"] = array.size - finite.size
    return _tag("div", head, _table([list(summary.values())], list(summary)) if summary else ", no numbers")


class Part(NamedTuple):
    """A module in the tree of `of_module`.

    `arrays` are its own, each with a shape and a word such as "buffer". `parameters` also counts the numbers of the
    modules in it.
    """

    name: str
    kind: str
    detail: str
    arrays: Sequence[tuple[str, tuple[int, ...], str]]
    parameters: int
    parts: Sequence["Part"]


def of_module(part: Part, *, opened: bool = True) -> str:
    """A tree of modules that can be opened one by one, each with its arrays and the count of numbers in and below it.

    Examples
    --------
    >>> page = of_module(Part("fc", "Linear", "9, 1", [("weight", (1, 9), "")], 9, []))
    >>> "<b>Linear</b>(9, 1)" in page, "9 parameters" in page, "weight (1, 9)" in page
    (True, True, True)
    """
    line = [f"{escape(part.name)}: "] if part.name else []
    line += [_tag("b", escape(part.kind)), f"({escape(part.detail)}) "]
    line += [_faint(f"{part.parameters:,} parameter{'' if part.parameters == 1 else 's'}")]
    inside = [_tag("div", f"{escape(name)} {shape} ", _faint(escape(word))) for name, shape, word in part.arrays]
    inside += [of_module(below, opened=False) for below in part.parts]
    if not inside:
        return _tag("div", *line)
    body = _tag("div", *inside, style="margin-left: 1.5em")
    return _tag("details", _tag("summary", *line), body, **({"open": "open"} if opened else {}))


def of_run(
    folder: str,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    *,
    curves: bytes | None = None,
) -> str:
    """A training run: its folder, the options that differ from the default, its epochs, and its curves.

    Parameters
    ----------
    folder : str
    config, defaults : mapping
        By name of the option.
    history : sequence of mapping
        For each epoch the measured numbers, by name.
    curves : bytes, optional
        The content of a PNG file.

    Examples
    --------
    >>> page = of_run("runs/1", {"lr": 0.1, "seed": 0}, {"lr": 0.5, "seed": 0}, [{"epoch": 1, "train_loss": 2.25}])
    >>> "lr" in page, "seed" in page, "2.25" in page
    (True, False, True)
    """
    changed = {name: value for name, value in config.items() if name not in defaults or defaults[name] != value}
    asked = _table([list(changed.values())], list(changed)) if changed else _tag("div", "the default configuration")
    inside = [_tag("b", "Run"), " ", _tag("code", escape(folder)), asked]
    if history:
        columns = list(dict.fromkeys(name for record in history for name in record))
        epochs = _table([[record.get(name) for name in columns] for record in history], columns)
        inside.append(_tag("div", epochs, style="max-height: 20em; overflow: auto"))
    if curves is not None:
        content = base64.b64encode(curves).decode()
        inside.append(f'<img alt="loss and error by epoch" src="data:image/png;base64,{content}"/>')
    return _tag("div", *inside)


# ---------------------------------------------------------------- tags
def _tag(name: str, *inside: str, **attributes: str) -> str:
    options = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items())
    return f"<{name}{options}>{''.join(inside)}</{name}>"


def _faint(text: str) -> str:
    return _tag("span", text, style="opacity: 0.7") if text else ""


def _table(rows: Sequence[Sequence[Any]], columns: Sequence[str] = ()) -> str:
    head = _tag("thead", _tag("tr", *(_tag("th", escape(name)) for name in columns))) if columns else ""
    return _tag("table", head, _tag("tbody", *(_tag("tr", *(_tag("td", _text(v)) for v in row)) for row in rows)))


def _text(value: Any) -> str:
    """A number with its first digits, None as an empty text, and everything else as it is."""
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else escape(str(value))
