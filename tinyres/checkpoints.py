"""Checkpoints: the state of a training run in a safetensors file. It is written whole or not at all, never unpickled.

A checkpoint is one safetensors file. It has arrays by name, and its metadata has a JSON text under ``"tinyres"`` that
describes them. Arrays of the model are named ``model.<name>``, so other tools can read the weights.
"""

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from tinyres import models
from tinyres.data.pictures import MOST_SIDE, short_side
from tinyres.files import CHECKSUM, CheckpointError, digest, part, read_arrays, read_metadata, write_whole
from tinyres.nn import Module, init
from tinyres.tape import Array

__all__ = [
    "FORMAT",
    "CheckpointError",
    "load",
    "load_arrays",
    "load_info",
    "load_model",
    "normalisation",
    "part",
    "save",
    "save_weights",
    "state_digest",
    "write_whole",
]

FORMAT = models.weights.FORMAT
"""Format of checkpoints that are written. Format 2 can be read, too: only option A differs, see
`models.weights.upgrade`."""

OPTIONS = ("num_classes", "in_channels", "stem", "shortcut")
"""Options of a model that a checkpoint may have: those that a run can set."""

LARGEST = 10**7  # limit on the size of a model's arrays, if none in the file is as large; models of `FAMILY` have less


def save(
    path: str | Path, arrays: Mapping[str, Array], info: Mapping[str, Any], *, keep: str | Path | None = None
) -> str:
    """Write a checkpoint. Even after a crash, the file at `path` is either the complete old or the complete new one.

    Parameters
    ----------
    path : str or Path
    arrays : mapping of str to ndarray
    info : mapping
        Any values that JSON can represent.
    keep : str or Path, optional
        Path to which the old checkpoint at `path` is moved. By default it is replaced.

    Returns
    -------
    str
        The checksum that is stored in the file: SHA-256 of all arrays and of `info`, see `state_digest`.

    Raises
    ------
    OSError
        If it cannot be written. The old file is then unchanged.

    Notes
    -----
    A temporary file in the same folder is written and flushed to the disk. It is renamed to `path`, and the folder is
    flushed. So a crash at any moment leaves one of the two versions.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> path = tempfile.mkdtemp() + "/a.safetensors"
    >>> save(path, {"w": np.zeros(2)}, {"step": 1})[:8]
    '623e2965'
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = _description(info)
    metadata[CHECKSUM] = digest(contiguous, metadata)
    write_whole(path, safetensors.numpy.save(contiguous, metadata=metadata), keep=keep)
    return metadata[CHECKSUM]


def state_digest(arrays: Mapping[str, Array], info: Mapping[str, Any]) -> str:
    """Checksum of the checkpoint that `save` would write: SHA-256 in hexadecimal.

    Examples
    --------
    >>> import numpy as np
    >>> state_digest({"w": np.zeros(2)}, {"step": 1})[:8]
    '623e2965'
    """
    return digest(arrays, _description(info))


def _description(info: Mapping[str, Any]) -> dict[str, str]:
    return {"tinyres": json.dumps({"format": FORMAT, **info})}


def save_weights(path: str | Path, model: Module) -> None:
    """Write only a model's state dict, for PyTorch (`safetensors.torch.load_file`), timm and torchvision.

    Raises
    ------
    OSError
        If it cannot be written. The old file is then unchanged.

    Examples
    --------
    >>> import tempfile, tinyres as tr
    >>> net = tr.nn.Linear(2, 2)
    >>> path = tempfile.mkdtemp() + "/net.safetensors"
    >>> save_weights(path, net)
    >>> tr.models.load_weights(net, path)
    """
    write_whole(path, safetensors.numpy.save(model.state_dict(), metadata={"format": "pt"}))


def load(path: str | Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read a checkpoint: its arrays and its information.

    Raises
    ------
    CheckpointError
        If it is missing, is not safetensors, is damaged (even by a single bit) or cut off, or was not written by
        tinyres.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> path = tempfile.mkdtemp() + "/a.safetensors"
    >>> _ = save(path, {"w": np.zeros(2)}, {"step": 1})
    >>> load(path)
    ({'w': array([0., 0.])}, {'step': 1})
    """
    arrays, metadata = read_arrays(path)
    info = _info(path, metadata)
    if CHECKSUM not in metadata:
        raise CheckpointError(f"{path}: damaged: it was written with a checksum, but has none")
    return arrays, info


def load_info(path: str | Path) -> dict[str, Any] | None:
    """Read only the information of a checkpoint, with the errors of `load`. None if the file has only arrays.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> path = tempfile.mkdtemp() + "/a.safetensors"
    >>> _ = save(path, {"w": np.zeros(2)}, {"step": 1})
    >>> load_info(path)
    {'step': 1}
    """
    metadata = read_metadata(path)
    return _info(path, metadata) if "tinyres" in metadata else None


