"""The tape of a residual block at the end of the forward pass."""

import re
from pathlib import Path

import numpy as np
from figures.svg import Drawing

import tinyres as tr
from tinyres.tape import Node, topological_order

ROW = 64
PAGE = Path(__file__).parents[1] / "tutorials/own_block.md"


def _tape(net: tr.nn.Module, title: str) -> str:
    """Nodes in the order of the backward pass, each with its parents, its parameters and the arrays of its pullback."""
    x = tr.Tensor(np.random.default_rng(0).standard_normal((4, 16, 8, 8)).astype(np.float32), requires_grad=True)
    y = net(x)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    order = [node for node in reversed(topological_order(y._node)) if isinstance(node, Node)]
    drawing = Drawing(490, ROW * (len(order) + 1), title)
    boxes = {}
    for i, node in enumerate(order):
        shortcut = any(parent is x for parent in node.parents) and node.name == "batch_norm"
        what = [node.name, *["+ x"] * shortcut, *["ReLU"] * node.attributes.get("relu", False)]
        lines = [("strong", f"{i + 1}. {', '.join(what)}"), ("note", str(node.shape))]
        boxes[id(node)] = drawing.box(300, ROW * (i + 0.5), lines)
        if own := [names[id(parent)] for parent in node.parents if id(parent) in names]:
            drawing.arrow(boxes[id(node)], drawing.box(70, ROW * (i + 0.5), [("", name) for name in own]))
    boxes[id(x)] = drawing.box(300, ROW * (len(order) + 0.5), [("value", "x"), ("note", str(x.shape))])
    for i, node in enumerate(order):
        for parent in node.parents:
            if parent is x and i + 1 < len(order):  # around the nodes between them
                drawing.way_round(boxes[id(node)], boxes[id(x)], 450, "shortcut", "")
            elif id(parent) in boxes:
                drawing.arrow(boxes[id(node)], boxes[id(parent)])
    return str(drawing)


def block() -> str:
    """The block of the library, whose last batch norm also adds the shortcut and applies the ReLU."""
    tr.manual_seed(0)
    return _tape(tr.models.BasicBlock(16, 16), "The nodes of a residual block's tape, from its result to its input")


def rezero() -> str:
    """The block of the tutorial, as its page defines it."""
    names = {"__name__": PAGE.stem}
    exec(re.search(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)[1], names)
    tr.manual_seed(0)
    return _tape(names["ReZeroBlock"](16, 16), "The nodes of a ReZero block's tape, from its result to its input")
