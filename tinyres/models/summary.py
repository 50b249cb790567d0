"""What a network is made of: layers, output sizes, parameters, multiply-adds, activations; and what blocks cost."""

from typing import Any, NamedTuple

import numpy as np

from tinyres.models.blocks import BasicBlock, Bottleneck, PlainBlock, PreActBlock, PreActBottleneck
from tinyres.nn import Conv2d, Linear, Module
from tinyres.nn.init import nothing_drawn
from tinyres.tape import no_grad
from tinyres.tensor import Tensor


class Row(NamedTuple):
    """One layer, for one image: `output` is its output's shape without the batch, `activation_bytes` what that takes.

    Of the layers of a training step nearly all outputs are kept for the backward pass, so their sum, times the batch,
    is about what a step needs beside the weights.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activation_bytes: int


def summarize(model: Module, image_size: int = 32, channels: int = 3) -> list[Row]:
    """Run one image through a model and list the layers it met, in order.

    Parameters
    ----------
    model : Module
        Takes images (N, C, H, W).
    image_size, channels : int
        Height and width of the image, and C.

    Returns
    -------
    list of Row
        Of the modules that have no modules inside.

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
    """Of convolutions and linear layers only, as the paper counts (table 1)."""
    if not isinstance(module, Conv2d | Linear):
        return 0
    pixels = int(np.prod(output.shape[2:]))
    return module.weight.size * pixels


# ---------------------------------------------------------------- blocks beside each other
BLOCKS: dict[str, Any] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "plain": PlainBlock,
    "preact": PreActBlock,
    "preact_bottleneck": PreActBottleneck,
}
STAGES = ((256, 4, 3), (512, 8, 4), (1024, 16, 6), (2048, 32, 3))
"""Channels of the output, how many times smaller than the image it is, and blocks, of each stage of ResNet-50."""


class Cost(NamedTuple):
    """What one block costs for one image, from `width` channels to as many, on `size` x `size` pixels."""

    width: int
    size: int
    blocks: int  # there are in the stage
    parameters: int
    multiply_adds: int
    activation_bytes: int


def compare_blocks(names: list[str], image_size: int = 224) -> dict[str, list[Cost]]:
    """What kinds of block cost at equal width, in the places of ResNet-50's four stages (the paper's figure 5).

    Two 3x3 convolutions on w channels take 18 w^2 multiply-adds a pixel. A bottleneck takes them to w/4, works
    there, and restores them: w^2/4 + 9 w^2/16 + w^2/4 = 17/16 w^2, a seventeenth.

    Parameters
    ----------
    names : list of str
        From `BLOCKS`.
    image_size : int
        Height and width of the network's images.

    Returns
    -------
    dict
        For each name, the cost of a block in each stage.

    Raises
    ------
    ValueError
        Where there is no such block.

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
