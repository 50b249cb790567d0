"""Import of a model from an ONNX file: its nodes become operations of tinyres, and its weights become parameters.

This is the opposite of `export`. A file is read in two steps. First, nodes that do not depend on the images are
computed, for example shapes that PyTorch's exporter computes from constants. Then each remaining node becomes a
function of arrays and tensors. The model calls these functions in the order of the file.
"""

import functools
import json
import math
import operator
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyres import ops
from tinyres.export import OPSETS, find_onnx
from tinyres.nn import Module, Parameter
from tinyres.tape import Array, scope
from tinyres.tensor import DTYPES, Tensor, as_tensor

ONNX = ("", "ai.onnx")  # names of the domain of ONNX's own operators
MOST = 1_000_000  # limit on numbers in an array computed from constants: a small file could make a huge one


class OnnxError(ValueError):
    """A file is not an ONNX model, or not a supported one. The message names the node or the array."""


def from_onnx(path: str | Path) -> "OnnxModel":
    """Read a model from an ONNX file, to run it, inspect it or train it further.

    Parameters
    ----------
    path : str or Path
        A file with opset 13 to 21. It has one input, images (N, C, H, W) of float32 or float64, and one output. The
        model accepts any N, even if the file fixes it.

    Returns
    -------
    OnnxModel

    Raises
    ------
    OnnxError
        If there is no such file, if it is not an ONNX model or is damaged, or if it has something that is not
        supported: an operator that is not in `OPERATORS`, an unknown option or opset, weights in other files, float16.
        The message names the node or the array.
    ImportError
        If the package onnx is not installed.

    Notes
    -----
    Initialisers of floats become parameters, with their names in the file. The statistics of batch norm become
    buffers. The value of a ``Constant`` is not trained. Exporters save equal arrays only once, and use ``Identity`` for
    the others. These get a copy each, so that they are trained separately.

    The file describes the model in evaluation mode. So batch norm keeps its statistics and dropout does nothing, even
    in training: `train` and `eval` make no difference. The operators are specified at https://onnx.ai/onnx/operators.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.resnet20().eval()
    >>> tr.export.to_onnx(net, "resnet20.onnx")  # doctest: +SKIP
    >>> same = tr.from_onnx("resnet20.onnx")  # doctest: +SKIP
    >>> same(tr.zeros(8, 3, 32, 32)).shape  # doctest: +SKIP
    (8, 10)
    """
    onnx = find_onnx()
    try:
        return OnnxModel(_Reader(onnx, _read(onnx, Path(path))))
    except OnnxError as error:
        raise OnnxError(f"{path}: {error}") from error.__cause__


