"""Fast kernels: functions of arrays, compiled by Numba. They do not use tensors or the tape."""

from tinyres.kernels.elementwise import add_to, erf, relu, relu_grad
from tinyres.kernels.norm import batch_norm_apply, batch_norm_grad, batch_norm_statistics
from tinyres.kernels.pool import avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad
from tinyres.kernels.update import adamw_update, sgd_update
from tinyres.kernels.winograd import (
    conv2d,
    conv2d_and_statistics,
    conv2d_input_grad,
    conv2d_weight_grad,
    measures,
    takes_pending,
)

__all__ = [
    "adamw_update",
    "add_to",
    "avg_pool2d",
    "avg_pool2d_grad",
    "batch_norm_apply",
    "batch_norm_grad",
    "batch_norm_statistics",
    "conv2d",
    "conv2d_and_statistics",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "erf",
    "max_pool2d",
    "max_pool2d_grad",
    "measures",
    "relu",
    "relu_grad",
    "sgd_update",
    "takes_pending",
]
