"""Your own pictures, with one folder for each class."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyres.data.download import DatasetError, DatasetNotFound
from tinyres.data.pictures import SUFFIXES, PictureError, find_pictures, read_picture
from tinyres.data.stream import Pictures

HELD_OUT = 5  # one picture in five is held out, if there are no folders of splits
MOST_BAD = 0.01  # part of the pictures that may be damaged
LAYOUT = "train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg"


class Folder(NamedTuple):
    """Pictures of a split, and the numbers of their classes.

    Also the names of the classes, the files that could not be read, and the path of each picture.
    """

    images: Any  # uint8 (N, 3, S, S): an array, or Pictures
    labels: np.ndarray  # int64 (N,)
    classes: tuple[str, ...]
    bad: tuple[str, ...]
    files: tuple[Path, ...]


def image_folder(
    root: str | os.PathLike[str],
    split: str = "train",
    *,
    image_size: int = 224,
    resize: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    stream: bool = False,
) -> Folder:
    """Read a folder of pictures that has a subfolder for each class.

    Parameters
    ----------
    root : path
        It has ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, and optionally ``test/CLASS/*.jpg``. Or it has only
        ``CLASS/*.jpg``: then a fifth of each class is "val" and the rest is "train". All formats that Pillow reads are
        allowed. Other files are ignored.
    split : {"train", "val", "test"}
        "test" gives the pictures of "val" if there is no folder ``test``.
    image_size, resize : int
        Side of the square that is cut from the middle of a picture, and length to which the shorter side is scaled
        before; both in pixels. See `read_picture`.
    seed : int
        Seed of the random split, if there are no folders of splits.
    progress : callable, optional
        Called with (done, total) while pictures are read.
    stream : bool
        Whether to read pictures only when a `Loader` needs them, for folders that are larger than memory. `images` is
        then a `Pictures`, and a picture that cannot be read raises an error when it is needed.

    Returns
    -------
    Folder
        With all pictures in memory (150 kB each at 224 pixels), unless `stream` is set.

    Raises
    ------
    DatasetNotFound
        If the folder is missing, or has no folders of classes.
    DatasetError
        If there is only one class, "val" has a class that "train" does not have, or a class has no pictures; or
        if more than one picture in a hundred cannot be read.
    ValueError
        If there is no such split, or `image_size` is not valid.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / name).mkdir()
    ...     for i in range(5):
    ...         Image.new("RGB", (40, 30)).save(root / name / f"{i}.png")
    >>> found = image_folder(root, image_size=32)
    >>> found.images.shape, found.labels, found.classes, found.files[0].name
    ((8, 3, 32, 32), array([0, 0, 0, 0, 1, 1, 1, 1]), ('cat', 'dog'), '0.png')
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split: expected 'train', 'val' or 'test', got {split!r}")
    if image_size < 1:
        raise ValueError(f"image_size: expected 1 or more, got {image_size}")
    classes, files = _find(Path(root), split, seed)
    labels = np.array([label for label, _ in files], np.int64)
    if stream:
        paths = tuple(path for _, path in files)
        return Folder(Pictures(paths, image_size, resize=resize), labels, classes, (), paths)
    images = np.empty((len(files), 3, image_size, image_size), np.uint8)
    good = np.ones(len(files), bool)
    bad: list[str] = []

    def read(i: int) -> str | None:
        try:
            images[i] = read_picture(files[i][1], image_size, resize=resize)
        except PictureError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the GIL
        for i, message in enumerate(pool.map(read, range(len(files)))):
            if message is not None:
                good[i] = False
                bad.append(message)
            if progress:
                progress(i + 1, len(files))
    if len(bad) > MOST_BAD * len(files):
        first = "".join(f"\n  {message}" for message in bad[:5])
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DatasetError(
            f"{root}: {len(bad)} of {len(files)} {split} pictures cannot be read, more than one in a hundred; remove "
            f"or replace them:{first}{more}"
        )
    if bad:
        images, labels = images[good], labels[good]
    paths = tuple(path for (_, path), read_ in zip(files, good, strict=True) if read_)
    return Folder(images, labels, classes, tuple(bad), paths)


# ---------------------------------------------------------------- finding
def _find(root: Path, split: str, seed: int) -> tuple[tuple[str, ...], list[tuple[int, Path]]]:
    """Names of the classes, and the label and path of each picture of a split."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DatasetNotFound(f"{root} {what}; expected a folder that holds {LAYOUT}")
    if (root / "train").is_dir():
        found = _classes(root / "train")
        classes = tuple(found)
        if split != "train":
            place = next((root / n for n in _names(split) if (root / n).is_dir()), None)
            if place is None:
                raise DatasetNotFound(f"{root} has train, but no val; expected {LAYOUT}")
            found = _classes(place)
            if unknown := [name for name in found if name not in classes]:
                raise DatasetError(f"{place}: there are no classes {', '.join(unknown)} in {root / 'train'}")
    elif part := next((n for n in _names("test") if (root / n).is_dir()), None):
        raise DatasetNotFound(f"{root} has {part}, but no train; expected {LAYOUT}")
    else:
        found = _classes(root)
        classes = tuple(found)
        found = {name: _part(files, split, seed) for name, files in found.items()}
    if len(classes) < 2:
        raise DatasetError(f"{root}: only one class, {classes[0]}; expected two or more, as {LAYOUT}")
    pictures = [(classes.index(name), path) for name, files in found.items() for path in files]
    if not pictures:
        raise DatasetError(f"{root}: too few pictures to hold out some for {split}; expected two or more in a class")
    return classes, pictures


def _names(split: str) -> list[str]:
    """Names of folders for a split. The first one that exists is used."""
    val = ["val", "validation"]
    return ["test", *val] if split == "test" else val


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Each class and its pictures, sorted by name: the order of the file system does not matter."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise DatasetNotFound(f"{folder} holds no folders of classes; expected {LAYOUT}")
    found = {name: find_pictures(folder / name) for name in names}
    for name, files in found.items():
        if not files:
            raise DatasetError(f"{folder / name}: no pictures; expected some of {', '.join(sorted(SUFFIXES))}")
    return found


def _part(files: list[Path], split: str, seed: int) -> list[Path]:
    """The part of a class's pictures that belongs to a split. It does not depend on which pictures are damaged."""
    held = np.zeros(len(files), bool)
    count = max(len(files) // HELD_OUT, min(1, len(files) - 1))
    held[np.random.default_rng(seed).permutation(len(files))[:count]] = True
    return [path for path, out in zip(files, held, strict=True) if out != (split == "train")]
