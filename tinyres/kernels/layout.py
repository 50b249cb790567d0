"""The order of images in memory that kernels read: channels last, without gaps."""

import numpy as np

from tinyres.kernels.launch import launch


class _Alias:
    """The memory of a read-only array, presented as writable."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # keeps the memory alive
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array, C-contiguous, aligned, and writable for Numba.

    For Numba, a read-only array has another type, and it would compile every kernel again for this type. Kernels never
    write to an input.
    """
    if array.flags.carray:
        return array
    if not (array.flags.c_contiguous and array.flags.aligned):
        copy = np.empty(array.shape, array.dtype)
        launch(np.copyto, copy, array)
        return copy
    return array if array.flags.writeable else np.asarray(_Alias(array))


def channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) with any strides -> C-contiguous (N, H, W, C). Copies only if the memory is in another order."""
    return contiguous(x.transpose(0, 2, 3, 1))
