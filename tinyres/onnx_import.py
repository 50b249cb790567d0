"""Import of a model from an ONNX file: its nodes become operations of tinyres, and its weights become parameters.

This is the opposite of `export`. A file is read in two steps. First, nodes that do not depend on the images are
computed, for example shapes that PyTorch's exporter computes from constants. Then each remaining node becomes a
function of arrays and tensors, see `onnx_operators`. The model calls these functions in the order of the file.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyres.export import OPSETS, find_onnx
from tinyres.nn import Module, Parameter
from tinyres.onnx_operators import COMPUTED, FIXED, ONNX, OPERATORS, OnnxError, OnnxNode
from tinyres.tape import Array, scope
from tinyres.tensor import DTYPES, Tensor, as_tensor

__all__ = ["OPERATORS", "OnnxError", "OnnxModel", "Step", "from_onnx"]

MOST = 1_000_000  # limit on numbers in an array computed from constants: a small file could make a huge one


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
        nodes = [
            OnnxNode(proto, proto.name or f"{proto.op_type}_{i}", self.arrays, self.batch)
            for i, proto in enumerate(self.graph.node)
        ]
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

    def left_to_do(self, nodes: list[OnnxNode]) -> list[OnnxNode]:
        """Compute all nodes of constants, and return the others, which depend on images or on parameters. The order of
        the file is a valid one: onnx has checked it."""
        left = []
        for node in nodes:
            known = all(name in self.arrays or not name for name in node.inputs)
            if node.kind == "Constant":
                self.arrays[node.output] = self.constant(node)
            elif node.kind == "Identity" and known:  # of an array that is saved once for several
                self.arrays[node.output] = self.arrays[node.inputs[0]].copy()
                self.trained |= {node.output} if node.inputs[0] in self.trained else set()
            elif known and self.trained.isdisjoint(node.inputs) and node.kind in COMPUTED:
                self.arrays[node.output] = self.computed(node)
            else:
                node.function = node.translated()
                left.append(node)
        return left

    def constant(self, node: OnnxNode) -> Array:
        """The value of a node Constant, which is in one of several options."""
        name = next(iter(node.options), "value")
        if name == "value":
            return self.array(node.options[name].t, f"node {node.name!r} (Constant)")
        if name not in ("value_int", "value_ints", "value_float", "value_floats"):
            raise node.error(f"{name}: expected numbers")
        return np.array(node.take(name, None), np.int64 if "int" in name else np.float32)

    def computed(self, node: OnnxNode) -> Array:
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
                    name = self.own(node, i)
                trained = name in self.trained and not fixed
                roles["buffer" if statistics else "parameter" if trained else "constant"][name] = None
            elif name and name not in computed:
                raise node.error(f"takes {name!r}, which is a second result of another node")
            elif statistics:
                raise node.error(f"its statistics {name!r} are computed by the graph, expected an initialiser")
        if self.logits not in computed:
            raise OnnxError(f"output {self.logits!r}: does not depend on the input")
        return {role: list(names) for role, names in roles.items()}

    def own(self, node: OnnxNode, i: int) -> str:
        """Give an input of a node a copy of its array; returns the name."""
        array = self.arrays[node.inputs[i]]
        node.inputs[i] = f"{node.inputs[i]} of {node.name}"
        self.arrays[node.inputs[i]] = array.copy()
        return node.inputs[i]

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
