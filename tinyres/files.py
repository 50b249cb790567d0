"""Files of arrays in the safetensors format: read with clear errors, never unpickled, written whole or not at all."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from tinyres.tape import Array

CONVERT = (
    "python -c 'import sys, torch; from safetensors.torch import save_file; d = torch.load(sys.argv[1], "
    'weights_only=True); save_file({k: v.contiguous() for k, v in d.get("state_dict", d).items()}, sys.argv[2])\' '
    "model.pth model.safetensors"
)
"""Shell command that converts a state dict saved by PyTorch, or a checkpoint with one under "state_dict", to
safetensors. It needs torch and safetensors."""

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # first bytes, new and old torch.save

CHECKSUM = "sha256"
HALF = ".part"  # end of the name of an unfinished file


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or belongs to another model."""


def read_arrays(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a safetensors file: its arrays by name, and its metadata.

    Raises
    ------
    CheckpointError
        If it is missing, is not safetensors, or is damaged or cut off. If its metadata has a ``"sha256"``, even a
        single wrong bit is found. A file of ``torch.save`` is a pickle, which can run code when it is read. It is
        recognised by its first bytes and not read, and the message says how to convert it.
    """
    with _opened(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        for array in arrays.values():
            if array.dtype.kind not in "fiubc":  # NumPy has other types only while a certain package is imported
                raise TypeError(array.dtype.name)
        metadata = file.metadata() or {}
    if CHECKSUM in metadata and metadata[CHECKSUM] != digest(arrays, metadata):
        raise CheckpointError(
            f"{path}: damaged: its content is not what was written (its SHA-256 differs). Use a copy, or another "
            "checkpoint of the run: rename previous.safetensors to last.safetensors to resume from it"
        )
    return arrays, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read only the metadata, not the arrays. The errors are those of `read_arrays`."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, expected a checkpoint such as {path / 'best.safetensors'}")
    if path.exists() and not path.is_file():  # opening a pipe would wait until somebody writes to it
        raise CheckpointError(f"{path}: a pipe or a device, expected a file: write its content to one first")
    try:
        with path.open("rb") as start:
            first = start.read(9)
            if first.startswith(_PICKLES) and first[8:] != b"{":  # a header of 640 bytes starts like a pickle
                raise CheckpointError(
                    f"{path}: a pickle, as torch.save writes, which can run code when it is read; tinyres does not "
                    f"open it. If you trust it, convert it once:\n  {CONVERT}"
                )
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except CheckpointError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or a damaged one ({error})") from error
    except (TypeError, AttributeError) as error:  # NumPy has no bfloat16 and no float8
        raise CheckpointError(f"{path}: has a type of number that NumPy does not have ({error})") from error


def part(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    """The arrays whose names start with ``<prefix>.``; this prefix is removed from the names.

    Examples
    --------
    >>> part({'model.w': np.zeros(2), 'optimizer.0': np.ones(2)}, 'model')
    {'w': array([0., 0.])}
    """
    return {name.removeprefix(f"{prefix}."): a for name, a in arrays.items() if name.startswith(f"{prefix}.")}


def digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """SHA-256 of arrays (names, dtypes, shapes, all bits) and metadata, in hexadecimal. Their order does not matter.

    The entry ``"sha256"`` of the metadata is left out.
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        total.update(f"{name!r} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    for key in sorted(metadata.keys() - {CHECKSUM}):
        total.update(f"{key!r} {metadata[key]!r}\n".encode())
    return total.hexdigest()


def write_whole(path: str | Path, content: bytes, *, keep: str | Path | None = None, new: bool = False) -> None:
    """Replace a file's content in one step: temporary file, fsync, rename, fsync of the folder.

    If `keep` is given, the old file is found under this path afterwards. At every moment it has one of the two names.
    With `new`, there must be no old file: of two processes that write it at the same time, one fails. A symbolic link
    stays, and the file that it points to is replaced. What is no file, such as ``/dev/null``, is written to.

    Raises
    ------
    FileExistsError
        If there is a file, and `new`.
    OSError
        The system's error, with `path` in its message. Usually nothing has changed. If only the last step failed, which
        flushes the folder, the new file is in its place, but a power failure could undo this. The message says which.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.txt")
    >>> write_whole(path, b'all or nothing')
    >>> path.read_text()
    'all or nothing'
    """
    given, path, temporary = path, Path(os.path.realpath(path)), None
    outcome = "the old file is unchanged"
    try:
        if Path(given).exists() and not (path.is_file() or path.is_dir()):
            if new:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            Path(given).write_bytes(content)
            return
        with _to_be_flushed(path.parent) as flush:  # opened before anything changes
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=HALF)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes it private
            if keep is not None and path.exists():
                _link(path, Path(keep))
            if new:
                _put_new(temporary, path)
            else:
                os.replace(temporary, path)
            temporary, outcome = None, "it is written, but may not survive a power failure"
            flush()
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (while writing; {outcome})", str(given)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # `remove_leftovers` tries again
                os.unlink(temporary)


@contextmanager
def _to_be_flushed(folder: Path) -> Iterator[Callable[[], None]]:
    """Yields a function that flushes the folder's entries to the disk. On Windows it does nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        yield lambda: None
        return
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        yield lambda: os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Remove unfinished files of `write_whole` from a folder, which are left if its process was killed."""
    for path in Path(folder).glob(f".*{HALF}"):
        path.unlink(missing_ok=True)


def _put_new(temporary: str, path: Path) -> None:
    """Rename a file, unless there is one with the new name."""
    try:
        os.link(temporary, path)
    except OSError:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.replace(temporary, path)  # a file system without links: two processes at the same moment are not told apart
    else:
        with suppress(OSError):
            os.unlink(temporary)


def _link(path: Path, name: Path) -> None:
    """Make `name` a hard link to a file, or a copy if the file system has no hard links, in one step."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}{HALF}")
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, name)
    finally:  # it still exists if something failed, or if both were the same file, since rename then does nothing
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
