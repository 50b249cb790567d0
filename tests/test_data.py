"""Data: the loader's promises, CIFAR's files good and bad, the drawn shapes.

This file is long because the loader makes a dozen promises, and CIFAR's files can be wrong in as many ways.
"""

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import shlex
import socket
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyres.data import (
    CLASSES,
    SHAPES_CLASSES,
    Augment,
    DatasetError,
    DatasetNotFound,
    Loader,
    Mix,
    channel_statistics,
    cifar,
    cifar10,
    cifar100,
    download,
    shapes,
    split_validation,
)

STILL = {"mean": [0.0], "std": [1.0]}


# ---------------------------------------------------------------- loader
def numbered(n, size=4):
    """n random images of one channel, labelled by their own index."""
    return np.random.default_rng(n).integers(0, 256, (n, 1, size, size), np.uint8), np.arange(n)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tinyres-loader")]


seeds = st.integers(0, 2**40)
loaders = st.fixed_dictionaries(
    {"batch_size": st.integers(1, 9), "shuffle": st.booleans(), "drop_last": st.booleans(), "seed": seeds}
)


@given(st.integers(0, 30), loaders, st.integers(0, 100))
def test_epoch_has_each_image_once(n, options, epoch):
    images, labels = numbered(n)
    loader = Loader(images, labels, **options, **STILL)
    batches = list(loader.epoch(epoch))
    assert len(batches) == len(loader)
    seen = [i for _, y in batches for i in y]
    assert len(set(seen)) == len(seen) == (n - n % options["batch_size"] if options["drop_last"] else n)
    for x, y in batches:
        assert x.dtype == np.float32
        assert x.transpose(0, 2, 3, 1).flags.c_contiguous
        assert y.dtype == np.int64
        np.testing.assert_array_equal(x, images[y].astype(np.float32) / 255)


@given(st.integers(1, 30), loaders, st.integers(0, 100), st.data())
def test_epoch_can_be_joined_at_any_batch(n, options, epoch, data):
    loader = Loader(*numbered(n), **options, **STILL, augment=Augment(pad=2, cutout=2))
    start = data.draw(st.integers(0, len(loader)))
    whole, rest = list(loader.epoch(epoch)), list(loader.epoch(epoch, start))
    assert len(rest) == len(whole) - start
    for (x, y), (x_again, y_again) in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(x, x_again)
        np.testing.assert_array_equal(y, y_again)


@given(seeds, st.integers(0, 100), st.integers(0, 100))
def test_epochs_and_seeds_differ(seed, epoch, other):
    images, labels = numbered(40)
    loader = Loader(images, labels, 20, **STILL, seed=seed, augment=Augment())
    order = [i for _, y in loader.epoch(epoch) for i in y]
    if epoch != other:
        assert order != [i for _, y in loader.epoch(other) for i in y]
    reseeded = Loader(images, labels, 20, **STILL, seed=seed + 1)
    assert order != [i for _, y in reseeded.epoch(epoch) for i in y]
    in_place = Loader(images, labels, 20, **STILL, seed=seed, augment=Augment(), shuffle=False)
    assert [i for _, y in in_place.epoch(epoch) for i in y] == list(range(40))
    if epoch != other:  # the same images, varied differently
        assert not np.array_equal(next(in_place.epoch(epoch))[0], next(in_place.epoch(other))[0])


def test_first_batch_is_not_varied_by_the_numbers_that_ordered_the_epoch():
    loader = Loader(*numbered(40), 40, **STILL, augment=Augment(pad=0))
    order = np.random.default_rng([0, 0]).permutation(40)
    x, y = next(loader.epoch(0))
    assert np.array_equal(y, order)
    reused = Augment(pad=0)(loader.images, order, **STILL, rng=np.random.default_rng([0, 0]))
    assert not np.array_equal(x, reused)


def test_batches_are_prepared_ahead_but_not_far():
    made = []
    loader = Loader(*numbered(10), 1, **STILL, shuffle=False)
    batch = loader._batch
    loader._batch = lambda *args: (made.append(args), batch(*args))[1]
    epoch = loader.epoch(0)
    next(epoch)
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(made) == 3
    epoch.close()


