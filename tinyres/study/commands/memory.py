"""`tinyres study memory`."""

from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from tinyres import models, plots
from tinyres.console import (
    MEASUREMENT,
    RESULTS,
    Json,
    ModelName,
    Threads,
    busy,
    errors,
    numbers_to,
    prepare_kernels,
    show,
    use_threads,
)
from tinyres.nn.init import manual_seed
from tinyres.study import memory as study
from tinyres.study.commands.shared import Out, app, folder_for, write


@app.command("memory")
def memory(
    model: ModelName,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images in a step: 128, or 16 with ImageNet's stem.", show_default=False, rich_help_panel=MEASUREMENT
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Height and width in pixels; by default those of the model's data set.",
            show_default=False,
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    segment: Annotated[
        list[int] | None,
        typer.Option(
            help="Blocks in a checkpoint; may be given several times. By default 1, the square root of the number of "
            "blocks in a stage and in the network, and a whole stage.",
            show_default=False,
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="How many steps of each kind to time, in turns.", rich_help_panel=MEASUREMENT)
    ] = 5,
    top: Annotated[
        int, typer.Option(help="How many arrays to list, the largest first.", min=0, rich_help_panel=RESULTS)
    ] = 10,
    out_folder: Out = None,
    json_file: Json = None,
    threads: Threads = None,
) -> None:
    """Show what the tape keeps in memory during a training step, and what checkpoints save and cost."""
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        plots.subplots()  # if matplotlib is missing, say so before the work
        models.check_name(model)
        own_size = models.image_size(model)
        size = own_size if image_size is None else image_size
        batch = (16 if own_size == 224 else 128) if batch_size is None else batch_size
        manual_seed(0)
        net = models.create(model)
        prepare_kernels()
        with busy(f"{model}: steps of {batch} images"):
            found = study.memory(net, batch_size=batch, image_size=size, segments=segment or None, steps=steps)
        predicted = study.predicted_bytes(net, batch, size)
        folder = folder_for("memory", out_folder)
        sentences = study.verdict(found, predicted)
        numbers = {
            "model": model, "batch_size": batch, "image_size": size, "predicted_bytes": predicted, "verdict": sentences,
            "steps": [
                {
                    "segment": step.segment, "peak_bytes": step.peak, "bytes_after_forward": step.after_forward,
                    "seconds": step.seconds, "kept": [kept._asdict() for kept in step.kept],
                    "moments": [moment._asdict() for moment in step.moments],
                }
                for step in found
            ],
        }  # fmt: skip
        take(numbers)
        _print_kept(found[0], top)
        _print_shares(found[0])
        _print_trade(found)
        write(folder, "memory", numbers, study.draw(found))


def _print_kept(step: study.Step, top: int) -> None:
    table = Table("held by", "what", title=f"The {top} largest arrays after the forward pass")
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("also held by")
    for kept in sorted(step.kept, key=lambda kept: -kept.bytes)[:top]:
        what = f"{kept.why}: {' x '.join(map(str, kept.shape))}"
        table.add_row(f"{kept.op} {kept.module}", what, study.shown(kept.bytes), ", ".join(kept.also))
    show(table)


def _print_shares(step: study.Step) -> None:
    table = Table("held as", title="All of them")
    for heading in ("arrays", "memory", "share"):
        table.add_column(heading, justify="right")
    labels = [kept.label for kept in step.kept]
    held = {label: sum(kept.bytes for kept in step.kept if kept.label == label) for label in labels}
    for label, count in sorted(held.items(), key=lambda item: -item[1]):
        share = f"{count / step.after_forward:.1%}"
        table.add_row(label, f"{labels.count(label)}", study.shown(count), share)
    show(table)


def _print_trade(steps: list[study.Step]) -> None:
    table = Table("in a checkpoint", title="What checkpoints trade")
    for heading in ("after forward", "peak", "of all", "step (middle half)", "of all"):
        table.add_column(heading, justify="right")
    for step in steps:
        low, middle, high = np.percentile(step.seconds, [25, 50, 75])
        table.add_row(
            study.name(step.segment), study.shown(step.after_forward), study.shown(step.peak),
            f"{step.peak / steps[0].peak:.0%}", f"{middle:.3f} s ({low:.3f} to {high:.3f})",
            f"{middle / median(steps[0].seconds):.0%}",
        )  # fmt: skip
    show(table)