class Step(NamedTuple):
    """A node of the graph: `function` takes the values with the names in `inputs`; the name "" means None."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    function: Callable[..., Any]
    last: tuple[str, ...]  # values that no later step needs


class OnnxModel(Module):
    """The result of `from_onnx`: the nodes of a graph, in order, and its parameters.

    Attributes
    ----------
    steps : list of Step
    image_shape : tuple
        (C, H, W) in the file; None for a length that is not fixed.
    classes : list of str or None
        Names of the classes, if `export.to_onnx` wrote them.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.from_onnx("resnet20.onnx")  # doctest: +SKIP
    >>> net.steps[0].kind, [name for name, _ in net.named_parameters()][0]  # doctest: +SKIP
    ('Conv', 'conv1.weight')
    """

    def __init__(self, reader: "_Reader") -> None:
        super().__init__()
        self.graph_name, self.image_shape, self.classes = reader.graph.name, reader.image_shape, reader.classes
        self.images, self.logits, self.steps = reader.images, reader.logits, reader.steps()
        for name in reader.roles["parameter"]:
            self._parameters[name] = Parameter(reader.arrays[name])  # no attribute: a file may have any names
        for name in reader.roles["buffer"]:
            if hasattr(self, name):
                raise OnnxError(f"array {name!r}: modules have another attribute of this name: rename it")
            self.register_buffer(name, reader.arrays[name])
        self.constants = {name: reader.arrays[name] for name in reader.roles["constant"]}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = as_tensor("x", x)
        shape = self.image_shape
        if x.ndim != 1 + len(shape) or any(n not in (None, m) for n, m in zip(shape, x.shape[1:], strict=True)):
            expected = ", ".join("any" if n is None else str(n) for n in shape)
            raise ValueError(f"x: got shape {x.shape}, expected (N, {expected}), as the file has it")
        values: dict[str, Any] = {"": None, self.images: x, **self.constants, **self._buffers, **self._parameters}
        for step in self.steps:
            try:
                with scope(step.name):
                    values[step.output] = step.function(*[values[name] for name in step.inputs])
            except (ValueError, TypeError, IndexError) as error:
                error.add_note(f"in node {step.name!r} ({step.kind}) of the ONNX graph")
                raise
            for name in step.last:
                del values[name]
        return values[self.logits]

    def extra_repr(self) -> str:
        return f"{self.graph_name!r}, {len(self.steps)} nodes"


# ---------------------------------------------------------------- reading
def _read(onnx: Any, path: Path) -> Any:
    """Read and check the content of the file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise OnnxError("no such file") from error
    except OSError as error:
        raise OnnxError(f"cannot be read ({error.strerror})") from error
    try:
        file = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's DecodeError, which has moved between its versions
        raise OnnxError(f"not an ONNX file, or a damaged one ({error})") from error
    if not file.graph.node:
        raise OnnxError("not an ONNX file: there is no graph in it")
    opset = next((o.version for o in file.opset_import if o.domain in ONNX), 1)
    if opset not in OPSETS:
        raise OnnxError(
            f"opset: got {opset}, expected {OPSETS[0]} to {OPSETS[-1]}: convert it, by "
            "onnx.version_converter.convert_version(model, 17)"
        )
    return file


