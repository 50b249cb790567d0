"""Differentiable functions. Each computes an array and hands its pullback to `tinyres.record`."""

from tinyres.ops.activation import log_softmax, relu, sigmoid, softmax, tanh
from tinyres.ops.conv import conv2d, linear
from tinyres.ops.elementary import exp, log, matmul, max, maximum, mean, sqrt, sum
from tinyres.ops.loss import cross_entropy
from tinyres.ops.norm import batch_norm
from tinyres.ops.pool import avg_pool2d, global_avg_pool2d, max_pool2d
from tinyres.ops.shape import concat, flatten, pad, reshape, transpose, where

__all__ = [
    "avg_pool2d",
    "batch_norm",
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
    "pad",
    "relu",
    "reshape",
    "sigmoid",
    "softmax",
    "sqrt",
    "sum",
    "tanh",
    "transpose",
    "where",
]
