"""Every operation of `tinyres.ops`: how to call it, on what, and what it refuses.

`tests/test_ops.py` puts each entry through the same tests, and fails where an operation has none, or too little in it.

This file is long because it has an entry for each operation.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyres import Tensor, backend, chance, ops
from tinyres.testing.strategies import ORDERS


class Case(NamedTuple):
    shapes: tuple[tuple[int, ...], ...]  # of the tensors to differentiate by
    options: dict[str, Any]
    orders: Sequence[str]  # memory layouts

    @property
    def kind(self) -> str:
        """What is special about the sizes: something is empty, or there are single numbers only."""
        sizes = [np.prod(shape) for shape in self.shapes]
        return "size 0" if 0 in sizes else "size 1" if set(sizes) == {1} else "ordinary"


class Refused(NamedTuple):
    error: type[Exception]
    message: str  # a pattern
    arguments: tuple[Any, ...]  # of the operation itself
    options: dict[str, Any]

    @property
    def kind(self) -> str:
        arguments = (*self.arguments, *self.options.values())
        return "size 0" if any(isinstance(a, Tensor) and not a.size for a in arguments) else "ordinary"


class Entry(NamedTuple):
    call: Callable[..., Tensor]  # of the tensors and options of a case
    cases: list[Case]
    refused: list[Refused]
    values: str = "normal"  # kind of numbers, see `tinyres.testing.strategies.numbers`
    empty: bool = True  # whether size 0 can be legal; where it never is, it must be among what is refused


def case(*shapes: tuple[int, ...], orders: Sequence[str] = ORDERS, **options: Any) -> Case:
    return Case(shapes, options, orders)


def refused(error: type[Exception], message: str, *arguments: Any, **options: Any) -> Refused:
    return Refused(error, message, arguments, options)


def t(*shape: int, dtype: type = np.float32) -> Tensor:
    return Tensor(np.ones(shape, dtype))


def double(*shape: int) -> Tensor:
    return t(*shape, dtype=np.float64)


# ---------------------------------------------------------------- calls
def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, *residual: Tensor, **options: Any) -> Tensor:
    c = x.shape[1]
    mean, var = np.linspace(-0.5, 0.5, c).astype(x.dtype), np.linspace(0.5, 2, c).astype(x.dtype)
    # eps: in one memory layout values repeat, and a variance of 0 with 1e-5 is too near a pole to take differences
    return ops.batch_norm(x, mean, var, weight, bias, residual=residual[0] if residual else None, eps=0.1, **options)


def conv2d(x: Tensor, weight: Tensor, *others: Tensor, shortcut: bool = False, **options: Any) -> Tensor:
    *bias, residual = others if shortcut else (*others, None)
    return ops.conv2d(x, weight, *bias, residual=residual, **options)


def dropped(x: Tensor, **options: Any) -> Tensor:
    """The same elements each time: a difference is taken of one function."""
    chance.start(7)
    return ops.dropout(x, **options)


def within(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of a norm whose second argument is no tensor: a call of x, and perhaps gamma and beta."""
    # eps: in one memory layout values repeat, and a variance of 0 with 1e-5 is too near a pole to take differences
    return lambda x, *affine, of: norm(x, of, *affine, eps=0.1)


def yes_or_no(logits: Tensor, **options: Any) -> Tensor:
    target = np.linspace(0, 1, logits.size).reshape(logits.shape)
    return ops.binary_cross_entropy_with_logits(logits, target, **options)


def classes(logits: Tensor, *, soft: bool = False, **options: Any) -> Tensor:
    n, k = logits.shape
    target = np.arange(n) * 2 % k
    if soft:  # probabilities
        target = np.eye(k)[target] + np.arange(n * k).reshape(n, k) % 3
        target = target / target.sum(1, keepdims=True)
    return ops.cross_entropy(logits, target, **options)


