"""The numbers of arrays in a page: their bytes as text, each array once, up to a limit on the page's size."""

import base64
from typing import Any

import numpy as np

from tinyres.tape import Array


class Numbers:
    """The arrays of a page.

    If a network has too many numbers, small arrays are included and large ones are not. The limit is the same for all
    arrays, so that a reader knows which ones to expect.

    Examples
    --------
    >>> numbers = Numbers()
    >>> numbers.add(np.ones(3, np.float32)), numbers.add(np.zeros(4, np.float32)), numbers.add(np.ones(3, np.float32))
    (0, 1, 0)
    >>> numbers.largest(5), numbers.contents(3)
    (3, [{'bits': 32, 'base64': 'AACAPwAAgD8AAIA/'}, None])
    """

    def __init__(self) -> None:
        self.places: dict[tuple[int, bytes], int] = {}  # place of each array, by bits of a number and its bytes

    def add(self, array: Array) -> int:
        """Add an array, and return its place. Arrays with the same bytes have the same place."""
        kind = np.float64 if array.dtype == np.float64 else np.float32
        whole = np.ascontiguousarray(array, np.dtype(kind).newbyteorder("<"))
        return self.places.setdefault((8 * whole.itemsize, whole.tobytes()), len(self.places))

    def largest(self, most: int) -> int:
        """The largest size so that all arrays up to this size have at most `most` numbers together."""
        total, fits = 0, 0
        sizes = sorted(8 * len(content) // bits for bits, content in self.places)
        for i, size in enumerate(sizes):
            total += size
            if total > most:
                break
            if sizes[i + 1 : i + 2] != [size]:  # the last array of its size
                fits = size
        return fits

    def contents(self, largest: int) -> list[dict[str, Any] | None]:
        """The arrays in the order of their places; None for arrays that are larger than `largest`."""
        return [
            {"bits": bits, "base64": base64.b64encode(content).decode()}
            if 8 * len(content) // bits <= largest
            else None
            for bits, content in self.places
        ]
