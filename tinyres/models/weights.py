"""Weights that others have trained: torchvision's and timm's residual networks have the same names and shapes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tinyres.files import CheckpointError, part, read_arrays
from tinyres.models.blocks import PaddedIdentity
from tinyres.models.resnet import FAMILY
from tinyres.nn import Module
from tinyres.tape import Array


def load_weights(model: Module, path: str | Path, *, replace_head: bool = False) -> str | None:
    """Copy the weights of a safetensors file into a model.

    Parameters
    ----------
    model : Module
        Such as ``resnet50()``: its names, shapes and dtypes are torchvision's, which are timm's.
    path : str or Path
        Of a state dict in safetensors, or of a checkpoint of `tinyres train`. Numbers are converted to the model's
        dtype. What PyTorch's wrappers for several devices put in front of every name, ``module.``, is left out, and
        the classifier may be called ``linear``, as in the CIFAR nets that are passed round most.
    replace_head : bool
        Where the file's classifier (``fc``) has another number of classes than the model's, leave the model's as it
        is, freshly initialised, to be trained.

    Returns
    -------
    str or None
        What was left as it is and why, or None where everything came from the file.

    Raises
    ------
    CheckpointError
        Where the file is missing, is no safetensors file (the message says how to convert a ``.pth`` file, which is
        never opened), or does not fit: all missing, unexpected and mis-shaped names are listed. Where it is a
        checkpoint of a net whose option A is not the model's, which no shape would show. Where it has a classifier by
        both names.

    Examples
    --------
    >>> import tempfile, safetensors.numpy, tinyres as tr
    >>> path = tempfile.mkdtemp() + "/resnet20.safetensors"
    >>> safetensors.numpy.save_file(tr.models.resnet20(num_classes=100).state_dict(), path)
    >>> net = tr.models.resnet20(num_classes=10)
    >>> tr.models.load_weights(net, path, replace_head=True)
    'fc has 100 classes in the file and 10 in the model: it starts afresh'
    """
    arrays, metadata = read_arrays(path)
    if "tinyres" in metadata and part(arrays, "model"):
        arrays = part(arrays, "model")
        _check_padding(path, model, metadata["tinyres"])
    arrays = _usual_names(path, arrays)
    own = model.state_dict()
    for name in own:  # some tools leave out the counters, which nothing computes with
        if name.endswith("num_batches_tracked"):
            arrays.setdefault(name, np.zeros((), np.int64))
    left = None
    head = [name for name in ("fc.weight", "fc.bias") if name in own and name in arrays]
    if replace_head and head and arrays[head[0]].ndim and len(arrays[head[0]]) != len(own[head[0]]):
        there, here = len(arrays[head[0]]), len(own[head[0]])
        arrays |= {name: own[name] for name in head}
        left = f"fc has {there} classes in the file and {here} in the model: it starts afresh"
    try:
        model.load_state_dict(arrays)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return left


def _usual_names(path: str | Path, arrays: dict[str, Array]) -> dict[str, Array]:
    """Without what wrappers put in front of every name, and with `fc` for `linear`."""
    if arrays and all(name.startswith("module.") for name in arrays):
        arrays = part(arrays, "module")
    heads = {name.partition(".")[0] for name in arrays} & {"fc", "linear"}
    if len(heads) == 2:
        raise CheckpointError(f"{path}: has both fc and linear, expected one classifier: remove or rename the other")
    return {"fc." + name[7:] if name.startswith("linear.") else name: array for name, array in arrays.items()}


# ---------------------------------------------------------------- option A, as it was and as it is
def upgrade(info: dict[str, Any]) -> dict[str, Any]:
    """The description of a checkpoint of format 2 as one of format 3.

    There was one way of option A, with all new channels after the old ones, which is "A-after" now. Its arrays have the
    same shapes, so a model that is made in the other way would read them, and guess.

    Parameters
    ----------
    info : dict
        As the file has it, which may be anything.

    Returns
    -------
    dict
        The same where there is no option A; else a copy that names it in the model's options and the configuration.

    Examples
    --------
    >>> upgrade({"model": {"name": "resnet20", "options": {}}})
    {'model': {'name': 'resnet20', 'options': {'shortcut': 'A-after'}}}
    >>> upgrade({"model": {"name": "resnet50", "options": {}}})
    {'model': {'name': 'resnet50', 'options': {}}}
    """
    try:
        if _shortcut(info) != "A":
            return info
        model = info["model"]
        upgraded = {**info, "model": {**model, "options": {**model["options"], "shortcut": "A-after"}}}
    except (KeyError, TypeError, AttributeError):  # of no model; whoever reads one says what is wrong
        return info
    if isinstance(config := info.get("config"), dict):
        upgraded["config"] = {**config, "shortcut": "A-after"}
    return upgraded


def _shortcut(info: dict[str, Any]) -> Any:
    """That of the model which a checkpoint describes: as asked for, or the model's own."""
    options, own = info["model"]["options"], FAMILY[info["model"]["name"]]
    return options.get("shortcut", own.get("shortcut"))


def _check_padding(path: str | Path, model: Module, description: str) -> None:
    """Refuse weights for one way of option A in a model of the other."""
    try:
        info = json.loads(description)
        theirs = _shortcut(upgrade(info) if info["format"] == 2 else info)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return  # it does not say of which model it is
    pads = [m for _, m in model.named_modules() if isinstance(m, PaddedIdentity)]
    places = {"A": [(m.before + m.after) // 2 for m in pads], "A-after": [0] * len(pads)}
    if theirs in places and places[theirs] != [m.before for m in pads]:
        raise CheckpointError(
            f"{path}: was trained with shortcut {theirs!r}, and the model's zeros for new channels stand elsewhere: "
            f"make the model with shortcut={theirs!r} (--shortcut {theirs})"
        )
