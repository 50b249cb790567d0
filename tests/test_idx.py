"""IDX files, and the data sets that come in them."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import json
import struct
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from support.runs import install_tiny
from typer.testing import CliRunner

from tinyres import data
from tinyres.cli import app
from tinyres.data import DatasetError, DatasetNotFound, download, fashion_mnist, idx, kmnist, mnist, read_idx
from tinyres.runs import read_config
from tinyres.splits import load_data

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
arrays = st.sampled_from(sorted(CODES)).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


def packed(array):
    """As the format's description says."""
    lengths = struct.pack(f">{array.ndim}I", *array.shape)
    big = array.astype(array.dtype.newbyteorder(">"))
    return bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim]) + lengths + big.tobytes()


@given(arrays, st.booleans())
def test_what_is_written_is_read(tmp_path_factory, array, zipped):
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(packed(array), 1) if zipped else packed(array))
    found = read_idx(path)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable
    assert found.dtype.isnative


@given(arrays, st.booleans(), st.data())
def test_a_file_of_another_length_is_refused(tmp_path_factory, array, zipped, data):
    """Cut off anywhere, or with something behind it."""
    path = tmp_path_factory.mktemp("idx") / "file"
    whole = packed(array)
    changed = whole[: data.draw(st.integers(0, len(whole) - 1))] if data.draw(st.booleans()) else whole + b"x"
    path.write_bytes(gzip.compress(changed, 1) if zipped else changed)
    with pytest.raises(DatasetError, match=r"file: (not an IDX file|cut off|expected .* bytes)"):
        read_idx(path)


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("idx") / "file"
    for start in (b"", b"\0\0\x08\x01", b"\x1f\x8b\x08"):
        path.write_bytes(start + content)
        with contextlib.suppress(DatasetError):
            read_idx(path)


@pytest.mark.parametrize("axes", [2, 255])
def test_lengths_that_no_memory_holds_are_refused(tmp_path, axes):
    (tmp_path / "file").write_bytes(bytes([0, 0, 8, axes]) + b"\xff\xff\xff\xff" * axes)
    with pytest.raises(DatasetError, match=r"its header gives a size of .* bytes, expected 4,294,967,296 at most"):
        read_idx(tmp_path / "file")


# ---------------------------------------------------------------- the sets
LOADS = {"MNIST": mnist, "FASHION_MNIST": fashion_mnist, "KMNIST": kmnist}


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("TINYRES_DATA", raising=False)
    monkeypatch.setattr(download, "user_cache_path", lambda name: tmp_path / "cache")


def write(folder, *, zipped=True, seed=0):
    """A small set; what should be read, by split."""
    folder.mkdir(parents=True)
    rng, expected = np.random.default_rng(seed), {}
    for split, n in (("train", 7), ("test", 3)):
        images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n).astype(np.uint8)
        for name, array in zip(idx.FILES[split], (images, labels), strict=True):
            content = packed(array)
            (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)
        expected[split] = images[:, None], labels.astype(np.int64)
    return expected


def assert_same(found, expected):
    assert [a.dtype for a in found] == [np.uint8, np.int64]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_is_read(tmp_path, name, zipped, inside, split):
    folder = tmp_path / "data" / getattr(idx, name).folder / "raw"
    expected = write(folder, zipped=zipped)
    assert_same(LOADS[name](folder if inside else tmp_path / "data", split), expected[split])


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_a_network_is_trained_on_a_set_and_predicts_a_grey_picture(tmp_path, monkeypatch, name):
    """In three equal channels, by which all else is as with other sets."""
    install_tiny(monkeypatch)
    folder = tmp_path / "data" / getattr(idx, name.upper()).folder / "raw"
    expected = write(folder)
    where = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    how = ["--model", "tiny", "--epochs", "1", "--batch-size", "3", "--validation", "2", "--no-flip"]
    result = CliRunner().invoke(app, ["train", "--dataset", name, *where, *how])
    assert result.exit_code == 0, result.output
    found = load_data(read_config(tmp_path / "run"))
    np.testing.assert_array_equal(found.test[0], np.concatenate([expected["test"][0]] * 3, axis=1))
    np.testing.assert_array_equal(found.test[1], expected["test"][1])
    assert len(found.train[1]) == 5
    assert found.mean.tolist() == [found.mean[0]] * 3
    picture = tmp_path / "grey.png"
    Image.fromarray(expected["test"][0][0, 0]).save(picture)
    best = str(tmp_path / "run" / "best.safetensors")
    result = CliRunner().invoke(app, ["predict", best, str(picture), "--json"])
    assert result.exit_code == 0, result.output
    classes = getattr(data, f"{name.upper()}_CLASSES")
    assert {row["class"] for row in json.loads(result.output)[0]["top"]} <= set(classes)
    np.testing.assert_array_equal(data.read_picture(picture, 28), found.test[0][0])  # what it was trained on
    result = CliRunner().invoke(app, ["eval", best])
    assert result.exit_code == 0, result.output


