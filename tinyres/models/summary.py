"""What a network is made of: layers, output sizes, parameters, multiply-adds."""

from typing import Any, NamedTuple

import numpy as np

from tinyres.nn import Conv2d, Linear, Module
from tinyres.tape import no_grad
from tinyres.tensor import Tensor


class Row(NamedTuple):
    """One layer. `output` is its output's shape without the batch; `multiply_adds` are those of one image."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def summarize(model: Module, image_size: int = 32) -> list[Row]:
    """Run one image through a model and list the layers it met, in order.

    Parameters
    ----------
    model : Module
        Takes images (N, 3, H, W).
    image_size : int
        Height and width of the image.

    Returns
    -------
    list of Row
        Of the modules that have no modules inside.

    Examples
    --------
    >>> import tinyres as tr
    >>> rows = tr.models.summarize(tr.models.resnet20())
    >>> rows[0]
    Row(name='conv1', kind='Conv2d', output=(16, 32, 32), parameters=432, multiply_adds=442368)
    >>> sum(row.multiply_adds for row in rows)
    40551040
    """
    rows: list[Row] = []
    names = {module: name for name, module in model.named_modules()}

    def note(module: Module, args: tuple[Any, ...], output: Tensor) -> None:
        parameters = sum(p.size for p in module.parameters())
        rows.append(
            Row(names[module], type(module).__name__, output.shape[1:], parameters, _multiply_adds(module, output))
        )

    leaves = [module for module in model.modules() if not list(module.children())]
    remove = [module.register_forward_hook(note) for module in leaves]
    training = model.training
    try:
        with no_grad():
            model.eval()(Tensor(np.zeros((1, 3, image_size, image_size), np.float32)))
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
