"""Pictures that are read where they are asked for: the same, to the bit, as an array of all of them."""

import csv
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinyres.data import (
    Augment,
    Compose,
    Loader,
    Mix,
    PictureError,
    Pictures,
    RandAugment,
    RandomResizedCrop,
    channel_statistics,
    image_folder,
    read_csv,
    read_picture,
    split_validation,
    stream,
)

N = 12


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of several sizes and kinds."""
    place, rng = tmp_path_factory.mktemp("stream"), np.random.default_rng(0)
    paths = [place / f"{i:02}.{('png', 'bmp')[i % 2]}" for i in range(N)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (12 + i, 20 - i, 3), np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def array(files):
    return np.stack([read_picture(path, 8, resize=9) for path in files])


indices = st.one_of(
    st.integers(-N, N - 1),
    st.slices(N),
    st.lists(st.integers(-N, N - 1), max_size=9),
    st.lists(st.booleans(), min_size=N, max_size=N).map(np.array),
    st.just(np.arange(N).reshape(3, 4)),
)


@given(indices)
def test_they_are_indexed_as_an_array_is(files, array, index):
    pictures = Pictures(files, 8, resize=9)
    found, expected = pictures[index], array[index]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert (pictures.shape, pictures.dtype, pictures.ndim, pictures.size) == (array.shape, np.uint8, 4, array.size)
    assert len(pictures) == N
    some = pictures.only(index)
    np.testing.assert_array_equal(some[:], expected.reshape(-1, 3, 8, 8))


@given(
    st.fixed_dictionaries(
        {
            "batch_size": st.integers(1, 9),
            "shuffle": st.booleans(),
            "drop_last": st.booleans(),
            "seed": st.integers(0, 99),
            "part": st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 3)]),
            "augment": st.sampled_from([None, Augment(pad=2, cutout=3), Augment(alternate=True)]),
            "mix": st.sampled_from([None, Mix(N, 1.0, 1.0)]),
            "transform": st.sampled_from([None, RandomResizedCrop(5), Compose([RandAugment(), RandAugment()])]),
        }
    ),
    st.integers(0, 5),
    st.data(),
)
def test_batches_are_those_of_the_array(files, array, options, epoch, data):
    how = {**options, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    loaders = [Loader(images, np.arange(N), **how) for images in (array, Pictures(files, 8, resize=9))]
    assert len(loaders[0]) == len(loaders[1])
    start = data.draw(st.integers(0, len(loaders[0])))
    for expected, found in zip(*(loader.epoch(epoch, start) for loader in loaders), strict=True):
        for a, b in zip(expected, found, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_array_equal(a, b)


def test_statistics_are_those_of_the_array(files, array):
    for a, b in zip(channel_statistics(array), channel_statistics(Pictures(files, 8, resize=9)), strict=True):
        np.testing.assert_array_equal(a, b)


@given(st.integers(0, N - 1), st.integers(0, 99))
def test_some_are_held_out_as_of_an_array(files, array, n, seed):
    expected = split_validation(array, np.arange(N), n, seed)
    for (a, y), (pictures, same) in zip(
        expected, split_validation(Pictures(files, 8, resize=9), np.arange(N), n, seed), strict=True
    ):
        assert isinstance(pictures, Pictures)
        np.testing.assert_array_equal(y, same)
        np.testing.assert_array_equal(pictures[:], a)


def test_only_a_few_batches_are_read_ahead(files, monkeypatch):
    read, made = [], threading.Event()

    def watched(path, **options):
        read.append(path)
        if len(read) == 6:
            made.set()
        return read_picture(path, **options)

    monkeypatch.setattr(stream, "read_picture", watched)
    pictures = Pictures(files, 8)
    split_validation(pictures, np.arange(N), 3)
    loader = Loader(pictures, np.arange(N), 2, shuffle=False)
    assert read == []
    epoch = loader.epoch(0)
    next(epoch)
    assert made.wait(10)
    threading.Event().wait(0.05)  # for more, which should not come
    assert sorted(read) == files[:6]  # the batch in use, and two more
    epoch.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tinyres-")]


@pytest.mark.parametrize("damage", [b"", b"no picture", None])
def test_a_picture_that_cannot_be_read_is_named(files, tmp_path, damage):
    bad = tmp_path / "bad.png"
    if damage is not None:
        bad.write_bytes(damage)
    loader = Loader(Pictures([*files[:5], bad, *files[5:]], 8), np.arange(N + 1), 4, shuffle=False)
    batches = loader.epoch(0)
    assert next(batches)[1].tolist() == [0, 1, 2, 3]
    with pytest.raises(PictureError, match=r"bad\.png: (no such file|not an image that can be read)"):
        next(batches)
    assert not [t for t in threading.enumerate() if t.name.startswith("tinyres-")]


def test_what_makes_no_sense_is_refused(files):
    with pytest.raises(ValueError, match="size: got 0 with resize None, expected 1 or more"):
        Pictures(files, 0)
    with pytest.raises(ValueError, match="size: got 8 with resize 7"):
        Pictures(files, 8, resize=7)
    with pytest.raises(IndexError, match="12 is out of bounds"):
        Pictures(files, 8)[N]
    with pytest.raises(ValueError, match="labels: expected one for each of 12 images, got 3"):
        Loader(Pictures(files, 8), np.arange(3), 4)


# ---------------------------------------------------------------- ways to them
@pytest.fixture
def folder(files, tmp_path):
    for i, path in enumerate(files):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[i % 2] / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_folder_can_be_streamed(folder, split):
    options = {"image_size": 8, "resize": 9, "seed": 3}
    whole, streamed = (image_folder(folder, split, **options, stream=s) for s in (False, True))
    assert isinstance(streamed.images, Pictures)
    assert isinstance(whole.images, np.ndarray)
    assert whole[2:] == streamed[2:]
    for name in ("images", "labels"):
        np.testing.assert_array_equal(getattr(whole, name)[:], getattr(streamed, name)[:])
    for error, options in ((ValueError, {"image_size": 8, "resize": 7}), (ValueError, {"image_size": 0})):
        with pytest.raises(error, match="size: "):
            image_folder(folder, split, **options, stream=True)


def test_a_list_can_be_streamed(folder, files, array):
    with (folder / "list.csv").open("w", newline="") as file:
        rows = [(f"{'ab'[i % 2]}/{path.name}", "ab"[i % 2]) for i, path in enumerate(files)]
        csv.writer(file).writerows([("file", "label"), *rows])
    table = read_csv(folder / "list.csv")
    ((x, y),) = Loader(Pictures(table.files, 8, resize=9), table.labels, N, shuffle=False)
    np.testing.assert_array_equal(x, array.astype(np.float32) / 255)
    np.testing.assert_array_equal(y, np.arange(N) % 2)
