"""The tape of a residual block at the end of the forward pass."""

import numpy as np
from figures.svg import Drawing

import tinyres as tr
from tinyres.tape import Node, topological_order

ROW = 64


def block() -> str:
    """Nodes in the order of the backward pass, each with its parents, its parameters and the arrays of its pullback."""
    tr.manual_seed(0)
    net = tr.models.BasicBlock(16, 16)
    x = tr.Tensor(np.random.default_rng(0).standard_normal((4, 16, 8, 8)).astype(np.float32), requires_grad=True)
    y = net(x)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    order = [node for node in reversed(topological_order(y._node)) if isinstance(node, Node)]
    drawing = Drawing(490, ROW * (len(order) + 1), "The nodes of a residual block's tape, from its result to its input")
    boxes = {}
    for i, node in enumerate(order):
        shortcut = any(parent is x for parent in node.parents) and node.name == "batch_norm"
        what = [node.name, *["+ x"] * shortcut, *["ReLU"] * node.attributes.get("relu", False)]
        lines = [("strong", f"{i + 1}. {', '.join(what)}"), ("note", str(node.shape))]
        boxes[id(node)] = drawing.box(300, ROW * (i + 0.5), lines)
        own = [names[id(parent)] for parent in node.parents if id(parent) in names]
        drawing.arrow(boxes[id(node)], drawing.box(70, ROW * (i + 0.5), [("", name) for name in own]))
    boxes[id(x)] = drawing.box(300, ROW * (len(order) + 0.5), [("value", "x"), ("note", str(x.shape))])
    for node in order:
        for parent in node.parents:
            if parent is x and node.name == "batch_norm":
                drawing.way_round(boxes[id(node)], boxes[id(x)], 450, "shortcut", "")
            elif id(parent) in boxes:
                drawing.arrow(boxes[id(node)], boxes[id(parent)])
    return str(drawing)
