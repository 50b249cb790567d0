"""Data sets as tables: arrays in an .npz file, or a CSV of file names and labels."""

import csv
import os
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyres.data.download import MOST, DatasetError, DatasetNotFound
from tinyres.spelling import did_you_mean

CHANNELS = (1, 3, 4)  # lengths by which an axis of channels is recognised
SHOWN = 5  # how many mistakes of a file a message lists


# ---------------------------------------------------------------- arrays
def read_npz(
    path: str | os.PathLike[str], images: str = "x", labels: str = "y", *, layout: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels from an .npz file, as `numpy.savez` writes it.

    Parameters
    ----------
    path : path
    images : str
        Name of the array of images. It is of uint8, float32 or float64, and has shape (N, C, H, W), (N, H, W, C), or
        (N, H, W) for one channel.
    labels : str
        Name of the array of labels: whole numbers of shape (N,) or (N, 1), or floats of shape (N, K).
    layout : {"NCHW", "NHWC"}, optional
        Which axis has the channels. By default, the one of length 1, 3 or 4, if only one of the two has such a length.

    Returns
    -------
    images : uint8 or float32 array of shape (N, C, H, W)
    labels : int64 array of shape (N,), or float32 of shape (N, K)
        Both as for a `Loader`.

    Raises
    ------
    DatasetNotFound
        If there is no such file.
    DatasetError
        If it is not an .npz file, is damaged, or lacks an array; if an array has another dtype or shape, or if it is
        not clear which axis has the channels; if a number is NaN, infinite or not in the range of float32, or a class
        is below 0; or if the arrays are compressed and have more than 4 GiB. Arrays of Python objects, which are
        pickles, are not read.
    ValueError
        If `layout` is something else.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "digits.npz")
    >>> np.savez(path, x_train=np.zeros((5, 28, 28), np.uint8), y_train=np.arange(5, dtype=np.uint8))
    >>> x, y = read_npz(path, "x_train", "y_train")
    >>> x.shape, y
    ((5, 1, 28, 28), array([0, 1, 2, 3, 4]))
    """
    if layout not in (None, "NCHW", "NHWC"):
        raise ValueError(f"layout: got {layout!r}, expected 'NCHW' or 'NHWC'")
    path = Path(path)
    if not path.is_file():
        raise DatasetNotFound(f"{path}: no such file, expected one that numpy.savez has written")
    if not zipfile.is_zipfile(path):
        raise DatasetError(f"{path}: not an .npz file, as numpy.savez writes it, or not a whole one")
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            names = list(file)
            wanted = (
                member for member in file.zip.infolist() if member.filename.removesuffix(".npy") in (images, labels)
            )
            size = sum(member.file_size for member in wanted if member.compress_type)  # others are as large as the file
            if size > MOST:
                raise ValueError(f"unpacked, they have {size:,} bytes, expected {MOST:,} at most")
            found = [file[name] for name in (images, labels) if name in names]
    except Exception as error:  # for damaged files, zipfile and NumPy raise all kinds of errors
        raise DatasetError(f"{path}: not an .npz file of numbers that can be read ({error})") from error
    for argument, name in (("images", images), ("labels", labels)):
        if name not in names:
            there = f"expected one of {', '.join(names)}" if names else "but the file is empty"
            raise DatasetError(f"{path}: {argument}: got {name!r}, {there}{did_you_mean(name, names)}")
    for name, array in zip((images, labels), found, strict=True):
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of a member that is none
            raise DatasetError(f"{path}: {name}: expected an array, as numpy.savez writes it")
    x, y = _images(f"{path}: {images}", found[0], layout), _labels(f"{path}: {labels}", found[1])
    if len(x) != len(y):
        raise DatasetError(f"{path}: {labels}: got {len(y)} labels, expected one for each of {len(x)} images")
    return x, y


def _images(name: str, x: np.ndarray, layout: str | None) -> np.ndarray:
    if x.dtype not in (np.uint8, np.float32, np.float64) or x.ndim not in (3, 4):
        expected = "expected uint8 or float32 of shape (N, C, H, W), (N, H, W, C) or (N, H, W)"
        raise DatasetError(f"{name}: got {x.dtype} of shape {x.shape}, {expected}")
    if x.ndim == 3:
        x, layout = x[:, None], "NCHW"
    first, last = x.shape[1] in CHANNELS, x.shape[3] in CHANNELS
    if layout is None and first == last:
        raise DatasetError(
            f"{name}: got shape {x.shape}, in which two axes could be the channels; say which one by layout='NCHW' or "
            "layout='NHWC'"
        )
    x = x.transpose(0, 3, 1, 2) if layout == "NHWC" or (layout is None and last) else x
    return np.ascontiguousarray(x if x.dtype == np.uint8 else _finite(name, x))


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    """As float32."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32, copy=False)
    if not np.isfinite(narrow).all():
        raise DatasetError(f"{name}: got {array[~np.isfinite(narrow)][0]}, expected numbers in the range of float32")
    return narrow