def chosen(a: Tensor, b: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    return ops.where(np.arange(np.prod(shape)).reshape(shape) % 3 == 0, a, b)


def joined(*tensors: Tensor, axis: int) -> Tensor:
    return ops.concat(tensors, axis)


def stacked(*tensors: Tensor, axis: int) -> Tensor:
    return ops.stack(tensors, axis)


def there_and_back(x: Tensor) -> Tensor:
    """Through the other precision would round, and no difference quotient could tell the gradient."""
    return ops.astype(ops.astype(x, np.float64), x.dtype)


# ---------------------------------------------------------------- cases
ANY_SHAPE = [case(()), case((3,)), case((2, 3)), case((2, 1, 3)), case((2, 3, 2, 4)), case((1, 1, 1, 1)), case((0, 3))]
REDUCED = [
    case((2, 3), axis=1),
    case((2, 3, 4), axis=(-1, 1), keepdims=True),
    case((2, 3, 2, 2), axis=(2, 3)),
    case((1, 1), axis=1),
    case((1,)),
    case((0, 3), axis=1),
]
ACROSS = [((2, 3), {}), ((2, 3), {"axis": 0}), ((2, 3, 4), {"axis": (-1, 0), "keepdims": True})]
SPREAD = [
    case((2, 3), axis=1),
    case((2, 3, 4), axis=(-1, 1), keepdims=True, correction=0),
    case((2, 3, 2, 2)),
    case((3, 2, 2), axis=(0, 2), keepdims=True),
    case((4, 2), axis=-2, correction=1.5, orders=ORDERS[:3]),  # in the other, all are equal: a kink of the deviation
    case((1, 1), correction=0.5),
    case((0, 3), axis=1),
]
POOLED = [
    case((2, 3, 4, 4), kernel_size=2),
    case((1, 5, 5, 4), kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)),
    case((2, 1, 4, 3), kernel_size=3, stride=1, padding=1),
    case((1, 9, 3, 3), kernel_size=2, stride=3),
    case((1, 1, 1, 1), kernel_size=1),
    case((0, 3, 4, 4), kernel_size=2),
]
COMPARED = [
    case((2, 3), (2, 3)),
    case((3, 1, 2), (3, 1, 2), reduction="sum"),
    case((2, 3, 2), (2, 3, 2), reduction="none"),
    case((), ()),
    case((0, 3), (0, 3), reduction="sum"),
]
CONVOLVED = [
    case((2, 3, 4, 3), (2, 3, 3, 3), (2,), padding=1),
    case((1, 2, 5, 4), (3, 2, 2, 3), stride=(2, 1), padding=(0, 2)),
    case((2, 9, 3, 2), (5, 9, 1, 1), (5,)),
    case((1, 1, 6, 5), (9, 1, 2, 2), stride=3),
    case((1, 1, 1, 1), (1, 1, 1, 1), (1,)),
    case((0, 2, 4, 4), (3, 2, 3, 3), (3,)),
    case((2, 4, 3, 4), (6, 2, 3, 2), (6,), groups=2, stride=(1, 2), padding=1),
    case((1, 3, 4, 3), (3, 1, 2, 2), groups=3),
    case((2, 2, 6, 5), (3, 2, 3, 2), (3,), dilation=2, padding=1),
    case(
        (1, 4, 7, 6),
        (4, 2, 2, 3),
        (1, 4, 4, 3),
        shortcut=True,
        groups=2,
        dilation=(3, 1),
        stride=(1, 2),
        padding=(0, 1),
        relu=True,
    ),
    case((0, 2, 4, 4), (4, 1, 3, 3), (4,), groups=2),
    case((2, 9, 3, 2), (5, 9, 1, 1), (5,), relu=True),
    case((2, 3, 4, 3), (2, 3, 3, 3), (2,), (2, 2, 4, 3), shortcut=True, relu=True, padding=1),
    case((1, 4, 3, 4), (6, 2, 3, 2), (1, 6, 3, 3), shortcut=True, groups=2, stride=(1, 2), padding=1),
]
NORMALISED = [
    case(shape, *[(shape[1],)] * 2, *[shape] * residual, training=training, relu=relu)
    for shape in [(3, 2, 2, 3), (2, 9, 1, 2), (1, 1, 1, 2)]
    for residual in (0, 1)
    for training in (False, True)
    for relu in (False, True)
] + [
    case((0, 3, 2, 2), (3,), (3,), training=False),
    case((2, 0, 2, 2), (0,), (0,), training=False),
    case((1, 2, 1, 1), (2,), (2,), training=False),
    case((1, 1, 1, 1), (1,), (1,), (1, 1, 1, 1), training=False, relu=True),
]

