"""`tinyres recipes`."""

from typing import Annotated

import typer
from rich.table import Table

from tinyres import recipes as known
from tinyres.console import Json, errors, numbers_to, one_of, out, show


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Print this recipe's file.", show_default=False, autocompletion=one_of(known.names())),
    ] = None,
    json_file: Json = None,
) -> None:
    """List the recipes of `tinyres train --recipe`, with their measured results."""
    with errors(), numbers_to(json_file) as take:
        chosen = [known.find(n) for n in ([name] if name else known.names())]
        take([recipe._asdict() for recipe in chosen])
        if name:
            out.print(known.source(name).rstrip(), soft_wrap=True)
        else:
            table = Table("recipe", "what it is", "what was measured", show_lines=True)
            for recipe in chosen:
                table.add_row(recipe.name, recipe.summary, recipe.evidence.strip() or "nothing yet")
            show(table)
