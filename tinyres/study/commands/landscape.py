"""`tinyres study landscape`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from tinyres import models, plots
from tinyres import train as training
from tinyres.console import (
    MEASUREMENT,
    DataOption,
    Json,
    Threads,
    UserError,
    configuration,
    errors,
    numbers_to,
    one_of,
    out,
    prepare_kernels,
    progress,
    show,
    use_threads,
)
from tinyres.study import degradation
from tinyres.study import landscape as study
from tinyres.study.commands.shared import Names, Out, app, continued, folder_for, write
from tinyres.study.trained import load_all

TRAINING = "Training, if no runs are given"
NETWORKS = "plain56,resnet56"


@app.command("landscape")
def landscape(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run folders or checkpoints, e.g. study/degradation/plain56 study/degradation/resnet56.",
            show_default=False,
        ),
    ] = None,
    points: Annotated[
        int, typer.Option(help="Points along each direction; an odd number.", rich_help_panel=MEASUREMENT)
    ] = 25,
    radius: Annotated[
        float, typer.Option(help="Largest step, relative to the norm of the weights.", rich_help_panel=MEASUREMENT)
    ] = 1.0,
    images: Annotated[
        int, typer.Option(help="Number of training images for measuring the loss.", rich_help_panel=MEASUREMENT)
    ] = 500,
    networks: Annotated[
        str | None,
        typer.Option(
            help=f"Networks to train, separated by commas; {NETWORKS} by default.",
            show_default=False,
            rich_help_panel=TRAINING,
            autocompletion=one_of(models.FAMILY, commas=True),
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of each network.", rich_help_panel=TRAINING)] = 20,
    subset: Annotated[
        int | None,
        typer.Option(help="Train on only this many images; all by default.", rich_help_panel=TRAINING),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            help="cifar10, cifar100, shapes, or auto.",
            rich_help_panel=TRAINING,
            autocompletion=one_of(("auto",), training.DATASETS),
        ),
    ] = "auto",
    data: DataOption = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.", rich_help_panel=MEASUREMENT)] = 0,
    threads: Threads = None,
    out_folder: Out = None,
    json_file: Json = None,
) -> None:
    """Plot the loss around trained networks, in two random directions: for a plain and a residual network.

    It uses existing runs, or first trains networks as the degradation study does. Ctrl-C finishes the current step or
    point and saves. The same command continues from there.
    """
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        plots.subplots()  # if matplotlib is missing, say so now and not after hours
        study.grid(points, radius)  # the same for wrong options
        if runs and networks is not None:
            raise UserError("--networks: got runs and networks to train; expected only one of the two")
        folder = folder_for("landscape", out_folder)
        prepare_kernels()
        with continued():
            if not runs:
                given = {"dataset": dataset, "data": data, "epochs": epochs, "subset": subset, "seed": seed}
                runs = _train((networks or NETWORKS).split(","), given, folder)
            nets = load_all(runs, images, data)
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("points")
            with progress(*columns, TimeRemainingColumn()) as bar:
                tasks = [bar.add_task(net.name, total=points**2) for net in nets]

                def moved(k: int, done: int, total: int) -> None:
                    bar.update(tasks[k], completed=done)
                    if done == total and not out.is_terminal:
                        out.print(f"{nets[k].name}: {total} points", soft_wrap=True)

                surfaces = study.explore(nets, folder, points=points, radius=radius, seed=seed, progress=moved)
        found = [study.sharpness(surface) for surface in surfaces]
        sentences = study.verdict(found)
        numbers: dict[str, Any] = {"points": points, "radius": radius, "images": images, "seed": seed}
        numbers["runs"] = [str(run) for run in runs]
        numbers["networks"] = [
            net._asdict() | {"losses": s.losses.tolist(), "errors": s.errors.tolist()}
            for net, s in zip(found, surfaces, strict=True)
        ]
        numbers["verdict"] = sentences
        take(numbers)
        title = f"Loss around trained networks, {points} x {points} points, {images:,} training images"
        table = Table("network", title=title)
        headings = ("loss", "error", f"loss at {radius / 2:g}", f"loss at {radius:g}", "within 1", "not convex")
        for heading in headings:
            table.add_column(heading, justify="right")
        for net in found:
            rises = (f"+{net.rise(distance):.2f}" for distance in (radius / 2, radius))
            table.add_row(
                net.name, f"{net.loss:.3f}", f"{net.error:.1%}", *rises, f"{net.basin:.0%}", f"{net.bent:.0%}"
            )
        show(table)
        write(folder, "landscape", numbers, study.draw(surfaces))


def _train(networks: list[str], given: dict[str, Any], folder: Path) -> list[Path]:
    for name in networks:
        models.check_name(name)
    config = configuration({**degradation.RECIPE, **given})
    for name in networks:
        degradation.go_on(dataclasses.replace(config, model=name), folder / name, Names(out))
    return [folder / name for name in networks]
