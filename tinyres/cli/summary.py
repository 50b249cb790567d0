"""`tinyres summary`."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from tinyres import models
from tinyres.cli.options import ImageSize, InChannels, NumClasses, Shortcut, Stem, given
from tinyres.console import MODEL, Json, UserError, errors, numbers_to, one_of, show
from tinyres.nn.init import nothing_drawn


def summary(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Name of a model, e.g. resnet20.", show_default=False, autocompletion=one_of(models.FAMILY)
        ),
    ] = None,
    image_size: ImageSize = None,
    num_classes: NumClasses = None,
    in_channels: InChannels = None,
    stem: Stem = None,
    shortcut: Shortcut = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help=f"Instead of a model, compare blocks at equal width: {', '.join(models.BLOCKS)}.",
            show_default=False,
            autocompletion=one_of(models.BLOCKS, commas=True),
            rich_help_panel=MODEL,
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """List the layers of a model: output shape, parameters, multiply-adds and activations for one image.

    tinyres summary resnet50

    tinyres summary --compare basic,bottleneck
    """
    with errors(), numbers_to(json_file) as take:
        if image_size is not None and image_size < 1:
            raise UserError(f"--image-size: got {image_size}, expected 1 or more")
        if (model is None) == (compare is None):
            raise UserError("summary: expected the name of a model, or --compare with the names of blocks")
        if compare is not None:
            _compare(compare.split(","), image_size or 224, take)
            return
        assert model is not None
        models.check_name(model)
        size = image_size or models.image_size(model, stem)
        options = given(num_classes=num_classes, in_channels=in_channels, stem=stem, shortcut=shortcut)
        with nothing_drawn():
            net = models.create(model, **options)
        rows = models.summarize(net, size, in_channels or 3)
        total = {name: sum(getattr(row, name) for row in rows) for name in COSTS}
        take({"model": model, "image_size": size, **total, "layers": [row._asdict() for row in rows]})
        title = f"{model}, images of {size} x {size}"
        table = Table(title=title, caption=CAPTION, show_footer=True, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
        table.add_column("layer", "total", no_wrap=True)  # names must stay complete; they fit into 80 columns
        table.add_column("kind", overflow="fold")
        table.add_column("output", justify="right", overflow="fold")
        for kind, heading in COSTS.items():
            table.add_column(heading, _shown(kind, total[kind]), justify="right", overflow="fold")
        for row in rows:
            cells = [_shown(kind, value) if (value := getattr(row, kind)) else "" for kind in COSTS]
            table.add_row(row.name, row.kind, "x".join(map(str, row.output)), *cells)
        show(table)


COSTS = {"parameters": "parameters", "multiply_adds": "multiply-adds", "activation_bytes": "MiB"}
"""The quantities, and the headings of their columns."""
CAPTION = "MiB of activations: the outputs of one image"


def _shown(kind: str, value: int) -> str:
    return f"{value / 2**20:,.2f}" if kind == "activation_bytes" else f"{value:,}"


def _compare(names: list[str], image_size: int, take: Callable[[Any], None]) -> None:
    """Print the costs of blocks in the stages of ResNet-50, and their ratios to the last block named."""
    costs = models.compare_blocks(names, image_size)
    blocks = {name: [cost._asdict() for cost in stages] for name, stages in costs.items()}
    take({"image_size": image_size, "blocks": blocks})
    last = names[-1]
    title = f"One block, from w channels to w, in the places of ResNet-50 at {image_size} x {image_size}"
    table = Table("w", "pixels", "block", title=title, caption=CAPTION)
    for heading in COSTS.values():
        table.add_column(heading, justify="right", overflow="fold")  # all digits are shown in a narrow terminal
    for i, stage in enumerate(costs[last]):
        for name in costs:
            cost = costs[name][i]
            cells = []
            for kind in COSTS:
                value, other = getattr(cost, kind), getattr(stage, kind)
                cells.append(_shown(kind, value) + ("" if name == last else f"\n{value / other:.1f} x"))
            first = name == names[0]
            table.add_row(f"{cost.width}" if first else "", f"{cost.size}^2" if first else "", name, *cells)
        table.add_section()
    for name, stages in costs.items():
        cells = [_shown(kind, sum(getattr(c, kind) * c.blocks for c in stages)) for kind in COSTS]
        table.add_row("all", "", f"{sum(c.blocks for c in stages)} {name}", *cells)
    show(table)
