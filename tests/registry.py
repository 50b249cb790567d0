"""Every operation of `tinyres.ops`: how to call it, and on what. An operation without an entry fails the suite."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinyres import Tensor, ops


class Case(NamedTuple):
    shapes: tuple[tuple[int, ...], ...]  # of the tensors to differentiate by
    options: dict[str, Any]


class Entry(NamedTuple):
    call: Callable[..., Tensor]  # of those tensors and options
    cases: list[Case]
    values: str = "normal"  # kind of numbers, see `tinyres.testing.strategies.numbers`


def case(*shapes: tuple[int, ...], **options: Any) -> Case:
    return Case(shapes, options)


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, *residual: Tensor, **options: Any) -> Tensor:
    c = x.shape[1]
    mean, var = np.linspace(-0.5, 0.5, c).astype(x.dtype), np.linspace(0.5, 2, c).astype(x.dtype)
    # eps: in one memory layout values repeat, and a variance of 0 with 1e-5 is too near a pole to take differences
    return ops.batch_norm(x, mean, var, weight, bias, residual=residual[0] if residual else None, eps=0.1, **options)


def conv2d(x: Tensor, weight: Tensor, *others: Tensor, shortcut: bool = False, **options: Any) -> Tensor:
    *bias, residual = others if shortcut else (*others, None)
    return ops.conv2d(x, weight, *bias, residual=residual, **options)


def classes(logits: Tensor, **options: Any) -> Tensor:
    n, k = logits.shape
    return ops.cross_entropy(logits, np.arange(n) * 2 % k, **options)


def chosen(a: Tensor, b: Tensor, *, shape: tuple[int, ...]) -> Tensor:
    return ops.where(np.arange(np.prod(shape)).reshape(shape) % 3 == 0, a, b)


def joined(*tensors: Tensor, axis: int) -> Tensor:
    return ops.concat(tensors, axis)


ANY_SHAPE = [case(()), case((3,)), case((2, 3)), case((2, 1, 3)), case((2, 3, 2, 4)), case((1, 1, 1, 1)), case((0, 3))]
REDUCED = [
    case((2, 3)),
    case((2, 3), axis=0),
    case((2, 3, 4), axis=(-1, 0), keepdims=True),
    case((2, 3, 2, 2), axis=(2, 3)),
    case((1, 1), axis=1),
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
CONVOLVED = [
    case((2, 3, 4, 3), (2, 3, 3, 3), (2,), padding=1),
    case((1, 2, 5, 4), (3, 2, 2, 3), stride=(2, 1), padding=(0, 2)),
    case((2, 9, 3, 2), (5, 9, 1, 1), (5,)),
    case((1, 1, 6, 5), (9, 1, 2, 2), stride=3),
    case((1, 1, 1, 1), (1, 1, 1, 1), (1,)),
    case((0, 2, 4, 4), (3, 2, 3, 3), (3,)),
    case((2, 4, 3, 4), (6, 2, 3, 2), (6,), groups=2, stride=(1, 2), padding=1),
    case((1, 3, 4, 3), (3, 1, 2, 2), groups=3),
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
] + [case((0, 3, 2, 2), (3,), (3,), training=False), case((1, 2, 1, 1), (2,), (2,), training=False)]

REGISTRY = {
    "avg_pool2d": Entry(ops.avg_pool2d, POOLED),
    "batch_norm": Entry(batch_norm, NORMALISED),
    "concat": Entry(
        joined,
        [
            case((2, 3), (2, 1), (2, 2), axis=1),
            case((2, 3), axis=-2),
            case((2, 1, 2, 2), (2, 2, 2, 2), axis=-3),
            case((0, 3), (2, 3), axis=0),
        ],
    ),
    "conv2d": Entry(conv2d, CONVOLVED),
    "cross_entropy": Entry(
        classes, [case((3, 4)), case((1, 2), label_smoothing=0.1), case((4, 3), label_smoothing=1), case((2, 1))]
    ),
    "exp": Entry(ops.exp, ANY_SHAPE),
    "flatten": Entry(ops.flatten, [case((2, 3)), case((2, 3, 2, 2)), case((2, 3, 2), start=0), case((0, 3, 2))]),
    "global_avg_pool2d": Entry(ops.global_avg_pool2d, [case((2, 3, 4, 3)), case((1, 9, 1, 1)), case((0, 2, 2, 2))]),
    "linear": Entry(
        ops.linear, [case((2, 3), (4, 3)), case((1, 1), (1, 1), (1,)), case((5, 9), (3, 9), (3,)), case((0, 3), (2, 3))]
    ),
    "log": Entry(ops.log, ANY_SHAPE, "positive"),
    "log_softmax": Entry(ops.log_softmax, [case((2, 3)), case((2, 3, 4), axis=1), case((1,)), case((0, 3))]),
    "matmul": Entry(
        ops.matmul, [case((2, 3), (3, 2)), case((3,), (2, 3, 1)), case((2, 1, 3), (3,)), case((0, 2), (2, 1))]
    ),
    "max": Entry(ops.max, REDUCED, "distinct"),
    "max_pool2d": Entry(ops.max_pool2d, POOLED, "distinct"),
    "maximum": Entry(ops.maximum, [case((2, 3), (2, 3)), case((3, 1), (2,)), case((), (2, 1)), case((0, 1), (3,))]),
    "mean": Entry(ops.mean, REDUCED),
    "pad": Entry(
        ops.pad,
        [
            case((2, 3), padding=(1, 2)),
            case((2, 2, 3, 2), padding=(1, 0, 2, 1), value=-1.5),
            case((2,), padding=()),
            case((2, 1, 2), padding=(0, 0, 1, 0, 0, 2)),
            case((0, 2), padding=(1, 1, 0, 1)),
        ],
    ),
    "relu": Entry(ops.relu, ANY_SHAPE, "distinct"),
    "reshape": Entry(ops.reshape, [case((2, 3), shape=(3, 2)), case((2, 3), shape=(-1,)), case((), shape=(1, 1))]),
    "sigmoid": Entry(ops.sigmoid, ANY_SHAPE),
    "softmax": Entry(ops.softmax, [case((2, 3)), case((2, 3, 4), axis=1), case((1,)), case((0, 3))]),
    "sqrt": Entry(ops.sqrt, ANY_SHAPE, "positive"),
    "sum": Entry(ops.sum, REDUCED),
    "tanh": Entry(ops.tanh, ANY_SHAPE),
    "transpose": Entry(ops.transpose, [case((2, 3)), case((2, 3, 4), axes=(1, -1, 0)), case((2, 1, 3, 2)), case((3,))]),
    "where": Entry(
        chosen,
        [
            case((2, 3), (2, 3), shape=(2, 3)),
            case((3,), (2, 1), shape=(3,)),
            case((), (), shape=(2, 2)),
            case((0, 3), (1, 3), shape=(3,)),
        ],
    ),
}