def test_thread_ends_when_the_epoch_is_left_early():
    loader = Loader(*numbered(100), 1, **STILL)
    assert not loader_threads()
    for _ in loader.epoch(0):
        assert loader_threads()
        break
    assert not loader_threads()
    for _ in zip(range(3), loader.epoch(0), strict=False):
        pass
    assert not loader_threads()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in loader.epoch(0):
            raise ZeroDivisionError
    list(loader.epoch(0))
    assert not loader_threads()


def test_thread_does_not_start_before_it_is_needed():
    epoch = Loader(*numbered(4), 1, **STILL).epoch(0)
    assert not loader_threads()
    epoch.close()


def test_error_on_the_thread_reaches_the_caller():
    class Broken(Augment):
        def __call__(self, images, index, **options):
            if 7 in index:
                raise RuntimeError("seven")
            return super().__call__(images, index, **options)

    loader = Loader(*numbered(10), 1, **STILL, shuffle=False, augment=Broken())
    seen = []
    with pytest.raises(RuntimeError, match="seven"):
        seen.extend(int(y[0]) for _, y in loader.epoch(0))
    assert not loader_threads()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, r"batch_size: expected 1 or more, got 0"),
        (
            {"images": np.zeros((3, 1, 4, 4), np.float16)},
            r"images: expected uint8 of shape .*, or float32, got float16",
        ),
        ({"images": np.zeros((3, 0, 4, 4))}, r"images: .* got float64 of shape \(3, 0, 4, 4\)"),
        ({"images": np.full((3, 1, 4, 4), 1e39)}, r"images: got NaN or infinity, as float32, in number 0"),
        ({"images": np.zeros((3, 4, 4), np.uint8)}, r"images: .* got uint8 of shape \(3, 4, 4\)"),
        ({"labels": [0, 1, 2]}, r"labels: expected a NumPy array, got list; np\.asarray makes one"),
        ({"images": [[[[0]]]] * 3}, r"images: expected a NumPy array, got list"),
        ({"labels": np.arange(4)}, r"labels: expected one for each of 3 images, got 4"),
        ({"labels": np.arange(3, dtype=np.int32)}, r"labels: expected int64 of shape \(N,\), or .*, got int32"),
        ({"labels": np.zeros((3, 1), np.int64)}, r"labels: .* got int64 of shape \(3, 1\)"),
        ({"labels": np.zeros(3)}, r"labels: .* or float32 of shape \(N, K\), got float64 of shape \(3,\)"),
        ({"labels": np.array([[0.0], [0.0], [np.nan]])}, r"labels: got NaN or infinity, as float32, in number 2"),
        ({"labels": np.zeros((3, 2)), "mix": Mix(3, 1.0)}, r"mix: got 3 classes, expected 2, as in labels"),
        ({"weight": [1.0, 2.0]}, r"weight: expected a number for each of 3 images, got float64 of shape \(2,\)"),
        ({"weight": [1.0, -2.0, 0.0]}, r"weight: got -2.0, expected 0 or more"),
        ({"weight": [1.0, np.inf, 0.0]}, r"weight: got NaN or infinity, as float32, in number 1"),
        ({"weight": [1.0] * 3, "mix": Mix(3, 1.0)}, r"weight: got both weight and mix, expected one of the two"),
        ({"transform": "crop"}, r"transform: got str, expected a callable"),
        ({"mean": [0.5] * 3}, r"mean: expected one number for each of 1 channels"),
        ({"std": 1.0}, r"std: expected one number for each of 1 channels"),
        ({"std": [0.0]}, r"std: expected positive numbers, got \[0\.\]"),
        ({"std": [np.inf]}, r"std: expected finite numbers, got \[inf\]"),
        ({"mean": [np.nan]}, r"mean: expected finite numbers, got \[nan\]"),
        ({"seed": -1}, r"seed: expected 0 or more, got -1"),
    ],
)
def test_loader_says_what_is_wrong(change, message):
    images, labels = numbered(3)
    arguments = {"images": images, "labels": labels, "batch_size": 2, **STILL, **change}
    with pytest.raises(ValueError, match=message):
        Loader(**arguments)


def test_epoch_says_what_is_wrong_at_once():
    loader = Loader(*numbered(3), 2, **STILL)
    with pytest.raises(ValueError, match=r"epoch: expected 0 or more, got -1"):
        loader.epoch(-1)
    with pytest.raises(ValueError, match=r"start: expected 0 to 2, got 3"):
        loader.epoch(0, start=3)


