"""The folder of a run, and functions that read its files.

It has ``config.json`` (the configuration), ``metrics.jsonl`` (a line for each epoch, and the test result at the end),
``times.json`` (times in seconds; only this file differs when a run is repeated), the checkpoints
``last.safetensors``, ``previous.safetensors`` (the one before the last) and ``best.safetensors``, and ``curves.png`` if
matplotlib is installed.
"""

import contextlib
import dataclasses
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tinyres import checkpoints
from tinyres.recipe import Config, fits

ALREADY = "{} already holds a run: choose another folder, or continue it (--resume; resume=True in Python)"


class Times(NamedTuple):
    """Times of a run in seconds: of each finished epoch with its validation, and of the current epoch so far.

    Examples
    --------
    >>> Times([61.5, 60.2], since=3.0).epochs
    [61.5, 60.2]
    """

    epochs: list[float]
    since: float


def holds_run(folder: str | Path) -> bool:
    """Whether a folder contains a run.

    Examples
    --------
    >>> holds_run("no such run")
    False
    """
    return (Path(folder) / "config.json").exists() or (Path(folder) / "last.safetensors").exists()


def is_part_of_run(path: str | Path) -> bool:
    """Whether a file is one of those that a run needs, which nothing else should overwrite.

    Examples
    --------
    >>> is_part_of_run("no such run/config.json")
    False
    """
    path = Path(path).resolve()  # by a link too
    arrays = ("last.safetensors", "previous.safetensors", "best.safetensors")
    names = ("config.json", "metrics.jsonl", "times.json", *arrays)
    return path.name in names and path.exists() and holds_run(path.parent)


def has_begun(folder: str | Path) -> bool:
    """Whether the run in a folder has saved a checkpoint, even if it is lost now.

    Examples
    --------
    >>> has_begun("no such run")
    False
    """
    return any(any(Path(folder).glob(name)) for name in ("*.safetensors", "metrics.jsonl"))


def read_times(folder: str | Path) -> Times | None:
    """Read the times of a run, or None if its folder does not have them.

    Examples
    --------
    >>> read_times("no such run")
    """
    try:
        found = json.loads((Path(folder) / "times.json").read_text())
        times = Times(list(map(float, found["epochs"])), float(found["since"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return times if all(0 <= t < math.inf for t in (*times.epochs, times.since)) else None


def read_config(folder: str | Path) -> Config:
    """Read the configuration of the run in a folder.

    Raises
    ------
    CheckpointError
        If there is none, it cannot be read, or it has a field or a value that is not valid.

    Notes
    -----
    In old runs, option A was what is called "A-after" now. Their configuration does not show this, but the format of
    their last checkpoint does, see `models.weights.upgrade`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = pathlib.Path(folder, "config.json").write_text('{"model": "resnet32"}')
    >>> read_config(folder).model
    'resnet32'
    """
    path, last = Path(folder) / "config.json", Path(folder) / "last.safetensors"
    try:
        settings = json.loads(path.read_text())
        if unknown := {*settings} - {field.name for field in dataclasses.fields(Config)}:
            raise ValueError(
                f"unknown settings {reprlib.repr(sorted(unknown))}: written by another version of tinyres?"
            )
        config = Config(**settings)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise checkpoints.CheckpointError(f"{path}: no configuration of a run ({error})") from error
    with contextlib.suppress(checkpoints.CheckpointError):  # the code that loads the checkpoint reports the error
        made = (checkpoints.load_info(last) or {}).get("config") if last.exists() else None
        if isinstance(made, dict) and made.get("shortcut") == "A-after":
            config = dataclasses.replace(config, shortcut="A-after")
    return config


def config_to_resume(folder: str | Path, wanted: Mapping[str, Any], *, called: Callable[[str], str] = str) -> Config:
    """The configuration of the run in a folder, perhaps with more epochs.

    Parameters
    ----------
    folder : str or Path
    wanted : mapping
        Fields that the user has set. Their values must be those of the run; `epochs` may be larger.
    called : callable
        Function from a field's name to its name in messages.

    Raises
    ------
    CheckpointError
        As in `read_config`.
    ValueError
        If a field differs, except for more epochs.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = pathlib.Path(folder, "config.json").write_text('{"epochs": 3}')
    >>> config_to_resume(folder, {"epochs": 5, "seed": 0}).epochs
    5
    >>> config_to_resume(folder, {"epochs": 2})
    Traceback (most recent call last):
    ValueError: epochs: got 2, but the run in ... has 3; leave it out to resume, or give more
    """
    config = read_config(folder)
    for name, value in wanted.items():
        own = getattr(config, name)
        if name == "epochs" and value > own:
            config = dataclasses.replace(config, epochs=value)
        elif own != value:
            mend = "leave it out to resume" + (", or give more" if name == "epochs" else "")
            raise ValueError(f"{called(name)}: got {value}, but the run in {folder} has {own}; {mend}")
    return config


def numbers_by_name(record: Any, *names: str) -> bool:
    """Whether a value from a file is a dict of finite numbers that has at least these names.

    Examples
    --------
    >>> numbers_by_name({"epoch": 1, "loss": 0.5}, "epoch"), numbers_by_name({"epoch": float("nan")}, "epoch")
    (True, False)
    """
    if not isinstance(record, dict) or not record.keys() >= {*names}:
        return False
    return all(fits(value, float) and math.isfinite(value) for value in record.values())


def read_progress(info: dict[str, Any], most: int) -> tuple[int, list[dict[str, float]], dict[str, Any]]:
    """Step, history and sums of a checkpoint. KeyError or ValueError if they are missing or not valid.

    Examples
    --------
    >>> read_progress({"step": 9, "history": [], "sums": {"loss": 0.0, "correct": 0, "images": 0}}, most=8)
    Traceback (most recent call last):
    ValueError: step: got 9, expected 0 to 8
    """
    step, history, sums = info["step"], info["history"], info["sums"]
    if not fits(step, int) or not 0 <= step <= most:
        raise ValueError(f"step: got {reprlib.repr(step)}, expected 0 to {most}")
    if not isinstance(history, list) or not all(numbers_by_name(record, "epoch") for record in history):
        raise ValueError(f"history: got {reprlib.repr(history)}, expected numbers by name for each epoch")
    if not numbers_by_name(sums, "loss", "correct", "images") or not sums["images"] >= 0:
        raise ValueError(f"sums: got {reprlib.repr(sums)}, expected loss, correct and images")
    return step, history, sums
