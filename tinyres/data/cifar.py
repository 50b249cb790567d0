"""CIFAR-10 and CIFAR-100 in their binary version: read from this machine, or downloaded once.

A file is a sequence of records. Each has one or two label bytes and 3,072 pixel bytes: 32 x 32 red, then green, then
blue. The "python version" of the archives consists of pickles, which can run code when they are read. If only this
version is found, the error message has a command that converts it.
"""

import gzip
import os
import shlex
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyres.data.download import DatasetError, DatasetNotFound, download, places_to_look

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FINE = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(_FINE.split())

IMAGE = (3, 32, 32)
PIXELS = 3 * 32 * 32
MOST_MORE = 2**24  # bytes that an archive may have in addition to the data
MOST_MEMBERS = 1000  # entries that an archive may have; the published ones have eight


# A command for users who trust their files: tinyres itself never reads a pickle.
CONVERT = """\
python -c 'import pickle, sys; from pathlib import Path; source, to = map(Path, sys.argv[1:3]); to.mkdir(exist_ok=True)
for name in sys.argv[3:]:
    d = pickle.load(open(source / name, "rb"), encoding="bytes")
    labels = zip(*(d[k] for k in (b"coarse_labels", b"fine_labels", b"labels") if k in d))
    (to / (name + ".bin")).write_bytes(b"".join(bytes(y) + bytes(x) for x, y in zip(d[b"data"], labels)))' """


class _Archive(NamedTuple):
    title: str
    url: str
    md5: str
    folder: str
    pickled: str  # folder of the "python version"
    files: dict[str, tuple[str, ...]]  # names of the files of each split
    records: dict[str, int]  # number of records in each file of a split
    label_bytes: int  # per record; the last one is the label, a byte before it is a coarser label
    classes: int

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[1]


CIFAR10 = _Archive(
    title="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    pickled="cifar-10-batches-py",
    files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    records={"train": 10_000, "test": 10_000},
    label_bytes=1,
    classes=10,
)
CIFAR100 = _Archive(
    title="CIFAR-100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    folder="cifar-100-binary",
    pickled="cifar-100-python",
    files={"train": ("train.bin",), "test": ("test.bin",)},
    records={"train": 50_000, "test": 10_000},
    label_bytes=2,
    classes=100,
)