@given(st.integers(1, 30), seeds, st.data())
def test_split_parts_the_images(n, seed, data):
    images, labels = numbered(n)
    held = data.draw(st.integers(0, n - 1))
    (train_images, train), (validation_images, validation) = split_validation(images, labels, held, seed)
    assert len(validation) == held
    assert sorted([*train, *validation]) == list(range(n))
    np.testing.assert_array_equal(train_images, images[train])
    np.testing.assert_array_equal(validation_images, images[validation])
    np.testing.assert_array_equal(split_validation(images, labels, held, seed)[1][1], validation)


def test_iterating_gives_one_epoch_after_the_other():
    loader = Loader(np.zeros((10, 1, 2, 2), np.uint8), np.arange(10), 4, mean=[0.5], std=[1.0], seed=3)
    for epoch in range(3):
        for (_, y), (_, expected) in zip(loader, loader.epoch(epoch), strict=True):
            np.testing.assert_array_equal(y, expected)
    loader.next_epoch = 1
    assert [y.tolist() for _, y in loader] == [y.tolist() for _, y in loader.epoch(1)]


# ---------------------------------------------------------------- arrays of one's own
def together(batches):
    """What all batches hold: images, labels, and weights if there are."""
    return [np.concatenate(arrays) for arrays in zip(*batches, strict=True)]


@given(st.integers(1, 20), loaders, st.integers(1, 6), st.sampled_from([np.float32, np.float64]))
def test_floats_are_used_in_their_own_units(n, options, channels, dtype):
    rng = np.random.default_rng(options["seed"])
    images = rng.normal(100, 300, (n, channels, 3, 4)).astype(dtype)
    mean, std = rng.normal(0, 50, channels), rng.uniform(1, 9, channels)
    for x, y in Loader(images, np.arange(n), **options):
        np.testing.assert_array_equal(x, images[y].astype(np.float32))
    mean, std = mean.astype(np.float32), std.astype(np.float32)
    for x, y in Loader(images, np.arange(n), **options, mean=mean, std=std):
        expected = (images[y].astype(np.float32) - mean[:, None, None]) / std[:, None, None]
        np.testing.assert_array_equal(x, expected)


@given(st.integers(1, 12), seeds)
def test_floats_are_varied_as_bytes_are(n, seed):
    """With bytes as floats, in units of 255: the same crops, flips and holes, and the same blank around them."""
    images, labels = numbered(n, size=6)
    how = {"seed": seed, "augment": Augment(pad=2, cutout=3)}
    x, y = together(Loader(images, labels, 5, **how, mean=[0.25], std=[0.5]))
    own, own_labels = together(Loader(images.astype(np.float32), labels, 5, **how, mean=[63.75], std=[127.5]))
    np.testing.assert_array_equal(y, own_labels)
    np.testing.assert_allclose(own, x, atol=1e-6)  # a few roundings of numbers up to 1.5


@given(st.integers(1, 20), loaders)
def test_without_mean_and_std_black_is_0_and_white_is_1(n, options):
    images, labels = numbered(n)
    x, y = images[:0].astype(np.float32), labels[:0]
    for x, y in Loader(images, labels, **options):
        np.testing.assert_array_equal(x, images[y].astype(np.float32) / 255)


@given(st.integers(1, 30), loaders, st.integers(0, 9), st.integers(1, 3))
def test_weights_and_soft_labels_stay_with_their_images(n, options, epoch, parts):
    images, labels = numbered(n)
    soft = np.stack([labels, labels + 0.5], 1)
    for which in range(parts):
        how = {**options, "part": (which, parts)}
        hard_batches = list(Loader(images, labels, **how).epoch(epoch))
        batches = list(Loader(images, soft, **how, weight=labels + 1).epoch(epoch))
        for (x, y), (same, q, w) in zip(hard_batches, batches, strict=True):
            np.testing.assert_array_equal(same, x)
            np.testing.assert_array_equal(q, soft[y])
            np.testing.assert_array_equal(w, y + 1)
            assert q.dtype == w.dtype == np.float32


@given(st.integers(1, 12), seeds, st.booleans())
def test_probabilities_are_mixed_as_classes_are(n, seed, cut):
    images, labels = numbered(n)[0], np.arange(n) % 4
    how = {"seed": seed, "mix": Mix(4, cutmix=1.0) if cut else Mix(4, mixup=1.0)}
    for hard, soft in zip(Loader(images, labels, 5, **how), Loader(images, np.eye(4)[labels], 5, **how), strict=True):
        for a, b in zip(hard, soft, strict=True):
            np.testing.assert_array_equal(a, b)