def _info(path: str | Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads(metadata["tinyres"])
        form = info.pop("format")
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: a safetensors file, but no tinyres checkpoint (no description in its metadata)"
        ) from error
    if form not in (2, FORMAT):
        raise CheckpointError(
            f"{path}: format {reprlib.repr(form)}, expected {FORMAT}: written by another version of tinyres"
        )
    return models.upgrade(info) if form == 2 else info


# ---------------------------------------------------------------- models from checkpoints
def load_model(path: str | Path) -> tuple[Module, dict[str, Any]]:
    """Make the model of a checkpoint, in evaluation mode, and return it with the checkpoint's information.

    Raises
    ------
    CheckpointError
        If the file is not a checkpoint, its arrays do not fit the model it names, or it has no valid description of
        the images that this model expects and of its classes.

    Examples
    --------
    >>> model, info = load_model("runs/first/best.safetensors")  # doctest: +SKIP
    >>> info["classes"][:2]  # doctest: +SKIP
    ['airplane', 'automobile']
    """
    arrays, info = load(path)
    try:
        options = dict(info["model"]["options"])
        if unknown := options.keys() - OPTIONS:
            raise ValueError(f"options: got {reprlib.repr(sorted(unknown))}, expected {', '.join(OPTIONS)}")
        with init.nothing_drawn(max([LARGEST, *(array.size for array in arrays.values())])):
            model = models.create(info["model"]["name"], **options)
        [info[key] for key in ("classes", "image_size", "mean", "std", "config")]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: does not describe a model of tinyres ({error})") from error
    load_arrays(path, model, arrays)
    _check_description(path, info, model.fc.weight.shape[0], model.in_channels)
    return model.eval(), info


def _check_description(path: str | Path, info: Mapping[str, Any], num_classes: int, channels: int) -> None:
    values: list[Any] = [info.get(name) for name in ("classes", "image_size", "resize")]
    classes, size, resize = values

    def expect(name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise CheckpointError(f"{path}: {name}: got {reprlib.repr(info.get(name))}, expected {expected}")

    named = isinstance(classes, list) and len(classes) == num_classes and all(isinstance(c, str) for c in classes)
    expect("classes", named, f"a list of {num_classes} names")
    sized = type(size) is int and 1 <= size <= MOST_SIDE
    expect("image_size", sized, f"a whole number from 1 to {MOST_SIDE:,}")
    scaled = resize is None or (type(resize) is int and size <= resize <= 2 * size)
    expect("resize", scaled, "nothing, or a whole number from image_size to its double")
    expect("config", isinstance(info.get("config"), dict), "the configuration of a run")
    normalisation(path, info, channels)


def described(classes: Sequence[str], size: int, mean: Array, std: Array) -> dict[str, Any]:
    """The description of images and classes for a checkpoint.

    Examples
    --------
    >>> described(["cat", "dog"], 32, np.zeros(1), np.ones(1))["resize"]
    32
    """
    return {
        "classes": classes,
        "image_size": size,
        "resize": short_side(size),
        "mean": mean.tolist(),
        "std": std.tolist(),
    }


def normalisation(path: str | Path, info: Mapping[str, Any], channels: int = 3) -> tuple[Array, Array]:
    """Mean and standard deviation of each channel, float32, from the information of a checkpoint.

    Raises
    ------
    CheckpointError
        If they are not finite numbers, one for each channel, or a deviation is not positive.

    Examples
    --------
    >>> mean, std = normalisation("a file", {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]})
    >>> std
    array([0.25, 0.25, 0.25], dtype=float32)
    """
    values: list[Any] = [info.get(name) for name in ("mean", "std")]
    lists = all(isinstance(value, list) and len(value) == channels for value in values)
    numbers = lists and all(type(x) in (int, float) and abs(x) < 1e38 for value in values for x in value)  # no NaN
    mean, std = np.array(values if numbers else np.zeros((2, channels)), np.float32)
    if not (std > 0).all():
        got = " and ".join(reprlib.repr(info.get(name)) for name in ("mean", "std"))
        count = "three numbers" if channels == 3 else f"{channels} numbers"
        raise CheckpointError(f"{path}: mean, std: expected {count} each, those of std positive, got {got}")
    return mean, std


def load_arrays(path: str | Path, model: Module, arrays: dict[str, Array], which: str = "model") -> None:
    """Copy arrays of a checkpoint into a model: those of its part "model", or of the part `which`.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.nn.Linear(2, 1)
    >>> load_arrays("a file", net, {"model.weight": np.ones((1, 2)), "model.bias": np.zeros(1)})
    >>> net.weight.data
    array([[1., 1.]], dtype=float32)
    """
    try:
        model.load_state_dict(part(arrays, which))
    except ValueError as error:
        first, more = (lines := str(error).splitlines())[:9], len(lines) - 9  # for another model, all names are wrong
        text = "\n".join(first) + (f"\n  and {more} more" if more > 0 else "")
        raise CheckpointError(f"{path}: its arrays do not belong to this model: {text}") from error