class _Reader:
    """Analyses a graph: which nodes are computed at once, which arrays are trained, which nodes are steps."""

    def __init__(self, onnx: Any, file: Any) -> None:
        self.onnx, self.graph = onnx, file.graph
        self.opsets = {o.domain: o.version for o in file.opset_import}
        self.classes = _classes(file)
        self.arrays: dict[str, Array] = {}  # that depend on no image, by name
        for tensor in self.graph.initializer:
            self.arrays[tensor.name] = self.array(tensor, f"initialiser {tensor.name!r}")
        self.trained = {name for name, array in self.arrays.items() if array.dtype.kind == "f"}
        if self.graph.sparse_initializer:
            raise OnnxError(
                f"initialiser {self.graph.sparse_initializer[0].values.name!r}: sparse, expected a dense one"
            )
        self.images, self.batch, self.image_shape = self.ends()
        self.logits = self.graph.output[0].name
        nodes = [_Node(proto, proto.name or f"{proto.op_type}_{i}", self) for i, proto in enumerate(self.graph.node)]
        for node in nodes:
            node.expect_supported()
        try:
            onnx.checker.check_model(file, full_check=True)
        except Exception as error:  # of the checker, or of shape inference, which derive from nothing in common
            raise OnnxError(f"not a valid ONNX model ({str(error).strip()})") from error
        self.nodes = self.left_to_do(nodes)
        self.roles = self.find_roles()

    def array(self, tensor: Any, what: str) -> Array:
        """The numbers of a tensor of the file; integers have 64 bits."""
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            raise OnnxError(f"{what}: its numbers are in another file; onnx.load reads both, and onnx.save writes one")
        try:
            array = self.onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # whatever a damaged one raises
            raise OnnxError(f"{what}: damaged ({error})") from error
        if array.dtype.kind in "iub":
            return array.astype(np.int64)
        if array.dtype not in DTYPES:
            kind = self.onnx.TensorProto.DataType.Name(tensor.data_type)
            raise OnnxError(f"{what}: got {kind}, expected FLOAT, DOUBLE or integers")
        return np.array(array)  # writable

    def ends(self) -> tuple[str, int | None, tuple[int | None, ...]]:
        """The input's name, the batch size if the file fixes it, and the shape of an image."""
        inputs = [value for value in self.graph.input if value.name not in self.arrays]
        for name, found in (("inputs", inputs), ("outputs", list(self.graph.output))):
            if len(found) != 1:
                names = ", ".join(repr(value.name) for value in found) or "none"
                raise OnnxError(f"{name}: got {names}, expected one")
        (images,) = inputs
        kind, types = images.type.tensor_type, self.onnx.TensorProto
        if kind.elem_type not in (types.FLOAT, types.DOUBLE):
            number = kind.elem_type
            name = types.DataType.Name(number) if number in types.DataType.values() else f"type {number}"
            raise OnnxError(f"input {images.name!r}: got {name}, expected FLOAT or DOUBLE")
        lengths = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        if not lengths:
            raise OnnxError(f"input {images.name!r}: has no shape, expected (N, C, H, W)")
        return images.name, lengths[0], tuple(lengths[1:])

    def left_to_do(self, nodes: list["_Node"]) -> list["_Node"]:
        """Compute all nodes of constants, and return the others, which depend on images or on parameters. The order of
        the file is a valid one: onnx has checked it."""
        left = []
        for node in nodes:
            known = all(name in self.arrays or not name for name in node.inputs)
            if node.kind == "Constant":
                self.arrays[node.output] = node.constant()
            elif node.kind == "Identity" and known:  # of an array that is saved once for several
                self.arrays[node.output] = self.arrays[node.inputs[0]].copy()
                self.trained |= {node.output} if node.inputs[0] in self.trained else set()
            elif known and self.trained.isdisjoint(node.inputs) and node.kind in COMPUTED:
                self.arrays[node.output] = self.computed(node)
            else:
                node.function = node.translated()
                left.append(node)
        return left

    def computed(self, node: "_Node") -> Array:
        """The result of a node of constants, computed by onnx's reference implementation."""
        from onnx.reference import ReferenceEvaluator

        arguments = {name: self.arrays[name] for name in node.inputs if name}
        if node.kind == "ConstantOfShape" and math.prod(map(int, arguments[node.inputs[0]])) > MOST:
            raise node.error(f"makes more than {MOST:,} numbers of constants")
        try:
            results: Any = ReferenceEvaluator(node.proto, opsets=self.opsets).run(None, arguments)
        except Exception as error:  # whatever it raises, of a file that may say anything
            raise node.error(f"cannot be computed ({error})") from error
        array = np.asarray(results[0])
        if array.size > MOST:
            raise node.error(f"makes more than {MOST:,} numbers of constants")
        return array if array.dtype in DTYPES else array.astype(np.int64)

    def find_roles(self) -> dict[str, list[str]]:
        """Names of the parameters, of the statistics, and of all other arrays that nodes use."""
        roles: dict[str, dict[str, None]] = {"parameter": {}, "buffer": {}, "constant": {}}
        computed = {self.images, *(node.output for node in self.nodes)}
        uses = [(i in FIXED.get(node.kind, ()), node, i) for node in self.nodes for i in range(len(node.inputs))]
        for fixed, node, i in sorted(uses, key=lambda use: use[0]):  # those that are trained first
            name, statistics = node.inputs[i], fixed and node.kind == "BatchNormalization"
            if name in self.arrays:
                if fixed and name in roles["parameter"]:  # an exporter has saved two equal arrays once
                    name = node.own(i)
                trained = name in self.trained and not fixed
                roles["buffer" if statistics else "parameter" if trained else "constant"][name] = None
            elif name and name not in computed:
                raise node.error(f"takes {name!r}, which is a second result of another node")
            elif statistics:
                raise node.error(f"its statistics {name!r} are computed by the graph, expected an initialiser")
        if self.logits not in computed:
            raise OnnxError(f"output {self.logits!r}: does not depend on the input")
        return {role: list(names) for role, names in roles.items()}

    def steps(self) -> list[Step]:
        left = Counter(name for node in self.nodes for name in node.inputs)
        left[self.logits] += 1
        computed = {self.images, *(node.output for node in self.nodes)}
        steps = []
        for node in self.nodes:
            left.subtract(node.inputs)
            last = {name for name in (*node.inputs, node.output) if name in computed and not left[name]}
            steps.append(
                Step(node.name, node.kind, tuple(node.inputs), node.output, node.function, tuple(sorted(last)))
            )
        return steps


