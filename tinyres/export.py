"""Export of a model to an ONNX file: the model is run once, and its tape is translated node by node."""

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

BATCH = 2  # images that are run: a first axis of this length is the batch
OPSETS = range(13, 22)  # softmax has its current meaning since 13; the oldest supported onnx knows up to 21


class ExportError(ValueError):
    """The model has something that cannot be translated to ONNX. The message names it."""


def find_onnx() -> Any:
    """Import the package onnx.

    Raises
    ------
    ImportError
        If it is not installed; the message names the command that installs it.

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
        In evaluation mode. It maps images (N, C, H, W) to logits (N, K). Call `nn.fuse` first for a smaller graph.
    path : str or Path
        The file, which is written whole or not at all.
    image_size, channels : int
        Height and width of the images in pixels, and C. The file accepts any N.
    classes : sequence of str, optional
        Names of the classes. They are stored as a JSON list in the file's metadata, under ``"classes"``.
    opset : int
        Version of ONNX's operators, 13 to 21. Most runtimes support the default, which is from 2022.

    Raises
    ------
    ExportError
        If an operation has no translation, uses an array that is neither computed from the images nor a parameter, or
        does not keep the batch as the first axis; if the output is not one tensor computed from the images.
    ValueError
        If the model, or a part of it, is in training mode, `opset` is out of range, or there are more or fewer names of
        classes than logits.
    ImportError
        If the package onnx is not installed.
    OSError
        If the file cannot be written.

    Notes
    -----
    The graph's input is ``"images"`` and its output is ``"logits"``. Initialisers have the names of parameters, and
    nodes have the names of modules. The variance of a batch norm node is 1 / inv_std^2, which includes epsilon, so the
    node's epsilon is 0. The specification of the operators is at https://onnx.ai/onnx/operators.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.resnet20().eval()
    >>> tr.export.to_onnx(tr.nn.fuse(net), "resnet20.onnx")  # doctest: +SKIP
    """
    onnx = find_onnx()
    if opset not in OPSETS:
        raise ValueError(f"opset: got {opset}, expected {OPSETS[0]} to {OPSETS[-1]}")
    expect_eval(model, "to_onnx")  # else batch norm would use the statistics of the images below
    parameters = {id(p): name for name, p in model.named_parameters()}
    if taken := {"images", "logits"}.intersection(parameters.values()):
        raise ExportError(f"to_onnx: {taken.pop()!r} is the name of the graph's input or output: rename the parameter")
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
            f"to_onnx: the model gave an output of shape {logits.shape} for {BATCH} images, expected ({BATCH}, ...)"
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
        ir_version=onnx.helper.find_min_ir_version_for(opsets),  # runtimes may not know the newest
        producer_name="tinyres",
        producer_version=_version(),
    )
    if classes is not None:
        if logits.ndim == 2 and len(classes) != logits.shape[1]:
            raise ValueError(f"classes: got {len(classes)} names, expected {logits.shape[1]}, one for each logit")
        onnx.helper.set_model_props(file, {"classes": json.dumps(list(classes))})
    onnx.checker.check_model(file, full_check=True)
    write_whole(path, file.SerializeToString())


@contextlib.contextmanager
def _unfrozen(model: Module) -> Iterator[None]:
    """Make all parameters require gradients: the tape does not record parameters that do not."""
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
    """Collects nodes and arrays for an ONNX graph."""

    def __init__(self, onnx: Any, parameters: dict[int, str], images: Tensor) -> None:
        self.onnx, self.parameters = onnx, parameters
        self.names = {id(images): "images"}  # name of each value, by the id of its node or leaf
        self.batched: set[str] = {"images"}  # values that depend on the images: their first axis is the batch
        self.arrays: dict[str, Array] = {}  # the graph's initialisers
        self.nodes: list[Any] = []

    def add(self, node: Node) -> None:
        """Translate a node of the tape. Its parents must have been translated before."""
        if node.name not in OPERATORS:
            known = ", ".join(sorted(OPERATORS))
            raise ExportError(f"to_onnx: {node!r} has no translation; use only operations that have one: {known}")
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
                f"to_onnx: {node!r} uses an array that is neither computed from the images nor a parameter of the "
                "model; make it an nn.Parameter"
            )
        return self.names[id(parent)]

    def constant(self, node: Node, name: str, array: Any) -> str:
        """Add an array of a node, and return its name, with a number if another array has the name."""
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
    """The end of convolution and batch norm: add a shortcut, apply ReLU."""
    if residual:
        y = w.write("Add", [y, *residual], node=node)
    return w.write("Relu", [y], node=node) if node.attributes["relu"] else y


def _window(node: Node) -> dict[str, Any]:
    """ONNX pads before all axes, then after all of them."""
    return {"strides": node.attributes["stride"], "pads": [*node.attributes["padding"]] * 2}


def _linear(w: _Writer, node: Node, inputs: list[str]) -> str:
    return w.write("Gemm", inputs, node=node, transB=1)


def _batch_norm(w: _Writer, node: Node, inputs: list[str]) -> str:
    """Batch norm with epsilon 0 and variance 1 / inv_std^2, since the tape's inv_std includes epsilon."""
    if node.attributes["training"]:
        raise ExportError(f"to_onnx: {node!r} normalises with the statistics of the batch, expected training=False")
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
    """Slices with positive steps; other kinds of indexing have no translation."""
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
    """Translate to an operator with the same meaning; `names` are the attributes to copy from the node."""

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