def test_data_is_left_as_it_is():
    images = np.random.default_rng(0).normal(size=(6, 2, 4, 4))
    images.flags.writeable = False

    def spoil(image, rng):
        image[...] = 0
        return image

    assert not next(iter(Loader(images, np.arange(6), 6, transform=spoil)))[0].any()
    assert images.any()


# ---------------------------------------------------------------- transforms
def jumble(image, rng):
    """Another image each time, wider by a row and a column."""
    return rng.permutation(np.pad(image, ((0, 0), (0, 1), (1, 0))).ravel()).reshape(len(image), 5, 5)


@given(st.integers(1, 20), loaders, st.integers(0, 9), st.booleans())
def test_a_transform_depends_on_seed_epoch_and_place_alone(n, options, epoch, floats):
    images, labels = numbered(n)
    images = images.astype(np.float32) if floats else images
    scale = 1 if floats else 255
    place = 0
    for x, y in Loader(images, labels, **options, transform=jumble).epoch(epoch):
        assert x.shape[1:] == (1, 5, 5)
        for image, label in zip(x, y, strict=True):
            rng = np.random.default_rng([options["seed"], epoch, 0, place + 1])
            np.testing.assert_array_equal(image, jumble(images[label], rng).astype(np.float32) / np.float32(scale))
            place += 1


@given(st.integers(1, 20), loaders, st.integers(1, 4), st.sampled_from([None, Mix(20, 0.5, 0.5)]))
def test_parts_are_transformed_as_the_whole(n, options, parts, mix):
    images, labels = numbered(n)
    how = {**options, "transform": jumble, "augment": Augment(pad=1, cutout=2, alternate=True), "mix": mix}
    whole = list(Loader(images, labels, **how).epoch(3))
    some = [list(Loader(images, labels, **how, part=(k, parts)).epoch(3)) for k in range(parts)]
    for number, (x, q) in enumerate(whole):
        pieces = [part[number] for part in some if len(part[number][1])]
        np.testing.assert_array_equal(np.concatenate([piece[0] for piece in pieces]), x)
        np.testing.assert_array_equal(np.concatenate([piece[1] for piece in pieces]), q)


@given(st.integers(1, 20), loaders)
def test_a_transform_that_does_nothing_changes_nothing(n, options):
    images, labels = numbered(n)
    how = {**options, "augment": Augment(pad=2, cutout=2, alternate=True)}
    plain, same = (list(Loader(images, labels, **how, transform=t).epoch(1)) for t in (None, lambda image, rng: image))
    for a, b in zip(plain, same, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def sizes(image, rng):
    return image[:, : rng.integers(1, 5)]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda image, rng: None, r"transform: got NoneType from .*<lambda>, expected uint8 of shape \(1, H, W\)"),
        (lambda image, rng: image / 255, r"transform: got float64 of shape \(1, 4, 4\) from .* expected uint8 of"),
        (lambda image, rng: image[0], r"transform: got uint8 of shape \(4, 4\) from .*, expected uint8 of"),
        (lambda image, rng: np.stack([image[0]] * 3), r"transform: got uint8 of shape \(3, 4, 4\) from .* \(1, H, W\)"),
        (lambda image, rng: image[:, :0], r"transform: got uint8 of shape \(1, 0, 4\) from"),
        (sizes, r"transform: got .* from sizes, expected shape \(1, ., 4\) as of the other images of the batch"),
        (functools.partial(sizes), r"transform: got .* from partial, expected"),
    ],
)
def test_what_a_transform_must_not_give(transform, message):
    with pytest.raises(ValueError, match=message):
        list(Loader(*numbered(20), 10, transform=transform))
    assert not loader_threads()


