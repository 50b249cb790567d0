"""A model as an ONNX file: run once, and its tape translated node by node."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyres.files import write_whole
from tinyres.nn import Module
from tinyres.tape import Array, Node, enable_grad
from tinyres.tensor import Tensor

OPSET, IR_VERSION = 17, 8  # of 2022: old enough for most runtimes, and all that is needed is there


class ExportError(ValueError):
    """The model does something that the ONNX translation does not know; the message names it."""


def to_onnx(
    model: Module, path: str | Path, *, image_size: int = 32, channels: int = 3, classes: Sequence[str] | None = None
) -> None:
    """Write a model as an ONNX file, for onnxruntime and other programs.

    Parameters
    ----------
    model : Module
        In evaluation mode; from images (N, C, H, W) to logits (N, K). `nn.fuse` it first for a smaller graph.
    path : str or Path
        Written whole or not at all.
    image_size, channels : int
        Height and width of the images, and C. N may be any.
    classes : sequence of str, optional
        Names of the classes; kept as a JSON list in the file's metadata, under ``"classes"``.

    Raises
    ------
    ExportError
        Where an operation has no translation, or uses an array that is neither the image nor a parameter.
    ValueError
        Where the model is in training mode.
    ImportError
        Where the package onnx is not installed.
    OSError
        Where the file cannot be written.

    Notes
    -----
    The graph's input is ``"images"``, its output ``"logits"``; initialisers have the parameters' names, nodes those of
    their modules. The specification of the operators is at https://onnx.ai/onnx/operators.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.resnet20().eval()
    >>> tr.export.to_onnx(tr.nn.fuse(net), "resnet20.onnx")  # doctest: +SKIP
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ImportError("export to ONNX needs the package onnx: pip install 'tinyres[onnx]'") from error
    if model.training:
        raise ValueError("to_onnx: the model is in training mode, expected evaluation: call model.eval() first")
    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    images = np.random.default_rng(0).standard_normal((BATCH, channels, image_size, image_size)).astype(dtype)
    x = Tensor(images, requires_grad=True)
    with enable_grad():
        logits = model.forward(x)

    writer = _Writer(onnx, {id(p): name for name, p in model.named_parameters()}, x)
    for node in _in_order(logits._node):
        writer.add(node)
    if logits._node is None:
        raise ExportError("to_onnx: the model's output does not depend on its input")
    shapes = ("images", x.shape), ("logits", logits.shape)
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    ends = [onnx.helper.make_tensor_value_info(name, kind, ["batch", *shape[1:]]) for name, shape in shapes]
    writer.write("Identity", [writer.names[id(logits._node)]], output="logits")
    arrays = [onnx.numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in writer.arrays.items()]
    graph = onnx.helper.make_graph(writer.nodes, type(model).__name__, ends[:1], ends[1:], arrays)
    opset = [onnx.helper.make_opsetid("", OPSET)]
    file = onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="tinyres")
    if classes is not None:
        onnx.helper.set_model_props(file, {"classes": json.dumps(list(classes))})
    onnx.checker.check_model(file, full_check=True)
    write_whole(path, file.SerializeToString())


BATCH = 2  # images that are run: an axis of this length that comes first is the batch


def _in_order(root: Node | None) -> list[Node]:
    """All nodes below `root`, each after its parents. Iterative, since graphs are deep."""
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif isinstance(node, Node) and id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((parent, False) for parent in reversed(node.parents))
    return order


class _Writer:
    """Collects the nodes and arrays of an ONNX graph."""

    def __init__(self, onnx: Any, parameters: dict[int, str], images: Tensor) -> None:
        self.onnx, self.parameters = onnx, parameters
        self.names = {id(images): "images"}  # of each value, by the id of its node or leaf
        self.arrays: dict[str, Array] = {}  # the graph's initialisers
        self.nodes: list[Any] = []

    def add(self, node: Node) -> None:
        """Translate a node of the tape, whose parents have been."""
        if node.name not in OPERATORS:
            raise ExportError(f"to_onnx: {node!r} has no translation; there is one for {', '.join(sorted(OPERATORS))}")
        inputs = [self.value(node, parent) for parent in node.parents]
        self.names[id(node)] = OPERATORS[node.name](self, node, inputs)

    def value(self, node: Node, parent: Any) -> str:
        """Name of one of a node's inputs."""
        if id(parent) in self.parameters:
            name = self.parameters[id(parent)]
            self.arrays[name] = parent.data
            return name
        if parent is None or id(parent) not in self.names:
            raise ExportError(
                f"to_onnx: {node!r} takes an array that is neither computed from the images nor a parameter of the "
                "model; make it an nn.Parameter"
            )
        return self.names[id(parent)]

    def constant(self, name: str, array: Any) -> str:
        self.arrays[name] = np.asarray(array)
        return name

    def write(self, kind: str, inputs: list[str], *, node: Node | None = None, output: str = "", **options: Any) -> str:
        """Append an ONNX node and return the name of its result."""
        prefix = (node.module or node.name) if node else ""
        output = output or f"{prefix}/{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], output, **options))
        return output


