"""`tinyres study skip-path`."""

from typing import Annotated

import typer
from rich.table import Table

from tinyres import models
from tinyres.console import DataOption, Json, Threads, busy, errors, number, numbers_to, one_of, out, show, use_threads
from tinyres.study import probe
from tinyres.study import skip_path as study
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


@app.command("skip-path")
def skip_path(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A residual network, e.g. resnet20.", autocompletion=one_of(models.FAMILY)
        ),
    ],
    steps: Steps = 100,
    dataset: Dataset = "auto",
    data: DataOption = None,
    subset: Subset = None,
    lr: Rate = 0.1,
    batch_size: BatchSize = 128,
    seed: Seed = 0,
    threads: Threads = None,
    out_folder: Out = None,
    json_file: Json = None,
) -> None:
    """Split the gradient at each block into the part through the shortcut and the part through the residual branch."""
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        study.check(name)
        given = {"dataset": dataset, "data": data, "subset": subset, "lr": lr, "batch_size": batch_size, "seed": seed}
        config, found, folder = begin("skip-path", out_folder, given)
        with busy(f"{name}: {steps} steps"):
            moments = study.skip_path(name, config, found, steps)
        sentences = study.verdict(name, moments)
        sentences += diverged(name, moments, steps)
        options = {"model": name, **probe.described(config, found, steps)}
        numbers = {**options, "moments": probe.as_dicts(moments), "verdict": sentences}
        take(numbers)
        table = Table("block", "shortcut", title=f"{name} on {len(found.train[1]):,} images of {config.dataset}")
        shown = probe.first_and_last(moments)
        for moment in shown:
            for heading in ("ratio", "cosine"):
                table.add_column(f"step {moment.step}\n{heading}", justify="right")
        for rows in zip(*(moment.measured for moment in shown), strict=True):
            cells = [(number(split.ratio, ".2f"), f"{split.cosine:.2f}") for split in rows]
            table.add_row(rows[0].block, rows[0].kind, *(text for pair in cells for text in pair))
        show(table)
        out.print("Ratio: norm of the part through the shortcut, divided by that through the branch.", soft_wrap=True)
        write(folder, "skip-path", numbers, study.draw(name, moments))
