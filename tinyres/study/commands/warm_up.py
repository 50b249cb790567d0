"""`tinyres study warm-up`."""

from typing import Annotated

import typer
from rich.table import Table

from tinyres import models
from tinyres.console import DataOption, Json, Threads, busy, errors, numbers_to, one_of, show, use_threads
from tinyres.study import probe
from tinyres.study import warm_up as study
from tinyres.study.commands.shared import BatchSize, Dataset, Out, Rate, Seed, Steps, Subset, app, begin, write


@app.command("warm-up")
def warm_up(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help=f"{', '.join(study.MODELS)} by default.",
            autocompletion=one_of(models.FAMILY),
        ),
    ] = None,
    steps: Steps = 600,
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
    """Train deep networks with the full learning rate from the start, and with a tenth of it at first."""
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        names = names or list(study.MODELS)
        for name in names:
            models.check_name(name)
        if steps < 1:
            raise ValueError(f"steps: got {steps}, expected 1 or more")
        given = {"dataset": dataset, "data": data, "subset": subset, "lr": lr, "batch_size": batch_size, "seed": seed}
        config, found, folder = begin("warm-up", out_folder, given)
        curves = []
        for name in names:
            for slow in (False, True):
                with busy(f"{name}, {'with' if slow else 'without'} warm-up: {steps} steps"):
                    curves.append(study.train(name, config, found, steps, warm_up=slow))
        sentences = study.verdict(curves)
        about = probe.described(config, found, steps)
        numbers = {**about, "curves": [curve._asdict() for curve in curves], "verdict": sentences}
        take(numbers)
        table = Table("network", title=f"Training error on {len(found.train[1]):,} images of {config.dataset}")
        for heading in ("warm-up, steps", f"below {study.BELOW:.0%}, steps", f"after {steps} steps"):
            table.add_column(heading, justify="right")
        for curve in curves:
            below, end = study.converged(curve.errors), study.smooth(curve.errors)[-1:]
            cells = ("-" if n is None else f"{n}" for n in (curve.raised, below))
            table.add_row(curve.model, *cells, f"{end[0]:.1%}" if len(curve.errors) == steps else "diverged")
        show(table)
        write(folder, "warm-up", numbers, study.draw(curves))
