"""`tinyres study NAME`: each command runs a study, prints its numbers, and writes them and a picture."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tinyres.console import UserError, errors, out
from tinyres.files import write_whole

app = typer.Typer(help="See how residual networks learn: numbers and pictures of real runs.", no_args_is_help=True)

Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for numbers and picture; study/NAME by default.", show_default=False),
]


def folder_for(name: str, chosen: Path | None) -> Path:
    """The folder that a study writes to, made if it is not there."""
    folder = Path("study", name) if chosen is None else chosen
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out: got {folder}, a file; expected a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(folder: Path, name: str, numbers: dict[str, Any], figure: Any) -> None:
    """Numbers as NAME.json and the picture as NAME.png, and say so."""
    from tinyres.study import plots

    write_whole(folder / f"{name}.json", (json.dumps(numbers, indent=2) + "\n").encode())
    plots.save(figure, folder / f"{name}.png")
    out.print(f"Written: {folder / name}.json, {folder / name}.png", soft_wrap=True)


# ---------------------------------------------------------------- bottleneck
@app.command("bottleneck")
def bottleneck(
    image_size: Annotated[int, typer.Option(help="Height and width of the network's images.", min=32)] = 224,
    out_folder: Out = None,
) -> None:
    """What bottlenecks save: parameters and multiply-adds beside two 3x3 convolutions."""
    from tinyres.study import bottleneck as study

    with errors():
        costs = study.bottleneck(image_size)
        figure = study.draw(costs)
        folder = folder_for("bottleneck", out_folder)
        table = Table("channels", "pixels", title="One basic block beside one bottleneck, at equal width")
        for heading in ("parameters", "multiply-adds", "activation"):
            table.add_column(heading, justify="right", overflow="fold")
        for basic, other in zip(costs["basic"], costs["bottleneck"], strict=True):
            pairs = zip(basic[3:], other[3:], strict=True)
            cells = [f"{a:,} / {b:,}\n= {a / b:.1f}" for a, b in pairs]
            table.add_row(f"{basic.width}", f"{basic.size}^2", *cells)
        out.print(table)
        numbers = {name: [cost._asdict() for cost in stages] for name, stages in costs.items()}
        write(folder, "bottleneck", {"image_size": image_size, "blocks": numbers}, figure)
