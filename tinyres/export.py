"""A model as an ONNX file: run once, and its tape translated node by node."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tinyres import extras
from tinyres.files import write_whole
from tinyres.nn import Module
from tinyres.nn.module import expect_eval
from tinyres.tape import Array, Node, enable_grad, topological_order
from tinyres.tensor import Tensor

BATCH = 2  # images that are run: an axis of this length that comes first is the batch
OPSETS = range(13, 22)  # softmax has had its meaning since 13; 21 is the last that the oldest onnx of the extra knows


class ExportError(ValueError):
    """The model does something that the ONNX translation does not know; the message names it."""


def find_onnx() -> Any:
    """The package onnx.

    Raises
    ------
    ImportError
        Where it is not installed, with the command that does it.

    Examples
    --------
    >>> find_onnx().__name__  # doctest: +SKIP
    'onnx'
    """
    return extras.find("onnx", "ONNX needs the package onnx", "onnx")


def to_onnx(
    model: Module,
    path: str | Path,
    *,
    image_size: int = 32,
    channels: int = 3,
    classes: Sequence[str] | None = None,
    opset: int = 17,
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
    opset : int
        Version of ONNX's operators, 13 to 21. That of 2022, the default, is old enough for most runtimes.

    Raises
    ------
    ExportError
        Where an operation has no translation, uses an array that is neither the image nor a parameter, or takes the
        batch from its place as the first axis; where the output is not one tensor computed from the images.
    ValueError
        Where the model, or a part of it, is in training mode, or `opset` is out of range.
    ImportError
        Where the package onnx is not installed.
    OSError
        Where the file cannot be written.

    Notes
    -----
    The graph's input is ``"images"``, its output ``"logits"``; initialisers have the parameters' names, nodes those of
    their modules. A batch norm's ``running_var`` is 1 / inv_std^2, with epsilon in it; its node's epsilon is 0. The
    specification of the operators is at https://onnx.ai/onnx/operators.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.resnet20().eval()
    >>> tr.export.to_onnx(tr.nn.fuse(net), "resnet20.onnx")  # doctest: +SKIP
    """
    onnx = find_onnx()
    if opset not in OPSETS:
        raise ValueError(f"opset: got {opset}, expected {OPSETS[0]} to {OPSETS[-1]}")
    expect_eval(model, "to_onnx")  # else batch norm would keep the statistics of the images below
    parameters = {id(p): name for name, p in model.named_parameters()}
    if taken := {"images", "logits"}.intersection(parameters.values()):
        raise ExportError(
            f"to_onnx: {taken.pop()!r} is what the graph's input or output is called: rename the parameter"
        )
    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    images = np.random.default_rng(0).standard_normal((BATCH, channels, image_size, image_size)).astype(dtype)
    x = Tensor(images, requires_grad=True)
    with _unfrozen(model), enable_grad():
        logits = model.forward(x)
    if not isinstance(logits, Tensor):
        raise ExportError(f"to_onnx: the model returned a {type(logits).__name__}, expected one Tensor")

    writer = _Writer(onnx, parameters, x)
    for node in topological_order(logits._node or logits):
        if isinstance(node, Node):
            writer.add(node)
    result = writer.names.get(id(logits._node or logits))
    if result is None or result not in writer.batched:
        raise ExportError("to_onnx: the model's output does not depend on its input")
    if logits.shape[:1] != (BATCH,):
        raise ExportError(
            f"to_onnx: the model made an output of shape {logits.shape} of {BATCH} images, expected ({BATCH}, ...)"
        )
    writer.write("Identity", [result], output="logits")
    shapes = ("images", x.shape), ("logits", logits.shape)
    kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    ends = [onnx.helper.make_tensor_value_info(name, kind, ["batch", *shape[1:]]) for name, shape in shapes]
    arrays = [onnx.numpy_helper.from_array(np.asarray(a, order="C"), name) for name, a in writer.arrays.items()]
    graph = onnx.helper.make_graph(writer.nodes, type(model).__name__, ends[:1], ends[1:], arrays)
    opsets = [onnx.helper.make_opsetid("", opset)]
    file = onnx.helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),  # the newest is not what runtimes can read
        producer_name="tinyres",
        producer_version=_version(),
    )
    if classes is not None:
        onnx.helper.set_model_props(file, {"classes": json.dumps(list(classes))})
    onnx.checker.check_model(file, full_check=True)
    write_whole(path, file.SerializeToString())


