"""Recipes: named configurations with measured results, each in a TOML file of this folder.

A file has a `summary`, and the `evidence`: hardware, command, seeds, mean and spread, and the results of PyTorch for
comparison. ``[config]`` has fields of a `tinyres.train.Config`, and ``[models.NAME]`` has other values for some models.
Fields that are not set have their default. The ``config.json`` of a run has the same fields in JSON, without headings.
"""

import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from tinyres.recipe import Config
from tinyres.spelling import did_you_mean

Settings = dict[str, Any]  # fields of a configuration, by name


class Recipe(NamedTuple):
    """A configuration with a name.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.recipes.find("paper").settings("resnet110")["lr"]
    0.1
    >>> tr.train.Config(**tr.recipes.find("default").settings()) == tr.train.Config()
    True
    """

    name: str
    summary: str
    evidence: str
    config: Settings
    models: dict[str, Settings]

    def settings(self, model: str | None = None) -> Settings:
        """Fields of the configuration, for this model, or for the recipe's own model by default."""
        settings = self.config if model is None else {**self.config, "model": model}
        named = settings.get("model", Config.model)
        return {**settings, **(self.models.get(named, {}) if isinstance(named, str) else {})}


def names() -> list[str]:
    """Names of all recipes.

    Examples
    --------
    >>> names()
    ['default', 'fast', 'finetune', 'paper', 'record']
    """
    return sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))


def source(name: str) -> str:
    """The text of a recipe's file, which you can copy and change.

    Raises
    ------
    ValueError
        If there is no recipe of this name.

    Examples
    --------
    >>> "weight_decay = 1e-4" in source("paper")
    True
    """
    if name not in names():
        raise ValueError(f"recipe: got {name!r}, expected one of {', '.join(names())}{did_you_mean(name, names())}")
    return (Path(__file__).parent / f"{name}.toml").read_text()


def find(name: str) -> Recipe:
    """The recipe of this name.

    Raises
    ------
    ValueError
        If there is no recipe of this name.

    Examples
    --------
    >>> find("default").config["epochs"]
    10
    >>> find("pape")
    Traceback (most recent call last):
    ValueError: recipe: got 'pape', expected one of default, fast, finetune, paper, record; did you mean paper?
    """
    return _recipe(name, tomllib.loads(source(name)))


def read(path: str | Path) -> Recipe:
    """Read a recipe of your own: a TOML file like those here, or one without headings, or a run's ``config.json``.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is neither TOML nor JSON, or sets a field that configurations do not have.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "mine.toml")
    >>> _ = path.write_text("epochs = 20")
    >>> read(path).settings()
    {'epochs': 20}
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        text = content.decode()
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # from either decoder
        expected = "JSON" if path.suffix == ".json" else "TOML, or JSON in a file that ends in .json"
        raise ValueError(f"{path}: expected {expected} ({error})") from None
    return _recipe(str(path), found)


def _recipe(name: str, found: Any) -> Recipe:
    """A recipe from the content of a file. If it has none of the parts of a recipe, all of it is settings."""
    if not isinstance(found, dict):
        raise ValueError(f"{name}: got a {type(found).__name__}, expected settings by name")
    known = {"summary": str, "evidence": str, "config": dict, "models": dict}
    if found.keys().isdisjoint(known):
        found = {"config": found}
    for key, value in found.items():
        if key not in known:
            raise ValueError(
                f"{name}: {key}: not a part of a recipe; expected {', '.join(known)}{did_you_mean(key, known)}"
            )
        if not isinstance(value, known[key]):
            raise ValueError(f"{name}: {key}: got {value!r}, expected a {known[key].__name__}")
    recipe = Recipe(name, **{key: found.get(key, kind()) for key, kind in known.items()})
    every = [field.name for field in fields(Config)]
    for heading, settings in [("config", recipe.config), *recipe.models.items()]:
        if not isinstance(settings, dict):
            raise ValueError(f"{name}: {heading}: got {settings!r}, expected settings by name")
        for key in settings:
            if key not in every:
                raise ValueError(f"{name}: {key}: not a field of a configuration{did_you_mean(key, every)}")
    return recipe
