"""Pictures with matplotlib, if it is installed: in one style, and written whole or not at all."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyres import extras
from tinyres.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN, RESIDUAL = "#d1495b", "#2a6f97"
"""Colours for the two kinds of network, the same in all pictures."""
NEEDS = "pictures need matplotlib"
FORMATS = ("png", "svg", "pdf")
_LOOK: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "font.size": 10,
    "grid.alpha": 0.3,
    "svg.hashsalt": "tinyres",  # makes the file the same for the same picture
}


def colour_of(model: str) -> str:
    """The colour of a model of this name: `PLAIN` or `RESIDUAL`."""
    return PLAIN if model.startswith("plain") else RESIDUAL


def subplots(rows: int = 1, columns: int = 1, *, width: float = 9.0, height: float = 3.6, **options: Any) -> Any:
    """A figure with this size in inches, and its axes in the form that matplotlib's `Figure.subplots` gives.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    matplotlib = find_matplotlib()
    with matplotlib.rc_context(_LOOK):
        figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, **options)


def find_matplotlib() -> Any:
    """Import matplotlib with its figures, and return it.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    extras.find("matplotlib.figure", NEEDS, "plot")
    return extras.find("matplotlib", NEEDS, "plot")


def kind_of(path: str | Path) -> str:
    """The file format for a picture of this name. It raises the errors of `save`, before a long computation."""
    find_matplotlib()
    kind = Path(path).suffix[1:].lower()
    if kind not in FORMATS:
        raise ValueError(f"{path}: expected a name that ends in one of {', '.join('.' + kind for kind in FORMATS)}")
    return kind


def save(figure: "Figure", path: str | Path) -> None:
    """Write a picture. The suffix of the name determines the format.

    Raises
    ------
    ValueError
        If the suffix is not ``.png``, ``.svg`` or ``.pdf``.
    OSError
        If the file cannot be written.
    """
    kind, matplotlib = kind_of(path), find_matplotlib()
    buffer = io.BytesIO()
    dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with matplotlib.rc_context(_LOOK):
        figure.savefig(buffer, format=kind, dpi=150, metadata=dates)
    write_whole(path, buffer.getvalue())
