"""`tinyres lr-find`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tinyres import plots
from tinyres import train as training
from tinyres.cli.options import (
    DEFAULTS,
    BatchSize,
    ConfigFile,
    DatasetOption,
    ModelOption,
    RecipeOption,
    Seed,
    settings,
)
from tinyres.console import (
    MEASUREMENT,
    RESULTS,
    DataOption,
    Json,
    Threads,
    UserError,
    busy,
    configuration,
    errors,
    numbers_to,
    out,
    prepare_kernels,
    reading,
    show,
    use_threads,
)
from tinyres.lr_range import lr_find as finding

ROWS = 12  # rows of the table


def lr_find(
    context: typer.Context,
    dataset: DatasetOption = "auto",
    data: DataOption = DEFAULTS.data,
    model: ModelOption = DEFAULTS.model,
    recipe: RecipeOption = None,
    config_file: ConfigFile = None,
    batch_size: BatchSize = DEFAULTS.batch_size,
    lowest: Annotated[float, typer.Option(help="First learning rate.", rich_help_panel=MEASUREMENT)] = 1e-4,
    highest: Annotated[float, typer.Option(help="Last learning rate.", rich_help_panel=MEASUREMENT)] = 10.0,
    steps: Annotated[int, typer.Option(help="Largest number of steps.", rich_help_panel=MEASUREMENT)] = 100,
    seed: Seed = DEFAULTS.seed,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Plot loss against rate to this .png, .svg or .pdf file.", show_default=False, rich_help_panel=RESULTS
        ),
    ] = None,
    json_file: Json = None,
    threads: Threads = None,
) -> None:
    """Find a learning rate for train --lr.

    It trains for some steps while the learning rate rises, until the loss explodes (Smith, 2017). It suggests the rate
    with the lowest loss. This is only a hint, so also try half and double of it. All else is as in train with the same
    options.
    """
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        if plot is not None:
            plots.kind_of(plot)
        fields, _ = settings(context)
        config = configuration(fields | {"validation": 0})  # validation images are not needed
        with reading() as progress:
            run = training.Run(config, None, progress=progress)
        prepare_kernels()
        with busy(f"Training {config.model} on {config.dataset} at rates from {lowest:g} to {highest:g}"):
            try:
                found = finding(run, lowest=lowest, highest=highest, steps=steps)
            except ValueError as error:
                raise UserError(f"--{error}".replace("lowest, highest", "lowest, --highest")) from None
        if plot is not None:
            plots.save(found.plot(), plot)
        take(found._asdict())
        table = Table("learning rate", "loss", "smoothed", title=f"{config.model} on {config.dataset}")
        every = -(-len(found.rates) // ROWS)
        for rate, loss, smooth in list(zip(found.rates, found.losses, found.smoothed, strict=True))[::every]:
            table.add_row(f"{rate:.3g}", f"{loss:.4f}", f"{smooth:.4f}")
        show(table)
        out.print(f"Suggestion: --lr {found.suggestion:.2g}", soft_wrap=True)
        if plot is not None:
            out.print(f"Written: {plot}", soft_wrap=True)
