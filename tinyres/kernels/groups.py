"""Grouped convolution: which channels each group connects, and how narrow groups are computed.

A group of four channels would fill a quarter of a vector, and read 16 bytes of each pixel. So neighbouring groups are
merged into one, as wide as a cache line, with zero weights between channels that are not connected. This takes as many
multiply-adds of vectors, but a quarter of the loads, stores and launches.
"""

from functools import lru_cache
from typing import NamedTuple

from tinyres.kernels.launch import launch
from tinyres.kernels.memory import CACHE_LINE, empty


class Group(NamedTuple):
    """Part of a grouped convolution: from `c` channels of x to `o` channels of y; with one group it is the whole."""

    c: int
    o: int
    x_channel: int  # first of the c channels
    y_channel: int  # first of the o channels
    tap: int  # index of the first of its weights


@lru_cache(maxsize=1024)
def groups_of(channels, weight_shape):
    """The groups of a convolution of images with this number of channels."""
    o, c, kh, kw = weight_shape
    groups = channels // c
    o //= groups
    return [Group(c, o, g * c, g * o, g * o * c * kh * kw) for g in range(groups)]


def merged_shape(channels, weight_shape, itemsize):
    """The shape of the `merged` weights."""
    o, c, kh, kw = weight_shape
    groups = channels // c
    width = max(c, o // groups) * itemsize
    together = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * width <= CACHE_LINE))
    return o, c * together, kh, kw


def merged(weight, channels):
    """Weights (O, C, KH, KW) with fewer, wider groups, which give the same result for images with `channels`."""
    shape = merged_shape(channels, weight.shape, weight.itemsize)
    if shape == weight.shape:
        return weight
    wide = empty(shape, weight.dtype)
    launch(_put, wide, weight, channels // weight.shape[1])
    return wide


def own(wide, weight_shape, channels):
    """The gradient of the weights, taken from the gradient of their `merged` form."""
    if wide.shape == weight_shape:
        return wide
    dw = empty(weight_shape, wide.dtype)
    launch(_take, dw, wide, channels // weight_shape[1])
    return dw


def _put(wide, weight, groups):
    wide[...] = 0
    for block, its in _blocks(wide, weight, groups):
        block[...] = its


def _take(dw, wide, groups):
    for block, its in _blocks(wide, dw, groups):
        its[...] = block


def _blocks(wide, weight, groups):
    """Pairs of places in the merged weights and of weights.

    The first pair is for the first group in each merged one, the next for the second group in each, and so on.
    """
    o, c, kh, kw = weight.shape
    together = wide.shape[1] // c
    places = wide.reshape(groups // together, together, o // groups, together, c, kh, kw)
    weights = weight.reshape(groups // together, together, o // groups, c, kh, kw)
    return [(places[:, i, :, i], weights[:, i]) for i in range(together)]