def _classes(file: Any) -> list[str] | None:
    """Names of the classes, if they are written as by `export.to_onnx`; else None."""
    try:
        names = json.loads({p.key: p.value for p in file.metadata_props}["classes"])
    except (KeyError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


class _Node:
    """A node while it is read. Its options are taken one by one; an option that is left is an error."""

    function: Callable[..., Any]

    def __init__(self, proto: Any, name: str, reader: _Reader) -> None:
        self.proto, self.name, self.kind, self.reader = proto, name, proto.op_type, reader
        self.inputs, self.output = list(proto.input), proto.output[0] if proto.output else ""
        self.options = {a.name: a for a in proto.attribute}

    def error(self, what: str) -> OnnxError:
        return OnnxError(f"node {self.name!r} ({self.kind}): {what}")

    def take(self, name: str, default: Any) -> Any:
        """The value of an option."""
        if name not in self.options:
            return default
        value = self.reader.onnx.helper.get_attribute_value(self.options.pop(name))
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    def expect(self, name: str, *values: Any) -> None:
        """An option must have one of these values, the first of which is its default."""
        if (value := self.take(name, values[0])) not in values:
            raise self.error(f"{name}: got {value}, expected {' or '.join(map(str, values))}")

    def constant(self) -> Array:
        """The value of a Constant, which is in one of several options."""
        name = next(iter(self.options), "value")
        if name == "value":
            return self.reader.array(self.options[name].t, f"node {self.name!r} (Constant)")
        if name not in ("value_int", "value_ints", "value_float", "value_floats"):
            raise self.error(f"{name}: expected numbers")
        return np.array(self.take(name, None), np.int64 if "int" in name else np.float32)

    def expect_supported(self) -> None:
        ours = self.proto.domain in ONNX
        if not ours or self.kind not in {*OPERATORS, *COMPUTED, "Constant"}:
            kind = self.kind if ours else f"{self.proto.domain}.{self.kind}"
            raise self.error(f"operator {kind} is not supported, expected one of {', '.join(sorted(OPERATORS))}")

    def translated(self) -> Callable[..., Any]:
        """The computation of the node, as a function."""
        if self.kind not in OPERATORS:
            raise self.error(f"operator {self.kind} is supported only for constants, but this one depends on images")
        function = OPERATORS[self.kind](self)
        if self.options:
            raise self.error(f"{min(self.options)}: an option that is not supported")
        return function

    def own(self, i: int) -> str:
        """Give an input a copy of its array; returns the name."""
        array = self.reader.arrays[self.inputs[i]]
        self.inputs[i] = f"{self.inputs[i]} of {self.name}"
        self.reader.arrays[self.inputs[i]] = array.copy()
        return self.inputs[i]


# ---------------------------------------------------------------- operators
def _window(node: _Node) -> dict[str, Any]:
    """Stride and padding of a window; ONNX pads before all axes, then after all of them."""
    node.expect("auto_pad", "NOTSET", "VALID")
    stride, pads = tuple(node.take("strides", (1, 1))), tuple(node.take("pads", (0, 0, 0, 0)))
    if len(stride) != 2 or len(pads) != 4:
        raise node.error(f"strides: got {stride}, pads: got {pads}, expected two and four numbers, as for images")
    if pads[:2] != pads[2:]:
        raise node.error(f"pads: got {pads}, expected the same before and after: use a node Pad for other paddings")
    return {"stride": stride, "padding": pads[:2]}


def _conv(node: _Node) -> Callable[..., Any]:
    how = {**_window(node), "dilation": tuple(node.take("dilations", (1, 1))), "groups": node.take("group", 1)}
    node.take("kernel_shape", None)  # that of the weights: onnx has checked it
    return lambda x, weight, bias=None: ops.conv2d(x, weight, bias, **how)


def _batch_norm(node: _Node) -> Callable[..., Any]:
    node.expect("training_mode", 0)
    node.take("momentum", None)  # of training
    eps = float(node.take("epsilon", 1e-5))
    return lambda x, weight, bias, mean, var: ops.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)


