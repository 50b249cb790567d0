"""Tables: what NumPy and the csv module write is read, and what is wrong with a file is said."""

import contextlib
import csv
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyres.data import DatasetError, DatasetNotFound, Loader, read_csv, read_npz, table


# ---------------------------------------------------------------- arrays
@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


dtypes = st.sampled_from([np.uint8, np.float32, np.float64])


@given(
    st.integers(0, 5),
    st.sampled_from([1, 3, 4]),
    st.sampled_from([2, 5, 8]),
    st.sampled_from([2, 6, 9]),
    dtypes,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_what_is_saved_is_read(place, n, channels, height, width, dtype, last, packed, said):
    x = np.random.default_rng(n).normal(100, 20, (n, channels, height, width)).astype(dtype)
    y = np.arange(n, dtype=np.int16)
    saved = x.transpose(0, 2, 3, 1) if last else x
    (np.savez_compressed if packed else np.savez)(place / "a.npz", pictures=saved, classes=y, more=np.zeros(3))
    layout = ("NHWC" if last else "NCHW") if said else None
    images, labels = read_npz(place / "a.npz", "pictures", "classes", layout=layout)
    assert images.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    assert images.flags.c_contiguous
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(images, x.astype(images.dtype))
    np.testing.assert_array_equal(labels, y)
    if n:
        assert len(list(Loader(images, labels, 2))) == (n + 1) // 2


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 3, 5, 7), 1), ((2, 5, 7, 3), 3), ((2, 3, 3, 9), 1), ((2, 9, 3, 3), 3), ((2, 16, 9, 4), 3)]
)
def test_channels_are_where_an_axis_has_their_length(tmp_path, shape, axis):
    x = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    np.savez(tmp_path / "a.npz", x=x, y=[0, 1])
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")[0], np.moveaxis(x, axis, 1))


@pytest.mark.parametrize("shape", [(2, 3, 5, 3), (2, 5, 5, 5), (2, 1, 9, 4)])
def test_where_it_may_be_either_it_has_to_be_said(tmp_path, shape):
    x = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    np.savez(tmp_path / "a.npz", x=x, y=[0, 1])
    with pytest.raises(
        DatasetError, match=r"a\.npz: x: got shape \(2, .*say which one by layout='NCHW' or layout='NHWC'"
    ):
        read_npz(tmp_path / "a.npz")
    for layout, axis in (("NCHW", 1), ("NHWC", 3)):
        np.testing.assert_array_equal(read_npz(tmp_path / "a.npz", layout=layout)[0], np.moveaxis(x, axis, 1))
    with pytest.raises(ValueError, match="layout: got 'CHWN', expected 'NCHW' or 'NHWC'"):
        read_npz(tmp_path / "a.npz", layout="CHWN")


def test_layouts_that_other_sets_have(tmp_path):
    """Grey images without an axis of channels, as Keras has them, and labels in a column, as MedMNIST does."""
    x = np.random.default_rng(0).integers(0, 256, (3, 9, 4), np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.array([[2], [0], [1]], np.uint8), q=np.eye(3))
    images, labels = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(images, x[:, None])
    assert labels.tolist() == [2, 0, 1]
    _, soft = read_npz(tmp_path / "a.npz", labels="q")
    assert (soft.dtype, soft.tolist()) == (np.float32, np.eye(3).tolist())


GOOD = {"x": np.zeros((2, 3, 5, 5), np.uint8), "y": np.zeros(2, np.int64)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 3, 5, 5), np.int64)}, r"a\.npz: x: got int64 of shape \(2, 3, 5, 5\), expected uint8 or"),
        ({"x": np.zeros((2, 75), np.uint8)}, r"x: got uint8 of shape \(2, 75\), expected"),
        ({"y": np.zeros((2, 2), np.int64)}, r"y: got int64 of shape \(2, 2\), expected whole numbers of shape \(N,\)"),
        ({"y": np.zeros(2)}, r"y: got float64 of shape \(2,\)"),
        ({"y": np.zeros((), np.int64)}, r"y: got int64 of shape \(\)"),
        ({"y": np.zeros(3, np.int64)}, "y: got 3 labels, expected one for each of 2 images"),
        ({"y": np.array(["cat", "dog"])}, r"y: got <U3 of shape \(2,\)"),
        ({"y": np.array([{}, {}])}, "not an .npz file of numbers that can be read .*allow_pickle"),
    ],
)
def test_what_is_no_set_of_images_is_refused(tmp_path, change, message):
    np.savez(tmp_path / "a.npz", **{**GOOD, **change})
    with pytest.raises(DatasetError, match=message):
        read_npz(tmp_path / "a.npz")


