"""Compare runs: the options in which they differ, and their results."""

import base64
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinyres import plots
from tinyres.checkpoints import CheckpointError
from tinyres.recipe import Config
from tinyres.runs import numbers_by_name, read_config, read_times
from tinyres.study.page import template


@dataclasses.dataclass(frozen=True)
class Record:
    """The record of a run in its folder, without its weights."""

    name: str
    config: Config
    history: list[dict[str, float]]  # one entry for each epoch
    result: dict[str, float]  # test results; empty before the test
    minutes: list[float] | None  # time from the start to the end of each epoch; None if it was not measured

    @property
    def best(self) -> float | None:
        """The highest validation accuracy, or None without validation images."""
        return max((e["validation_accuracy"] for e in self.history if "validation_accuracy" in e), default=None)


def read(folder: str | Path) -> Record:
    """Read the record of a run.

    Raises
    ------
    CheckpointError
        If there is no run in the folder, it has not finished an epoch, or its metrics cannot be read.

    Examples
    --------
    >>> read("runs/first").best  # doctest: +SKIP
    0.8312
    """
    folder = Path(folder)
    config = read_config(folder)
    path = folder / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no metrics of a run that has finished an epoch ({error!r})") from error
    for number, line in enumerate(lines, 1):
        of_epoch = isinstance(line, dict) and "epoch" in line
        names = ("epoch", "train_loss", "train_accuracy") if of_epoch else ("test_loss", "test_accuracy")
        if not numbers_by_name(line, *names):
            raise CheckpointError(f"{path}: line {number}: expected {', '.join(names)}, and all of it numbers")
    history = [line for line in lines if "epoch" in line]
    if not history:
        raise CheckpointError(f"{path}: the run has not finished an epoch yet")
    result: dict[str, float] = next((line for line in lines if "test_accuracy" in line), {})
    times = read_times(folder)
    minutes = None
    if times and len(times.epochs) >= len(history):
        minutes = [sum(times.epochs[: i + 1]) / 60 for i in range(len(history))]
    name = str(folder).encode("utf-8", "backslashreplace").decode()  # a name that is not UTF-8 cannot be drawn
    return Record(name, config, history, result, minutes)


def differences(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Fields of the configurations that differ between runs, with the value in each run.

    The folder of a known data set does not count. For a data set from a folder it does, since it says which images.

    Examples
    --------
    >>> import tinyres as tr
    >>> a, b = (Record("", tr.train.Config(lr=lr), [], {}, None) for lr in (0.1, 0.5))
    >>> differences([a, b])
    {'lr': [0.1, 0.5]}
    """
    own = any(record.config.dataset == "folder" for record in records)
    names = [field.name for field in dataclasses.fields(Config) if own or field.name != "data"]
    values = {name: [getattr(record.config, name) for record in records] for name in names}
    return {name: some for name, some in values.items() if any(value != some[0] for value in some)}


def numbers(records: Sequence[Record]) -> dict[str, Any]:
    """Everything that is compared, as JSON."""
    return {
        "differences": differences(records),
        "runs": [
            {
                "run": r.name,
                "epochs": len(r.history),
                "of": r.config.epochs,
                "minutes": r.minutes[-1] if r.minutes else None,
                "train_loss": r.history[-1]["train_loss"],
                "best_validation_accuracy": r.best,
                "test_accuracy": r.result.get("test_accuracy"),
                "test_loss": r.result.get("test_loss"),
            }
            for r in records
        ],
    }


def draw(records: Sequence[Record]) -> Any:
    """Draw training loss and validation accuracy, or training accuracy without validation images.

    The x-axis is minutes if all runs have measured the time, else epochs.
    """
    timed = all(r.minutes for r in records)
    held = all(r.best is not None for r in records)
    figure, (left, right) = plots.subplots(1, 2, width=10.0, height=3.8)
    for i, r in enumerate(records):
        along = r.minutes if timed else [epoch["epoch"] for epoch in r.history]
        style = {"color": f"C{i % 10}", "linestyle": "-" if i < 10 else "--", "marker": "o", "markersize": 3}
        left.plot(along, [epoch["train_loss"] for epoch in r.history], **style, label=r.name)
        split = "validation" if held else "train"
        right.plot(along, [100 * epoch[f"{split}_accuracy"] for epoch in r.history], **style)
    unit = "minutes" if timed else "epoch"
    left.set(xlabel=unit, ylabel="training loss", ylim=(0, None))
    right.set(xlabel=unit, ylabel=f"{'validation' if held else 'training'} accuracy (%)")
    figure.legend(loc="outside lower center", ncols=min(2, len(records)))
    return figure


def page(records: Sequence[Record], figure: Any) -> str:
    """One HTML file that needs no other file: the picture, and both tables.

    Raises
    ------
    ImportError
        If jinja2 is not installed.
    """
    made = template("comparison.html.j2", trim_blocks=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    encoded = base64.b64encode(picture.getvalue()).decode()
    return made.render(**numbers(records), names=[r.name for r in records], picture=encoded)
