"""What all commands share: how they print, what they say where something is wrong, their common options."""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tinyres import data
from tinyres import train as training
from tinyres.backend import set_num_threads

HARDWARE = "Run"  # heading of the options that do not change results
out = Console(highlight=False)


class UserError(Exception):
    """Something the user can mend; printed without a traceback."""


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turn the errors a user can cause into one message and exit code 1."""
    try:
        yield
    except (UserError, ValueError, OSError, ArithmeticError, ImportError, MemoryError) as error:
        Console(stderr=True, highlight=False).print(f"[bold red]Error:[/] {plain(error)}", soft_wrap=True)
        raise typer.Exit(1) from None


def plain(message: Exception | str) -> str:
    """Its text, in which rich sees no markup."""
    return escape(str(message) or type(message).__name__)


def use_threads(n: int | None) -> None:
    """As many as --threads says."""
    if n is not None:
        set_num_threads(n)


Threads = Annotated[int | None, typer.Option(help="Threads to use; all cores by default.", rich_help_panel=HARDWARE)]
DataOption = Annotated[str | None, typer.Option(help="Folder that holds the data set.", show_default=False)]


@contextlib.contextmanager
def reading() -> Iterator[Callable[[int, int], None]]:
    """A progress bar for pictures that are read, and a function to move it."""
    columns = TextColumn("reading pictures"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=done < total)


def configuration(fields: dict[str, Any]) -> training.Config:
    """The configuration that the options ask for; `auto` is resolved to the data set that is there."""
    if fields["dataset"] != "auto":
        return training.Config(**fields)
    config = training.Config(**{**fields, "dataset": "cifar10"})
    try:
        data.cifar10(config.data, "test")
    except data.DatasetNotFound:
        if config.data is not None:
            raise
        out.print(
            "CIFAR-10 is neither on this machine nor to be downloaded: training on the built-in shapes. "
            "To supply it: --data DIR with cifar-10-binary.tar.gz in DIR.",
            soft_wrap=True,
        )
        validation = min(config.validation, 2000)
        return dataclasses.replace(config, dataset="shapes", validation=validation)
    return config


class Bar:
    """A progress bar for each epoch, then a line with its results."""

    def __init__(self) -> None:
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:4.0f} images/s  loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            TextColumn("left of the run"),
        )
        self.progress = Progress(*columns, console=out, transient=True, speed_estimate_period=60)
        self.recent: deque[tuple[float, int]] = deque()  # (time, images so far), over the last ten seconds

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def start(self, run: training.Run) -> None:
        for task in self.progress.task_ids:  # of the run before
            self.progress.remove_task(task)
        self.recent.clear()
        fields: dict[str, Any] = {"epoch": self._epoch(run), "rate": 0.0, "loss": float("nan")}
        self.task = self.progress.add_task("", total=run.total_steps, completed=run.step, **fields)
        self.images, self.since = 0, time.perf_counter()
        self.recent.append((self.since, 0))

    def step(self, run: training.Run, loss: float, lr: float, images: int) -> None:
        now = time.perf_counter()
        self.images += images
        self.recent.append((now, self.images))
        while len(self.recent) > 2 and now - self.recent[0][0] > 10:
            self.recent.popleft()
        start, before = self.recent[0]
        rate = (self.images - before) / max(now - start, 1e-9)
        self.progress.update(self.task, completed=run.step, epoch=self._epoch(run), rate=rate, loss=loss)

    def epoch(self, run: training.Run, record: dict[str, float]) -> None:
        seconds = self.recent[-1][0] - self.since  # to the last step: without the validation
        text = f"epoch {record['epoch']:3.0f}"
        for split in ("train", "validation"):
            if f"{split}_loss" in record:
                text += f"  {split} loss {record[f'{split}_loss']:.4f} accuracy {record[f'{split}_accuracy']:.2%}"
        self.progress.print(f"{text}  {seconds:.0f} s, {self.images / seconds:.0f} images/s", soft_wrap=True)
        self.images, self.since = 0, time.perf_counter()
        self.recent.clear()
        self.recent.append((self.since, 0))

    @staticmethod
    def _epoch(run: training.Run) -> str:
        return f"{min(run.step // len(run.loader) + 1, run.config.epochs)}/{run.config.epochs}"