def test_arrays_that_are_there_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=GOOD["x"], y=GOOD["y"])
    with pytest.raises(DatasetError, match=r"a\.npz: images: got 'x', expected one of x_train, y"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(DatasetError, match=r"labels: got 'ytrain', .*x_train, y; did you mean x_train\?"):
        read_npz(tmp_path / "a.npz", "x_train", "ytrain")
    np.savez(tmp_path / "b.npz")
    with pytest.raises(DatasetError, match=r"b\.npz: images: got 'x', but the file is empty"):
        read_npz(tmp_path / "b.npz")
    with pytest.raises(DatasetNotFound, match=r"c\.npz: no such file"):
        read_npz(tmp_path / "c.npz")


@given(st.data())
def test_damage_is_noticed_or_harmless(place, data):
    np.savez(place / "whole.npz", **GOOD)
    content = bytearray((place / "whole.npz").read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[at] = data.draw(st.integers(0, 255))
    (place / "damaged.npz").write_bytes(content)
    with contextlib.suppress(DatasetError):  # and no other
        x, y = read_npz(place / "damaged.npz")
        assert len(x) == len(y)


def test_one_array_is_no_npz(tmp_path):
    np.save(tmp_path / "a.npy", GOOD["x"])
    with pytest.raises(DatasetError, match=r"a\.npy: not an \.npz file"):
        read_npz(tmp_path / "a.npy")


# ---------------------------------------------------------------- file names
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6)


def write(path, rows, **options):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **options).writerows(rows)
    return path


@given(st.lists(texts, min_size=1, max_size=8), st.sampled_from(",;\t"), st.booleans(), st.booleans())
def test_what_csv_writes_is_read(place, labels, delimiter, mark, other_names):
    names = [f'{i} "a", b; c.png' for i in range(len(labels))]
    for name in names:
        (place / name).touch()
    columns = ("bild", "art") if other_names else ("file", "label")
    rows = [("more", *columns), *((i, *row) for i, row in enumerate(zip(names, labels, strict=True)))]
    path = write(place / "a.csv", rows, delimiter=delimiter)
    if mark:  # as Excel begins a file
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    options = dict(zip(("file", "label"), columns, strict=True)) if other_names else {}
    found = read_csv(path, delimiter=delimiter, **options)
    assert found.files == tuple(place / name for name in names)
    assert [found.classes[i] for i in found.labels] == labels
    assert found.labels.dtype == np.int64
    assert set(found.classes) == set(labels)
    assert len(found.classes) == len(set(labels))
    again = read_csv(path, delimiter=delimiter, classes=found.classes[::-1], **options)
    np.testing.assert_array_equal(again.labels, len(found.classes) - 1 - found.labels)


@given(st.permutations(["1", "2", "10", "a", "a10", "a 2", "A 10", "a 010b", "b"]))
def test_classes_are_in_natural_order(names):
    assert table.natural(names) == ("1", "2", "10", "a", "a10", "a 2", "A 10", "a 010b", "b")


@given(st.lists(st.text(string.ascii_letters + string.digits + "² ٣-", max_size=6), max_size=8))
def test_any_names_have_one_order(names):
    assert table.natural(names) == table.natural(names[::-1])
    assert sorted(table.natural(names)) == sorted(names)


def test_files_may_lie_elsewhere(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    (tmp_path / "b.png").touch()
    path = write(tmp_path / "a.csv", [("file", "label"), ("pictures/a.png", "0"), (tmp_path / "b.png", "1")])
    assert read_csv(path).files == (tmp_path / "pictures" / "a.png", tmp_path / "b.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got no columns, and no file; say which column has it by file='...'"),
        ("name,label\n", r"got the columns name, label, and no file; .* by file='...'"),
        ("file,labels\n", r"and no label; did you mean labels\?; say which column has it by label='...'"),
        ("file,label,file\n", "and file twice; say which"),
        ("file,label\n", "got no rows below the names of the columns"),
        ("file,label\na.png,x\n\na.png,x\n", r"(?s)a\.csv: correct or remove\n  line 3: empty$"),
        ("file,label\n,\n", "line 2: empty"),
        ("file,label\na.png\n", "line 2: 1 columns, expected 2"),
        ("file,label\na.png,x,y\n", "line 2: 3 columns, expected 2"),
        ("file,label\na.png,\n", "line 2: no label"),
        ("file,label\n,x\n", "line 2: no name of a file"),
        ('file,label,note\na.png,x,"two\nlines"\nb.png,x,\n', r"line 4: no such file: .*b\.png"),
        ("file,label\na\0.png,x\n", r"line 2: no such file|not a CSV"),
        ('file,label\n"a.png,x\n', r"a\.csv: not a CSV in UTF-8 that can be read"),
        ("file,label\n" + "b.png,x\n" * 8, r"(?s)line 2: .*line 6: .*b\.png\n  and 3 more$"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, message):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_csv(tmp_path / "a.csv")


def test_other_mistakes(tmp_path):
    (tmp_path / "a.png").touch()
    path = write(tmp_path / "a.csv", [("file", "label"), ("a.png", "cat")])
    with pytest.raises(DatasetError, match=r"line 2: no such class: cat; did you mean cats\?"):
        read_csv(path, classes=["cats", "dogs"])
    with pytest.raises(ValueError, match="delimiter: got ', ', expected one character"):
        read_csv(path, delimiter=", ")
    with pytest.raises(DatasetNotFound, match=r"b\.csv: no such file, expected a CSV with the columns file and label"):
        read_csv(tmp_path / "b.csv")
    path.write_bytes("file,label\nä.png,x\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="not a CSV in UTF-8"):
        read_csv(path)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(place, content):
    (place / "b.csv").write_bytes(b"file,label\n" + content)
    with pytest.raises(DatasetError, match=r"b\.csv"):
        read_csv(place / "b.csv")
