"""Files are written whole or not at all, whatever fails meanwhile; and only what is a file is replaced."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinyres import checkpoints


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


class FullDisk:
    """A file that takes some bytes and then no more."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        full()


def break_write(monkeypatch):
    fdopen = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *args: FullDisk(fdopen(*args)))


BREAKS = {"write": break_write} | {
    name: lambda monkeypatch, name=name: monkeypatch.setattr(os, name, full)
    for name in ("open", "fsync", "replace", "chmod")
}


@pytest.mark.parametrize("where", BREAKS)
@pytest.mark.parametrize("exists", [True, False])
def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where, exists):
    path = tmp_path / "last.safetensors"
    if exists:
        checkpoints.save(path, {"a": np.zeros(1000)}, {"step": 1})
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        BREAKS[where](patch)
        message = r"No space left on device \(while writing; the old file is unchanged\): '.*last.safetensors'"
        with pytest.raises(OSError, match=message) as caught:
            checkpoints.save(path, {"a": np.ones(1000)}, {"step": 2}, keep=tmp_path / "previous")
    assert caught.value.errno == errno.ENOSPC
    (tmp_path / "previous").unlink(missing_ok=True)  # by then, the old file has two names
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    checkpoints.save(path, {"a": np.ones(1000)}, {"step": 2})
    assert checkpoints.load(path)[1]["step"] == 2
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_cannot_be_flushed_is_told_apart(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    checkpoints.save(path, {}, {"step": 1})
    flush, calls = os.fsync, iter([False, True])
    monkeypatch.setattr(os, "fsync", lambda descriptor: full() if next(calls) else flush(descriptor))
    with pytest.raises(OSError, match=r"it is written, but may not survive a power failure"):
        checkpoints.save(path, {}, {"step": 2}, keep=tmp_path / "previous")
    assert checkpoints.load(path)[1]["step"] == 2
    assert checkpoints.load(tmp_path / "previous")[1]["step"] == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_previous_that_is_the_last_already_leaves_nothing_else(tmp_path):
    """As after a crash between the two renames: the system renames nothing where both names are of one file."""
    path, previous = tmp_path / "last.safetensors", tmp_path / "previous.safetensors"
    checkpoints.save(path, {}, {"step": 1})
    os.link(path, previous)
    checkpoints.save(path, {}, {"step": 2}, keep=previous)
    assert [checkpoints.load(p)[1]["step"] for p in (previous, path)] == [1, 2]
    assert {*tmp_path.iterdir()} == {path, previous}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a file's size")
def test_limit_of_file_size(tmp_path):
    """A real error of the system in the middle of a write. In a process of its own: a limit cannot be raised again."""
    code = (
        "import resource, numpy as np; from tinyres import checkpoints\n"
        "checkpoints.save('a', {}, {'step': 1})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "checkpoints.save('a', {'w': np.zeros(5000)}, {'step': 2})"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stderr.endswith("File too large (while writing; the old file is unchanged): 'a'\n")
    assert checkpoints.load(tmp_path / "a")[1]["step"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_interrupted_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    checkpoints.save(path, {}, {"step": 1})

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(path, {}, {"step": 2})
    assert list(tmp_path.iterdir()) == [path]
    assert checkpoints.load(path)[1]["step"] == 1


def test_content_is_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    checkpoints.save(tmp_path / "a", {}, {})
    assert calls == ["fsync", "replace", "fsync"] or (not hasattr(os, "O_DIRECTORY") and calls == ["fsync", "replace"])


def test_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_bytes(b"before")
    (tmp_path / "link").symlink_to(Path("other") / "a")
    checkpoints.write_whole(tmp_path / "link", b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "other" / "a").read_bytes() == b"after"
    assert len([*tmp_path.rglob("*")]) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_what_is_no_file_is_written_to(tmp_path):
    """A named pipe here; it could be /dev/null, which root could replace."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    checkpoints.write_whole(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    with pytest.raises(FileExistsError):
        checkpoints.write_whole(tmp_path / "pipe", b"through", new=True)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("links", [True, False])
def test_new_file_replaces_none(tmp_path, monkeypatch, links):
    """On a file system without hard links too."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    checkpoints.write_whole(tmp_path / "a", b"first", new=True)
    with pytest.raises(FileExistsError, match=r"\(while writing; the old file is unchanged\): .*a'"):
        checkpoints.write_whole(tmp_path / "a", b"second", new=True)
    assert (tmp_path / "a").read_bytes() == b"first"
    assert len([*tmp_path.iterdir()]) == 1


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoints.save(tmp_path / "no" / "a", {}, {})
