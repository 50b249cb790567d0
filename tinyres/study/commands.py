"""`tinyres study NAME`: each command runs a study, prints its numbers, and writes them and a picture."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tinyres import train as training
from tinyres.console import Bar, DataOption, Threads, UserError, configuration, errors, out, use_threads
from tinyres.files import write_whole
from tinyres.study import plots

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


# ---------------------------------------------------------------- degradation
class Names(Bar):
    """The bar of several runs, one after the other: says whose turn it is."""

    def start(self, run: training.Run) -> None:
        since = f", from step {run.step} of {run.total_steps}" if run.step else ""
        self.progress.print(f"{run.config.model} on {len(run.data.train[1]):,} images{since}", soft_wrap=True)
        super().start(run)


@app.command("degradation")
def degradation(
    epochs: Annotated[int, typer.Option(help="Epochs of each network.")] = 20,
    subset: Annotated[int | None, typer.Option(help="Train on so many images only; all by default.")] = None,
    networks: Annotated[
        str, typer.Option(help="plainN and resnetN, with commas between; trained one after the other.")
    ] = "plain20,plain56,resnet20,resnet56",
    dataset: Annotated[str, typer.Option(help="cifar10, cifar100, shapes, or auto.")] = "auto",
    data: DataOption = None,
    lr: Annotated[
        float, typer.Option(help="Learning rate; a tenth from half of the run, a tenth of that from 3/4.")
    ] = 0.1,
    batch_size: Annotated[int, typer.Option()] = 128,
    seed: Annotated[int, typer.Option(help="One seed, one result.")] = 0,
    threads: Threads = None,
    out_folder: Out = None,
) -> None:
    """The paper's first experiment: a deeper plain net gets worse, in training error too; a residual one does not.

    Ctrl-C finishes the step and saves; the same command goes on from there.
    """
    from tinyres.study import degradation as study

    with errors():
        use_threads(threads)
        plots.subplots()  # without matplotlib, better now than after hours
        given = {"dataset": dataset, "data": data, "epochs": epochs, "subset": subset, "lr": lr, "seed": seed}
        config = configuration({**study.RECIPE, "batch_size": batch_size, **given})
        folder = folder_for("degradation", out_folder)
        try:
            with Names() as bar:
                curves = study.degradation(config, folder, tuple(networks.split(",")), bar)
        except training.Interrupted:
            out.print("Stopped and saved. The same command goes on from there.")
            raise typer.Exit(130) from None
        table = Table("network", title=f"Errors on {config.dataset} after {epochs} epochs, by one recipe")
        for heading in ("training error", "test error"):
            table.add_column(heading, justify="right")
        for curve in curves:
            table.add_row(curve.model, f"{curve.train[-1]:.2%}", f"{curve.test[-1]:.2%}")
        out.print(table)
        sentences = study.verdict(curves)
        for sentence in sentences:
            out.print(sentence, soft_wrap=True)
        recipe = {name: value for name, value in dataclasses.asdict(config).items() if name != "model"}
        numbers = {"recipe": recipe, "curves": [c._asdict() for c in curves], "verdict": sentences}
        write(folder, "degradation", numbers, study.draw(curves))
