"""Weights that others have trained: torchvision's and timm's residual networks have the same names and shapes."""

from pathlib import Path

import numpy as np

from tinyres.files import CheckpointError, part, read_arrays
from tinyres.nn import Module


def load_weights(model: Module, path: str | Path, *, replace_head: bool = False) -> str | None:
    """Copy the weights of a safetensors file into a model.

    Parameters
    ----------
    model : Module
        Such as ``resnet50()``: its names, shapes and dtypes are torchvision's, which are timm's.
    path : str or Path
        Of a state dict in safetensors, or of a checkpoint of `tinyres train`. Numbers are converted to the model's
        dtype.
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
        never opened), or does not fit: all missing, unexpected and mis-shaped names are listed.

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
