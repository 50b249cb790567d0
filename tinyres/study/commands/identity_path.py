"""`tinyres study identity-path`."""

from typing import Annotated

import typer
from rich.table import Table

from tinyres import models
from tinyres.console import DataOption, Json, Threads, busy, errors, numbers_to, one_of, out, show, use_threads
from tinyres.study import identity_path as study
from tinyres.study import probe
from tinyres.study.commands.shared import (
    BatchSize,
    Dataset,
    Out,
    Rate,
    Seed,
    Steps,
    Subset,
    app,
    begin,
    diverged,
    write,
)
from tinyres.study.skip_path import check

EXPLAINED = (
    "Open: part of the positions where no ReLU on the path is closed. Kept: norm of the gradient through the "
    "path, divided by the norm at the end of the stage. Of all: the same norm, divided by that of the whole gradient."
)


@app.command("identity-path")
def identity_path(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Residual networks; by default of depths 20 to 164, with ReLU after the sum and before it.",
            autocompletion=one_of(models.FAMILY),
        ),
    ] = None,
    steps: Steps = 0,
    dataset: Dataset = "auto",
    data: DataOption = None,
    subset: Subset = None,
    lr: Rate = 0.01,
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    threads: Threads = None,
    out_folder: Out = None,
    json_file: Json = None,
) -> None:
    """Show which part of the gradient comes through shortcuts only, with ReLU after the sum or before it."""
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        names = names or list(study.MODELS)
        for name in names:
            check(name)
        given = {"dataset": dataset, "data": data, "subset": subset, "lr": lr, "batch_size": batch_size, "seed": seed}
        config, found, folder = begin("identity-path", out_folder, given)
        paths = []
        for name in names:
            with busy(f"{name}: {steps} steps" if steps else name):
                paths.append(study.identity_path(name, config, found, steps))
        sentences = study.verdict(paths)
        for path in paths:
            sentences += diverged(path.model, path.moments, steps)
        nets = [{"model": path.model, "depth": path.depth, "moments": probe.as_dicts(path.moments)} for path in paths]
        numbers = {**probe.described(config, found, steps), "networks": nets, "verdict": sentences}
        take(numbers)
        table = Table("network", "stage", title=f"Identity paths on {len(found.train[1]):,} images of {config.dataset}")
        for heading in ("blocks", "step", "open", "kept", "of all", "cosine"):
            table.add_column(heading, justify="right")
        for path in paths:
            for step, _, stages in probe.first_and_last(path.moments):
                for stage in stages:
                    row = f"{stage.open:.1%}", f"{stage.kept:.3f}", f"{stage.share:.3f}", f"{stage.cosine:.2f}"
                    table.add_row(path.model, stage.name, f"{stage.blocks}", f"{step}", *row)
            table.add_section()
        show(table)
        out.print(EXPLAINED, soft_wrap=True)
        write(folder, "identity-path", numbers, study.draw(paths))
