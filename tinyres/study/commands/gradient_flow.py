"""`tinyres study gradient-flow`."""

from typing import Annotated

import typer
from rich.table import Table

from tinyres import models
from tinyres.console import MODEL, DataOption, Json, Threads, busy, errors, numbers_to, one_of, out, show, use_threads
from tinyres.study import gradient_flow as study
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
from tinyres.study.variants import ACTIVATIONS


@app.command("gradient-flow")
def gradient_flow(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="E.g. plain20 resnet20 plain56 resnet56.", autocompletion=one_of(models.FAMILY)
        ),
    ],
    activation: Annotated[
        str, typer.Option(help="relu or sigmoid.", autocompletion=one_of(ACTIVATIONS), rich_help_panel=MODEL)
    ] = "relu",
    batch_norm: Annotated[
        bool, typer.Option(help="With batch norm, or with a bias instead.", rich_help_panel=MODEL)
    ] = True,
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
    """Show how much of the gradient each layer passes on, and the product over the depth, during training."""
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        for name in names:
            models.check_name(name)
        given = {"dataset": dataset, "data": data, "subset": subset, "lr": lr, "batch_size": batch_size, "seed": seed}
        config, found, folder = begin("gradient-flow", out_folder, given)
        flows = []
        for name in names:
            with busy(f"{name}: {steps} steps"):
                flows.append(
                    study.gradient_flow(name, config, found, steps, activation=activation, batch_norm=batch_norm)
                )
        sentences = study.verdict(flows)
        for flow in flows:
            sentences += diverged(flow.title, flow.moments, steps)
        nets = [
            {"model": flow.model, "variant": flow.variant, "moments": probe.as_dicts(flow.moments)} for flow in flows
        ]
        numbers = {**probe.described(config, found, steps), "networks": nets, "verdict": sentences}
        take(numbers)
        table = Table("network", title=f"Gradients on {len(found.train[1]):,} images of {config.dataset}")
        for heading in ("step", "loss", "dL/dy, first / last", "per layer", "closed", "dead"):
            table.add_column(heading, justify="right")
        for flow in flows:
            for step, loss, layers in flow.moments:
                product, mean = study.whole(layers)
                closed, dead = (max(getattr(layer, kind) for layer in layers) for kind in ("closed", "dead"))
                row = f"{step}", f"{loss:.4g}", f"{product:.3g}", f"{mean:.3g}", f"{closed:.1%}", f"{dead:.1%}"
                table.add_row("" if step else flow.model, *row, end_section=step == flow.moments[-1].step)
        show(table)
        out.print("Closed activations and dead channels: in the layer with the most of them.", soft_wrap=True)
        write(folder, "gradient-flow", numbers, study.draw(flows))
