"""Files of arrays: safetensors, read with clear errors and never unpickled, written whole or not at all."""

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
"""Shell command that makes a safetensors file of a state dict that PyTorch saved, or of a checkpoint with one under
"state_dict"; it needs torch and safetensors."""

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save, new and old

CHECKSUM = "sha256"
HALF = ".part"  # how the name of a file ends that is not whole yet


class CheckpointError(ValueError):
    """A file is not a checkpoint, is damaged, or is of another model."""


def read_arrays(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a safetensors file: its arrays by name, and its metadata.

    Raises
    ------
    CheckpointError
        Where it is missing, is not safetensors, or is damaged or cut off; where its metadata holds a ``"sha256"``, a
        single bit that differs is noticed. A file of PyTorch's own kind is a pickle, which can run code when it is
        read; it is recognised by its first bytes, and the message says how to convert it.
    """
    with _opened(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        for array in arrays.values():
            if array.dtype.kind not in "fiubc":  # other packages teach NumPy such types, and only while they are loaded
                raise TypeError(array.dtype.name)
        metadata = file.metadata() or {}
    if CHECKSUM in metadata and metadata[CHECKSUM] != digest(arrays, metadata):
        raise CheckpointError(
            f"{path}: damaged: its content is not what was written (its SHA-256 differs). Take a copy, or another "
            "checkpoint of the run: renamed last.safetensors, previous.safetensors can be resumed"
        )
    return arrays, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata alone, with the errors of `read_arrays`; the arrays are not read."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder, expected a checkpoint such as {path / 'best.safetensors'}")
    if path.exists() and not path.is_file():  # to open a pipe is to wait for whoever writes
        raise CheckpointError(f"{path}: a pipe or a device, expected a file: write its content to one first")
    try:
        with path.open("rb") as start:
            first = start.read(9)
            if first.startswith(_PICKLES) and first[8:] != b"{":  # a header of 640 bytes begins like a pickle, too
                raise CheckpointError(
                    f"{path}: a pickle, as torch.save writes, which can run code when it is read; tinyres does not "
                    f"open it. Convert it once, where you trust it:\n  {CONVERT}"
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
        raise CheckpointError(f"{path}: holds a type of number that NumPy does not have ({error})") from error


def part(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    """The arrays whose names start with ``<prefix>.``, without it.

    Examples
    --------
    >>> part({'model.w': np.zeros(2), 'optimizer.0': np.ones(2)}, 'model')
    {'w': array([0., 0.])}
    """
    return {name.removeprefix(f"{prefix}."): a for name, a in arrays.items() if name.startswith(f"{prefix}.")}


def digest(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """SHA-256, in hexadecimal, of arrays (names, dtypes, shapes, every bit) and metadata, in whatever order they come.

    What the metadata holds under ``"sha256"`` does not count.
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        total.update(f"{name!r} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    for key in sorted(metadata.keys() - {CHECKSUM}):
        total.update(f"{key!r} {metadata[key]!r}\n".encode())
    return total.hexdigest()


def write_whole(path: str | Path, content: bytes, *, keep: str | Path | None = None) -> None:
    """Replace a file's content in one step: temporary file, fsync, rename, fsync of the folder.

    Where `keep` is given, what the file held before is there afterwards, and at no moment nowhere.

    Raises
    ------
    OSError
        Of the kind that the system reports, naming `path`. Either nothing has changed, or, where the folder could not
        be flushed at the very end, the new file is in its place, and only a power failure could undo that. The message
        says which.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.txt")
    >>> write_whole(path, b'all or nothing')
    >>> path.read_text()
    'all or nothing'
    """
    path, temporary = Path(path), None
    outcome = "what was there before is unchanged"
    try:
        with _to_be_flushed(path.parent) as flush:  # opened before anything is changed
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=HALF)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes it private
            if keep is not None and path.exists():
                _link(path, Path(keep))
            os.replace(temporary, path)
            temporary, outcome = None, "it is written, but may not survive a power failure"
            flush()
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (while writing; {outcome})", str(path)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # `remove_leftovers` tries again
                os.unlink(temporary)


@contextmanager
def _to_be_flushed(folder: Path) -> Iterator[Callable[[], None]]:
    """Yields a function that flushes the folder's entries to the disk; on Windows, which has no such thing, nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        yield lambda: None
        return
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        yield lambda: os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what `write_whole` had not finished in a folder when its process was killed."""
    for path in Path(folder).glob(f".*{HALF}"):
        path.unlink(missing_ok=True)


def _link(path: Path, name: Path) -> None:
    """Make `name` another name of a file, or a copy where the file system has no such thing, in one step."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}{HALF}")
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, name)
    finally:  # there where something failed, or both were one file before: then the rename does nothing
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
