"""Inference without batch norm: folded into the convolutions before it."""

import copy
from collections import Counter
from typing import cast

import numpy as np

from tinyres.kernels.memory import make_constant
from tinyres.nn.layers import Conv2d, Identity
from tinyres.nn.module import Module, Parameter, expect_eval
from tinyres.nn.norm import BatchNorm2d
from tinyres.tape import Node, enable_grad, topological_order
from tinyres.tensor import Tensor


def fuse(model: Module, *, image_size: int = 32) -> Module:
    """A copy of a model in which each batch norm that follows a convolution is folded into it.

    Parameters
    ----------
    model : Module
        In evaluation mode; it is left as it is.
    image_size : int
        Height and width of an image that the model accepts. One is run, to see what follows what.

    Returns
    -------
    Module
        In evaluation mode, with the same outputs up to rounding, and other names in its `state_dict`: a convolution
        with a bias has taken the place of its batch norm, and an `Identity` that of the convolution. So a shortcut and
        a ReLU that were given to the batch norm are the convolution's, and are added and applied in one pass with it.
        A batch norm that does not follow a convolution of its own stays, such as the first of a pre-activation block.
        The arrays of the weights are read-only, so that kernels reorder and transform them once; what those make of
        them takes up to five times their memory.

    Raises
    ------
    ValueError
        Where the model, or a part of it, is in training mode: its batch norms then depend on the batch.

    Notes
    -----
    In evaluation a batch norm is an affine map of each channel, and an affine map of a convolution is a convolution:

        gamma (w * x + b - mean) / sqrt(var + eps) + beta = (s w) * x + (beta + s (b - mean)),

    with s = gamma / sqrt(var + eps), in float64 here (Jacob et al., "Quantization and training of neural networks for
    efficient integer-arithmetic-only inference", 2018, section 3.2).

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> net = tr.models.resnet20().eval()
    >>> x = tr.Tensor(np.ones((1, 3, 32, 32), "f4"))
    >>> bool(np.allclose(tr.nn.fuse(net)(x).data, net(x).data, rtol=1e-4, atol=1e-5))
    True
    """
    expect_eval(model, "fuse")
    fused = copy.deepcopy(model)
    modules = dict(fused.named_modules())
    for conv_path, bn_path in _pairs(fused, modules, image_size):
        conv, bn = cast(Conv2d, modules[conv_path]), cast(BatchNorm2d, modules[bn_path])
        scale = bn.weight.data.astype(np.float64) / np.sqrt(bn.running_var.astype(np.float64) + bn.eps)
        shift = -bn.running_mean.astype(np.float64) if conv.bias is None else conv.bias.data - bn.running_mean
        dtype = conv.weight.dtype
        conv.weight = Parameter((conv.weight.data * scale[:, None, None, None]).astype(dtype))
        conv.bias = Parameter((bn.bias.data + scale * shift).astype(dtype))
        make_constant(conv.weight.data)
        for path, module in ((bn_path, conv), (conv_path, Identity().eval())):
            parent, _, name = path.rpartition(".")
            setattr(modules[parent], name, module)
    return fused


def _pairs(model: Module, modules: dict[str, Module], image_size: int) -> list[tuple[str, str]]:
    """Paths of each convolution and the batch norm that is all that reads it, from the tape of one image."""
    first = next((m for m in modules.values() if isinstance(m, Conv2d)), None)
    if first is None:
        return []
    channels = first.weight.shape[1] * first.groups
    image = Tensor(np.zeros((1, channels, image_size, image_size), first.weight.dtype), requires_grad=True)
    with enable_grad():
        out = model.forward(image)
    nodes = [node for node in topological_order(out._node or out) if isinstance(node, Node)]
    readers = Counter(id(parent) for node in nodes for parent in node.parents)
    calls = Counter(node.module for node in nodes)  # a module that is called twice must stay what it is
    pairs = []
    for node in nodes:
        conv = node.parents[0] if node.name == "batch_norm" else None
        if (
            isinstance(conv, Node)
            and type(modules.get(conv.module)) is Conv2d  # a subclass may do anything
            and type(modules.get(node.module)) is BatchNorm2d
            and readers[id(conv)] == calls[conv.module] == calls[node.module] == 1
        ):
            pairs.append((conv.module, node.module))
    return pairs
