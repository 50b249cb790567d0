"""The operators of an ONNX graph: for each a function that takes a node and returns its computation."""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyres import ops
from tinyres.export import find_onnx
from tinyres.tape import Array
from tinyres.tensor import Tensor

ONNX = ("", "ai.onnx")  # names of the domain of ONNX's own operators


class OnnxError(ValueError):
    """A file is not an ONNX model, or not a supported one. The message names the node or the array."""


class OnnxNode:
    """A node while it is read. Its options are taken one by one; an option that is left is an error.

    Attributes
    ----------
    proto
        The node in the file.
    name, kind : str
    inputs : list of str
    output : str
    function : callable
        Its computation, from `translated`.
    arrays : dict
        The arrays of the graph that depend on no image, by name.
    batch : int or None
        The batch size, if the file fixes it.
    """

    function: Callable[..., Any]

    def __init__(self, proto: Any, name: str, arrays: Mapping[str, Array], batch: int | None) -> None:
        self.proto, self.name, self.kind, self.arrays, self.batch = proto, name, proto.op_type, arrays, batch
        self.inputs, self.output = list(proto.input), proto.output[0] if proto.output else ""
        self.options = {a.name: a for a in proto.attribute}

    def error(self, what: str) -> OnnxError:
        """An error that names the node."""
        return OnnxError(f"node {self.name!r} ({self.kind}): {what}")

    def take(self, name: str, default: Any) -> Any:
        """The value of an option."""
        if name not in self.options:
            return default
        value = find_onnx().helper.get_attribute_value(self.options.pop(name))
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    def expect(self, name: str, *values: Any) -> None:
        """An option must have one of these values, the first of which is its default."""
        if (value := self.take(name, values[0])) not in values:
            raise self.error(f"{name}: got {value}, expected {' or '.join(map(str, values))}")

    def expect_supported(self) -> None:
        """Check that the operator is known, before the options are read."""
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


def _window(node: OnnxNode) -> dict[str, Any]:
    """Stride and padding of a window; ONNX pads before all axes, then after all of them."""
    node.expect("auto_pad", "NOTSET", "VALID")
    stride, pads = tuple(node.take("strides", (1, 1))), tuple(node.take("pads", (0, 0, 0, 0)))
    if len(stride) != 2 or len(pads) != 4:
        raise node.error(f"strides: got {stride}, pads: got {pads}, expected two and four numbers, as for images")
    if pads[:2] != pads[2:]:
        raise node.error(f"pads: got {pads}, expected the same before and after: use a node Pad for other paddings")
    return {"stride": stride, "padding": pads[:2]}


def _conv(node: OnnxNode) -> Callable[..., Any]:
    how = {**_window(node), "dilation": tuple(node.take("dilations", (1, 1))), "groups": node.take("group", 1)}
    node.take("kernel_shape", None)  # that of the weights: onnx has checked it
    return lambda x, weight, bias=None: ops.conv2d(x, weight, bias, **how)


def _batch_norm(node: OnnxNode) -> Callable[..., Any]:
    node.expect("training_mode", 0)
    node.take("momentum", None)  # of training
    eps = float(node.take("epsilon", 1e-5))
    return lambda x, weight, bias, mean, var: ops.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)


def _pool(op: Callable[..., Tensor]) -> Callable[[OnnxNode], Callable[..., Any]]:
    def translate(node: OnnxNode) -> Callable[..., Any]:
        kernel, how = tuple(node.take("kernel_shape", ())), _window(node)
        node.expect("ceil_mode", 0)
        node.expect("dilations", [1, 1])
        if node.kind == "MaxPool":
            node.take("storage_order", 0)  # of the second result
        elif not node.take("count_include_pad", 0) and any(how["padding"]):
            raise node.error("count_include_pad: got 0, expected 1: here, padding counts as zeros in means")
        return lambda x: op(x, kernel, **how)

    return translate


