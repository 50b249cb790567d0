"""`tinyres study bottleneck`."""

from typing import Annotated

import typer
from rich.table import Table

from tinyres.console import Json, errors, numbers_to, show
from tinyres.study import bottleneck as study
from tinyres.study.commands.shared import Out, app, folder_for, write


@app.command("bottleneck")
def bottleneck(
    image_size: Annotated[int, typer.Option(help="Height and width of the network's images.", min=32)] = 224,
    out_folder: Out = None,
    json_file: Json = None,
) -> None:
    """Show what bottlenecks save: parameters and multiply-adds, compared with two 3x3 convolutions."""
    with errors(), numbers_to(json_file) as take:
        costs = study.bottleneck(image_size)
        figure = study.draw(costs)
        folder = folder_for("bottleneck", out_folder)
        blocks = {name: [cost._asdict() for cost in stages] for name, stages in costs.items()}
        numbers = {"image_size": image_size, "blocks": blocks}
        take(numbers)
        table = Table("channels", "pixels", title="One basic block and one bottleneck, at equal width")
        for heading in ("parameters", "multiply-adds", "activation"):
            table.add_column(heading, justify="right", overflow="fold")
        for basic, other in zip(costs["basic"], costs["bottleneck"], strict=True):
            pairs = zip(basic[3:], other[3:], strict=True)
            cells = [f"{a:,} / {b:,}\n= {a / b:.1f}" for a, b in pairs]
            table.add_row(f"{basic.width}", f"{basic.size}^2", *cells)
        show(table)
        write(folder, "bottleneck", numbers, figure)
