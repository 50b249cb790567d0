"""`tinyres study degradation`."""

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from tinyres import models, plots
from tinyres.console import (
    MODEL,
    RECIPE,
    DataOption,
    Json,
    Threads,
    configuration,
    errors,
    numbers_to,
    one_of,
    out,
    prepare_kernels,
    show,
    use_threads,
)
from tinyres.study import degradation as study
from tinyres.study.commands.shared import Dataset, Names, Out, Seed, Subset, app, continued, folder_for, write


@app.command("degradation")
def degradation(
    epochs: Annotated[int, typer.Option(help="Epochs of each network.", rich_help_panel=RECIPE)] = 20,
    subset: Subset = None,
    networks: Annotated[
        str,
        typer.Option(
            help="Networks plainN and resnetN, separated by commas; trained one after the other.",
            autocompletion=one_of(models.FAMILY, commas=True),
            rich_help_panel=MODEL,
        ),
    ] = "plain20,plain56,resnet20,resnet56",
    dataset: Dataset = "auto",
    data: DataOption = None,
    lr: Annotated[
        float,
        typer.Option(help="Learning rate; divided by 10 after 1/2 and after 3/4 of the run.", rich_help_panel=RECIPE),
    ] = 0.1,
    batch_size: Annotated[int, typer.Option(rich_help_panel=RECIPE)] = 128,
    seed: Seed = 0,
    threads: Threads = None,
    out_folder: Out = None,
    json_file: Json = None,
) -> None:
    """Repeat the paper's first experiment: deeper plain networks are worse, even in training; residual ones are not.

    Ctrl-C finishes the step and saves. The same command continues from there.
    """
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        plots.subplots()  # if matplotlib is missing, say so now and not after hours
        given = {"dataset": dataset, "data": data, "epochs": epochs, "subset": subset, "lr": lr, "seed": seed}
        config = configuration({**study.RECIPE, "batch_size": batch_size, **given})
        folder = folder_for("degradation", out_folder)
        prepare_kernels()
        with continued():
            curves = study.degradation(config, folder, tuple(networks.split(",")), Names(out))
        sentences = study.verdict(curves)
        recipe = {name: value for name, value in dataclasses.asdict(config).items() if name != "model"}
        numbers = {"recipe": recipe, "curves": [c._asdict() for c in curves], "verdict": sentences}
        take(numbers)
        table = Table("network", title=f"Errors on {config.dataset} after {epochs} epochs, by one recipe")
        for heading in ("training error", "test error"):
            table.add_column(heading, justify="right")
        for curve in curves:
            table.add_row(curve.model, f"{curve.train[-1]:.2%}", f"{curve.test[-1]:.2%}")
        show(table)
        write(folder, "degradation", numbers, study.draw(curves))
