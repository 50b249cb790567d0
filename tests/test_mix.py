"""Mixtures of images: shares of pixels and of classes are the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import runs

import tinyres as tr
from tinyres.data import Augment, Loader, Mix

CLASSES = 5


def batch(n, size, seed):
    """Images each of one value, its number + 1, and labels."""
    x = np.empty((n, *size, 3), np.float32).transpose(0, 3, 1, 2)
    x[...] = np.arange(1, n + 1)[:, None, None, None]
    return x, np.random.default_rng(seed).integers(0, CLASSES, n)


sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
alphas = st.floats(0.05, 4)


@given(st.integers(1, 20), sizes, st.integers(0, 999), alphas)
def test_mixup_mixes_pixels_as_it_mixes_classes(n, size, seed, alpha):
    x, y = batch(n, size, seed)
    before = x.copy()
    mixed, q = Mix(CLASSES, mixup=alpha)(x, y, rng=np.random.default_rng(seed))
    assert mixed is x
    assert q.dtype == x.dtype == np.float32
    np.testing.assert_allclose(q.sum(1), 1, atol=1e-6)
    rng = np.random.default_rng(seed)
    share, other = rng.beta(alpha, alpha), rng.permutation(n)
    np.testing.assert_allclose(x, share * before + (1 - share) * before[other], rtol=1e-5)
    np.testing.assert_allclose(q, share * np.eye(CLASSES)[y] + (1 - share) * np.eye(CLASSES)[y[other]], atol=1e-6)


@given(st.integers(1, 20), sizes, st.integers(0, 999), alphas)
def test_cutmix_gives_a_class_the_share_of_its_pixels(n, size, seed, alpha):
    x, y = batch(n, size, seed)
    _, q = Mix(CLASSES, cutmix=alpha)(x, y, rng=np.random.default_rng(seed))
    classes = np.eye(CLASSES)[y]
    for i in range(n):
        whose = np.rint(x[i, 0]).astype(int) - 1  # each pixel is of one image, the same in all channels
        assert (x[i] == x[i, 0]).all()
        assert len(set(np.unique(whose)) - {i}) <= 1
        np.testing.assert_allclose(q[i], classes[whose.ravel()].mean(0), atol=1e-5)
        rows, columns = np.nonzero(whose != i)
        assert rows.size == 0 or rows.size == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # a rectangle


def test_where_both_are_set_a_batch_has_one_or_the_other():
    cut = 0
    for seed in range(200):
        x, y = batch(6, (8, 8), 0)
        x, _ = Mix(CLASSES, mixup=1.0, cutmix=1.0)(x, y, rng=np.random.default_rng(seed))
        cut += bool((x == np.rint(x)).all())
    assert 60 < cut < 140


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_of_a_batch_are_mixed_as_the_whole(parts):
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
    labels = np.arange(20) % CLASSES
    how = {"mean": [0.0] * 3, "std": [1.0] * 3, "augment": Augment(pad=2), "mix": Mix(CLASSES, 0.4, 1.0), "seed": 3}
    whole = list(Loader(images, labels, 7, **how).epoch(1))
    some = [list(Loader(images, labels, 7, part=(k, parts), **how).epoch(1)) for k in range(parts)]
    for number, (x, q) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[number][0] for part in some]), x)
        np.testing.assert_array_equal(np.concatenate([part[number][1] for part in some]), q)
        assert q.shape == (len(x), CLASSES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0, "mixup": 1.0}, "classes: expected 1 or more, got 0"),
        ({"classes": 3, "mixup": -1.0}, "mixup: expected 0 or more, got -1.0"),
        ({"classes": 3, "cutmix": float("inf")}, "cutmix: expected 0 or more, got inf"),
        ({"classes": 3, "mixup": float("nan")}, "mixup: expected 0 or more, got nan"),
        ({"classes": 3}, "mixup, cutmix: expected one of them to be more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Mix(**options)


@pytest.mark.parametrize(("label", "got"), [(-1, "-1 to 1"), (3, "1 to 3")])
def test_classes_that_are_not_there_are_refused(label, got):
    """-1 would be the last class."""
    x, _ = batch(4, (2, 2), 0)
    with pytest.raises(ValueError, match=f"labels: got classes {got}, expected 0 to 2, as mix has 3 classes"):
        Loader(x, np.array([1, 1, label, 1]), 4, mix=Mix(3, mixup=1.0))


@pytest.mark.parametrize("shards", [1, 2])
def test_a_run_learns_from_mixtures_and_resumes(tiny, tmp_path, shards):
    config = runs.config(mixup=0.4, cutmix=1.0, shards=shards)
    whole = tr.train.Run(config, tmp_path / "whole")
    whole.train_to(whole.total_steps)
    run = tr.train.Run(config, tmp_path / "run")
    run.train_to(3)
    run.save("last")
    run = tr.train.Run(config, tmp_path / "run", resume=True)
    run.train_to(run.total_steps)
    assert run.history == whole.history
    for name, array in whole.model.state_dict().items():
        np.testing.assert_array_equal(run.model.state_dict()[name], array)
