"""`tinyres recipes`."""

import json
from typing import Annotated

import typer
from rich.table import Table

from tinyres import recipes as known
from tinyres.cli.options import Json
from tinyres.console import errors, out, show


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe, to copy it.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the recipes of `tinyres train --recipe`, with what was measured of them."""
    with errors():
        chosen = [known.find(n) for n in ([name] if name else known.names())]
        if as_json:
            out.print(json.dumps([recipe._asdict() for recipe in chosen], indent=2), soft_wrap=True)
        elif name:
            out.print(known.source(name).rstrip(), soft_wrap=True)
        else:
            table = Table("recipe", "what it is", "what was measured", show_lines=True)
            for recipe in chosen:
                table.add_row(recipe.name, recipe.summary, recipe.evidence.strip() or "nothing yet")
            show(table)
