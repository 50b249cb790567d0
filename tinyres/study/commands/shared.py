"""What the studies' commands share: options, where they write and how, the bar of several runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyres import plots
from tinyres import train as training
from tinyres.console import (
    DATA,
    RECIPE,
    RESULTS,
    expect_folder,
    json_text,
    one_of,
    out,
)
from tinyres.files import write_whole
from tinyres.progress import ProgressBar

app = typer.Typer(help="See how residual networks learn: numbers and pictures of real runs.", no_args_is_help=True)

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for numbers and picture; study/NAME by default.",
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
Subset = Annotated[int | None, typer.Option(help="Train on so many images only; all by default.", rich_help_panel=DATA)]
Seed = Annotated[int, typer.Option(help="One seed, one result.", rich_help_panel=RECIPE)]

# of the studies that measure at some steps of a training
Steps = Annotated[int, typer.Option(help="Training steps.", min=0, rich_help_panel=RECIPE)]
Rate = Annotated[float, typer.Option(help="Learning rate, the same at all steps.", rich_help_panel=RECIPE)]
BatchSize = Annotated[int, typer.Option(help="Of training, and of what is measured.", rich_help_panel=RECIPE)]


def folder_for(name: str, chosen: Path | None) -> Path:
    """The folder that a study writes to, made if it is not there."""
    folder = Path("study", name) if chosen is None else chosen
    expect_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(folder: Path, name: str, numbers: dict[str, Any], figure: Any) -> None:
    """Numbers as NAME.json and the picture as NAME.png, and say so."""
    write_whole(folder / f"{name}.json", json_text(numbers).encode())
    plots.save(figure, folder / f"{name}.png")
    out.print(f"Written: {folder / name}.json, {folder / name}.png", soft_wrap=True)


class Names(ProgressBar):
    """The bar of several runs, one after the other: says whose turn it is."""

    def on_train_begin(self, training: Any) -> None:
        since = f", from step {training.step} of {training.total_steps}" if training.step else ""
        self.print(f"{training.config.model} on {len(training.data.train[1]):,} images{since}")
        super().on_train_begin(training)
