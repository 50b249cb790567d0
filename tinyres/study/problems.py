"""Problems for gradient checks: every operation as a function of tensors only, and a small example of each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyres import chance, ops
from tinyres.tape import Array
from tinyres.tensor import Tensor

Shape = tuple[int, ...]


# ---------------------------------------------------------------- calls
def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor, *residual: Tensor, **options: Any) -> Tensor:
    c = x.shape[1]
    mean, var = np.linspace(-0.5, 0.5, c).astype(x.dtype), np.linspace(0.5, 2, c).astype(x.dtype)
    # eps: with 1e-5, two values that are close by chance are too near a pole for differences
    return ops.batch_norm(x, mean, var, weight, bias, residual=residual[0] if residual else None, eps=0.1, **options)


def _concat(*tensors: Tensor, **options: Any) -> Tensor:
    return ops.concat(tensors, **options)


def _stack(*tensors: Tensor, **options: Any) -> Tensor:
    return ops.stack(tensors, **options)


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor, *residual: Tensor, **options: Any) -> Tensor:
    return ops.conv2d(x, weight, bias, residual=residual[0] if residual else None, **options)


def _cross_entropy(logits: Tensor, **options: Any) -> Tensor:
    n, k = logits.shape
    return ops.cross_entropy(logits, np.arange(n) * 2 % k, **options)


def _yes_or_no(logits: Tensor, **options: Any) -> Tensor:
    return ops.binary_cross_entropy_with_logits(logits, np.arange(logits.size).reshape(logits.shape) % 2, **options)


def _dropout(x: Tensor, **options: Any) -> Tensor:
    chance.start(0)
    return ops.dropout(x, **options)


def _layer_norm(x: Tensor, *affine: Tensor, **options: Any) -> Tensor:
    return ops.layer_norm(x, options["normalized_shape"], *affine)


def _group_norm(x: Tensor, *affine: Tensor, **options: Any) -> Tensor:
    return ops.group_norm(x, options["num_groups"], *affine)


def _where(a: Tensor, b: Tensor) -> Tensor:
    shape = np.broadcast_shapes(a.shape, b.shape)
    return ops.where(np.arange(np.prod(shape)).reshape(shape) % 3 == 0, a, b)


_CALLS: dict[str, Callable[..., Tensor]] = {
    "batch_norm": _batch_norm,
    "binary_cross_entropy_with_logits": _yes_or_no,
    "concat": _concat,
    "conv2d": _conv2d,
    "cross_entropy": _cross_entropy,
    "dropout": _dropout,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "stack": _stack,
    "where": _where,
}
"""Calls of operations that need more than tensors and options, or take tensors in another way."""


# ---------------------------------------------------------------- problems
@dataclass(frozen=True)
class Problem:
    """An operation, and the point where it is differentiated.

    Attributes
    ----------
    op : str
        Its name in `tinyres.ops`.
    inputs : tuple of ndarray
        It is differentiated with respect to these.
    options : dict
        Its keyword arguments.
    twice : bool
        Whether two such operations use the inputs, and their results are added.

    Examples
    --------
    >>> import numpy as np
    >>> problem = Problem("softmax", (np.zeros((2, 1)),), {"axis": 0})
    >>> problem.results()[0].ravel()
    array([0.5, 0.5])
    """

    op: str
    inputs: tuple[Array, ...]
    options: dict[str, Any] = field(default_factory=dict)
    twice: bool = False

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The result of the operation on these tensors."""
        call = _CALLS.get(self.op) or getattr(ops, self.op)
        y = call(*tensors, **self.options)
        return y + call(*tensors, **self.options) if self.twice else y

    def results(self, dtype: Any = np.float64) -> list[Array]:
        """The result on the inputs, and their gradients, for a dL/dy with elements between 1 and 2."""
        tensors = [Tensor(a.astype(dtype), requires_grad=True) for a in self.inputs]
        y = self(*tensors)
        y.backward((1.5 + 0.5 * np.cos(np.arange(y.size))).reshape(y.shape).astype(dtype))
        return [y.data, *(np.zeros_like(t.data) if t.grad is None else t.grad for t in tensors)]

    def __str__(self) -> str:
        """The call, and all numbers in it."""
        names = [f"x{i}" for i in range(len(self.inputs))] if len(self.inputs) > 1 else ["x"]
        call = f"{self.op}({', '.join([*names, *(f'{k}={v!r}' for k, v in self.options.items())])})"
        lines = [f"{call} + {call}" if self.twice else call]
        for name, array in zip(names, self.inputs, strict=True):
            with np.printoptions(precision=4, suppress=True, threshold=50):
                rows = filter(str.strip, np.array2string(array.round(4)).split("\n"))
            text = ("\n" + " " * (len(name) + 5)).join(rows)
            layout = "" if array.flags.c_contiguous else f", strides {array.strides}"
            lines.append(f"  {name} = {text}  of shape {array.shape}{layout}")
        return "\n".join(lines)


