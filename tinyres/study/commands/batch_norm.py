"""`tinyres study batch-norm`."""

from typing import Annotated

import typer
from rich.table import Table

from tinyres import models
from tinyres.console import MODEL, DataOption, Json, Threads, busy, errors, numbers_to, one_of, show, use_threads
from tinyres.study import batch_norm as study
from tinyres.study.commands.shared import BatchSize, Dataset, Out, Seed, Subset, app, begin, write


@app.command("batch-norm")
def batch_norm(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help=f"{', '.join(study.MODELS)} by default.",
            autocompletion=one_of(models.FAMILY),
        ),
    ] = None,
    scale: Annotated[
        list[float] | None,
        typer.Option(
            help="Factor on all weights; give the option several times for several factors.",
            show_default=", ".join(f"{scale:g}" for scale in study.SCALES),
            rich_help_panel=MODEL,
        ),
    ] = None,
    dataset: Dataset = "auto",
    data: DataOption = None,
    subset: Subset = None,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    threads: Threads = None,
    out_folder: Out = None,
    json_file: Json = None,
) -> None:
    """Show how batch norm affects gradients over the depth: with and without it, for weights of several sizes."""
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        names, scales = names or list(study.MODELS), scale or list(study.SCALES)
        for name in names:
            models.check_name(name)
        study.check_scales(scales)
        given = {"dataset": dataset, "data": data, "subset": subset, "batch_size": batch_size, "seed": seed}
        config, found, folder = begin("batch-norm", out_folder, given)
        points = []
        for name in names:
            with busy(f"{name}, {2 * len(scales)} times"):
                points += study.batch_norm([name], config, found, scales)
        sentences = study.verdict(points)
        about = {"dataset": config.dataset, "images": len(found.train[1]), "batch_size": batch_size, "seed": seed}
        numbers = {**about, "points": [point._asdict() for point in points], "verdict": sentences}
        take(numbers)
        table = Table("network", "batch norm", title=f"Gradients on {batch_size} images of {config.dataset}")
        for heading in ("weights", "per layer", "first / last"):
            table.add_column(heading, justify="right")
        for curve in study.curves(points):
            for point in curve:
                row = f"{point.scale:g}", f"{point.factor:.3f}", f"{point.product:.2g}"
                table.add_row(point.model, "with" if point.batch_norm else "without", *row)
            table.add_section()
        show(table)
        write(folder, "batch-norm", numbers, study.draw(points))
