"""Faster inference: batch norm is folded into the convolution before it."""

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
        In evaluation mode. It is not changed.
    image_size : int
        Height and width of an image that the model accepts, in pixels. One image is run, to find which batch norm
        follows which convolution.

    Returns
    -------
    Module
        In evaluation mode, with the same outputs up to rounding. The names in its `state_dict` differ: a convolution
        with a bias replaces each folded batch norm, and an `Identity` replaces the old convolution. A shortcut and a
        ReLU that were passed to the batch norm are passed to this convolution, which computes them in the same pass.
        A batch norm that does not directly follow a convolution stays, such as the first of a pre-activation block.
        The arrays of weights are read-only, so kernels reorder and transform them only once. The results of this take
        up to five times the memory of the weights.

    Raises
    ------
    ValueError
        If the model, or a part of it, is in training mode: its batch norms then depend on the batch.

    Notes
    -----
    In evaluation, a batch norm is an affine map of each channel. A convolution followed by an affine map is again a
    convolution:

        gamma (w * x + b - mean) / sqrt(var + eps) + beta = (s w) * x + (beta + s (b - mean)),

    with s = gamma / sqrt(var + eps), computed in float64 (Jacob et al., "Quantization and training of neural networks
    for efficient integer-arithmetic-only inference", 2018, section 3.2).

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
    """Paths of each convolution whose result only a batch norm uses, and of that batch norm; from one image's tape."""
    first = next((m for m in modules.values() if isinstance(m, Conv2d)), None)
    if first is None:
        return []
    channels = first.weight.shape[1] * first.groups
    image = Tensor(np.zeros((1, channels, image_size, image_size), first.weight.dtype), requires_grad=True)
    with enable_grad():
        out = model.forward(image)
    nodes = [node for node in topological_order(out._node or out) if isinstance(node, Node)]
    readers = Counter(id(parent) for node in nodes for parent in node.parents)
    calls = Counter(node.module for node in nodes)  # a module that is called twice must not change
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
