"""Compile every kernel that a float32 training step needs, one after the other."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from tinyres.kernels import conv, elementwise, image, norm, pool, update, weight_grad, winograd

Step = tuple[str, Callable[[], object]]
WINDOW = {"stride": (1, 1), "padding": (1, 1)}


def steps(dtype: type = np.float32) -> Iterator[Step]:
    """Names of kernels, and functions that compile them (or load them from the cache). Run them in this order."""
    yield from first(dtype)
    yield from meanwhile(dtype)


def first(dtype: type = np.float32) -> Iterator[Step]:
    """Half of the work: convolutions, with forward and input gradient."""
    x, images = _images((2, 8, 8, 4), dtype), _images((8, 8, 8, 16), dtype)
    weight: np.ndarray = np.ones((4, 4, 3, 3), dtype)
    square_weight: np.ndarray = np.ones((16, 16, 3, 3), dtype)
    yield "convolution", partial(conv.conv2d, x, weight, **WINDOW)
    yield "Winograd convolution", partial(winograd.conv2d, images, square_weight, **WINDOW)
    yield "Winograd, statistics", partial(winograd.conv2d_and_statistics, images, square_weight, **WINDOW)
    yield "ReLU", partial(elementwise.relu, x)


def meanwhile(dtype: type = np.float32) -> Iterator[Step]:
    """The other half, which `ahead` compiles: batch norm, needed soon, then kernels of backward, the longest first."""
    x, images, dy = _images((2, 8, 8, 4), dtype), _images((8, 8, 8, 16), dtype), _images((2, 1, 1, 4), dtype)
    vector: np.ndarray = np.ones(4, dtype)
    yield "batch norm, statistics", partial(norm.batch_norm_statistics, x)
    yield "batch norm", partial(norm.batch_norm_apply, x, vector, vector, vector, relu=True)
    yield "Winograd, weight gradient", partial(winograd.conv2d_weight_grad, images, images, (16, 16, 3, 3), **WINDOW)
    yield "convolution, weight gradient", partial(weight_grad.conv2d_weight_grad, x, x, (4, 4, 3, 3), **WINDOW)
    flags = {"training": True, "relu": True, "residual": True}
    yield "batch norm, gradient", partial(norm.batch_norm_grad, x, x, x, *[vector] * 4, **flags)
    size, square = (8, 8), {"stride": (8, 8), "padding": (0, 0)}
    yield "average pooling", partial(pool.avg_pool2d, x, size, **square)
    yield "average pooling, gradient", partial(pool.avg_pool2d_grad, dy, x.shape, size, **square)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": True}
    yield "update of parameters", partial(update.sgd_update, [vector.copy()], [vector], [vector.copy()], **settings)
    settings = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "step": 1}
    vectors = [[vector.copy()] for _ in range(4)]
    yield "update of parameters, AdamW", partial(update.adamw_update, *vectors, **settings)
    yield "sum of gradients", partial(elementwise.add_to, x.copy(order="K"), x)
    draw = {"corner": [[0, 0]], "flip": [False], "centre": [[0, 0]], "mean": [0], "std": [1], "pad": 0, "cutout": 0}
    yield "image pipeline", partial(image.augment_batch, np.zeros((1, 1, 2, 2), np.uint8), [0], **draw)


def _images(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array of ones, (N, H, W, C) in memory."""
    return np.ones(shape, dtype).transpose(0, 3, 1, 2)
