"""Options and arguments that several commands take."""

from pathlib import Path
from typing import Annotated, Any

import typer

ImageSize = Annotated[
    int | None,
    typer.Option(help="Height and width of the images: 32, or 224 for ImageNet's stem.", show_default=False),
]
NumClasses = Annotated[int | None, typer.Option(help="The model's own by default.", show_default=False)]
InChannels = Annotated[
    int | None, typer.Option(help="Channels of the images: 3 by default, 1 of grey ones.", show_default=False)
]
Stem = Annotated[
    str | None, typer.Option(help="cifar (3x3) or imagenet (7x7 and max-pool); the model's own by default.")
]
Shortcut = Annotated[
    str | None, typer.Option(help="Shortcuts where shapes change: A, A-after, B or C; the model's own by default.")
]
Checkpoint = Annotated[
    Path, typer.Argument(help="A checkpoint file, e.g. runs/NAME/best.safetensors.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def given(**options: Any) -> dict[str, Any]:
    """The options of a model that are not left to it."""
    return {name: value for name, value in options.items() if value is not None}