# ---------------------------------------------------------------- what is refused
NOT_NUMBERS = refused(TypeError, "x: got str, expected a Tensor or an array of numbers", "a")
NO_AXIS = refused(ValueError, "axis: got 2, expected one from -2 to 1 for 2 dimensions", t(2, 3), 2)
NO_IMAGES = refused(ValueError, r"x: got shape \(2, 3\), expected 4 axes \(N, C, H, W\)", t(2, 3))
SOFTMAX = [
    refused(ValueError, rf"axis: got {axis} for shape .*, of length 1 or more", t(*shape), axis)
    for shape, axis in [((2, 3), 2), ((2, 3), -3), ((2, 0), 1), ((), 0)]
]
SPREAD_REFUSED = [
    NO_AXIS,
    refused(ValueError, "correction: got 1, expected less than the 1 values", t(1, 3), 0),
    refused(ValueError, r"variance: axis of length 0 in shape \(0, 3\)", t(0, 3), 0),
]
COMPARISON = [
    refused(ValueError, r"target: got shape \(3,\), expected \(2, 3\), that of x", t(2, 3), [1.0, 2.0, 3.0]),
    refused(ValueError, r"target: got shape \(3,\), expected \(2, 3\), that of x", t(2, 3), t(3)),
    refused(TypeError, "operands of dtypes float32 and float64", t(3), double(3)),
    refused(ValueError, "reduction: got 'max', expected one of mean, sum, none", t(3), t(3), reduction="max"),
]
X = t(1, 1, 4, 4)
POOLING = [
    refused(ValueError, "kernel_size: got 0, expected an int >= 1", X, 0),
    refused(ValueError, r"kernel_size: got \(2, 2, 2\), expected an int >= 1 or a pair", X, (2, 2, 2)),
    refused(ValueError, r"stride: got \(0, 1\), expected an int >= 1", X, 2, stride=(0, 1)),
    refused(ValueError, "padding: got -1, expected an int >= 0", X, 2, padding=-1),
    refused(ValueError, "padding: got 2, expected at most half of kernel_size 3", X, 3, padding=2),
    refused(ValueError, r"x: got shape \(4, 4\), expected 4 axes", t(4, 4), 2),
    refused(ValueError, "x: got height 4 with padding 0, expected at least the kernel's, 5", X, (5, 1)),
    refused(ValueError, "x: got width 0 with padding 0, expected at least the kernel's, 1", t(2, 3, 4, 0), 1),
]


def convolution(error: type[Exception], message: str, **changed: Any) -> Refused:
    return refused(error, message, **{"x": t(2, 3, 5, 5), "weight": t(4, 3, 3, 3), **changed})


CONVOLUTION = [
    *[
        convolution(ValueError, rf"{name}: got .*, expected an int >= {minimum} or a pair", **{name: value})
        for name, minimum in (("stride", 1), ("padding", 0), ("dilation", 1))
        for value in (minimum - 1, (1,), (1, minimum - 1), (1, 1, 1), "a", 1.5, True, None)
    ],
    convolution(ValueError, r"x: got shape \(3, 5, 5\), expected 4 axes \(N, C, H, W\)", x=t(3, 5, 5)),
    convolution(ValueError, r"weight: got shape \(4, 2, 3, 3\), expected \(O, 3, KH, KW\)", weight=t(4, 2, 3, 3)),
    convolution(ValueError, r"weight: got shape \(4, 3, 3\)", weight=t(4, 3, 3)),
    convolution(ValueError, r"weight: got shape \(0, 3, 3, 3\), expected .* none of them 0", weight=t(0, 3, 3, 3)),
    convolution(ValueError, r"weight: got shape .* none of them 0", x=t(2, 0, 5, 5), weight=t(4, 0, 3, 3)),
    convolution(ValueError, r"bias: got shape \(3,\), expected \(4,\), the output channels of weight", bias=t(3)),
    convolution(TypeError, "weight: got dtype float64, expected float32, that of x", weight=double(4, 3, 3, 3)),
    convolution(TypeError, "bias: got dtype float64, expected float32, that of x", bias=double(4)),
    convolution(ValueError, r"residual: got shape \(2, 4, 5, 5\), expected \(2, 4, 3, 3\)", residual=t(2, 4, 5, 5)),
    convolution(TypeError, "residual: got dtype float64, expected float32", residual=double(2, 4, 3, 3)),
    convolution(ValueError, "x: got height 2 with padding 0, expected at least the kernel's, 3", x=t(1, 3, 2, 5)),
    convolution(ValueError, "x: got width 0 with padding 1, expected at least", x=t(1, 3, 5, 0), padding=1),
    convolution(ValueError, "x: got height 5 with padding 1, expected at least the kernel's, 9", dilation=4, padding=1),
    convolution(ValueError, "groups: got 2, expected a divisor of 3, the channels of x", groups=2),
    convolution(ValueError, "groups: got 0, expected a divisor of 3", groups=0),
    convolution(ValueError, r"weight: .* in 3 groups, with O a multiple of 3", weight=t(4, 1, 3, 3), groups=3),
]


def norm(error: type[Exception], message: str, **changed: Any) -> Refused:
    fits = {"x": t(2, 3, 2, 2), "running_mean": np.zeros(3, "f4"), "running_var": np.ones(3, "f4")}
    return refused(error, message, **{**fits, "weight": t(3), "bias": t(3), "training": True, **changed})