def _gemm(node: OnnxNode) -> Callable[..., Any]:
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


def _reshape(node: OnnxNode) -> Callable[..., Any]:
    node.expect("allowzero", 0)
    batch = node.batch

    def reshape(x: Tensor, shape: Array) -> Tensor:
        lengths = [x.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)]
        if lengths[:1] == [batch]:  # of a file that was written for so many images
            lengths[0] = x.shape[0]
        return x.reshape(tuple(lengths))

    return reshape


def _flatten(node: OnnxNode) -> Callable[..., Any]:
    node.expect("axis", 1)
    return ops.flatten


def _slice(node: OnnxNode) -> Callable[..., Any]:
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


def _pad(node: OnnxNode) -> Callable[..., Any]:
    node.expect("mode", "constant")

    def pad(x: Tensor, pads: Array, value: Array | None = None, axes: Array | None = None) -> Tensor:
        widths = np.zeros((x.ndim, 2), np.int64)
        widths[slice(None) if axes is None else axes] = pads.reshape(2, -1).T
        return ops.pad(x, widths[::-1].ravel().tolist(), 0.0 if value is None else value.item())

    return pad


def _reduce_mean(node: OnnxNode) -> Callable[..., Any]:
    keepdims, option = bool(node.take("keepdims", 1)), node.take("axes", None)
    node.expect("noop_with_empty_axes", 0)

    def mean(x: Tensor, axes: Array | None = None) -> Tensor:
        chosen = option if axes is None else axes
        return x.mean(None if chosen is None or not len(chosen) else tuple(map(int, chosen)), keepdims=keepdims)

    return mean


def _concat(node: OnnxNode) -> Callable[..., Any]:
    axis = node.take("axis", 0)

    def concat(*parts: Any) -> Any:
        if all(isinstance(part, np.ndarray) for part in parts):  # of shapes
            return np.concatenate(parts, axis)
        return ops.concat(parts, axis)

    return concat


def _squeeze(node: OnnxNode) -> Callable[..., Any]:
    return lambda x, axes=None: x.squeeze(None if axes is None else tuple(map(int, axes)))


def _unsqueeze(node: OnnxNode) -> Callable[..., Any]:
    def unsqueeze(x: Any, axes: Array) -> Any:
        if isinstance(x, np.ndarray):  # of a shape
            return np.expand_dims(x, tuple(map(int, axes)))
        for axis in sorted(int(a) % (x.ndim + len(axes)) for a in axes):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _gather(node: OnnxNode) -> Callable[..., Any]:
    """Gather, only for shapes: PyTorch's exporter writes it for ``x.view(x.size(0), -1)``."""
    axis = node.take("axis", 0)

    def gather(x: Any, indices: Array) -> Array:
        if not isinstance(x, np.ndarray):
            raise TypeError("got a tensor, expected a shape: elements of images cannot be gathered")
        return np.asarray(np.take(x, indices, axis))

    return gather


def _dropout(node: OnnxNode) -> Callable[..., Any]:
    node.take("seed", None)
    if node.inputs[2:] and np.any(node.arrays.get(node.inputs[2], True)):
        raise node.error("training_mode: got true, expected false: export the model in evaluation mode")
    return lambda x, ratio=None, training=None: x


def _transpose(node: OnnxNode) -> Callable[..., Any]:
    axes = node.take("perm", None)
    return lambda x: x.T if axes is None else ops.permute(x, tuple(axes))


def _along(op: Callable[..., Any]) -> Callable[[OnnxNode], Callable[..., Any]]:
    def translate(node: OnnxNode) -> Callable[..., Any]:
        axis = node.take("axis", -1)
        return lambda x: op(x, axis)

    return translate


def _same(op: Callable[..., Any]) -> Callable[[OnnxNode], Callable[..., Any]]:
    """An operation without options."""
    return lambda node: op


OPERATORS: dict[str, Callable[[OnnxNode], Callable[..., Any]]] = {
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
