"""MNIST, Fashion-MNIST and Kuzushiji-MNIST, and their file format IDX.

An IDX file has two zero bytes, one byte for the type of its numbers, one byte for the number of axes, their lengths as
32-bit numbers, and then the numbers, all of them big-endian (LeCun, http://yann.lecun.com/exdb/mnist/).
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyres.data.download import MOST, DatasetError, DatasetNotFound, download, places_to_look

FASHION_MNIST_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
KMNIST_CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
MNIST_CLASSES = tuple("0123456789")

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CHUNK = 2**20


class _Set(NamedTuple):
    title: str
    folder: str  # torchvision's
    url: str
    md5: tuple[str, str, str, str]  # of FILES


FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MNIST = _Set(
    "MNIST", "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/",
    (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)  # fmt: skip
FASHION_MNIST = _Set(
    "Fashion-MNIST", "FashionMNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)  # fmt: skip
KMNIST = _Set(
    "Kuzushiji-MNIST", "KMNIST", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    (
        "bdb82020997e1d708af4cf47b453dcf7", "e144d726b3acfaa3e44228e80efcd344",
        "5c965bf0a639b31b8f53240b1b52f4d7", "7320c461ea6c1c855c0b718fb2a4b134",
    ),
)  # fmt: skip


def mnist(
    root: str | os.PathLike[str] | None = None, split: str = "train", *, download: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """MNIST: 60,000 training and 10,000 test pictures of handwritten digits.

    Parameters
    ----------
    root : path, optional
        A folder with the four files, or with ``MNIST/raw``, as torchvision writes it. Each file may be compressed
        (``.gz``) or not. By default, the folder in the environment variable ``TINYRES_DATA`` is searched, then the
        user's cache folder. Files that are in neither are downloaded to the cache folder.
    split : {"train", "test"}
    download : bool
        Whether a download is allowed.

    Returns
    -------
    images : uint8 array of shape (N, 1, 28, 28)
    labels : int64 array of shape (N,)

    Raises
    ------
    DatasetNotFound
        If the data is not found. The message says which folders were searched and how to supply the data.
    DatasetError
        If a file is damaged, cut off, or has other content.
    ValueError
        If there is no such split.

    Notes
    -----
    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.

    Examples
    --------
    >>> images, labels = mnist()  # doctest: +SKIP
    >>> mnist("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    tinyres.data.download.DatasetNotFound: MNIST was not found: there is no train-images-idx3-ubyte in no/such/folder...
    """
    return _load(MNIST, root, split, allowed=download)


def fashion_mnist(
    root: str | os.PathLike[str] | None = None, split: str = "train", *, download: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST: 60,000 training and 10,000 test pictures of ten kinds of clothes, see `FASHION_MNIST_CLASSES`.

    Parameters, results and errors are those of `mnist`; torchvision's folder is ``FashionMNIST/raw``. Xiao, Rasul and
    Vollgraf, "Fashion-MNIST", 2017.

    Examples
    --------
    >>> images, labels = fashion_mnist(split="test")  # doctest: +SKIP
    """
    return _load(FASHION_MNIST, root, split, allowed=download)


def kmnist(
    root: str | os.PathLike[str] | None = None, split: str = "train", *, download: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Kuzushiji-MNIST: 60,000 training and 10,000 test pictures of ten characters of cursive Japanese.

    Parameters, results and errors are those of `mnist`; torchvision's folder is ``KMNIST/raw``. Clanuwat et al., "Deep
    learning for classical Japanese literature", 2018.

    Examples
    --------
    >>> images, labels = kmnist(split="test")  # doctest: +SKIP
    """
    return _load(KMNIST, root, split, allowed=download)


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the array in an IDX file, compressed by gzip or not, in the byte order of this machine.

    Raises
    ------
    OSError
        If the file cannot be read.
    DatasetError
        If it is not an IDX file, or its length is not the one in its header.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "labels-idx1-ubyte")
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    >>> read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            return _array(file, path)
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path}: not a whole .gz file ({error})") from error


def _array(file: Any, path: Path) -> np.ndarray:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES:
        raise DatasetError(f"{path}: not an IDX file: these begin with two zeros, a type and a number of axes")
    dtype, lengths = np.dtype(_TYPES[start[2]]), file.read(4 * start[3])
    if len(lengths) < 4 * start[3]:
        raise DatasetError(f"{path}: cut off in its first bytes; is it a partial copy?")
    shape = struct.unpack(f">{start[3]}I", lengths)
    size = math.prod(shape) * dtype.itemsize
    if size > MOST:
        raise DatasetError(f"{path}: its header gives a size of {size:,} bytes, expected {MOST:,} at most")
    content = bytearray()
    while len(content) <= size and (some := file.read(min(CHUNK, size + 1 - len(content)))):
        content += some
    if len(content) != size:
        found = "more" if len(content) > size else f"{len(content):,}"
        raise DatasetError(f"{path}: expected {size:,} bytes of {shape}, found {found}; is it a partial copy?")
    try:
        array = np.frombuffer(bytes(content), dtype).reshape(shape)
    except ValueError as error:  # too many axes; or no elements, and axes whose product is too large
        raise DatasetError(f"{path}: its header gives a shape that no array can have: {error}") from error
    return array.astype(dtype.newbyteorder("="))


def _load(
    which: _Set, root: str | os.PathLike[str] | None, split: str, *, allowed: bool
) -> tuple[np.ndarray, np.ndarray]:
    if split not in FILES:
        raise ValueError(f"split: expected one of {', '.join(map(repr, FILES))}, got {split!r}")
    paths = [_find(which, root, name, allowed) for name in FILES[split]]
    images, labels = map(read_idx, paths)
    for path, array, axes in zip(paths, (images, labels), (3, 1), strict=True):
        if array.dtype != np.uint8 or array.ndim != axes:
            raise DatasetError(f"{path}: got {array.dtype} of shape {array.shape}, expected uint8 with {axes} axes")
    if len(images) != len(labels):
        raise DatasetError(f"{paths[1]}: {len(labels):,} labels, for the {len(images):,} images of {paths[0]}")
    if len(labels) and labels.max() > 9:
        raise DatasetError(f"{paths[1]}: label {labels.argmax()} is {labels.max()}, expected 0 to 9")
    return images[:, None], labels.astype(np.int64)


def _find(which: _Set, root: str | os.PathLike[str] | None, name: str, allowed: bool) -> Path:
    """The path of a file of the data set, which is downloaded if necessary."""
    places = places_to_look(root)
    inside = [place / which.folder / "raw" for place in places]
    # files of the three sets have the same names: a folder that does not have the set's name must be given as root
    for folder in (*inside, *(places if root is not None else ())):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    looked = f"there is no {name} in {' or '.join(map(str, places if root is not None else inside))}"
    if root is not None or not allowed:
        raise DatasetNotFound(_advice(which, looked))
    checksum = dict(zip((n for names in FILES.values() for n in names), which.md5, strict=True))[name]
    try:
        return download(f"{which.url}{name}.gz", f"{name}.gz", f"md5:{checksum}", inside[-1])
    except OSError as error:  # among them every error of requests
        raise DatasetNotFound(_advice(which, f"{looked}; the download failed: {error}")) from error


def _advice(which: _Set, looked: str) -> str:
    names = ", ".join(f"{name}.gz" for names in FILES.values() for name in names)
    return (
        f"{which.title} was not found: {looked}.\n"
        f"To supply it by hand, download {names} from {which.url}, put them in a folder DIR/{which.folder}/raw, and "
        "pass DIR as root or set TINYRES_DATA=DIR."
    )
