"""Arrays in a page, number by number: their bytes as text, each array once, and no more than a page can bear."""

import base64
from typing import Any

import numpy as np

from tinyres.tape import Array


class Numbers:
    """Arrays on their way into a page.

    Of a network too large, those of few numbers go in and the others do not: the limit is one size for all, so that a
    reader knows what to expect.

    Examples
    --------
    >>> numbers = Numbers()
    >>> numbers.add(np.ones(3, np.float32)), numbers.add(np.zeros(4, np.float32)), numbers.add(np.ones(3, np.float32))
    (0, 1, 0)
    >>> numbers.largest(5), numbers.contents(3)
    (3, [{'bits': 32, 'base64': 'AACAPwAAgD8AAIA/'}, None])
    """

    def __init__(self) -> None:
        self.places: dict[tuple[int, bytes], int] = {}  # of arrays by the bits of a number, and their bytes

    def add(self, array: Array) -> int:
        """Its place among the arrays; an array with the same bytes has the same."""
        kind = np.float64 if array.dtype == np.float64 else np.float32
        whole = np.ascontiguousarray(array, np.dtype(kind).newbyteorder("<"))
        return self.places.setdefault((8 * whole.itemsize, whole.tobytes()), len(self.places))

    def largest(self, most: int) -> int:
        """A size, in numbers: the arrays that are no larger have at most `most` numbers together."""
        total, fits = 0, 0
        sizes = sorted(8 * len(content) // bits for bits, content in self.places)
        for i, size in enumerate(sizes):
            total += size
            if total > most:
                break
            if sizes[i + 1 : i + 2] != [size]:  # the last of its size
                fits = size
        return fits

    def contents(self, largest: int) -> list[dict[str, Any] | None]:
        """In the order of their places; None for those that are larger."""
        return [
            {"bits": bits, "base64": base64.b64encode(content).decode()}
            if 8 * len(content) // bits <= largest
            else None
            for bits, content in self.places
        ]
