"""The network of a training before its first step: made by name, with weights of a file, whitened, frozen in part."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres import checkpoints, data, models
from tinyres.nn import Module
from tinyres.nn.init import manual_seed, whitening
from tinyres.recipe import Config
from tinyres.tape import Array

WHITENED = 5000 * 32 * 32  # number of patches from which the covariance is computed
IMAGENET = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
"""Mean and standard deviation of images that weights of other libraries, trained on ImageNet, expect."""


def create(config: Config, **options: Any) -> models.ResNet:
    """The network of a configuration, with the random weights of its seed.

    Examples
    --------
    >>> import tinyres as tr
    >>> create(tr.train.Config(model="resnet20"), num_classes=7).fc.weight.shape
    (7, 64)
    """
    manual_seed(config.seed)
    return models.create(config.model, zero_init_residual=config.zero_init_residual, **options)


def load_weights(model: Module, path: str) -> str:
    """Load the weights to start from, for a network whose classes may be others. Returns a note for the user.

    Examples
    --------
    >>> import tempfile, tinyres as tr
    >>> path = tempfile.mkdtemp() + "/net.safetensors"
    >>> tr.checkpoints.save_weights(path, tr.models.resnet20())
    >>> load_weights(tr.models.resnet20(num_classes=3), path)[-66:]
    'fc has 10 classes in the file and 3 in the model: it starts afresh'
    """
    note = models.load_weights(model, path, replace_head=True)
    return f"Starting from {path}" + (f"; {note}" if note else "")


def normalisation_for(path: str, config: Config) -> tuple[Array, Array] | None:
    """Mean and standard deviation of images that the weights of a file expect, or None if this is not known.

    A checkpoint has them. Other weights, for pictures of 224 pixels, are taken to expect those of ImageNet.

    Raises
    ------
    CheckpointError
        If the file cannot be read, or has values that are not valid.

    Examples
    --------
    >>> import tempfile, tinyres as tr
    >>> path = tempfile.mkdtemp() + "/net.safetensors"
    >>> tr.checkpoints.save_weights(path, tr.models.resnet20())
    >>> normalisation_for(path, tr.train.Config(model="resnet20"))
    >>> mean, std = normalisation_for(path, tr.train.Config(model="resnet18"))
    >>> mean
    array([0.485, 0.456, 0.406], dtype=float32)
    """
    info = checkpoints.load_info(path)
    if info is not None:
        return checkpoints.normalisation(path, info) if {"mean", "std"} <= info.keys() else None
    return IMAGENET if models.image_size(config.model, config.stem) == 224 else None


def freeze(model: Module, last: str | None) -> None:
    """Freeze the parts of a network up to the part `last`, see `ResNet.parts`. None freezes nothing.

    Raises
    ------
    ValueError
        If there is no such part, or no part would be left to train.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.resnet20()
    >>> freeze(net, "layer1")
    >>> net.layer1[0].conv1.weight.requires_grad, net.layer2[0].conv1.weight.requires_grad
    (False, True)
    """
    if last is None:
        return
    if not isinstance(model, models.ResNet):
        raise ValueError(f"freeze: got {last!r}, expected None with your own network: call its `freeze()`")
    parts = model.parts()
    *names, _ = parts  # the head must stay trainable
    if last not in names:
        raise ValueError(f"freeze: got {last!r}, expected one of {', '.join(names)}")
    for name in names[: names.index(last) + 1]:
        for module in parts[name]:
            module.freeze()


def whiten(model: Module, images: Any, std: Array | Sequence[float]) -> None:
    """Make a network's first convolution whiten patches of the images, see `tinyres.nn.init.whitening`, and freeze it.

    The covariance is computed from at most `WHITENED` patches. They come from images spread over the whole set, since
    images of a folder are sorted by class.

    Raises
    ------
    ValueError
        If it is not a `ResNet`, or the images are not uint8.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.resnet20()
    >>> images, _ = tr.data.shapes(100)
    >>> whiten(net, images, std=[0.25, 0.25, 0.25])
    >>> net.conv1.weight.requires_grad
    False
    """
    if not isinstance(model, models.ResNet):
        raise ValueError("whiten: got True, expected False with your own network")
    shape = model.conv1.weight.shape
    count = max(1, min(len(images), WHITENED // (images.shape[2] * images.shape[3])))
    some = images[np.linspace(0, len(images), count, endpoint=False).astype(np.int64)]
    covariance = data.patch_covariance(some, (shape[2], shape[3]), std=std)
    model.conv1.weight.data[...] = whitening(shape, covariance)
    model.conv1.freeze()
