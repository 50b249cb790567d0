"""The progress of a training, on a terminal and in a notebook."""

import importlib.util
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from tinyres.callback import Callback, Logs, Training
from tinyres.parallel.launch import launch

if TYPE_CHECKING:  # each function imports what it needs of rich: that takes long, and `import tinyres` shows nothing
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn


def console(width: int | None = None, *, stderr: bool = False) -> "Console":
    """A console that prints text unchanged: text that looks like rich's markup or emoji may be part of a name.

    Examples
    --------
    >>> console(80).print("[bold]: that many :cat:s")
    [bold]: that many :cat:s
    """
    from rich.console import Console

    launched = launch()  # with several processes, only the first prints output, and each prints its errors
    quiet = launched is not None and launched.rank > 0 and not stderr
    return Console(highlight=False, markup=False, emoji=False, width=width, stderr=stderr, quiet=quiet)


def bars(out: "Console", *columns: "ProgressColumn") -> "Progress":
    """A progress bar on a terminal, or in a notebook with ipywidgets; it disappears at the end.

    Elsewhere there is none, since rich would leave an empty line, or a warning.
    """
    from rich.progress import Progress

    widgets = importlib.util.find_spec("ipywidgets") is not None  # rich needs it in notebooks, and warns without it
    shown = out.is_terminal or (out.is_jupyter and widgets)
    return Progress(*columns, console=out, transient=True, disable=not shown, speed_estimate_period=60)


class ProgressBar(Callback):
    """Show a progress bar for a training, and a line of results after each epoch.

    Parameters
    ----------
    out : rich.console.Console, optional

    Examples
    --------
    >>> bar = ProgressBar()  # for the callbacks of a `Trainer` whose own is off, or for `Run.fit`
    """

    def __init__(self, out: "Console | None" = None) -> None:
        self.out = out or console()
        self.recent: deque[tuple[float, float]] = deque()  # (time, images so far) in the last ten seconds
        self.progress: Progress | None = None

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        (self.progress.console if self.progress else self.out).print(text, soft_wrap=True)

    def on_train_begin(self, training: Training) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            TextColumn("left of the run"),
        )
        self.progress = bars(self.out, *columns)
        self.progress.start()
        fields: dict[str, Any] = {"epoch": _epoch(training), "state": "first step"}
        self.task = self.progress.add_task("", total=training.total_steps, completed=training.step, **fields)
        self._restart()

    def _restart(self) -> None:
        self.images, self.since = 0.0, time.perf_counter()
        self.recent.clear()
        self.recent.append((self.since, 0))

    def on_batch_end(self, training: Training, logs: Logs) -> None:
        assert self.progress is not None
        now = time.perf_counter()
        self.images += logs["images"]
        self.recent.append((now, self.images))
        while len(self.recent) > 2 and now - self.recent[0][0] > 10:
            self.recent.popleft()
        start, before = self.recent[0]
        rate = (self.images - before) / max(now - start, 1e-9)
        state = f"{rate:4.0f} images/s  loss {logs['loss']:.4f}"
        self.progress.update(self.task, completed=training.step, epoch=_epoch(training), state=state)

    def on_stopping(self, training: Training) -> None:
        if training.folder is None:
            return self.print("Finishing the step. Ctrl-C again stops at once.")
        lost = training.step - training.saved
        loses = "this step" if lost < 2 else f"{lost} steps"
        return self.print(f"Finishing the step, and saving. Ctrl-C again stops at once, and loses {loses}.")

    def on_epoch_end(self, training: Training, logs: Logs) -> None:
        seconds = self.recent[-1][0] - self.since  # to the last step: validation does not count
        text = f"epoch {logs['epoch']:3.0f}"
        for split in ("train", "validation"):
            if f"{split}_loss" in logs:
                text += f"  {split} loss {logs[f'{split}_loss']:.4f} accuracy {logs[f'{split}_accuracy']:.2%}"
        self.print(f"{text}  {seconds:.0f} s, {self.images / max(seconds, 1e-9):.0f} images/s")
        self._restart()

    def on_train_end(self, training: Training) -> None:
        if training.stopped:
            self.print(f"Ended early, after step {training.step} of {training.total_steps}: {training.stopped}")

    def teardown(self) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None


def _epoch(training: Training) -> str:
    return f"{min(training.epoch + 1, training.config.epochs)}/{training.config.epochs}"
