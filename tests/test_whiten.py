"""The statistics of patches, filters that whiten them, and runs that begin with such filters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import config, install_tiny, result

import tinyres as tr
from tinyres import data, nn, start, train
from tinyres.data import statistics
from tinyres.nn.init import whitening
from tinyres.splits import Data

IMAGES = tr.data.shapes(30, "train", size=16)[0]


def patches_of(images, kh, kw):
    """Each patch of each image, as a row."""
    n, _, height, width = images.shape
    places = [(i, j) for i in range(height - kh + 1) for j in range(width - kw + 1)]
    return np.array([images[k, :, i : i + kh, j : j + kw].ravel() for k in range(n) for i, j in places], float)


@given(st.integers(0, 99), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_the_covariance_is_that_of_the_patches(seed, n, channels, kh, kw, in_parts):
    images = np.random.default_rng(seed).integers(0, 256, (n, channels, 5, 6), dtype=np.uint8)
    std = np.arange(1, channels + 1) / 4
    with pytest.MonkeyPatch.context() as patch:
        if in_parts:
            patch.setattr(statistics, "NUMBERS", 1)
        found = data.patch_covariance(images, (kh, kw), std=std)
    rows = patches_of(images / 255 / std[:, None, None], kh, kw)
    np.testing.assert_allclose(found, np.cov(rows, rowvar=False, bias=True).reshape(found.shape), atol=1e-12)


@pytest.mark.parametrize(
    ("images", "size", "message"),
    [
        (IMAGES.astype("f4"), (3, 3), "images: expected uint8"),
        (IMAGES[:0], (3, 3), "images: expected uint8 .* not empty"),
        (IMAGES, (17, 3), "size: got 17 x 3, expected 1 or more, and at most the 16 x 16"),
        (IMAGES, (0, 3), "size: got 0 x 3"),
    ],
)
def test_patches_that_there_are_not_are_refused(images, size, message):
    with pytest.raises(ValueError, match=message):
        data.patch_covariance(images, size, std=[1, 1, 1])


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 3), st.floats(0, 1))
def test_responses_have_no_correlation_and_variance_one(seed, filters, channels, eps):
    rng = np.random.default_rng(seed)
    numbers = channels * 2 * 2
    root = rng.standard_normal((numbers, numbers)) + 2 * np.eye(numbers)
    covariance = root @ root.T
    tr.manual_seed(seed)
    made = whitening((filters, channels, 2, 2), covariance, eps=eps, dtype="f8").reshape(filters, -1)
    half = min(filters // 2, numbers)
    largest = np.sort(np.linalg.eigvalsh(covariance))[::-1][:half]
    np.testing.assert_allclose(
        made[:half] @ covariance @ made[:half].T, np.diag(largest / (largest + eps)), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_array_equal(made[half : 2 * half], -made[:half])
    assert np.unique(made, axis=0).shape == made.shape  # those that are left are drawn


def test_filters_of_other_patches_are_refused():
    with pytest.raises(ValueError, match=r"covariance: got shape \(9, 9\), expected \(27, 27\)"):
        whitening((16, 3, 3, 3), np.eye(9))


# ---------------------------------------------------------------- runs
@pytest.fixture
def tiny(monkeypatch, one_thread):
    install_tiny(monkeypatch)


def test_the_first_convolution_of_a_run_whitens_its_images_and_stays_so(tiny, tmp_path):
    run = train.Run(config(whiten=True), tmp_path / "run")
    before = run.model.conv1.weight.data.copy()
    x = np.concatenate([x for x, _ in data.Loader(*run.data.train, 42, mean=run.data.mean, std=run.data.std).epoch(0)])
    inner = nn.Conv2d(3, 8, 3, bias=False)  # without padding, whose patches are not the images'
    inner.weight.data = before
    responses = inner(tr.Tensor(x)).data.transpose(0, 2, 3, 1).reshape(-1, 8)
    np.testing.assert_allclose(np.cov(responses[:, :4], rowvar=False), np.eye(4), atol=0.01)
    run.fit()
    np.testing.assert_array_equal(run.model.conv1.weight.data, before)
    assert run.model.bn1.weight.requires_grad


def test_a_run_that_whitens_goes_on_as_if_it_had_not_stopped(tiny, tmp_path):
    wanted = config(whiten=True, bias_lr=4.0)
    train.Run(wanted, tmp_path / "whole").fit()
    run = train.Run(wanted, tmp_path / "run")
    run.train_to(6)
    run.save("last")
    train.Run(wanted, tmp_path / "run", resume=True).fit()
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_patches_are_of_images_all_over_the_set(monkeypatch):
    """A folder's are sorted by class. Here the first half is black, and any image of the second is not."""
    images = np.zeros((20, 3, 8, 8), np.uint8)
    images[10:] = np.random.default_rng(0).integers(0, 256, (10, 3, 8, 8))
    labels = np.zeros(20, np.int64)
    split = images, labels
    found = Data(split, split, split, ("a",), *data.channel_statistics(images))
    covariance = data.patch_covariance
    for most, chosen in ((8 * 8 * 4, images[::5]), (8 * 8 * 99, images), (1, images[:1])):
        monkeypatch.setattr(start, "WHITENED", most)
        network = tr.models.resnet20()
        tr.manual_seed(0)
        train.whiten(network, images, found.std)
        tr.manual_seed(0)
        expected = whitening(network.conv1.weight.shape, covariance(chosen, (3, 3), std=found.std))
        np.testing.assert_array_equal(network.conv1.weight.data, expected)


def test_a_run_that_goes_on_looks_at_no_patches(tiny, tmp_path, monkeypatch):
    run = train.Run(config(whiten=True), tmp_path / "run")
    run.train_to(2)
    run.save("last")
    monkeypatch.setattr(train, "whiten", None)
    again = train.Run(config(whiten=True), tmp_path / "run", resume=True)
    assert not again.model.conv1.weight.requires_grad
    np.testing.assert_array_equal(again.model.conv1.weight.data, run.model.conv1.weight.data)


def test_channels_of_one_value_say_nothing():
    with pytest.raises(ValueError, match=r"std: got \[0\. 1\. 1\.\], expected positive numbers"):
        data.patch_covariance(IMAGES, (3, 3), std=[0, 1, 1])


def test_weights_to_start_from_are_not_whitened_away():
    with pytest.raises(ValueError, match="whiten: got True, expected False if there are weights to start from"):
        train.Config(whiten=True, weights="a.safetensors")