def test_sets_of_the_same_names_are_kept_apart(tmp_path, monkeypatch):
    """In a folder that is only looked through, files count where their set's name is on the folder."""
    expected = [write(tmp_path / getattr(idx, name).folder / "raw", seed=i)["test"] for i, name in enumerate(LOADS)]
    write(tmp_path / "bare")
    monkeypatch.setenv("TINYRES_DATA", str(tmp_path))
    for load, wanted in zip(LOADS.values(), expected, strict=True):
        assert_same(load(split="test"), wanted)
    monkeypatch.setenv("TINYRES_DATA", str(tmp_path / "bare"))
    with pytest.raises(DatasetNotFound, match=r"(?s)MNIST was not found: .*bare/MNIST/raw or .*cache/MNIST/raw"):
        mnist(download=False)


def test_how_to_supply_it_is_said(tmp_path):
    with pytest.raises(DatasetNotFound, match=r"(?s)there is no train-images-idx3-ubyte in .*/raw, and pass"):
        fashion_mnist(tmp_path)
    with pytest.raises(ValueError, match="split: expected one of 'train', 'test', got 'val'"):
        mnist(tmp_path, "val")


@pytest.mark.parametrize(
    ("which", "array", "message"),
    [
        (0, np.zeros((7, 28), "u1"), r"got uint8 of shape \(7, 28\), expected uint8 with 3 axes"),
        (0, np.zeros((7, 28, 28), "f4"), r"got float32 of shape .*, expected uint8 with 3 axes"),
        (1, np.zeros((7, 1), "u1"), r"got uint8 of shape \(7, 1\), expected uint8 with 1 axes"),
        (1, np.zeros(6, "u1"), "6 labels, for the 7 images of"),
        (1, np.array([0, 1, 10, 3, 4, 5, 6], "u1"), "label 2 is 10, expected 0 to 9"),
    ],
)
def test_another_set_in_their_place_is_refused(tmp_path, which, array, message):
    write(tmp_path / "raw", zipped=False)
    (tmp_path / "raw" / idx.FILES["train"][which]).write_bytes(packed(array))
    with pytest.raises(DatasetError, match=message):
        mnist(tmp_path / "raw")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A small set, in the place from which it is downloaded."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    expected = write(tmp_path / "served")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    files = [name for names in idx.FILES.values() for name in names]
    sums = [
        hashlib.md5((tmp_path / "served" / f"{n}.gz").read_bytes(), usedforsecurity=False).hexdigest() for n in files
    ]
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path / "served")
    ) as instance:
        thread = threading.Thread(target=instance.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{instance.server_port}/"
        monkeypatch.setattr(idx, "MNIST", idx.MNIST._replace(url=url, md5=tuple(sums)))
        yield expected
        instance.shutdown()


def test_a_download_is_checked_and_kept(served, tmp_path, monkeypatch):
    assert_same(mnist(split="test"), served["test"])
    kept = tmp_path / "cache" / "MNIST" / "raw"
    assert sorted(p.name for p in kept.iterdir()) == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    assert_same(mnist(), served["train"])
    monkeypatch.setattr(idx, "download", None)  # not called again
    assert_same(mnist(), served["train"])
    monkeypatch.undo()


def test_a_download_of_something_else_is_refused(served, tmp_path):
    (tmp_path / "served" / "train-labels-idx1-ubyte.gz").write_bytes(b"<html>")
    with pytest.raises(DatasetError, match="the downloaded file is not the published one"):
        mnist()
    (tmp_path / "served" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DatasetNotFound, match="404"):
        mnist()