def cifar10(
    root: str | os.PathLike[str] | None = None, split: str = "train", *, download: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10: 50,000 training and 10,000 test pictures of ten kinds of things, named in `CLASSES`.

    Parameters
    ----------
    root : path, optional
        A folder with ``cifar-10-binary.tar.gz`` or the unpacked ``cifar-10-batches-bin``, or the path of one of these.
        By default, the folder in the environment variable ``TINYRES_DATA`` is searched, then the user's cache folder.
        If the data is in neither, the archive is downloaded to the cache folder.
    split : {"train", "test"}
    download : bool
        Whether a download is allowed.

    Returns
    -------
    images : uint8 array of shape (N, 3, 32, 32)
    labels : int64 array of shape (N,)

    Raises
    ------
    DatasetNotFound
        If the data is not found. The message says which folders were searched and how to supply the data. Without a
        network, this takes less than five seconds.
    DatasetError
        If a file has the wrong length or has a label that does not exist; if an archive is damaged or cut off,
        lacks a file, or is far larger than the data when it is unpacked.
    ValueError
        If there is no such split.

    Notes
    -----
    The checksum of a download is compared with the published one. For a copy that is already there, only the structure
    is checked, so you can use your own pictures in the same layout.

    Examples
    --------
    >>> images, labels = cifar10()  # doctest: +SKIP
    >>> cifar10("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    tinyres.data.download.DatasetNotFound: ... there is no no/such/folder...
    """
    return _load(CIFAR10, root, split, download)


def cifar100(
    root: str | os.PathLike[str] | None = None, split: str = "train", *, download: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-100, with its fine labels: 50,000 training and 10,000 test pictures of a hundred kinds of things.

    Parameters, results and errors are those of `cifar10`; the files are ``cifar-100-binary.tar.gz`` and
    ``cifar-100-binary``.

    Examples
    --------
    >>> images, labels = cifar100(split="test")  # doctest: +SKIP
    """
    return _load(CIFAR100, root, split, download)


def _load(
    archive: _Archive, root: str | os.PathLike[str] | None, split: str, download: bool
) -> tuple[np.ndarray, np.ndarray]:
    if split not in archive.files:
        raise ValueError(f"split: expected one of {', '.join(map(repr, archive.files))}, got {split!r}")
    source = _find(archive, root, download)
    names = archive.files[split]
    record = archive.label_bytes + PIXELS
    size = archive.records[split] * record
    contents = _read_folder(source, names, size) if source.is_dir() else _read_tar(archive, source, names, size)

    images = np.empty((len(names), archive.records[split], *IMAGE), np.uint8)
    labels = np.empty((len(names), archive.records[split]), np.int64)
    for i, (name, content) in enumerate(zip(names, contents, strict=True)):
        records = np.frombuffer(content, np.uint8).reshape(-1, record)
        labels[i] = records[:, archive.label_bytes - 1]
        images[i] = records[:, archive.label_bytes :].reshape(-1, *IMAGE)
        for wrong in np.flatnonzero(labels[i] >= archive.classes)[:1]:
            message = f"record {wrong} has label {labels[i, wrong]}, expected 0 to {archive.classes - 1}"
            raise DatasetError(f"{source / name}: {message}")
    return images.reshape(-1, *IMAGE), labels.reshape(-1)


# ---------------------------------------------------------------- reading
def _read_folder(folder: Path, names: tuple[str, ...], size: int) -> list[bytes]:
    contents = []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise DatasetNotFound(f"{folder} has no file {name}")
        _check_size(path, path.stat().st_size, size)
        contents.append(path.read_bytes())
    return contents


def _read_tar(archive: _Archive, path: Path, names: tuple[str, ...], size: int) -> list[bytes]:
    """Contents of the named members. Nothing is written to disk, so dangerous paths in the archive do no harm."""
    wanted = {f"{archive.folder}/{name}": name for name in names}
    contents: dict[str, bytes] = {}
    record = archive.label_bytes + PIXELS
    most = MOST_MORE + sum(len(files) * archive.records[split] * record for split, files in archive.files.items())
    try:
        with gzip.open(path) as stream:
            for member in _members(stream, most):
                if member.name in wanted and member.isreg():
                    _check_size(path / member.name, member.size, size)
                    contents[wanted[member.name]] = stream.read(size)
                if len(contents) == len(names):
                    break
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DatasetError(f"{path}: not a whole .tar.gz archive ({error})") from error
    for member_name, name in wanted.items():
        if name not in contents:
            raise DatasetError(f"{path}: there is no file {member_name} in this archive")
    return [contents[name] for name in names]


def _members(stream: gzip.GzipFile, most: int) -> Iterator[tarfile.TarInfo]:
    """Headers of a tar archive. When one is yielded, the stream is at the start of this member's content.

    The module tarfile is not safe enough here: it reads extended attributes of any length, and accepts all lengths,
    even negative ones. Here the stream only moves forward, and at most `most` bytes. Extended attributes are skipped:
    members with short names do not need them.
    """
    for _ in range(MOST_MEMBERS):
        header = stream.read(tarfile.BLOCKSIZE)
        if not header.strip(b"\0"):  # the end
            return
        member = tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "surrogateescape")
        begin = stream.tell()
        if not 0 <= member.size <= most - begin:
            raise tarfile.ReadError(f"an entry of {member.size:,} bytes, more than the data set has in all")
        yield member
        if member.isreg() or member.type not in tarfile.SUPPORTED_TYPES:  # others have a length, but no content
            begin += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        stream.seek(begin)
    raise tarfile.ReadError(f"more than {MOST_MEMBERS:,} entries")


def _check_size(path: Path, found: int, expected: int) -> None:
    if found != expected:
        raise DatasetError(f"{path}: expected {expected:,} bytes, found {found:,}; is it a partial copy?")


# ---------------------------------------------------------------- finding
def _find(archive: _Archive, root: str | os.PathLike[str] | None, allowed: bool) -> Path:
    """The folder or .tar.gz file with the data, which is downloaded if necessary."""
    for place in (places := places_to_look(root)):
        if place.is_file():
            return place
        for folder in (place / archive.folder, place):
            if any((folder / name).is_file() for names in archive.files.values() for name in names):
                return folder
        if (place / archive.filename).is_file():
            return place / archive.filename

    looked = "; ".join(
        f"{place} has neither {archive.folder} nor {archive.filename}" if place.is_dir() else f"there is no {place}"
        for place in places
    )
    for place in places:
        for folder in (place, place / archive.pickled):
            if folder.name == archive.pickled and folder.is_dir():
                raise DatasetNotFound(_conversion(archive, folder))
    if root is not None or not allowed:
        raise DatasetNotFound(_advice(archive, looked))
    try:
        return download(archive.url, archive.filename, f"md5:{archive.md5}", places[-1])
    except OSError as error:  # among them every error of requests
        raise DatasetNotFound(_advice(archive, f"{looked}; the download failed: {error}")) from error


def _conversion(archive: _Archive, folder: Path) -> str:
    names = [name.removesuffix(".bin") for files in archive.files.values() for name in files]
    return (
        f"{archive.title} was found in its python version, {folder}. Its files are pickles, which can run code when "
        "they are read, so tinyres does not read them. If you trust them, this command writes the binary version:\n"
        + CONVERT + shlex.join([str(folder), str(folder.with_name(archive.folder)), *names])
    )  # fmt: skip


def _advice(archive: _Archive, looked: str) -> str:
    return (
        f"{archive.title} was not found: {looked}.\n"
        f"To supply it by hand, download the binary version ({archive.url}), put the .tar.gz file, or the "
        f"folder {archive.folder} from it, in a folder DIR, and pass --data DIR or set TINYRES_DATA=DIR."
    )
