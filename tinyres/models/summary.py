"""Summaries of a network: layers, output shapes, parameters, multiply-adds, activations; and the cost of blocks."""

from typing import Any, NamedTuple

import numpy as np

from tinyres.models.blocks import BasicBlock, Bottleneck, PlainBlock, PreActBlock, PreActBottleneck
from tinyres.nn import Conv2d, Linear, Module
from tinyres.nn.init import nothing_drawn
from tinyres.tape import no_grad
from tinyres.tensor import Tensor


class Row(NamedTuple):
    """One layer, for one image: `output` is the shape of its output without the batch, `activation_bytes` its memory.

    A training step keeps the outputs of nearly all layers for the backward pass. So the sum of `activation_bytes`
    times the batch size is about the memory that a step needs in addition to the weights.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int


def summarize(model: Module, image_size: int = 32, channels: int = 3) -> list[Row]:
    """Run one image through a model and list its layers, in the order of their calls.

    Parameters
    ----------
    model : Module
        Takes images (N, C, H, W).
    image_size, channels : int
        Height and width of the image in pixels, and C.

    Returns
    -------
    list of Row
        One for each module that has no modules inside.

    Examples
    --------
    >>> import tinyres as tr
    >>> rows = tr.models.summarize(tr.models.resnet20())
    >>> rows[0]
    Row(name='conv1', kind='Conv2d', output=(16, 32, 32), parameters=432, multiply_adds=442368, activation_bytes=65536)
    >>> sum(row.multiply_adds for row in rows)
    40551040
    """
    rows: list[Row] = []
    names = {module: name for name, module in model.named_modules()}

    def note(module: Module, args: tuple[Any, ...], output: Tensor) -> None:
        parameters = sum(p.size for p in module.parameters())
        work = _multiply_adds(module, output)
        rows.append(Row(names[module], type(module).__name__, output.shape[1:], parameters, work, output.data.nbytes))

    leaves = [module for module in model.modules() if not list(module.children())]
    remove = [module.register_forward_hook(note) for module in leaves]
    training = model.training
    try:
        with no_grad():
            model.eval()(Tensor(np.zeros((1, channels, image_size, image_size), np.float32)))
    finally:
        model.train(training)
        for undo in remove:
            undo()
    return rows


def _multiply_adds(module: Module, output: Tensor) -> int:
    """Multiply-adds of convolutions and linear layers; 0 for others, as the paper counts (table 1)."""
    if not isinstance(module, Conv2d | Linear):
        return 0
    pixels = int(np.prod(output.shape[2:]))
    return module.weight.size * pixels


# ---------------------------------------------------------------- comparing blocks
BLOCKS: dict[str, Any] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "plain": PlainBlock,
    "preact": PreActBlock,
    "preact_bottleneck": PreActBottleneck,
}
STAGES = ((256, 4, 3), (512, 8, 4), (1024, 16, 6), (2048, 32, 3))
"""For each stage of ResNet-50: channels of the output, image size divided by its size, and number of blocks."""


class Cost(NamedTuple):
    """The cost of one block for one image of `size` x `size` pixels, with `width` channels of input and of output."""

    width: int
    size: int
    blocks: int  # there are in the stage
    parameters: int
    multiply_adds: int
    activation_bytes: int


def compare_blocks(names: list[str], image_size: int = 224) -> dict[str, list[Cost]]:
    """The cost of kinds of blocks at equal width, in the four stages of ResNet-50 (the paper's figure 5).

    Two 3x3 convolutions on w channels take 18 w^2 multiply-adds per pixel. A bottleneck reduces the channels to w/4,
    has one 3x3 convolution, and restores them: w^2/4 + 9 w^2/16 + w^2/4 = 17/16 w^2, a seventeenth.

    Parameters
    ----------
    names : list of str
        Names from `BLOCKS`.
    image_size : int
        Height and width of the network's images in pixels.

    Returns
    -------
    dict
        For each name, the cost of a block in each stage.

    Raises
    ------
    ValueError
        If there is no such block.

    Examples
    --------
    >>> import tinyres as tr
    >>> costs = tr.models.compare_blocks(["basic", "bottleneck"])
    >>> costs["basic"][0].multiply_adds / costs["bottleneck"][0].multiply_adds
    16.941176470588236
    """
    for name in names:
        if name not in BLOCKS:
            raise ValueError(f"block: there is no {name!r}, expected some of {', '.join(BLOCKS)}")
    costs: dict[str, list[Cost]] = {}
    for name in names:
        costs[name] = []
        for width, smaller, count in STAGES:
            size = max(1, image_size // smaller)
            with nothing_drawn():
                block = BLOCKS[name](width, width // BLOCKS[name].expansion)
            rows = summarize(block, size, width)
            totals = (sum(row[i] for row in rows) for i in (3, 4, 5))  # type: ignore[misc]
            costs[name].append(Cost(width, size, count, *totals))
    return costs
