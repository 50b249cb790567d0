"""Differentiable functions. Each computes an array and gives its pullback to `tinyres.record`."""

from tinyres.ops.activation import gelu, log_softmax, relu, sigmoid, silu, softmax, tanh
from tinyres.ops.conv import conv2d, linear
from tinyres.ops.dropout import dropout
from tinyres.ops.elementary import abs, astype, clip, exp, log, matmul, maximum, sqrt
from tinyres.ops.layer_norm import group_norm, layer_norm
from tinyres.ops.loss import binary_cross_entropy_with_logits, cross_entropy, l1_loss, mse_loss
from tinyres.ops.norm import batch_norm
from tinyres.ops.pool import adaptive_avg_pool2d, avg_pool2d, global_avg_pool2d, max_pool2d
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
    "adaptive_avg_pool2d",
    "astype",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "clip",
    "concat",
    "conv2d",
    "cross_entropy",
    "dropout",
    "exp",
    "flatten",
    "gelu",
    "global_avg_pool2d",
    "group_norm",
    "l1_loss",
    "layer_norm",
    "linear",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "max_pool2d",
    "maximum",
    "mean",
    "min",
    "mse_loss",
    "pad",
    "permute",
    "relu",
    "reshape",
    "sigmoid",
    "silu",
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
