"""Loading pretrained weights: the residual networks of torchvision and timm have the same names and shapes."""

import json
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from tinyres.files import CheckpointError, part, read_arrays
from tinyres.models.blocks import PaddedIdentity
from tinyres.models.resnet import FAMILY
from tinyres.nn import Module
from tinyres.tape import Array

FORMAT = 3
"""Format of the checkpoints that are written."""
OLD = (1, 2)
"""Older formats whose weights can be read. Of format 2, all of a checkpoint can be read."""


def load_weights(model: Module, path: str | Path, *, replace_head: bool = False) -> str | None:
    """Copy the weights of a safetensors file into a model.

    Parameters
    ----------
    model : Module
        Such as ``resnet50()``. Its names, shapes and dtypes are those of torchvision and timm.
    path : str or Path
        A safetensors file with a state dict, or a checkpoint of `tinyres train`. Numbers are converted to the model's
        dtype. The prefix ``module.``, which PyTorch's wrappers for several devices add to every name, is removed. The
        classifier may be called ``linear``, as in the most widely used CIFAR-10 weights.
    replace_head : bool
        If True, and the file's classifier (``fc``) has another number of classes than the model's, the model keeps its
        own classifier, with its initial values.

    Returns
    -------
    str or None
        A sentence that says what was not loaded and why, or None if everything came from the file.

    Raises
    ------
    CheckpointError
        If the file is missing, is not a safetensors file (a ``.pth`` file is never opened: the message says how to
        convert it), or does not fit: the message lists all missing and unexpected names and all wrong shapes. If it is
        a checkpoint of a network with the other kind of shortcut A, since shapes do not show this. If it has both an
        ``fc`` and a ``linear``.

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
    for name in own:  # some tools do not write the counters, which no computation uses
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
    """The arrays without the prefix of wrappers, and with the name `fc` instead of `linear`."""
    if arrays and all(name.startswith("module.") for name in arrays):
        arrays = part(arrays, "module")
    heads = {name.partition(".")[0] for name in arrays} & {"fc", "linear"}
    if len(heads) == 2:
        raise CheckpointError(f"{path}: has both fc and linear, expected one classifier: remove or rename the other")
    return {"fc." + name[7:] if name.startswith("linear.") else name: array for name, array in arrays.items()}


# ---------------------------------------------------------------- option A, old and new
def upgrade(info: dict[str, Any]) -> dict[str, Any]:
    """Convert the description of a checkpoint of format 1 or 2 to format 3.

    In these formats, option A put all new channels after the old ones. This is called "A-after" now. The arrays of both
    have the same shapes, so a model with the wrong one could load them, but its predictions would be wrong.

    Parameters
    ----------
    info : dict
        As read from the file. It is not checked.

    Returns
    -------
    dict
        The same dict if there is no option A; else a copy with "A-after" in the model's options and the configuration.

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
    except (KeyError, TypeError, AttributeError):  # no model here; the code that needs one reports the error
        return info
    if isinstance(config := info.get("config"), dict):
        upgraded["config"] = {**config, "shortcut": "A-after"}
    return upgraded


def _shortcut(info: dict[str, Any]) -> Any:
    """The shortcut of a checkpoint's model: the one in its options, or the default of the model."""
    options, own = info["model"]["options"], FAMILY[info["model"]["name"]]
    return options.get("shortcut", own.get("shortcut"))


def _check_padding(path: str | Path, model: Module, description: str) -> None:
    """Raise CheckpointError if the weights are for the other kind of option A, or their format is not known."""
    try:
        info = json.loads(description)
        form = info["format"]
        theirs = _shortcut(upgrade(info) if form in OLD else info)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return  # the file does not name its model
    if form not in (*OLD, FORMAT):
        raise CheckpointError(
            f"{path}: format {reprlib.repr(form)}, expected {FORMAT}: written by another version of tinyres"
        )
    pads = [m for _, m in model.named_modules() if isinstance(m, PaddedIdentity)]
    places = {"A": [(m.before + m.after) // 2 for m in pads], "A-after": [0] * len(pads)}
    if theirs in places and places[theirs] != [m.before for m in pads]:
        raise CheckpointError(
            f"{path}: was trained with shortcut {theirs!r}, but the model has its channels of zeros in other places: "
            f"make the model with shortcut={theirs!r} (--shortcut {theirs})"
        )
