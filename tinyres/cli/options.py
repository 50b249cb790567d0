"""Options and arguments that several commands take."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyres import models
from tinyres.console import MODEL, one_of

ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Height and width of the images: 32, or 224 for ImageNet's stem.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
NumClasses = Annotated[
    int | None, typer.Option(help="The model's own by default.", show_default=False, rich_help_panel=MODEL)
]
InChannels = Annotated[
    int | None,
    typer.Option(
        help="Channels of the images: 3 by default, 1 of grey ones.", show_default=False, rich_help_panel=MODEL
    ),
]
Stem = Annotated[
    str | None,
    typer.Option(
        help="cifar (3x3) or imagenet (7x7 and max-pool); the model's own by default.",
        autocompletion=one_of(models.STEMS),
        rich_help_panel=MODEL,
    ),
]
Shortcut = Annotated[
    str | None,
    typer.Option(
        help="Shortcuts where shapes change: A, A-after, B or C; the model's own by default.",
        autocompletion=one_of(models.SHORTCUTS),
        rich_help_panel=MODEL,
    ),
]
Checkpoint = Annotated[
    Path, typer.Argument(help="A checkpoint file, e.g. runs/NAME/best.safetensors.", show_default=False)
]


def given(**options: Any) -> dict[str, Any]:
    """The options of a model that are not left to it."""
    return {name: value for name, value in options.items() if value is not None}