def _labels(name: str, y: np.ndarray) -> np.ndarray:
    if y.dtype.kind in "iu" and (y.ndim == 1 or y.shape[1:] == (1,)):
        for label in (y.min(), y.max()) if y.size else ():
            if not 0 <= int(label) < 2**63:
                raise DatasetError(f"{name}: got {label}, expected classes, which are numbers from 0 on")
        return y.reshape(-1).astype(np.int64)
    if y.dtype.kind == "f" and y.ndim == 2:
        return _finite(name, y)
    expected = "expected whole numbers of shape (N,) or (N, 1), or floats of shape (N, K)"
    raise DatasetError(f"{name}: got {y.dtype} of shape {y.shape}, {expected}")


# ---------------------------------------------------------------- file names
class Table(NamedTuple):
    """Files, the class number of each file, and the names of the classes."""

    files: tuple[Path, ...]
    labels: np.ndarray  # int64 (N,)
    classes: tuple[str, ...]


def read_csv(
    path: str | os.PathLike[str],
    *,
    file: str = "file",
    label: str = "label",
    classes: Sequence[str] | None = None,
    delimiter: str = ",",
) -> Table:
    """Read file names and labels from a CSV. Its first line has the names of the columns.

    Parameters
    ----------
    path : path
        Text in UTF-8.
    file, label : str
        Names of the columns; other columns are ignored. File names are relative to the folder of the CSV.
    classes : sequence of str, optional
        The allowed labels, in the order of class numbers. For a test set, give those of the training set. By default,
        the labels that occur, in natural order: "class 2" before "class 10".
    delimiter : str
        The character between columns.

    Returns
    -------
    Table
        ``Loader(Pictures(table.files), table.labels, 32)`` makes batches of it.

    Raises
    ------
    DatasetNotFound
        If there is no such CSV.
    DatasetError
        If it is not text, lacks a column, or has no rows. Also if a line is empty, has too few or too many columns,
        lacks the file name or the label, or has a file that does not exist or a label that is not in `classes`. The
        message lists the first such lines.
    ValueError
        If `delimiter` is not one character.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.png", "b.png", "c.png"):
    ...     (folder / name).touch()
    >>> _ = (folder / "train.csv").write_text("file,label\\na.png,cat 10\\nb.png,cat 2\\nc.png,cat 10\\n")
    >>> found = read_csv(folder / "train.csv")
    >>> [path.name for path in found.files], found.labels, found.classes
    (['a.png', 'b.png', 'c.png'], array([1, 0, 1]), ('cat 2', 'cat 10'))
    """
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ValueError(f"delimiter: got {delimiter!r}, expected one character, such as ',' or ';'")
    path = Path(path)
    if not path.is_file():
        raise DatasetNotFound(f"{path}: no such file, expected a CSV with the columns {file} and {label}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            lines = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a CSV in UTF-8 that can be read ({error})") from error
    header = lines[0][1] if lines else []
    for argument, name in (("file", file), ("label", label)):
        if header.count(name) != 1:
            columns = f"the columns {_short(', '.join(header))}" if header else "no columns"
            twice = f"{name} twice" if name in header else f"no {name}{did_you_mean(name, header)}"
            raise DatasetError(f"{path}: got {columns}, and {twice}; say which column has it by {argument}='...'")
    place, column = header.index(file), header.index(label)
    wrong, mistakes, files, names = 0, [], [], []
    for number, row in lines[1:]:
        mistake = _mistake(row, len(header), (place, column), path.parent, classes)
        if mistake:
            wrong += 1
            mistakes += [f"line {number}: {mistake}"] if wrong <= SHOWN else []
        else:
            files.append(path.parent / row[place])
            names.append(row[column])
    if mistakes:
        more = [f"and {wrong - SHOWN:,} more"] if wrong > SHOWN else []
        raise DatasetError("\n  ".join([f"{path}: correct or remove", *mistakes, *more]))
    if not files:
        raise DatasetError(f"{path}: got no rows below the names of the columns, expected a file and a label in each")
    known = tuple(classes) if classes is not None else natural(set(names))
    numbers = {name: i for i, name in enumerate(known)}
    return Table(tuple(files), np.array([numbers[name] for name in names], np.int64), known)


def _mistake(
    row: list[str], width: int, columns: tuple[int, int], folder: Path, classes: Sequence[str] | None
) -> str | None:
    """The mistake in a row, or None."""
    if not any(row):
        return "empty"
    if len(row) != width:
        return f"{len(row)} columns, expected {width}"
    file, label = (row[i] for i in columns)
    if not file or not label:
        return f"no {'label' if file else 'name of a file'}"
    if not os.path.isfile(folder / file):  # False, too, for a name that no file can have
        return f"no such file: {_short(folder / file)}"
    if classes is not None and label not in classes:
        return f"no such class: {_short(label)}{did_you_mean(label, classes)}"
    return None


def _short(text: object) -> str:
    """At most 200 characters, for a message."""
    return text if len(text := str(text)) <= 200 else f"{text[:100]}...{text[-97:]}"


def natural(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names in natural order: numbers within them are compared by size.

    Examples
    --------
    >>> natural(["b", "a10", "a9", "10", "9"])
    ('9', '10', 'a9', 'a10', 'b')
    """

    def key(name: str) -> tuple[Any, ...]:
        # text and numbers alternate, so that like is compared with like; the name itself decides between equal keys
        return [int(part) if i % 2 else part.lower() for i, part in enumerate(re.split("([0-9]+)", name))], name

    return tuple(sorted(names, key=key))
