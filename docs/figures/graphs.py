"""Computations as graphs: the value and the gradient of each step, as computed by the engine."""

import numpy as np
from figures.svg import Drawing, number, numbers

import tinyres as tr


class Graph:
    """A computation that is drawn while it runs: values are added one by one, and `backward` records every gradient.

    Parameters
    ----------
    title : str
        Describes the drawing, for readers who cannot see it.
    """

    def __init__(self, title: str) -> None:
        self.title, self.values, self.shares = title, [], {}

    def add(self, name: str, expression: str, tensor: tr.Tensor, column: float, row: float) -> tr.Tensor:
        """Give a value a name and a place, and return it."""
        self.values.append((name, expression, tensor, column, row))
        return tensor

    def backward(self, last: tr.Tensor, dy=None) -> None:
        """Compute the gradients, and record the gradient that each step gives to each of its inputs."""
        self.nodes = {id(tensor._node or tensor): name for name, _, tensor, _, _ in self.values}
        self.gradients = {}
        for name, _, tensor, _, _ in self.values:
            if tensor._node:
                self._note(name, tensor._node)
                tensor.register_hook(lambda dy, name=name: self.gradients.__setitem__(name, dy.copy()))
        last.backward(dy)
        for name, _, tensor, _, _ in self.values:
            if tensor._node is None or tensor.grad is not None:
                self.gradients[name] = tensor.grad

    def _note(self, name: str, node: tr.tape.Node) -> None:
        pullback, parents = node.pullback, node.parents

        def noted(dy):
            shares = pullback(dy)
            for parent, share in zip(parents, shares, strict=True):
                self.shares[self.nodes[id(parent)], name] = np.array(share)
            return shares

        node.pullback = noted

    def draw(self, column: float = 126, row: float = 104) -> str:
        """The graph as SVG, with these distances between columns and rows."""
        columns, rows = (max(value[i] for value in self.values) for i in (3, 4))
        drawing = Drawing(column * (columns + 1), row * (rows + 1), self.title)
        boxes = {}
        for name, expression, tensor, i, j in self.values:
            gradient = self.gradients[name]
            if tensor.ndim:
                lines = [("", expression), ("note", str(tensor.shape))]
                lines += [("value mono", text) for text in numbers(tensor.data)]
                lines += [("gradient mono", text) for text in numbers(gradient)]
            else:
                lines = [("", expression), ("value", number(tensor.data)), ("gradient", number(gradient))]
            boxes[name] = drawing.box(column * (i + 0.5), row * (j + 0.5), lines)
        for (start, end), share in self.shares.items():
            drawing.arrow(boxes[start], boxes[end], "" if share.ndim else number(share))
        return str(drawing)


def scalar() -> str:
    """``y = x + w2 * relu(w1 * x)`` of four numbers."""
    graph = Graph("Graph of y = x + w2 relu(w1 x): each step with its value and its gradient")
    x, w1, w2 = (tr.Tensor(v, requires_grad=True) for v in (2.0, 1.5, -0.5))
    graph.add("x", "x", x, 0, 0)
    graph.add("w1", "w1", w1, 0, 1.6)
    a = graph.add("a", "a = w1 x", w1 * x, 1.25, 1)
    r = graph.add("r", "r = relu(a)", tr.ops.relu(a), 2.5, 1)
    graph.add("w2", "w2", w2, 2.5, 2)
    b = graph.add("b", "b = w2 r", w2 * r, 3.75, 1)
    y = graph.add("y", "y = x + b", x + b, 5, 0)
    graph.backward(y)
    return graph.draw()


def matrices() -> str:
    """``Y = X + relu(X W1) W2``, and the gradients of ``Y[0, 0] + Y[1, 1]``."""
    graph = Graph("Graph of Y = X + relu(X W1) W2 for matrices")
    x, w1, w2, dy = (
        np.array(v, np.float64)
        for v in ([[1, 2], [-2, 1]], [[1, -1, -1], [1, -1, 2]], [[1, 0], [2, -1], [-1, 1]], [[1, 0], [0, 1]])
    )
    x, w1, w2 = (tr.Tensor(v, requires_grad=True) for v in (x, w1, w2))
    graph.add("x", "X", x, 0, 0)
    graph.add("w1", "W1", w1, 0, 1.2)
    a = graph.add("a", "A = X W1", x @ w1, 1.1, 1)
    r = graph.add("r", "R = relu(A)", tr.ops.relu(a), 2.2, 1)
    graph.add("w2", "W2", w2, 2.2, 2.15)
    b = graph.add("b", "B = R W2", r @ w2, 3.3, 1)
    y = graph.add("y", "Y = X + B", x + b, 4.4, 0)
    graph.backward(y, dy)
    return graph.draw(column=132, row=164)
