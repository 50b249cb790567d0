"""Trained networks from files, with the images to measure them on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tinyres import checkpoints, data, evaluation, train
from tinyres.files import CheckpointError
from tinyres.nn import Module


class Trained(NamedTuple):
    """A network from a checkpoint, and the data for its measurements."""

    name: str
    model: Module
    loader: data.Loader  # training images, without augmentation
    classes: list[str]


def load(path: str | Path, images: int, root: str | None = None) -> Trained:
    """Load a trained network from a run folder (its best checkpoint, else its last) or a checkpoint file.

    Parameters
    ----------
    path : str or Path
    images : int
        Number of images: the first ones of those that it was trained on, neither cropped nor flipped.
    root : str, optional
        Folder of the data set, if it is not the folder that was used in training.

    Returns
    -------
    Trained

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it is damaged.
    ValueError
        If the data set has fewer images.
    """
    path = Path(path)
    if path.is_dir():
        files = [path / f"{name}.safetensors" for name in ("best", "last")]
        path = next((file for file in files if file.exists()), path)
    model, info = checkpoints.load_model(path)
    try:
        config = train.Config(**info["config"] | ({"data": root} if root else {}))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a configuration that tinyres has ({error})") from error
    pixels, labels = train.load_data(config).train
    if not 1 <= images <= len(labels):
        raise ValueError(f"images: got {images}, expected 1 to {len(labels)}, those that {path} was trained on")
    mean, std = checkpoints.normalisation(path, info)
    loader = data.Loader(pixels[:images], labels[:images], evaluation.BATCH, mean=mean, std=std, shuffle=False)
    return Trained(info["model"]["name"], model, loader, info["classes"])


def load_all(paths: Sequence[str | Path], images: int, root: str | None = None) -> list[Trained]:
    """Load several networks, see `load`. If two have the same name, each has its path for a name."""
    nets = [load(path, images, root) for path in paths]
    if len({net.name for net in nets}) == len(nets):
        return nets
    return [net._replace(name=str(path)) for net, path in zip(nets, paths, strict=True)]
