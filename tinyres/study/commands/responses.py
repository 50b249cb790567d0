"""`tinyres study responses`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tinyres import plots
from tinyres.console import (
    MEASUREMENT,
    DataOption,
    Json,
    Threads,
    errors,
    numbers_to,
    prepare_kernels,
    show,
    use_threads,
)
from tinyres.study import responses as study
from tinyres.study.commands.shared import Out, app, folder_for, write
from tinyres.study.trained import load_all


@app.command("responses")
def responses(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders or checkpoints, e.g. study/degradation/plain20 study/degradation/resnet20."),
    ],
    images: Annotated[int, typer.Option(help="Training images to measure on.", rich_help_panel=MEASUREMENT)] = 250,
    data: DataOption = None,
    threads: Threads = None,
    out_folder: Out = None,
    json_file: Json = None,
) -> None:
    """Show how strong each layer's result is in trained networks, plain and residual (the paper's figure 7)."""
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        plots.subplots()  # if matplotlib is missing, say so before the work
        nets = load_all(runs, images, data)
        folder = folder_for("responses", out_folder)
        prepare_kernels()
        found = [study.of(net) for net in nets]
        sentences = study.verdict(found)
        networks = [{"model": p.model, "layers": [r._asdict() for r in p.layers]} for p in found]
        numbers = {"images": images, "runs": [str(run) for run in runs], "networks": networks, "verdict": sentences}
        take(numbers)
        table = Table("network", title="Standard deviations of responses")
        for heading in ("layers", "smallest", "mean", "largest"):
            table.add_column(heading, justify="right")
        for p in found:
            stds = [r.std for r in p.layers]
            table.add_row(p.model, f"{len(stds)}", f"{min(stds):.3f}", f"{p.mean:.3f}", f"{max(stds):.3f}")
        show(table)
        write(folder, "responses", numbers, study.draw(found))
