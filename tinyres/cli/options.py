"""Options and arguments that several commands have."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyres import models, recipes
from tinyres import train as training
from tinyres.console import DATA, MODEL, RECIPE, RUN, UserError, one_of

DEFAULTS = training.Config()

ImageSize = Annotated[
    int | None,
    typer.Option(
        help="Height and width of the images in pixels: 32, or 224 with ImageNet's stem.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
NumClasses = Annotated[
    int | None,
    typer.Option(help="Number of classes; by default that of the model.", show_default=False, rich_help_panel=MODEL),
]
InChannels = Annotated[
    int | None,
    typer.Option(help="Channels of the images: 3 by default, 1 for grey.", show_default=False, rich_help_panel=MODEL),
]
Stem = Annotated[
    str | None,
    typer.Option(
        help="cifar (3x3) or imagenet (7x7 and max-pool); by default that of the model.",
        autocompletion=one_of(models.STEMS),
        rich_help_panel=MODEL,
    ),
]
Shortcut = Annotated[
    str | None,
    typer.Option(
        help="Shortcuts of blocks that change the shape: A, A-after, B or C; by default that of the model.",
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
        help="cifar10, cifar100, shapes, fashion_mnist, mnist or kmnist (use these two with --no-flip, since digits "
        "and characters must not be mirrored), folder (your own pictures in --data, as train/CLASS/*.jpg and "
        "val/CLASS/*.jpg, or CLASS/*.jpg), or auto: CIFAR-10 if it is available, else shapes.",
        autocompletion=one_of(("auto", "folder"), training.DATASETS),
        rich_help_panel=DATA,
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="Name of a model: resnet20 to resnet1202, resnet18 to resnet152, plain20, ...",
        autocompletion=one_of(models.FAMILY),
        rich_help_panel=MODEL,
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        help="Use the settings of a recipe (see `tinyres recipes`); other options change them.",
        show_default=False,
        autocompletion=one_of(recipes.names()),
        rich_help_panel=RECIPE,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Use the settings of a file: TOML as `tinyres recipes NAME` prints it, or the config.json of a run.",
        show_default=False,
        rich_help_panel=RECIPE,
    ),
]
BatchSize = Annotated[int, typer.Option(rich_help_panel=RECIPE)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.", rich_help_panel=RUN)]


def given(**options: Any) -> dict[str, Any]:
    """The options of a model that the user has set."""
    return {name: value for name, value in options.items() if value is not None}


def settings(context: typer.Context) -> tuple[dict[str, Any], list[str]]:
    """All fields of a configuration, and the names of those that the user has set.

    A command's options have the names of the fields. Those that the user has not set come from --recipe or --config.
    Fields that are no option of the command have their defaults.
    """
    fields = dataclasses.asdict(DEFAULTS)
    fields |= {name: value for name, value in context.params.items() if name in fields}
    given = [name for name in fields if (s := context.get_parameter_source(name)) and s.name == "COMMANDLINE"]
    model = fields["model"] if "model" in given else None
    start = _starting_point(context.params["recipe"], context.params["config_file"], model)
    return fields | {name: value for name, value in start.items() if name not in given}, given


def _starting_point(name: str | None, file: Path | None, model: str | None) -> recipes.Settings:
    """The settings of a recipe or a file, for this model if one is given."""
    if name is not None and file is not None:
        raise UserError("--recipe, --config: got both, expected only one of them")
    try:
        recipe = recipes.find(name) if name is not None else recipes.read(file) if file is not None else None
    except ValueError as error:
        raise UserError(f"--{error}" if name is not None else f"--config: {error}") from None
    except OSError as error:
        raise UserError(f"--config: got {file}, expected a file that can be read ({error.strerror})") from None
    return recipe.settings(model) if recipe else {}
