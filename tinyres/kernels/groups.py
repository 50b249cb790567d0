"""Grouped convolution: which channels each group connects, and how narrow groups are computed.

A group of four channels would fill a quarter of a vector, and read 16 bytes of each pixel. So groups that lie side by
side are computed as one, as wide as a cache line, with zero weights between what they do not connect: as many
multiply-adds of vectors, a quarter of the loads and stores, and a quarter of the launches.
"""

from functools import lru_cache
from typing import NamedTuple

from tinyres.kernels.launch import launch
from tinyres.kernels.memory import CACHE_LINE, empty


class Group(NamedTuple):
    """Part of a grouped convolution: from `c` channels of x to `o` channels of y; the whole of one without groups."""

    c: int
    o: int
    x_channel: int  # first of the c
    y_channel: int  # first of the o
    tap: int  # first element of its weights


@lru_cache(maxsize=1024)
def groups_of(channels, weight_shape):
    """The groups of a convolution of images with so many channels."""
    o, c, kh, kw = weight_shape
    groups = channels // c
    o //= groups
    return [Group(c, o, g * c, g * o, g * o * c * kh * kw) for g in range(groups)]


def merged_shape(channels, weight_shape, itemsize):
    """The shape of `merged` weights."""
    o, c, kh, kw = weight_shape
    groups = channels // c
    width = max(c, o // groups) * itemsize
    together = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * width <= CACHE_LINE))
    return o, c * together, kh, kw


def merged(weight, channels):
    """Weights (O, C, KH, KW) of fewer, wider groups, which compute the same from images with so many channels."""
    shape = merged_shape(channels, weight.shape, weight.itemsize)
    if shape == weight.shape:
        return weight
    wide = empty(shape, weight.dtype)
    launch(_put, wide, weight, channels // weight.shape[1])
    return wide


def own(wide, weight_shape, channels):
    """Of a gradient with respect to `merged` weights that with respect to the weights."""
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
    """Of the groups that come first in those that they are merged to, all places there, and all weights; of those that
    come second, and so on."""
    o, c, kh, kw = weight.shape
    together = wide.shape[1] // c
    places = wide.reshape(groups // together, together, o // groups, together, c, kh, kw)
    weights = weight.reshape(groups // together, together, o // groups, c, kh, kw)
    return [(places[:, i, :, i], weights[:, i]) for i in range(together)]