def _pool(op: Callable[..., Tensor]) -> Callable[[_Node], Callable[..., Any]]:
    def translate(node: _Node) -> Callable[..., Any]:
        kernel, how = tuple(node.take("kernel_shape", ())), _window(node)
        node.expect("ceil_mode", 0)
        node.expect("dilations", [1, 1])
        if node.kind == "MaxPool":
            node.take("storage_order", 0)  # of the second result
        elif not node.take("count_include_pad", 0) and any(how["padding"]):
            raise node.error("count_include_pad: got 0, expected 1: here, padding counts as zeros in means")
        return lambda x: op(x, kernel, **how)

    return translate


def _gemm(node: _Node) -> Callable[..., Any]:
    """alpha A B + beta C."""
    alpha, beta = float(node.take("alpha", 1.0)), float(node.take("beta", 1.0))
    node.expect("transA", 0)
    turned = node.take("transB", 0)

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        plain = alpha == beta == 1 and c is not None and c.ndim == 1
        y = ops.linear(a, b if turned else b.T, c if plain else None)
        y = y if alpha == 1 else y * alpha
        return y if plain or c is None else y + c * beta

    return gemm


def _reshape(node: _Node) -> Callable[..., Any]:
    node.expect("allowzero", 0)
    batch = node.reader.batch

    def reshape(x: Tensor, shape: Array) -> Tensor:
        lengths = [x.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)]
        if lengths[:1] == [batch]:  # of a file that was written for so many images
            lengths[0] = x.shape[0]
        return x.reshape(tuple(lengths))

    return reshape


def _flatten(node: _Node) -> Callable[..., Any]:
    node.expect("axis", 1)
    return ops.flatten


