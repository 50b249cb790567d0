"""Options and arguments that several commands take."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tinyres import models, recipes
from tinyres import train as training
from tinyres.console import DATA, MODEL, RECIPE, UserError, one_of

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


DatasetOption = Annotated[
    str,
    typer.Option(
        help="cifar10, cifar100, shapes, fashion_mnist, mnist or kmnist (with --no-flip: a mirrored digit or "
        "character is another one), folder (pictures of your own in --data, train/CLASS/*.jpg and "
        "val/CLASS/*.jpg, or CLASS/*.jpg), or auto: CIFAR-10 where it is to be had, else shapes.",
        autocompletion=one_of(("auto", "folder"), training.DATASETS),
        rich_help_panel=DATA,
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="resnet20 to resnet1202, resnet18 to resnet152, plain20, ...; any of the family.",
        autocompletion=one_of(models.FAMILY),
        rich_help_panel=MODEL,
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        help="Start from a recipe that `tinyres recipes` lists; other options change it.",
        show_default=False,
        autocompletion=one_of(recipes.names()),
        rich_help_panel=RECIPE,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Start from a file: TOML as `tinyres recipes NAME` prints it, or another run's config.json.",
        show_default=False,
        rich_help_panel=RECIPE,
    ),
]


def given(**options: Any) -> dict[str, Any]:
    """The options of a model that are not left to it."""
    return {name: value for name, value in options.items() if value is not None}


def starting_point(name: str | None, file: Path | None, model: str | None) -> recipes.Settings:
    """What a recipe or a file sets, for this model where one was asked for."""
    if name is not None and file is not None:
        raise UserError("--recipe, --config: got both, expected one to start from")
    try:
        recipe = recipes.find(name) if name is not None else recipes.read(file) if file is not None else None
    except ValueError as error:
        raise UserError(f"--{error}" if name is not None else f"--config: {error}") from None
    except OSError as error:
        raise UserError(f"--config: got {file}, expected a file that can be read ({error.strerror})") from None
    return recipe.settings(model) if recipe else {}
