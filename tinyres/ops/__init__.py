"""Differentiable functions. Each computes an array and hands its pullback to `tinyres.record`."""

from tinyres.ops.activation import log_softmax, relu, sigmoid, softmax, tanh
from tinyres.ops.conv import conv2d, linear
from tinyres.ops.elementary import abs, astype, clip, exp, log, matmul, maximum, sqrt
from tinyres.ops.loss import cross_entropy
from tinyres.ops.norm import batch_norm
from tinyres.ops.pool import avg_pool2d, global_avg_pool2d, max_pool2d
from tinyres.ops.reduction import max, mean, min, std, sum, var
from tinyres.ops.shape import (
    concat,
    flatten,
    pad,
    permute,
    reshape,
    squeeze,
    stack,
    transpose,
    unsqueeze,
    where,
)

__all__ = [
    "abs",
    "astype",
    "avg_pool2d",
    "batch_norm",
    "clip",
    "concat",
    "conv2d",
    "cross_entropy",
    "exp",
    "flatten",
    "global_avg_pool2d",
    "linear",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "max_pool2d",
    "maximum",
    "mean",
    "min",
    "pad",
    "permute",
    "relu",
    "reshape",
    "sigmoid",
    "softmax",
    "sqrt",
    "squeeze",
    "stack",
    "std",
    "sum",
    "tanh",
    "transpose",
    "unsqueeze",
    "var",
    "where",
]
