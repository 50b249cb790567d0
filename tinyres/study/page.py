"""A page of a forward and a backward pass: one HTML file that needs no other file and no network."""

import json
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from tinyres import extras, plots
from tinyres.study import mosaic
from tinyres.study.explain import Input, Passes, Step
from tinyres.study.formulas import formula, to_html
from tinyres.study.numbers import Numbers
from tinyres.tape import Array

LIKELIEST = 5  # number of classes that are shown
ROOM = 18_000_000  # characters of a page that pictures and numbers may have together
NUMBERS = 1_300_000  # most numbers in a page: 7 MB as text


def render(
    passes: Passes, *, title: str, about: str = "", picture: Array | None = None, classes: Sequence[str] | None = None
) -> str:
    """The page as HTML.

    Parameters
    ----------
    passes : Passes
        From `explain`.
    title : str
        The model's name.
    about : str
        A sentence on the weights and the image.
    picture : uint8 array of shape (3, H, W), optional
        The image before it was normalised.
    classes : sequence of str, optional
        Names of the classes; their numbers by default.

    Returns
    -------
    str

    Raises
    ------
    ImportError
        If jinja2 is not installed.

    Examples
    --------
    >>> import tinyres as tr
    >>> from tinyres.study.explain import explain
    >>> net = tr.nn.Sequential(tr.nn.Flatten(), tr.nn.Linear(12, 2))
    >>> page = render(explain(net, np.ones((3, 2, 2), np.float32)), title="a line")
    >>> page.splitlines()[0], "<title>a line" in page
    ('<!DOCTYPE html>', True)
    """
    return template("explain.html.j2").render(
        title=title,
        about=about,
        data=_script_safe(contents(passes, picture=picture, classes=classes)),
        forward=plots.RESIDUAL,
        backward=plots.PLAIN,
        sequential=", ".join(mosaic.SEQUENTIAL),
        diverging=", ".join(mosaic.DIVERGING),
    )


def find_jinja() -> Any:
    """The module jinja2.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    return extras.find("jinja2", "pages need jinja2", "report")


def template(name: str, **options: Any) -> Any:
    """A template of jinja2, a file of this folder. Options are those of jinja2's `Environment`.

    Raises
    ------
    ImportError
        If jinja2 is not installed.
    """
    jinja2, folder = find_jinja(), files("tinyres.study")
    loader = jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, **options)
    return environment.get_template(name)


def contents(passes: Passes, *, picture: Array | None = None, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """The contents of the page, as JSON."""
    names = [str(k) for k in range(len(passes.probabilities))] if classes is None else list(classes)
    likeliest = np.argsort(-passes.probabilities, kind="stable")[:LIKELIEST]
    numbers = Numbers()
    steps = [_step(step, numbers) for step in passes.steps]
    left = (ROOM - len(json.dumps(steps))) * 3 // 16  # base64 needs 16 characters for 3 numbers of 32 bits
    largest = numbers.largest(max(0, min(NUMBERS, left)))
    for step, shown in zip(passes.steps, steps, strict=True):
        if len(step.received) > 1 and step.value.size <= largest:
            shown["fork"] = _fork(step, numbers)
    if picture is not None:
        steps[0]["value"]["picture"] = mosaic.photograph(picture)._asdict() | {"photograph": True}
    return {
        "loss": _number(passes.loss),
        "label": names[passes.label],
        "label_probability": _number(passes.probabilities[passes.label]),
        "likeliest": [{"name": names[k], "probability": _number(passes.probabilities[k])} for k in likeliest],
        "training": passes.training,
        "steps": steps,
        "numbers": numbers.contents(largest),
        "largest": largest,
        "blocks": [block._asdict() | {"cells": [cell._asdict() for cell in block.cells]} for block in passes.blocks],
    }


def statistics(array: Array) -> dict[str, Any]:
    """Smallest, largest, mean, standard deviation, share of zeros, and Euclidean norm, computed in float64.

    Examples
    --------
    >>> statistics(np.array([3.0, 0.0, 0.0, -4.0]))["norm"]
    5.0
    """
    if not array.size:
        return {}
    x = array.astype(np.float64)
    with np.errstate(all="ignore"):  # numbers that are not finite give results that are not finite
        found = {
            "min": x.min(),
            "max": x.max(),
            "mean": x.mean(),
            "std": x.std(),
            "zeros": np.mean(x == 0),
            "norm": np.sqrt(np.sum(x * x)),
        }
    return {name: _number(value) for name, value in found.items()}


def _step(step: Step, numbers: Numbers) -> dict[str, Any]:
    assert step.gradient is not None
    found = formula(step.op, step.attributes, len(step.inputs))
    for given in step.received:
        numbers.add(given.gradient)
    return {
        "op": step.op,
        "module": step.module,
        "shape": step.value.shape,
        "dtype": str(step.value.dtype),
        "fused": step.fused,
        "convolution": step.attributes if step.op == "conv2d" else None,
        "value": _shown(step.value, numbers, signed=False),
        "gradient": _shown(step.gradient, numbers, signed=True),
        "formula": None
        if found is None
        else {
            "forward": [to_html(line) for line in found.forward],
            "backward": [to_html(line) for line in found.backward],
            "where": found.where,
        },
        "inputs": [_input(given, numbers) for given in step.inputs],
        "received": [{"by": given.by, "norm": statistics(given.gradient)["norm"]} for given in step.received],
        "fork": None,
        "source": {
            name: None if lines is None else lines._asdict()
            for name, lines in (
                ("model", step.model),
                ("layer", None if step.layer == step.model else step.layer),
                ("computing", step.computing),
                ("pullback", step.pullback),
            )
        },
    }


def _fork(step: Step, numbers: Numbers) -> list[dict[str, Any]]:
    """For a result that is used more than once: its gradients and their sum, all on one scale of colours."""
    assert step.gradient is not None
    arrays = [*(given.gradient for given in step.received), step.gradient]
    most = max(float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in arrays)
    return [_shown(array, numbers, signed=True, most=most) for array in arrays]


def _input(given: Input, numbers: Numbers) -> dict[str, Any]:
    """The contents for an input. A step's result is shown at that step, a parameter or a constant here."""
    norm = None if given.gradient is None else statistics(given.gradient).get("norm")
    if given.step is not None:
        return {"step": given.step, "norm": norm}
    how: dict[str, Any] = {"signed": True, "weight": True}
    return {
        "step": None,
        "name": given.name,
        "shape": given.value.shape,
        "norm": norm,
        "value": _shown(given.value, numbers, **how),
        "gradient": None if given.gradient is None else _shown(given.gradient, numbers, **how),
    }


def _shown(array: Array, numbers: Numbers, *, signed: bool, **how: Any) -> dict[str, Any]:
    picture = mosaic.draw(array, signed=signed, **how)._asdict() | {"signed": signed, "photograph": False}
    picture |= {"low": _number(picture["low"]), "high": _number(picture["high"])}
    return {"picture": picture, "statistics": statistics(array), "numbers": numbers.add(array)}


def _number(value: Any) -> float | str:
    """A float, or the name of a value that JSON has no number for: nan or an infinity."""
    value = float(value)
    return value if math.isfinite(value) else str(value)


def _script_safe(content: dict[str, Any]) -> Any:
    """JSON without text that could end the script element around it."""
    from markupsafe import Markup  # installed with jinja2

    return Markup(json.dumps(content, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))
