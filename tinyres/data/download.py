"""Finding and downloading data sets."""

import os
import sys
import threading
from pathlib import Path

from platformdirs import user_cache_path

PROBE_SECONDS = 4.0  # without an answer in this time, there is no network
MOST = 2**32  # bytes that a file may hold when it is unpacked, so that a small one cannot fill the memory


class DatasetNotFound(FileNotFoundError):
    """The data set was not found, and could not be downloaded."""


class DatasetError(ValueError):
    """A file of the data set has the wrong content."""


def places_to_look(root: str | os.PathLike[str] | None) -> list[Path]:
    """The folders in which data sets are searched, in order.

    This is only `root`, if it is given. Else it is the folder in the environment variable ``TINYRES_DATA``, if it is
    set, and then the user's cache folder, to which data sets are downloaded.

    Examples
    --------
    >>> places_to_look("data")
    [PosixPath('data')]
    """
    if root is not None:
        return [Path(root)]
    variable = os.environ.get("TINYRES_DATA")
    return [*([Path(variable)] if variable else []), user_cache_path("tinyres")]


def download(url: str, filename: str, checksum: str, folder: Path) -> Path:
    """Download a file to a folder, which is created if necessary. Check its checksum, and return its path.

    Raises
    ------
    OSError
        If the download fails. Without a network, this takes less than five seconds.
    DatasetError
        If the checksum is wrong.
    """
    import pooch  # it and requests are slow to import, and rarely needed

    _probe(url)
    # pooch writes to a temporary file, and moves it into place when it is whole and its checksum right.
    downloader = pooch.HTTPDownloader(progressbar=_Progress(filename), chunk_size=1 << 16, timeout=(3, 20))
    try:
        path = pooch.retrieve(url, known_hash=checksum, fname=filename, path=folder, downloader=downloader)
    except ValueError as error:
        if isinstance(error, OSError):  # requests has errors that are both
            raise
        raise DatasetError(f"{url}: the downloaded file is not the published one ({error})") from error
    return Path(path)


def _probe(url: str) -> None:
    """Raise OSError soon if the server cannot be reached.

    A socket's timeout does not include the name lookup, and a name may have many addresses, which are tried one by one.
    So a daemon thread makes the request, and is abandoned when the time is over.
    """
    outcome: list[Exception | None] = []

    def ask() -> None:
        import requests

        try:
            requests.head(url, timeout=3)
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, name="tinyres-probe", daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if not outcome:
        raise TimeoutError(f"no answer within {PROBE_SECONDS:g} s")
    if outcome[0] is not None:
        raise ConnectionError(str(outcome[0])) from outcome[0]


class _Progress:
    """A progress bar for pooch: it prints a percentage, if the output is a terminal."""

    total = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = 0
        self.shown = -1

    def update(self, count: int) -> None:
        self.done += count
        percent = min(100, 100 * self.done // max(1, self.total))
        if percent != self.shown and sys.stderr.isatty():
            print(f"\r{self.name}: {percent:3d} %", end="", file=sys.stderr, flush=True)
        self.shown = percent

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)