@contextlib.contextmanager
def _unfrozen(model: Module) -> Iterator[None]:
    """Ask for the gradients of all parameters: of what asks for none, the tape keeps no trace."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad = True
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad = False


def _version() -> str:
    try:
        return metadata.version("tinyres")
    except metadata.PackageNotFoundError:  # run from its sources
        return ""


class _Writer:
    """Collects the nodes and arrays of an ONNX graph."""

    def __init__(self, onnx: Any, parameters: dict[int, str], images: Tensor) -> None:
        self.onnx, self.parameters = onnx, parameters
        self.names = {id(images): "images"}  # of each value, by the id of its node or leaf
        self.batched: set[str] = {"images"}  # the values that depend on the images: the batch is first in them
        self.arrays: dict[str, Array] = {}  # the graph's initialisers
        self.nodes: list[Any] = []

    def add(self, node: Node) -> None:
        """Translate a node of the tape, whose parents have been."""
        if node.name not in OPERATORS:
            known = ", ".join(sorted(OPERATORS))
            raise ExportError(f"to_onnx: {node!r} has no translation; write it with those that have: {known}")
        inputs = [self.value(node, parent) for parent in node.parents]
        self.names[id(node)] = name = OPERATORS[node.name](self, node, inputs)
        if not self.batched.isdisjoint(inputs):
            self.batched.add(name)

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

    def constant(self, node: Node, name: str, array: Any) -> str:
        """Keep an array of a node's and return its name, numbered if another array has that."""
        name, array = f"{node.module}.{name}" if node.module else name, np.asarray(array)
        if name in self.parameters.values() or not np.array_equal(self.arrays.get(name, array), array):
            name = f"{name}_{len(self.nodes)}"
        self.arrays[name] = array
        return name

    def write(self, kind: str, inputs: list[str], *, node: Node | None = None, output: str = "", **options: Any) -> str:
        """Append an ONNX node and return the name of its result."""
        prefix = (node.module or node.name) if node else ""
        output = output or f"{prefix}/{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], output, **options))
        return output


# ---------------------------------------------------------------- operators
def _conv2d(w: _Writer, node: Node, inputs: list[str]) -> str:
    factors = inputs[: 3 if node.attributes["bias"] else 2]
    how = {"group": node.attributes["groups"], "dilations": node.attributes["dilation"]}
    y = w.write("Conv", factors, node=node, **how, **_window(node))
    return _finish(w, node, y, inputs[len(factors) :])


def _finish(w: _Writer, node: Node, y: str, residual: list[str]) -> str:
    """What convolution and batch norm do with their result: add a shortcut, apply ReLU."""
    if residual:
        y = w.write("Add", [y, *residual], node=node)
    return w.write("Relu", [y], node=node) if node.attributes["relu"] else y


def _window(node: Node) -> dict[str, Any]:
    """ONNX pads before all axes, then after all of them."""
    return {"strides": node.attributes["stride"], "pads": [*node.attributes["padding"]] * 2}


def _linear(w: _Writer, node: Node, inputs: list[str]) -> str:
    return w.write("Gemm", inputs, node=node, transB=1)


def _batch_norm(w: _Writer, node: Node, inputs: list[str]) -> str:
    """With epsilon 0 and variance 1 / inv_std^2; the tape's inv_std has epsilon in it."""
    if node.attributes["training"]:
        raise ExportError(f"to_onnx: {node!r} normalises with the batch's own statistics, expected training=False")
    mean = w.constant(node, "running_mean", node.attributes["mean"])
    variance = node.attributes["inv_std"].astype(np.float64) ** -2
    var = w.constant(node, "running_var", variance.astype(node.dtype))
    x, weight, bias, *residual = inputs
    y = w.write("BatchNormalization", [x, weight, bias, mean, var], node=node, epsilon=0.0)
    return _finish(w, node, y, residual)


def _max_pool2d(w: _Writer, node: Node, inputs: list[str]) -> str:
    return w.write("MaxPool", inputs, node=node, kernel_shape=node.attributes["kernel_size"], **_window(node))


def _avg_pool2d(w: _Writer, node: Node, inputs: list[str]) -> str:
    kernel, image = node.attributes["kernel_size"], _parent_shape(node)[2:]
    if kernel == image and node.attributes["padding"] == (0, 0):
        return w.write("GlobalAveragePool", inputs, node=node)
    return w.write("AveragePool", inputs, node=node, kernel_shape=kernel, count_include_pad=1, **_window(node))


def _pad(w: _Writer, node: Node, inputs: list[str]) -> str:
    a = node.attributes
    pads = w.constant(node, "pads", np.array([*a["before"], *a["after"]], np.int64))
    value = w.constant(node, "value", np.array(a["value"], node.dtype))
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
    names = [w.constant(node, name, np.array(values, np.int64)) for name, values in table.items()]
    return w.write("Slice", [*inputs, *names], node=node)


def _reshape(w: _Writer, node: Node, inputs: list[str]) -> str:
    before, shape = _parent_shape(node), list(node.shape)
    if inputs[0] in w.batched:
        if not before[:1] == node.shape[:1] == (BATCH,):
            raise ExportError(f"to_onnx: {node!r} reshapes {before}, expected the batch to stay the first axis")
        shape[0] = 0  # as it was
    return w.write("Reshape", [*inputs, w.constant(node, "shape", np.array(shape, np.int64))], node=node)


def _permute(w: _Writer, node: Node, inputs: list[str]) -> str:
    axes = node.attributes["axes"]
    if inputs[0] in w.batched and axes[:1] != (0,):
        raise ExportError(f"to_onnx: {node!r} permutes the axes to {axes}, expected the batch to stay the first axis")
    return w.write("Transpose", inputs, node=node, perm=axes)


def _parent_shape(node: Node) -> tuple[int, ...]:
    (parent,) = node.parents
    assert parent is not None  # `_Writer.value` has refused it
    return parent.shape


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
    "permute": _permute,
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