def _slice(node: _Node) -> Callable[..., Any]:
    def cut(x: Any, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Any:
        index = [slice(None)] * x.ndim
        places = range(len(starts)) if axes is None else map(int, axes)
        for place, start, end, step in zip(
            places, starts, ends, [1] * len(starts) if steps is None else steps, strict=True
        ):
            if step < 1:
                raise ValueError(f"steps: got {step}, expected 1 or more")
            index[place] = slice(int(start), int(end), int(step))
        return x[tuple(index)]

    return cut


def _pad(node: _Node) -> Callable[..., Any]:
    node.expect("mode", "constant")

    def pad(x: Tensor, pads: Array, value: Array | None = None, axes: Array | None = None) -> Tensor:
        widths = np.zeros((x.ndim, 2), np.int64)
        widths[slice(None) if axes is None else axes] = pads.reshape(2, -1).T
        return ops.pad(x, widths[::-1].ravel().tolist(), 0.0 if value is None else value.item())

    return pad


def _reduce_mean(node: _Node) -> Callable[..., Any]:
    keepdims, option = bool(node.take("keepdims", 1)), node.take("axes", None)
    node.expect("noop_with_empty_axes", 0)

    def mean(x: Tensor, axes: Array | None = None) -> Tensor:
        chosen = option if axes is None else axes
        return x.mean(None if chosen is None or not len(chosen) else tuple(map(int, chosen)), keepdims=keepdims)

    return mean


def _concat(node: _Node) -> Callable[..., Any]:
    axis = node.take("axis", 0)

    def concat(*parts: Any) -> Any:
        if all(isinstance(part, np.ndarray) for part in parts):  # of shapes
            return np.concatenate(parts, axis)
        return ops.concat(parts, axis)

    return concat


def _squeeze(node: _Node) -> Callable[..., Any]:
    return lambda x, axes=None: x.squeeze(None if axes is None else tuple(map(int, axes)))


def _unsqueeze(node: _Node) -> Callable[..., Any]:
    def unsqueeze(x: Any, axes: Array) -> Any:
        if isinstance(x, np.ndarray):  # of a shape
            return np.expand_dims(x, tuple(map(int, axes)))
        for axis in sorted(int(a) % (x.ndim + len(axes)) for a in axes):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _gather(node: _Node) -> Callable[..., Any]:
    """Gather, only for shapes: PyTorch's exporter writes it for ``x.view(x.size(0), -1)``."""
    axis = node.take("axis", 0)

    def gather(x: Any, indices: Array) -> Array:
        if not isinstance(x, np.ndarray):
            raise TypeError("got a tensor, expected a shape: elements of images cannot be gathered")
        return np.asarray(np.take(x, indices, axis))

    return gather


def _dropout(node: _Node) -> Callable[..., Any]:
    node.take("seed", None)
    if node.inputs[2:] and np.any(node.reader.arrays.get(node.inputs[2], True)):
        raise node.error("training_mode: got true, expected false: export the model in evaluation mode")
    return lambda x, ratio=None, training=None: x


def _transpose(node: _Node) -> Callable[..., Any]:
    axes = node.take("perm", None)
    return lambda x: x.T if axes is None else ops.permute(x, tuple(axes))


def _along(op: Callable[..., Any]) -> Callable[[_Node], Callable[..., Any]]:
    def translate(node: _Node) -> Callable[..., Any]:
        axis = node.take("axis", -1)
        return lambda x: op(x, axis)

    return translate


def _same(op: Callable[..., Any]) -> Callable[[_Node], Callable[..., Any]]:
    """An operation without options."""
    return lambda node: op


OPERATORS: dict[str, Callable[[_Node], Callable[..., Any]]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "MaxPool": _pool(ops.max_pool2d),
    "AveragePool": _pool(ops.avg_pool2d),
    "GlobalAveragePool": _same(ops.global_avg_pool2d),
    "Gemm": _gemm,
    "MatMul": _same(operator.matmul),
    "Add": _same(operator.add),
    "Sub": _same(operator.sub),
    "Mul": _same(operator.mul),
    "Div": _same(operator.truediv),
    "Neg": _same(operator.neg),
    "Max": _same(lambda *values: functools.reduce(ops.maximum, values)),
    "Relu": _same(ops.relu),
    "Sigmoid": _same(ops.sigmoid),
    "Tanh": _same(ops.tanh),
    "Exp": _same(ops.exp),
    "Log": _same(ops.log),
    "Sqrt": _same(ops.sqrt),
    "Softmax": _along(ops.softmax),
    "LogSoftmax": _along(ops.log_softmax),
    "ReduceMean": _reduce_mean,
    "Dropout": _dropout,
    "Identity": _same(lambda x: x),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Pad": _pad,
    "Shape": _same(lambda x: np.array(x.shape, np.int64)),
    "Gather": _gather,
}
"""Supported operators, each with a function that takes a node and returns its computation as a function."""

COMPUTED = {*OPERATORS, "Cast", "ConstantOfShape"} - {"Conv", "MaxPool", "AveragePool"}
"""Operators that are supported only for constants."""

FIXED = {"BatchNormalization": (3, 4), "Pad": (2,), "Dropout": (1,)}
"""Inputs of floats that are not trained."""
