"""Shared by the commands of studies: options, output files, and the progress bar of several runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyres import plots
from tinyres import train as training
from tinyres.console import DATA, RECIPE, RESULTS, configuration, expect_folder, json_text, one_of, out, prepare_kernels
from tinyres.files import write_whole
from tinyres.progress import ProgressBar
from tinyres.recipe import Config
from tinyres.splits import Data, load_data
from tinyres.study import probe

app = typer.Typer(help="See how residual networks learn: numbers and pictures of real runs.", no_args_is_help=True)

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the numbers and the picture; study/NAME by default.",
        show_default=False,
        rich_help_panel=RESULTS,
    ),
]

Dataset = Annotated[
    str,
    typer.Option(
        help="cifar10, cifar100, shapes, or auto.",
        autocompletion=one_of(("auto",), training.DATASETS),
        rich_help_panel=DATA,
    ),
]
Subset = Annotated[
    int | None, typer.Option(help="Train on only this many images; all by default.", rich_help_panel=DATA)
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.", rich_help_panel=RECIPE)]

# for studies that measure at some steps of a training
Steps = Annotated[int, typer.Option(help="Training steps.", min=0, rich_help_panel=RECIPE)]
Rate = Annotated[float, typer.Option(help="Learning rate, constant.", rich_help_panel=RECIPE)]
BatchSize = Annotated[
    int, typer.Option(help="Images in a batch of training and of measurement.", rich_help_panel=RECIPE)
]


def folder_for(name: str, chosen: Path | None) -> Path:
    """The folder that a study writes to. It is created if it does not exist."""
    folder = Path("study", name) if chosen is None else chosen
    expect_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def begin(name: str, chosen: Path | None, given: dict[str, Any]) -> tuple[Config, Data, Path]:
    """Everything that can fail before the work of a study that trains, and the compiled kernels.

    Returns the configuration, which is the studies' own with the given options, its data, and the study's folder.
    """
    plots.subplots()  # if matplotlib is missing, say so now and not after minutes
    config = configuration({**probe.RECIPE, **given})
    found = load_data(config)
    folder = folder_for(name, chosen)
    prepare_kernels()
    return config, found, folder


@contextmanager
def continued() -> Iterator[None]:
    """Training or measuring that may be stopped: says then that the same command continues it, and exits."""
    try:
        yield
    except training.Interrupted:
        out.print("Stopped and saved. The same command continues from there.")
        raise typer.Exit(130) from None


def diverged(title: str, moments: list[probe.Moment[Any]], steps: int) -> list[str]:
    """A sentence on a network whose loss became infinite or NaN before the last step; none for any other."""
    last = moments[-1].step
    return [f"{title}: diverged after step {last}; try a lower --lr."] if last < steps else []


def write(folder: Path, name: str, numbers: dict[str, Any], figure: Any) -> None:
    """Print the verdict, write the numbers to NAME.json and the picture to NAME.png, and print a line about it."""
    for sentence in numbers.get("verdict", ()):
        out.print(sentence, soft_wrap=True)
    write_whole(folder / f"{name}.json", json_text(numbers).encode())
    plots.save(figure, folder / f"{name}.png")
    out.print(f"Written: {folder / name}.json, {folder / name}.png", soft_wrap=True)


class Names(ProgressBar):
    """A progress bar for several runs, one after the other: it shows the name of the current run."""

    def on_train_begin(self, training: Any) -> None:
        since = f", from step {training.step} of {training.total_steps}" if training.step else ""
        self.print(f"{training.config.model} on {len(training.data.train[1]):,} images{since}")
        super().on_train_begin(training)