NORM = [
    norm(ValueError, r"x: got shape \(3, 2, 2\), expected 4 axes", x=t(3, 2, 2)),
    norm(ValueError, r"x: got shape \(1, 3, 1, 1\), expected more than one value per channel", x=t(1, 3, 1, 1)),
    norm(ValueError, r"x: got shape \(0, 3, 2, 2\), expected more than one value", x=t(0, 3, 2, 2)),
    norm(
        ValueError,
        r"running_mean: got shape \(2,\), expected \(3,\), the channels of x",
        running_mean=np.zeros(2, "f4"),
    ),
    norm(ValueError, r"running_var: got shape \(1, 3\), expected \(3,\)", running_var=np.ones((1, 3), "f4")),
    norm(ValueError, r"weight: got shape \(4,\), expected \(3,\), the channels of x", weight=t(4)),
    norm(ValueError, r"bias: got shape \(1,\), expected \(3,\), the channels of x", bias=t(1)),
    norm(ValueError, r"residual: got shape \(1, 3, 2, 2\), expected \(2, 3, 2, 2\)", residual=t(1, 3, 2, 2)),
    norm(TypeError, "weight: got dtype float64, expected float32, that of x", weight=double(3)),
    norm(TypeError, "bias: got dtype float64, expected float32, that of x", bias=double(3)),
    norm(TypeError, "residual: got dtype float64, expected float32", residual=double(2, 3, 2, 2)),
]