def test_a_transform_must_give_finite_numbers():
    images = np.ones((3, 1, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"transform: got NaN or infinity from .*<lambda>, expected finite numbers"):
        list(Loader(images, np.arange(3), 2, transform=lambda image, rng: image * np.float32(np.inf)))


@pytest.mark.parametrize("n", [-1, 3, 4])
def test_split_must_leave_training_images(n):
    with pytest.raises(ValueError, match=rf"n: expected 0 to 2, .* got {n}"):
        split_validation(*numbered(3), n, seed=0)


# ---------------------------------------------------------------- augmentation
def test_augment_draws_alike_whatever_is_used():
    images, _ = numbered(8, size=16)

    def vary(**options):
        return Augment(**options)(images, np.arange(8), **STILL, rng=np.random.default_rng(1))

    with_hole, without = vary(cutout=6), vary()
    kept = with_hole != 0
    assert 0 < np.mean(~kept) < 0.5
    np.testing.assert_array_equal(with_hole[kept], without[kept])
    assert not np.array_equal(vary(flip=False), without)
    assert not np.array_equal(vary(pad=0), without)


@given(st.integers(1, 40), st.integers(1, 7), seeds, st.integers(0, 9))
def test_alternating_flips_show_each_image_both_ways_in_two_epochs(n, batch_size, seed, epoch):
    images, labels = numbered(n, size=4)
    images = np.random.default_rng(seed).integers(0, 256, images.shape, np.uint8)
    loader = Loader(images, labels, batch_size, **STILL, seed=seed, augment=Augment(pad=0, alternate=True))

    def seen(epoch):
        batches = list(loader.epoch(epoch))
        order = np.argsort(np.concatenate([y for _, y in batches]))
        return np.concatenate([x for x, _ in batches])[order]

    plain = images.astype(np.float32) / 255
    as_it_is = (np.abs(seen(epoch) - plain) < 1e-6).all((1, 2, 3))
    np.testing.assert_allclose(seen(epoch), np.where(as_it_is[:, None, None, None], plain, plain[..., ::-1]), atol=1e-6)
    np.testing.assert_array_equal(seen(epoch + 1), seen(epoch)[..., ::-1])
    np.testing.assert_array_equal(seen(epoch + 2), seen(epoch))


def test_alternating_flips_begin_with_a_half_of_the_images():
    images, labels = numbered(1000, size=4)
    images[:, :, :, 0] = 255
    loader = Loader(images, labels, 1000, **STILL, augment=Augment(pad=0, alternate=True))
    ((x, _),) = loader.epoch(0)
    assert 400 < (x[:, 0, 0, 0] == 1).sum() < 600


def test_alternating_flips_need_flips_and_an_epoch():
    with pytest.raises(ValueError, match="alternate: expected False without flip, got True"):
        Augment(flip=False, alternate=True)
    images, _ = numbered(4, size=4)
    with pytest.raises(ValueError, match="mirrored: got None, expected an array that says which images to mirror"):
        Augment(alternate=True)(images, np.arange(4), **STILL, rng=np.random.default_rng(0))


@pytest.mark.parametrize("name", ["pad", "cutout"])
def test_augment_says_what_is_wrong(name):
    with pytest.raises(ValueError, match=rf"{name}: expected 0 or more, got -1"):
        Augment(**{name: -1})


@given(st.integers(1, 600), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_statistics_are_those_of_float64(n, channels, seed):
    images = np.random.default_rng(seed).integers(0, 256, (n, channels, 2, 3), np.uint8)
    mean, std = channel_statistics(images)
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-6, atol=1e-12)


def test_statistics_say_what_is_wrong():
    with pytest.raises(ValueError, match=r"images: .* got float64 of shape \(1, 1, 2, 2\)"):
        channel_statistics(np.zeros((1, 1, 2, 2)))
    with pytest.raises(ValueError, match=r"not empty, got uint8 of shape \(0, 3, 2, 2\)"):
        channel_statistics(np.zeros((0, 3, 2, 2), np.uint8))


# ---------------------------------------------------------------- CIFAR
@pytest.fixture
def small(monkeypatch, tmp_path):
    """Archives of seven records a file, and no data, cached or named, from outside the test."""
    for name in ("CIFAR10", "CIFAR100"):
        archive = getattr(cifar, name)
        monkeypatch.setattr(cifar, name, archive._replace(records=dict.fromkeys(archive.records, 7)))
    monkeypatch.delenv("TINYRES_DATA", raising=False)
    monkeypatch.setattr(download, "user_cache_path", lambda name: tmp_path / "cache")


def write_folder(root, archive):
    """A fake data set in its folder; returns what should be read, by split."""
    rng = np.random.default_rng(0)
    folder = root / archive.folder
    folder.mkdir(parents=True)
    expected = {}
    for split, names in archive.files.items():
        n = archive.records[split]
        labels = rng.integers(0, archive.classes, (len(names), n))
        images = rng.integers(0, 256, (len(names), n, 3, 32, 32), np.uint8)
        for name, some_images, some_labels in zip(names, images, labels, strict=True):
            label_bytes = np.zeros((n, archive.label_bytes), np.uint8)
            label_bytes[:, -1] = some_labels
            (folder / name).write_bytes(np.hstack([label_bytes, some_images.reshape(n, -1)]).tobytes())
        expected[split] = images.reshape(-1, 3, 32, 32), labels.reshape(-1)
    return expected


def write_tar(root, archive):
    expected = write_folder(root / "unpacked", archive)
    with tarfile.open(root / archive.filename, "w:gz") as tar:
        tar.add(root / "unpacked" / archive.folder, archive.folder)
    return expected


def assert_same(found, expected):
    images, labels = found
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert images.flags.writeable
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("write", [write_folder, write_tar])
@pytest.mark.parametrize("inside", [False, True], ids=["root", "inside"])
@pytest.mark.usefixtures("small")
def test_cifar_is_read(tmp_path, name, split, write, inside):
    archive, load = getattr(cifar, name), {"CIFAR10": cifar10, "CIFAR100": cifar100}[name]
    expected = write(tmp_path, archive)
    root = tmp_path / (archive.folder if write is write_folder else archive.filename) if inside else tmp_path
    assert_same(load(str(root), split), expected[split])


@pytest.mark.usefixtures("small")
def test_cifar_is_looked_for_in_order(tmp_path, monkeypatch):
    cached = write_tar(tmp_path / "cache", cifar.CIFAR10)
    assert_same(cifar10(), cached["train"])
    monkeypatch.setenv("TINYRES_DATA", str(tmp_path / "empty"))
    assert_same(cifar10(), cached["train"])
    monkeypatch.setenv("TINYRES_DATA", str(tmp_path / "named"))
    named = write_folder(tmp_path / "named", cifar.CIFAR10)
    (tmp_path / "named" / cifar.CIFAR10.folder / "test_batch.bin").unlink()
    assert_same(cifar10(), named["train"])
    with pytest.raises(DatasetNotFound, match=r"cifar-10-batches-bin has no file test_batch\.bin"):
        cifar10(split="test")


@pytest.mark.usefixtures("small")
def test_cifar_root_is_the_only_place(tmp_path):
    write_folder(tmp_path / "cache", cifar.CIFAR10)
    with pytest.raises(DatasetNotFound, match=r"there is no .*absent"):
        cifar10(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has neither cifar-10-batches-bin nor cifar-10-binary\.tar\.gz"):
        cifar10(tmp_path / "empty")


@pytest.mark.usefixtures("small")
def test_cifar_says_how_to_supply_it(tmp_path):
    with pytest.raises(DatasetNotFound) as caught:
        cifar10(download=False)
    for part in (str(tmp_path / "cache"), cifar.CIFAR10.url, "--data DIR", "TINYRES_DATA=DIR"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.usefixtures("small")
def test_cifar_as_pickles_is_not_read_and_the_command_that_is_given_converts_it(tmp_path, name, inside):
    archive, load = getattr(cifar, name), {"CIFAR10": cifar10, "CIFAR100": cifar100}[name]
    expected = write_folder(tmp_path / "other", archive)
    folder = tmp_path / "with space" / archive.pickled
    folder.mkdir(parents=True)
    for split, names in archive.files.items():
        for i, file in enumerate(names):
            some = slice(7 * i, 7 * i + 7)
            images, labels = (part[some] for part in expected[split])
            content = {b"data": images.reshape(7, -1)}
            if name == "CIFAR10":
                content[b"labels"] = labels.tolist()
            else:
                content |= {b"fine_labels": labels.tolist(), b"coarse_labels": [3] * 7}
            (folder / file.removesuffix(".bin")).write_bytes(pickle.dumps(content, protocol=2))
    root = folder if inside else folder.parent
    with pytest.raises(DatasetNotFound, match="Its files are pickles, which can run code") as caught:
        load(root)
    command = (
        str(caught.value).split("writes the binary version:\n")[1].replace("python", shlex.quote(sys.executable), 1)
    )
    subprocess.run(["bash", "-c", command], check=True)
    for split in archive.files:
        assert_same(load(folder.parent, split), expected[split])


def test_cifar_has_two_splits(tmp_path):
    with pytest.raises(ValueError, match=r"split: expected one of 'train', 'test', got 'validation'"):
        cifar10(tmp_path, "validation")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("change", [-1, 1, 3073])
def test_cifar_file_of_wrong_length(tmp_path, change):
    write_folder(tmp_path, cifar.CIFAR10)
    path = tmp_path / cifar.CIFAR10.folder / "data_batch_3.bin"
    path.write_bytes((path.read_bytes() + bytes(3073))[: 7 * 3073 + change])
    with pytest.raises(DatasetError, match=rf"data_batch_3\.bin: expected 21,511 bytes, found {21511 + change:,}"):
        cifar10(tmp_path)
    with tarfile.open(tmp_path / cifar.CIFAR10.filename, "w:gz") as tar:
        tar.add(tmp_path / cifar.CIFAR10.folder, cifar.CIFAR10.folder)
    with pytest.raises(ValueError, match=rf"data_batch_3\.bin: expected 21,511 bytes, found {21511 + change:,}"):
        cifar10(tmp_path / cifar.CIFAR10.filename)


@pytest.mark.usefixtures("small")
def test_cifar_label_out_of_range(tmp_path):
    write_folder(tmp_path, cifar.CIFAR10)
    path = tmp_path / cifar.CIFAR10.folder / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[4 * 3073] = 10
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"data_batch_2\.bin: record 4 has label 10, expected 0 to 9"):
        cifar10(tmp_path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_cifar_archive_cut_short(tmp_path, kept):
    write_tar(tmp_path, cifar.CIFAR10)
    path = tmp_path / cifar.CIFAR10.filename
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DatasetError, match=r"cifar-10-binary\.tar\.gz"):  # noqa: PT012
        for split in ("train", "test"):
            cifar10(path, split)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("content", [b"", b"<html>", gzip.compress(b"not a tar file", mtime=0)])
def test_cifar_archive_that_is_none(tmp_path, content):
    path = tmp_path / cifar.CIFAR10.filename
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"cifar-10-binary\.tar\.gz: "):
        cifar10(path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["elsewhere", "link"])
def test_cifar_archive_with_other_members(tmp_path, kind):
    """Paths that climb out and links are not followed: they are not the files that are asked for."""
    with tarfile.open(tmp_path / cifar.CIFAR10.filename, "w:gz") as tar:
        for name in cifar.CIFAR10.files["train"]:
            member = tarfile.TarInfo(f"{cifar.CIFAR10.folder}/{name}")
            if kind == "elsewhere":
                member.name = f"../{member.name}"
                member.size = 7 * 3073
            else:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(DatasetError, match=r"there is no file cifar-10-batches-bin/data_batch_1\.bin in this archive"):
        cifar10(tmp_path)
    assert os.listdir(tmp_path) == [cifar.CIFAR10.filename]


def assert_gives_up_soon():
    begin = time.monotonic()
    with pytest.raises(DatasetNotFound, match="the download failed: no answer within 4 s"):
        cifar10()
    assert time.monotonic() - begin < 5


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("small", "no_proxy")
def test_download_gives_up_when_names_are_not_answered(monkeypatch):
    release = threading.Event()

    def silent(*args, **options):
        release.wait(60)
        raise socket.gaierror("nothing")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    assert_gives_up_soon()
    release.set()


@pytest.mark.usefixtures("small", "no_proxy")
def test_download_gives_up_when_addresses_are_not_answered(monkeypatch):
    release = threading.Event()

    class Silent(socket.socket):
        def connect(self, address):
            release.wait(self.gettimeout())
            raise TimeoutError("nothing")

    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{i}", 443)) for i in range(1, 5)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: addresses)
    monkeypatch.setattr(socket, "socket", Silent)
    assert_gives_up_soon()
    release.set()


@pytest.mark.usefixtures("small", "no_proxy")
def test_download_says_why_it_failed(monkeypatch):
    def refuse(*args, **options):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(DatasetNotFound, match=r"(?s)the download failed: .*Name or service not known.*--data DIR"):
        cifar10()


@pytest.fixture
def server(tmp_path, monkeypatch, small, no_proxy):
    """Serves tmp_path/served, in which there is a small CIFAR-10, as the place to download it from."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "served").mkdir()
    expected = write_tar(tmp_path / "served", cifar.CIFAR10)
    handler = functools.partial(Handler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as instance:
        thread = threading.Thread(target=instance.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{instance.server_port}/{cifar.CIFAR10.filename}"
        content = (tmp_path / "served" / cifar.CIFAR10.filename).read_bytes()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        monkeypatch.setattr(cifar, "CIFAR10", cifar.CIFAR10._replace(url=url, md5=md5))
        yield expected
        instance.shutdown()


def test_download_is_kept(server, tmp_path, monkeypatch):
    assert_same(cifar10(split="test"), server["test"])
    assert os.listdir(tmp_path / "cache") == ["cifar-10-binary.tar.gz"]
    monkeypatch.setattr(cifar, "download", None)  # not called again
    assert_same(cifar10(), server["train"])


def test_download_of_something_else_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "CIFAR10", cifar.CIFAR10._replace(md5=cifar.CIFAR100.md5))
    with pytest.raises(DatasetError, match="the downloaded file is not the published one"):
        cifar10()
    assert os.listdir(tmp_path / "cache") == []


def test_download_of_a_missing_page(server, tmp_path):
    (tmp_path / "served" / cifar.CIFAR10.filename).unlink()
    with pytest.raises(DatasetNotFound, match="404"):
        cifar10()


def test_progress_is_shown_to_a_person(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = download._Progress("file")
    progress.total = 200
    for count in (100, 1, 99, 50):
        progress.update(count)
    progress.reset()
    progress.update(200)
    progress.close()
    assert capsys.readouterr().err == "\rfile:  50 %\rfile: 100 %\n"


def test_real_cifar10():
    if not os.environ.get("TINYRES_DATA"):
        pytest.skip("needs the real CIFAR-10: set TINYRES_DATA to the folder that holds it")
    (images, labels), (test_images, test_labels) = cifar10(download=False), cifar10(split="test", download=False)
    assert images.shape == (50_000, 3, 32, 32)
    assert test_images.shape == (10_000, 3, 32, 32)
    assert np.bincount(labels).tolist() == [5000] * len(CLASSES)
    assert np.bincount(test_labels).tolist() == [1000] * len(CLASSES)
    # The figures everyone's training scripts quote, to half of what would tell one channel from another; a
    # copy that went through a lossy format has a std lower by 0.002.
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=4e-3)
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=4e-3)


# ---------------------------------------------------------------- shapes
@given(st.integers(0, 450), st.sampled_from(["train", "test"]), seeds)
def test_shapes_are_those_of_their_index(n, split, seed):
    images, labels = shapes(n, split, seed=seed, size=8)
    assert images.shape == (n, 3, 8, 8)
    assert images.dtype == np.uint8
    assert labels.shape == (n,)
    assert labels.dtype == np.int64
    more_images, more_labels = shapes(450, split, seed=seed, size=8)
    np.testing.assert_array_equal(images, more_images[:n])
    np.testing.assert_array_equal(labels, more_labels[:n])


def test_shapes_differ_by_split_seed_and_block():
    first = shapes(400)[0]
    for other in (shapes(200, "test")[0], shapes(200, seed=1)[0], first[200:]):
        assert not (first[:200] == other).all((1, 2, 3)).any()


def test_shapes_are_balanced():
    _, labels = shapes(1000, size=8)
    assert np.bincount(labels).tolist() == [100] * len(SHAPES_CLASSES) == [100] * 10


def test_shapes_have_default_numbers(monkeypatch):
    monkeypatch.setitem(shapes.__globals__["SIZES"], "test", 30)
    assert len(shapes(split="test", size=8)[0]) == 30


@pytest.mark.parametrize("size", [8, 33, 64])
def test_shapes_have_any_size(size):
    images, _ = shapes(10, size=size)
    assert images.shape == (10, 3, size, size)
    assert images.std() > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": -1}, r"n: expected 0 or more, got -1"),
        ({"seed": -1}, r"seed: expected 0 or more, got -1"),
        ({"size": 7}, r"size: expected 8 or more, got 7"),
        ({"split": "validation"}, r"split: expected one of 'train', 'test', got 'validation'"),
    ],
)
def test_shapes_say_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        shapes(**options)