# ---------------------------------------------------------------- operators
def _conv2d(w: _Writer, node: Node, inputs: list[str]) -> str:
    return w.write("Conv", inputs, node=node, group=node.attributes["groups"], **_window(node))


def _window(node: Node) -> dict[str, Any]:
    """ONNX pads before all axes, then after all of them."""
    return {"strides": node.attributes["stride"], "pads": [*node.attributes["padding"]] * 2}


def _linear(w: _Writer, node: Node, inputs: list[str]) -> str:
    return w.write("Gemm", inputs, node=node, transB=1)


def _batch_norm(w: _Writer, node: Node, inputs: list[str]) -> str:
    """With epsilon 0 and variance 1 / inv_std^2; the tape's inv_std has epsilon in it."""
    inv_std = node.attributes["inv_std"].astype(np.float64)
    mean = w.constant(f"{node.module}.mean", node.attributes["mean"])
    var = w.constant(f"{node.module}.var_eps", (inv_std**-2).astype(node.dtype))
    x, weight, bias, *residual = inputs
    y = w.write("BatchNormalization", [x, weight, bias, mean, var], node=node, epsilon=0.0)
    if residual:
        y = w.write("Add", [y, *residual], node=node)
    return w.write("Relu", [y], node=node) if node.attributes["relu"] else y


def _max_pool2d(w: _Writer, node: Node, inputs: list[str]) -> str:
    return w.write("MaxPool", inputs, node=node, kernel_shape=node.attributes["kernel_size"], **_window(node))


def _avg_pool2d(w: _Writer, node: Node, inputs: list[str]) -> str:
    options = {"kernel_shape": node.attributes["kernel_size"], "count_include_pad": 1, **_window(node)}
    return w.write("AveragePool", inputs, node=node, **options)


def _pad(w: _Writer, node: Node, inputs: list[str]) -> str:
    a = node.attributes
    pads = w.constant(f"{node.module}/pads_{len(w.nodes)}", np.array([*a["before"], *a["after"]], np.int64))
    value = w.constant(f"{node.module}/value_{len(w.nodes)}", np.array(a["value"], node.dtype))
    return w.write("Pad", [*inputs, pads, value], node=node)


def _getitem(w: _Writer, node: Node, inputs: list[str]) -> str:
    """Slices forwards; whatever else indexing can do is left to those who need it."""
    index = node.attributes["index"]
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(i, slice) and (i.step or 1) > 0 for i in index):
        raise ExportError(f"to_onnx: {node!r} is indexed with {index}, expected slices with positive steps")
    last = np.iinfo(np.int64).max
    table = {
        "starts": [i.start or 0 for i in index],
        "ends": [last if i.stop is None else i.stop for i in index],
        "axes": range(len(index)),
        "steps": [i.step or 1 for i in index],
    }
    names = [w.constant(f"{node.module}/{n}_{len(w.nodes)}", np.array(v, np.int64)) for n, v in table.items()]
    return w.write("Slice", [*inputs, *names], node=node)


def _reshape(w: _Writer, node: Node, inputs: list[str]) -> str:
    before = node.parents[0].shape if node.parents[0] is not None else ()
    if not node.shape or not before or node.shape[0] != before[0] or before[0] != BATCH:
        raise ExportError(f"to_onnx: {node!r} reshapes {before}, expected the batch to stay the first axis")
    shape = w.constant(f"{node.module}/shape_{len(w.nodes)}", np.array([0, *node.shape[1:]], np.int64))  # 0: as before
    return w.write("Reshape", [*inputs, shape], node=node)


def _same(kind: str, *names: str) -> Callable[[_Writer, Node, list[str]], str]:
    """An operator of the same meaning, whose attributes are those of the node that are named."""

    def translate(w: _Writer, node: Node, inputs: list[str]) -> str:
        return w.write(kind, inputs, node=node, **{n: node.attributes[n] for n in names})

    return translate


OPERATORS: dict[str, Callable[[_Writer, Node, list[str]], str]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "pad": _pad,
    "getitem": _getitem,
    "reshape": _reshape,
    "concat": _same("Concat", "axis"),
    "softmax": _same("Softmax", "axis"),
    "log_softmax": _same("LogSoftmax", "axis"),
    **{name: _same(name.capitalize()) for name in ("relu", "sigmoid", "tanh", "exp", "log", "sqrt", "add", "sub")},
    "mul": _same("Mul"),
    "div": _same("Div"),
    "neg": _same("Neg"),
    "matmul": _same("MatMul"),
    "maximum": _same("Max"),
}
