"""Pictures that do not fit into memory: they look like an array, and are read when they are needed."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinyres.data.pictures import check_sizes, read_picture


class Pictures:
    """Picture files that look like one uint8 array of shape (N, 3, S, S). Indexing reads the files of that part.

    A `Loader` accepts them instead of such an array, and makes the same batches. Its background thread reads the files
    of each batch. At most three batches are in memory.

    Parameters
    ----------
    files : paths
    image_size, resize : int
        Side of the square that is cut from the middle of a picture, and length to which the shorter side is scaled
        before; both in pixels. See `read_picture`. For random crops, the squares must be larger than the crops.

    Raises
    ------
    ValueError
        If the sizes are not valid.
    PictureError
        While files are read, if one is missing or not a picture. The message names it.
    IndexError
        If an index is out of range.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from tinyres.data import Loader, RandomResizedCrop
    >>> folder = Path(tempfile.mkdtemp())
    >>> for i in range(5):
    ...     Image.new("RGB", (50, 40), (i, 0, 0)).save(folder / f"{i}.png")
    >>> pictures = Pictures(sorted(folder.glob("*.png")), image_size=36)
    >>> pictures.shape, pictures[[4, 2]][:, 0, 0, 0]
    ((5, 3, 36, 36), array([4, 2], dtype=uint8))
    >>> loader = Loader(pictures, np.arange(5), 2, transform=RandomResizedCrop(32))
    >>> [x.shape for x, y in loader]
    [(2, 3, 32, 32), (2, 3, 32, 32), (1, 3, 32, 32)]
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, files: Iterable[str | os.PathLike[str]], image_size: int = 224, *, resize: int | None = None
    ) -> None:
        check_sizes(image_size, resize)
        self.files = tuple(Path(file) for file in files)
        self.image_size, self.resize = image_size, resize

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, S, S)"""
        return len(self), 3, self.image_size, self.image_size

    @property
    def size(self) -> int:
        """How many numbers an array of all pictures would have."""
        return len(self) * 3 * self.image_size**2

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read the pictures of a NumPy index (a number, a slice or an array), on several threads."""
        chosen = np.arange(len(self))[index]
        files = [self.files[i] for i in chosen.ravel()]
        found = np.empty((len(files), *self.shape[1:]), np.uint8)
        read = partial(read_picture, size=self.image_size, resize=self.resize)
        # Pillow decodes without the GIL
        with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="tinyres-pictures") as pool:
            for i, picture in enumerate(pool.map(read, files)):
                found[i] = picture
        return found.reshape(*chosen.shape, *self.shape[1:])

    def only(self, index: Any) -> "Pictures":
        """`Pictures` of a part of the files, given by a NumPy index. No file is read.

        Examples
        --------
        >>> len(Pictures(["a.png", "b.png", "c.png"], 32).only([True, False, True]))
        2
        """
        chosen = np.arange(len(self))[index]
        return Pictures([self.files[i] for i in chosen.ravel()], self.image_size, resize=self.resize)