# ---------------------------------------------------------------- examples
_IMAGES: Shape = (2, 2, 4, 4)
_SAMPLES: dict[str, tuple[tuple[Shape, ...], dict[str, Any]]] = {
    "abs": (((3, 4),), {}),
    "adaptive_avg_pool2d": ((_IMAGES,), {"output_size": 3}),
    "astype": (((3, 4),), {"dtype": np.float64}),
    "avg_pool2d": ((_IMAGES,), {"kernel_size": 2}),
    "batch_norm": (((4, 2, 2, 2), (2,), (2,), (4, 2, 2, 2)), {"training": True, "relu": True}),
    "binary_cross_entropy_with_logits": (((3, 4),), {}),
    "clip": (((3, 4),), {"min": -0.5, "max": 0.5}),
    "concat": (((2, 3), (2, 2)), {"axis": 1}),
    "conv2d": ((_IMAGES, (3, 2, 3, 3), (3,), (2, 3, 4, 4)), {"padding": 1, "relu": True}),
    "cross_entropy": (((4, 5),), {"label_smoothing": 0.1}),
    "dropout": (((3, 4),), {"p": 0.3}),
    "exp": (((3, 4),), {}),
    "flatten": (((2, 3, 2),), {}),
    "gelu": (((3, 4),), {}),
    "global_avg_pool2d": ((_IMAGES,), {}),
    "group_norm": (((2, 4, 2, 2), (4,), (4,)), {"num_groups": 2}),
    "l1_loss": (((3, 4), (3, 4)), {}),
    "layer_norm": (((3, 4), (4,), (4,)), {"normalized_shape": 4}),
    "linear": (((4, 3), (2, 3), (2,)), {}),
    "log": (((3, 4),), {}),
    "log_softmax": (((3, 4),), {}),
    "matmul": (((3, 4), (4, 2)), {}),
    "max": (((3, 4),), {"axis": 1}),
    "max_pool2d": ((_IMAGES,), {"kernel_size": 2}),
    "maximum": (((3, 4), (3, 4)), {}),
    "mean": (((3, 4),), {"axis": 1}),
    "min": (((3, 4),), {"axis": 1}),
    "mse_loss": (((3, 4), (3, 4)), {}),
    "pad": (((2, 3),), {"padding": (1, 2)}),
    "permute": (((2, 3, 4),), {"axes": (2, 0, 1)}),
    "relu": (((3, 4),), {}),
    "reshape": (((3, 4),), {"shape": (2, 6)}),
    "sigmoid": (((3, 4),), {}),
    "silu": (((3, 4),), {}),
    "softmax": (((3, 4),), {}),
    "sqrt": (((3, 4),), {}),
    "squeeze": (((3, 1),), {}),
    "stack": (((2, 3), (2, 3)), {"axis": 1}),
    "std": (((3, 4),), {"axis": 1}),
    "sum": (((3, 4),), {"axis": 1}),
    "tanh": (((3, 4),), {}),
    "transpose": (((3, 4),), {"axis0": 0, "axis1": 1}),
    "unsqueeze": (((3, 4),), {"axis": 1}),
    "var": (((3, 4),), {"axis": 1}),
    "where": (((3, 4), (4,)), {}),
}
POSITIVE = ("log", "sqrt")
"""Operations whose inputs must be positive: they get numbers from 1.5 to 3, the others get normal ones."""


def sample(op: str, seed: int = 0) -> Problem:
    """A small problem of an operation, with random numbers.

    Raises
    ------
    ValueError
        If there is no such operation.

    Examples
    --------
    >>> sample("linear").inputs[1].shape
    (2, 3)
    """
    if op not in _SAMPLES:
        raise ValueError(f"op: got {op!r}, expected one of {', '.join(_SAMPLES)}")
    shapes, options = _SAMPLES[op]
    rng = np.random.default_rng(seed)
    draw: Any = (lambda shape: rng.uniform(1.5, 3, shape)) if op in POSITIVE else rng.standard_normal
    return Problem(op, tuple(draw(shape) for shape in shapes), options)
