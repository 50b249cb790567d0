"""`tinyres profile`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tinyres import machine, models, nn, plots
from tinyres import profile as profiling
from tinyres import timeline as timelines
from tinyres.cli.options import ImageSize, InChannels, NumClasses, Shortcut, Stem, given
from tinyres.console import (
    MEASUREMENT,
    RESULTS,
    Json,
    ModelName,
    Threads,
    UserError,
    console,
    errors,
    numbers_to,
    one_of,
    out,
    prepare_kernels,
    use_threads,
    work_together,
)
from tinyres.parallel.launch import launch
from tinyres.parallel.world import world

SORTS: dict[str, Callable[[dict[str, Any]], float]] = {
    "run": lambda row: 0,  # in the order of the run
    "time": lambda row: -row["forward"]["seconds"] - row["backward"]["seconds"],
    "forward": lambda row: -row["forward"]["seconds"],
    "backward": lambda row: -row["backward"]["seconds"],
}
EPOCHS = {32: 50_000, 224: 1_281_167}
"""Number of training images of the data set that a model was designed for: CIFAR-10 or ImageNet."""


def profile(
    model: ModelName,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images in a step: 128, or 16 with ImageNet's stem.", show_default=False, rich_help_panel=MEASUREMENT
        ),
    ] = None,
    image_size: ImageSize = None,
    num_classes: NumClasses = None,
    in_channels: InChannels = None,
    stem: Stem = None,
    shortcut: Shortcut = None,
    steps: Annotated[
        int, typer.Option(help="How many steps to measure, after a few for warm-up.", rich_help_panel=MEASUREMENT)
    ] = 10,
    images: Annotated[
        int | None,
        typer.Option(
            help="Images in an epoch: 50,000 as in CIFAR-10, or 1,281,167 as in ImageNet.",
            show_default=False,
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            help=f"Order of operations: {', '.join(SORTS)}.", autocompletion=one_of(SORTS), rich_help_panel=RESULTS
        ),
    ] = "run",
    json_file: Json = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            help="Instead, draw when each process computes and when it exchanges gradients: "
            "mpiexec -n 2 tinyres profile ... --timeline FILE.png",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
    threads: Threads = None,
) -> None:
    """Show where the time of a training step goes: for each operation, compared with the limits of this machine.

    Work is counted, not measured: a multiply-add counts as two floating-point operations, a convolution as a direct
    one, and an array once for each pass over it. The limits ("ceilings") are the GFLOP/s of a large matrix product and
    the GB/s of a large copy, both measured in the same run. "of ceiling" is the part of the nearer limit that the
    operation reaches. Caches can be faster than the copy.

    tinyres profile resnet20 --batch-size 128 --sort time
    """
    with errors(), numbers_to(json_file) as take:
        models.check_name(model)
        own_size = models.image_size(model, stem)
        size = own_size if image_size is None else image_size
        batch_size = (16 if own_size == 224 else 128) if batch_size is None else batch_size
        images = EPOCHS[own_size] if images is None else images
        for option, value in {"batch-size": batch_size, "image-size": size, "steps": steps, "images": images}.items():
            if value < 1:
                raise UserError(f"--{option}: got {value}, expected 1 or more")
        if sort not in SORTS:
            raise UserError(f"--sort: got {sort!r}, expected one of {', '.join(SORTS)}")
        if timeline is not None:
            work_together(threads)
        elif (launched := launch()) and launched.rank:
            return  # only the first process is profiled
        else:
            use_threads(threads)
        options = given(num_classes=num_classes, in_channels=in_channels, stem=stem, shortcut=shortcut)
        net = models.create(model, **options)
        prepare_kernels()
        sizes = {"batch_size": batch_size, "image_size": size, "channels": in_channels or 3}
        if timeline is not None:
            plots.kind_of(timeline)  # if the picture cannot be drawn, say so before the work
            spans = _together(net, **sizes, steps=steps)
            hidden = min(map(timelines.hidden, spans))
            processes = [[span._asdict() for span in process] for process in spans]
            found = {"model": model, "options": options, **sizes, "hidden": hidden, "processes": processes}
            take(found | {"hardware": machine.describe()})
            if world().rank == 0:
                plots.save(timelines.draw(spans, f"{model}, batch {batch_size}"), timeline)
                out.print(
                    f"At least {hidden:.0%} of the exchange of gradients happens while processes compute ({timeline})"
                )
            return
        found = profiling.profile(net, **sizes, steps=steps).as_dict(images)
        found = {"model": model, "options": options, **found}
        take(found)
        _print_profile(found, sort)


def _together(
    net: nn.Module, batch_size: int, image_size: int, channels: int, steps: int
) -> list[list[timelines.Span]]:
    """The spans of each process in a step; each process has its part of the batch."""
    if (processes := world().size) < 2:
        raise UserError("--timeline: needs several processes: mpiexec -n 2 tinyres profile ...")
    if batch_size < processes:
        raise UserError(f"--batch-size: got {batch_size}, expected {processes} or more: one for each process")
    shape = batch_size // processes, channels, image_size, image_size
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    return timelines.record(net, images, np.zeros(len(images), np.int64), steps)


def _print_profile(found: dict[str, Any], sort: str) -> None:
    to = out if out.is_terminal or out.quiet else console(WIDE)  # lines of a file are not broken
    first = 0 if to.width >= WIDE else len(RATES) - 1  # a narrow terminal has room for the last rate only
    title = f"{found['model']}, {found['batch_size']} images of {found['image_size']} x {found['image_size']}"
    table = Table(title=title)
    for heading in ("module", "operation", "output"):
        table.add_column(heading, overflow="fold")
    for way in ("forward", "backward"):
        for heading in (f"{way}\nms", *RATES[first:]):
            table.add_column(heading, justify="right", overflow="fold")
    for row in sorted(found["rows"], key=SORTS[sort]):
        ways = [[_ms(row[way]["seconds"]), *_rates(row[way])[first:]] for way in ("forward", "backward")]
        table.add_row(row["module"], row["op"], " x ".join(map(str, row["output"])), *ways[0], *ways[1])
    to.print(table)

    table = Table(title="By kind of operation", show_footer=True)
    table.add_column("", "step", overflow="fold")
    footers = {"forward\nms": "", "backward\nms": "", "both\nms": _ms(found["step_seconds"]), "of step": "100.0%"}
    for heading in (*footers, *RATES[first:]):
        table.add_column(heading, footers.get(heading, ""), justify="right", overflow="fold")
    for total in found["totals"]:
        times = [_ms(total[name]) for name in ("forward", "backward", "seconds")]
        kind = KINDS.get(total["kind"], total["kind"])
        table.add_row(kind, *times, f"{total['share']:.1%}", *_rates(total)[first:])
    to.print(table)

    steps, epoch, ceilings, hardware = (found[k] for k in ("all_step_seconds", "epoch", "ceilings", "hardware"))
    low, high = np.percentile(steps, (25, 75))
    lines = [
        f"Step {_ms(found['step_seconds'])} ms (middle half {_ms(low)} to {_ms(high)}, n = {len(steps)}), on the tape",
        f"{_trained(found['repeated_step_seconds'])}: "
        f"{found['images_per_second']:,.1f} images/s, {epoch['images']:,} images in {_time(epoch['seconds'])}",
        f"Ceilings {ceilings['gflop_per_second']:.0f} GFLOP/s (sgemm) and {ceilings['gb_per_second']:.1f} GB/s (copy), "
        f"{hardware['threads']} threads, {hardware['processor']}, {hardware['simd']}",
    ]
    if found["peak_memory_bytes"] is not None:
        lines.append(f"Peak memory of this process {found['peak_memory_bytes'] / 2**20:,.0f} MiB")
    for line in lines:
        out.print(line, soft_wrap=True)


WIDE = 150  # width of the tables in characters; in a narrower terminal they have only the last of the rates
RATES = ("GFLOP/s", "GB/s", "of\nceiling")
KINDS = {"rest": "rest: tape and Python", "uneven": "uneven: step less all medians above"}
"""Names of kinds that are not operations."""


def _trained(repeated: list[float]) -> str:
    """The line about the same step in training."""
    if not repeated:
        return "In training it is the same, since this model's step cannot be repeated without Python"
    low, middle, high = np.percentile(repeated, (25, 50, 75))
    return f"In training, repeated without Python, {_ms(middle)} ms (middle half {_ms(low)} to {_ms(high)})"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.2f}" if seconds else ""


def _rates(cost: dict[str, Any]) -> list[str]:
    """The RATES of a cost; empty texts if there are none."""
    nearer = max(cost["of_sgemm"], cost["of_copy"])
    rates = (cost["gflop_per_second"], ".1f"), (cost["gb_per_second"], ".1f"), (nearer, ".0%")
    return [f"{rate:{form}}" if rate else "" for rate, form in rates]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