# ---------------------------------------------------------------- the registry
REGISTRY = {
    "abs": Entry(ops.abs, ANY_SHAPE, [NOT_NUMBERS], "distinct"),
    "adaptive_avg_pool2d": Entry(
        ops.adaptive_avg_pool2d,
        [
            case((2, 3, 4, 6), output_size=2),
            case((1, 2, 5, 3), output_size=(3, 2)),
            case((2, 1, 2, 3), output_size=(3, 7)),
            case((1, 1, 1, 1), output_size=1),
            case((0, 3, 4, 4), output_size=3),
        ],
        [
            refused(ValueError, r"x: got shape \(2, 3\), expected 4 axes \(N, C, H, W\)", t(2, 3), 1),
            refused(ValueError, r"x: got shape \(2, 3, 0, 2\), expected one pixel or more", t(2, 3, 0, 2), 1),
            refused(ValueError, "output_size: got 0, expected an int >= 1 or a pair", t(1, 1, 2, 2), 0),
        ],
    ),
    "astype": Entry(
        there_and_back,
        ANY_SHAPE,
        [
            refused(TypeError, f"dtype: got .*{dtype}.*, expected float32 or float64", t(2), dtype)
            for dtype in ("f2", "q")
        ],
    ),
    "avg_pool2d": Entry(ops.avg_pool2d, POOLED, POOLING),
    "batch_norm": Entry(batch_norm, NORMALISED, NORM),
    "binary_cross_entropy_with_logits": Entry(
        yes_or_no,
        [
            case((2, 3)),
            case((3, 1, 2), reduction="sum"),
            case((2, 3, 2), pos_weight=3.0, reduction="none"),
            case((3, 2), pos_weight=[0.5, 2.0]),
            case(()),
            case((0, 3), reduction="none"),
        ],
        [
            refused(ValueError, r"target: got shape \(2,\), expected \(2, 3\), that of logits", t(2, 3), [0.0, 1.0]),
            refused(ValueError, "target: got numbers from -1.0 to 1.0, expected 0 to 1", t(2), [-1.0, 1.0]),
            refused(ValueError, "target: got numbers from nan to nan", t(2), [np.nan, 1.0]),
            refused(
                ValueError, r"pos_weight: got shape \(3,\), expected one that", t(2), t(2).data, pos_weight=[1] * 3
            ),
            refused(ValueError, "reduction: got 'max', expected one of mean, sum, none", t(1), [1], reduction="max"),
        ],
    ),
    "clip": Entry(
        ops.clip,
        [
            case((2, 3), min=-0.1, max=0.1),
            case((2, 1, 3), min=-0.2),
            case((2, 3, 2, 4), max=0.3),
            case((1,), min=-1, max=1),
            case((0, 3), max=1),
        ],
        [
            refused(ValueError, f"clip: got min {low} and max {high}, expected one of them", t(2), low, high)
            for low, high in ((None, None), (2, 1), (float("nan"), 1))
        ],
        "distinct",
    ),
    "concat": Entry(
        joined,
        [
            case((2, 3), (2, 1), (2, 2), axis=1),
            case((2, 3), axis=-2),
            case((2, 1, 2, 2), (2, 2, 2, 2), axis=-3),
            case((1,), (1,), axis=0),
            case((0, 3), (2, 3), axis=0),
        ],
        [
            refused(ValueError, r"tensors: got shapes \[\] and axis 0, expected one or more", []),
            refused(ValueError, r"tensors: got shapes \[\(2, 3\)\] and axis 2", [t(2, 3)], 2),
            refused(ValueError, r"tensors: got shapes \[\(\), \(\)\] and axis 0", [t(), t()]),
            refused(ValueError, "tensors: got shapes .*, expected them to agree in all axes", [t(2, 3), t(2, 4)]),
            refused(ValueError, "tensors: got shapes .*, expected them to agree", [t(2, 3), t(2)]),
            refused(TypeError, r"tensors: got dtypes \['float32', 'float64'\], expected one dtype", [t(3), double(3)]),
        ],
    ),
    "conv2d": Entry(conv2d, CONVOLVED, CONVOLUTION),
    "cross_entropy": Entry(
        classes,
        [
            case((3, 4)),
            case((1, 2), label_smoothing=0.1),
            case((4, 3), label_smoothing=1),
            case((2, 1)),
            case((1, 1), label_smoothing=0.1),
            case((3, 4), soft=True),
            case((2, 3), soft=True, label_smoothing=0.2),
            case((4, 3), reduction="sum", weight=[1.0, 0.0, 2.5]),
            case((4, 3), weight=[1.0, 0.5, 2.5], label_smoothing=0.1),
            case((3, 2), soft=True, reduction="none", weight=[1.0, 3.0]),
        ],
        [
            refused(ValueError, r"logits: got shape \(3,\), expected \(N, K\)", t(3), [0]),
            refused(ValueError, r"logits: got shape \(0, 3\), expected", t(0, 3), []),
            refused(ValueError, r"logits: got shape \(2, 0\), expected", t(2, 0), [0, 0]),
            refused(ValueError, r"target: got shape \(1,\) int64, expected \(2,\) of int", t(2, 3), [0]),
            refused(ValueError, r"target: got shape \(2,\) float64, expected \(2,\)", t(2, 3), [0.0, 1.0]),
            refused(ValueError, r"target: got shape \(2, 2\) float32, .* or \(2, 3\) of float", t(2, 3), t(2, 2)),
            refused(ValueError, "target: got numbers that are negative or do not", t(2, 3), [[0.5, 0.6, 0.0]] * 2),
            refused(ValueError, "target: got numbers that are negative or do not", t(1, 3), [[1.5, -0.5, 0.0]]),
            refused(ValueError, "target: got numbers that are negative or do not", t(1, 2), [[np.nan, 1.0]]),
            refused(ValueError, "target: got classes from 0 to 3, expected 0 to 2", t(2, 3), [0, 3]),
            refused(ValueError, "target: got classes from -1 to 0, expected 0 to 2", t(2, 3), [-1, 0]),
            *[
                refused(ValueError, f"smoothing: got {value}, expected 0", t(1, 3), [0], label_smoothing=value)
                for value in (-0.1, 1.1, float("nan"))
            ],
            *[
                refused(ValueError, "weight: got .*, expected 3 numbers of 0 or more", t(1, 3), [0], weight=value)
                for value in ([1.0, 2.0], 1.0, [1.0, 2.0, -1.0], [1.0, 2.0, float("nan")])
            ],
            refused(ValueError, "weight: got 0 for every class that occurs", t(1, 3), [0], weight=[0.0, 1.0, 1.0]),
            refused(ValueError, "reduction: got 'max', expected one of mean, sum, none", t(1, 3), [0], reduction="max"),
        ],
        empty=False,  # a mean over no samples, or a class that is none of none
    ),
    "dropout": Entry(
        dropped,
        [*ANY_SHAPE, case((3, 4), p=0.2), case((2, 3), p=1), case((5,), p=0.9)],
        [refused(ValueError, f"p: got {p}, expected 0 to 1", t(2), p) for p in (-0.1, 1.1, float("nan"))],
    ),
    "exp": Entry(ops.exp, ANY_SHAPE, [NOT_NUMBERS]),
    "flatten": Entry(
        ops.flatten,
        [
            case((2, 3)),
            case((2, 3, 2, 2)),
            case((2, 3, 2), start_dim=0),
            case((2, 3, 2, 2), start_dim=-3, end_dim=2),
            case((1, 1, 1)),
            case((0, 3, 2)),
        ],
        [
            refused(ValueError, r"start_dim: got 2, expected one from -2 to 1 for 2 dimensions", t(2, 3), 2),
            refused(ValueError, "end_dim: got 3, expected one from", t(2, 3), 0, 3),
            refused(ValueError, "start_dim: got 1, expected at most end_dim, 0", t(2, 3), 1, 0),
        ],
    ),
    "gelu": Entry(ops.gelu, ANY_SHAPE, [NOT_NUMBERS]),
    "global_avg_pool2d": Entry(
        ops.global_avg_pool2d,
        [
            case((2, 3, 4, 3)),
            case((1, 9, 1, 1)),
            case((3, 1, 2, 5)),
            case((1, 1, 1, 1)),
            case((0, 2, 2, 2)),
        ],
        [
            NO_IMAGES,
            refused(ValueError, r"x: got shape \(2, 3, 0, 2\), expected one pixel or more", t(2, 3, 0, 2)),
        ],
    ),
    "group_norm": Entry(
        within(ops.group_norm),
        [
            case((2, 4, 2, 3), (4,), (4,), of=2),
            case((3, 2), of=1),
            case((2, 3, 4), (3,), of=3),
            case((1, 6, 1, 2), (6,), (6,), of=2),
            case((1, 1), (1,), (1,), of=1),
            case((0, 2, 3), (2,), (2,), of=2),
        ],
        [
            refused(ValueError, r"x: got shape \(3,\), expected \(N, C, ...\)", t(3), 1),
            refused(ValueError, r"x: got shape \(2, 3, 0\), expected", t(2, 3, 0), 1),
            *[
                refused(ValueError, f"num_groups: got {n}, expected a divisor of 3, the channels", t(2, 3), n)
                for n in (0, 2, 4, -1)
            ],
            refused(ValueError, r"weight: got shape \(2,\), expected \(3,\)", t(2, 3), 1, t(2)),
            refused(ValueError, r"bias: got shape \(1, 3\), expected \(3,\)", t(2, 3), 1, t(3), t(1, 3)),
            refused(TypeError, "weight: got dtype float64, expected float32", t(2, 3), 1, double(3)),
        ],
    ),
    "l1_loss": Entry(ops.l1_loss, COMPARED, COMPARISON, "distinct"),
    "layer_norm": Entry(
        within(ops.layer_norm),
        [
            case((2, 3), (3,), (3,), of=3),
            case((2, 3, 4), of=(4,)),
            case((2, 3, 4), (3, 4), of=(3, 4)),
            case((3, 2, 2, 2), (2, 2), (2, 2), of=(2, 2)),
            case((1,), (1,), (1,), of=1),
            case((0, 3), (3,), (3,), of=3),
        ],
        [
            refused(ValueError, rf"normalized_shape: got \({n}\), expected the last axes of x, \(2, 3\)", t(2, 3), of)
            for n, of in (("2,", 2), ("", ()), ("3, 2", (3, 2)), ("1, 2, 3", (1, 2, 3)))
        ]
        + [
            refused(ValueError, r"normalized_shape: got \(0,\), expected .*, none of them 0", t(2, 0), 0),
            refused(ValueError, r"weight: got shape \(2,\), expected \(3,\)", t(2, 3), 3, t(2)),
            refused(ValueError, r"bias: got shape \(1,\), expected \(3,\)", t(2, 3), 3, t(3), t(1)),
            refused(TypeError, "bias: got dtype float64, expected float32", t(2, 3), 3, t(3), double(3)),
        ],
    ),
    "linear": Entry(
        ops.linear,
        [
            case((2, 3), (4, 3)),
            case((3, 1), (2, 1), (2,)),
            case((5, 9), (3, 9), (3,)),
            case((1, 1), (1, 1), (1,)),
            case((0, 3), (2, 3)),
        ],
        [
            refused(ValueError, r"x: got shape \(2, 3, 4\), expected 2 axes \(N, I\)", t(2, 3, 4), t(4, 3)),
            refused(ValueError, r"weight: got shape \(3, 4\), expected \(O, 3\)", t(2, 3), t(3, 4)),
            refused(ValueError, r"weight: got shape \(3,\), expected \(O, 3\)", t(2, 3), t(3)),
            refused(ValueError, r"weight: got shape \(4, 0\), expected .* none of them 0", t(2, 0), t(4, 0)),
            refused(ValueError, r"weight: got shape \(0, 3\), expected .* none of them 0", t(2, 3), t(0, 3)),
            refused(ValueError, r"bias: got shape \(3,\), expected \(4,\)", t(2, 3), t(4, 3), t(3)),
            refused(TypeError, "weight: got dtype float64, expected float32", t(2, 3), double(4, 3)),
            refused(TypeError, "bias: got dtype float64, expected float32", t(2, 3), t(4, 3), double(4)),
        ],
    ),
    "log": Entry(ops.log, ANY_SHAPE, [NOT_NUMBERS], "positive"),
    "log_softmax": Entry(
        ops.log_softmax, [case((2, 3)), case((2, 3, 4), axis=1), case((3,)), case((1,)), case((0, 3))], SOFTMAX
    ),
    "matmul": Entry(
        ops.matmul,
        [
            case((2, 3), (3, 2)),
            case((3,), (2, 3, 1)),
            case((2, 1, 3), (3,)),
            case((2, 3, 2), (1, 2, 4)),
            case((1, 1), (1,)),
            case((0, 2), (2, 1)),
            case((2, 0), (0, 3)),
        ],
        [
            refused(ValueError, r"matmul: shapes \(2, 3\) and \(2, 3\) do not fit", t(2, 3), t(2, 3)),
            refused(ValueError, r"matmul: shapes \(\) and \(3,\) do not fit", t(), t(3)),
            refused(TypeError, "operands of dtypes float32 and float64", t(3), double(3)),
        ],
    ),
    "max": Entry(
        ops.max,
        # across axes in which one layout repeats numbers, these are ties: kinks, see test_tensor.py for what they share
        [*REDUCED, *(case(shape, orders=ORDERS[:3], **options) for shape, options in ACROSS)],
        [NO_AXIS, refused(ValueError, r"maximum: axis of length 0 in shape \(0, 3\)", t(0, 3), 0)],
        "distinct",
    ),
    "max_pool2d": Entry(ops.max_pool2d, POOLED, POOLING, "distinct"),
    "maximum": Entry(
        ops.maximum,
        [
            case((2, 3), (2, 3)),
            case((3, 1), (2,)),
            case((), (2, 1)),
            case((2, 3, 1), (2, 1, 2)),
            case((1,), ()),
            case((0, 1), (3,)),
        ],
        [
            refused(TypeError, "b: got dtype float64, expected float32, that of a", t(3), double(3)),
            refused(ValueError, r"broadcast together with shapes \(3,\) \(2,\)", t(3), t(2)),
        ],
    ),
    "mean": Entry(
        ops.mean,
        [*REDUCED, *(case(shape, **options) for shape, options in ACROSS)],
        [NO_AXIS, refused(ValueError, r"mean: axis of length 0 in shape \(0, 3\)", t(0, 3), 0)],
    ),
    "min": Entry(
        ops.min,
        [*REDUCED, *(case(shape, orders=ORDERS[:3], **options) for shape, options in ACROSS)],
        [NO_AXIS, refused(ValueError, r"minimum: axis of length 0 in shape \(0, 3\)", t(0, 3), 0)],
        "distinct",
    ),
    "mse_loss": Entry(ops.mse_loss, COMPARED, COMPARISON),
    "pad": Entry(
        ops.pad,
        [
            case((2, 3), padding=(1, 2)),
            case((2, 2, 3, 2), padding=(1, 0, 2, 1), value=-1.5),
            case((2,), padding=()),
            case((2, 1, 2), padding=(0, 0, 1, 0, 0, 2)),
            case((1, 1), padding=(1, 0)),
            case((0, 2), padding=(1, 1, 0, 1)),
        ],
        [
            refused(ValueError, r"padding: got \(.*\), expected pairs >= 0 for at most", t(2, 3), padding)
            for padding in ((1,), (1, -1), (1, 1, 1, 1, 1, 1))
        ],
    ),
    "permute": Entry(
        ops.permute,
        [
            case((2, 3), axes=(1, 0)),
            case((2, 3, 4), axes=(1, -1, 0)),
            case((2, 1, 3, 2), axes=[3, 2, 1, 0]),
            case((3,), axes=(0,)),
            case((1, 1), axes=(0, 1)),
            case((0, 3), axes=(1, 0)),
        ],
        [
            refused(ValueError, r"axes: got \(0, 0\), expected each of the 2 axes", t(2, 3), (0, 0)),
            refused(ValueError, r"axes: got \(0,\), expected each of the 2 axes", t(2, 3), (0,)),
            refused(ValueError, "axes: got 2, expected one from -2 to 1", t(2, 3), (0, 2)),
        ],
    ),
    "relu": Entry(ops.relu, ANY_SHAPE, [NOT_NUMBERS], "distinct"),
    "reshape": Entry(
        ops.reshape,
        [
            case((2, 3), shape=(3, 2)),
            case((2, 3), shape=(-1,)),
            case((2, 3, 2, 2), shape=(4, 1, 6)),
            case((4,), shape=(2, -1)),
            case((), shape=(1, 1)),
            case((0, 3), shape=(3, 0)),
        ],
        [refused(ValueError, r"cannot reshape array of size 6 into shape \(4,\)", t(2, 3), (4,))],
    ),
    "sigmoid": Entry(ops.sigmoid, ANY_SHAPE, [NOT_NUMBERS]),
    "softmax": Entry(
        ops.softmax, [case((2, 3)), case((2, 3, 4), axis=1), case((3,)), case((1,)), case((0, 3))], SOFTMAX
    ),
    "sqrt": Entry(ops.sqrt, ANY_SHAPE, [NOT_NUMBERS], "positive"),
    "squeeze": Entry(
        ops.squeeze,
        [
            case((2, 1, 3)),
            case((2, 1, 3, 1), axis=-1),
            case((1, 3, 1), axis=(0, 2)),
            case((2, 3)),
            case((1, 1)),
            case((0, 1)),
        ],
        [
            refused(ValueError, r"axis: got 1 for shape \(1, 3\), expected axes of length 1, 1 is longer", t(1, 3), 1),
            NO_AXIS,
        ],
    ),
    "stack": Entry(
        stacked,
        [
            case((2, 3), (2, 3), (2, 3), axis=1),
            case((2, 3), (2, 3), axis=-1),
            case((2, 1, 2), (2, 1, 2), axis=0),
            case((), (), axis=0),
            case((0, 3), (0, 3), axis=2),
        ],
        [
            refused(ValueError, r"tensors: got shapes \[\], expected one or more tensors of one shape", []),
            refused(ValueError, "tensors: got shapes .*, expected one or more tensors of one shape", [t(2), t(3)]),
            refused(ValueError, "axis: got 2, expected one from -2 to 1 for tensors of 1 dimensions", [t(2)], 2),
            refused(TypeError, "tensors: got dtypes .*, expected one dtype", [t(3), double(3)]),
            refused(TypeError, "tensors: got a single Tensor, expected a list of tensors", t(2, 3)),
        ],
    ),
    "std": Entry(ops.std, SPREAD, SPREAD_REFUSED, "distinct"),
    "sum": Entry(
        ops.sum,
        [*REDUCED, *(case(shape, **options) for shape, options in ACROSS), case((0, 3)), case((0, 3), axis=0)],
        [NO_AXIS],
    ),
    "silu": Entry(ops.silu, ANY_SHAPE, [NOT_NUMBERS]),
    "tanh": Entry(ops.tanh, ANY_SHAPE, [NOT_NUMBERS]),
    "transpose": Entry(
        ops.transpose,
        [
            case((2, 3), axis0=0, axis1=1),
            case((2, 3, 4), axis0=-1, axis1=0),
            case((2, 1, 3, 2), axis0=1, axis1=1),
            case((1, 1), axis0=0, axis1=1),
            case((0, 3), axis0=1, axis1=0),
        ],
        [
            refused(ValueError, "axis: got 2, expected one from -2 to 1", t(2, 3), 0, 2),
            refused(
                TypeError,
                "transpose: got .*, expected the two axes to swap; for all axes in a new",
                t(2, 3),
                (0, 1),
                1,
            ),
        ],
    ),
    "unsqueeze": Entry(
        ops.unsqueeze,
        [
            case((2, 3), axis=0),
            case((2, 3, 4), axis=-1),
            case((2, 1, 3), axis=1),
            case((), axis=0),
            case((0, 3), axis=2),
        ],
        [refused(ValueError, "axis: got 3, expected one from -3 to 2 for 3 dimensions", t(2, 3), 3)],
    ),
    "var": Entry(ops.var, SPREAD, SPREAD_REFUSED),
    "where": Entry(
        chosen,
        [
            case((2, 3), (2, 3), shape=(2, 3)),
            case((3,), (2, 1), shape=(3,)),
            case((2, 1, 2), (3, 1), shape=(2, 3, 2)),
            case((), (), shape=(2, 2)),
            case((0, 3), (1, 3), shape=(3,)),
        ],
        [
            refused(TypeError, "b: got dtype float64, expected float32, that of a", True, t(3), double(3)),
            refused(ValueError, r"broadcast together with shapes .*\(3,\) \(2,\)", True, t(3), t(2)),
        ],
    ),
}

ON_KERNELS = {
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "conv2d",
    "gelu",
    "global_avg_pool2d",
    "linear",
    "max_pool2d",
    "relu",
}
"""Operations that call kernels of the backend. The others are NumPy alone, on each backend and instruction set."""


def backends_of(name: str) -> list[str]:
    """The backends on which an operation has to be tested."""
    return sorted(backend.BACKENDS) if name in ON_KERNELS else ["numba"]
