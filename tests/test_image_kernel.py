"""The image kernel against its definition in plain NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyres.kernels.image import augment_batch


def definition(images, index, *, corner, flip, centre, mean, std, pad, cutout):
    _, _, height, width = images.shape
    y = np.empty((len(index), *images.shape[1:]), np.float32)
    for b, n in enumerate(index):
        padded = np.pad(images[n], ((0, 0), (pad, pad), (pad, pad)))
        top, left = corner[b]
        image = padded[:, top : top + height, left : left + width]
        if flip[b]:
            image = image[:, :, ::-1]
        image = image.astype(np.float32) / 255 if images.dtype == np.uint8 else image
        y[b] = (image - mean[:, None, None]) / std[:, None, None]
        top, left = centre[b] - cutout // 2
        y[b, :, max(0, top) : max(0, top + cutout), max(0, left) : max(0, left + cutout)] = 0
    return y


@st.composite
def calls(draw):
    """Arguments of `augment_batch`, of any sizes."""
    n, channels, height, width = (draw(st.integers(1, high)) for high in (4, 4, 9, 9))
    batch, pad = draw(st.integers(0, 5)), draw(st.integers(0, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = rng.integers(0, 256, (n, channels, height, width), np.uint8)
    if draw(st.booleans()):
        images = rng.normal(0, 100, images.shape).astype(np.float32)
    return (images, rng.integers(0, n, batch)), {
        "corner": rng.integers(0, 2 * pad + 1, (batch, 2)),
        "flip": rng.random(batch) < 0.5,
        "centre": rng.integers(0, (height, width), (batch, 2)),
        "mean": rng.uniform(0, 1, channels).astype(np.float32),
        "std": rng.uniform(0.1, 1, channels).astype(np.float32),
        "pad": pad,
        "cutout": draw(st.integers(0, 12)),
    }


@given(calls())
def test_kernel_is_its_definition(call):
    args, options = call
    y = augment_batch(*args, **options)
    assert y.dtype == np.float32
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(y, definition(*args, **options))


@given(calls(), st.sampled_from(["read-only", "reversed", "channels-last"]))
def test_kernel_takes_images_in_any_memory(call, memory):
    (images, index), options = call
    if memory == "read-only":
        other = images.copy()
        other.flags.writeable = False
    elif memory == "reversed":
        other = images[..., ::-1].copy()[..., ::-1]
    else:
        other = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(augment_batch(other, index, **options), augment_batch(images, index, **options))


IMAGES = np.zeros((1, 3, 4, 4), np.uint8)
STILL = {"corner": [[0, 0]], "flip": [False], "centre": [[0, 0]], "mean": [0] * 3, "std": [1] * 3}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": IMAGES.astype(float)}, ValueError, r"images: expected uint8 or float32 of .* got float64"),
        ({"images": IMAGES[0]}, ValueError, r"images: .* got uint8 of shape \(3, 4, 4\)"),
        ({"index": [1]}, IndexError, r"index: expected 0 to 0, got 1 to 1"),
        ({"index": [-1]}, IndexError, r"index: expected 0 to 0, got -1 to -1"),
        ({"index": [[0]]}, ValueError, r"index: expected shape \(1,\), got \(1, 1\)"),
        ({"corner": [0, 0]}, ValueError, r"corner: expected shape \(1, 2\), got \(2,\)"),
        ({"flip": []}, ValueError, r"flip: expected shape \(1,\), got \(0,\)"),
        ({"centre": [[0]]}, ValueError, r"centre: expected shape \(1, 2\), got \(1, 1\)"),
        ({"mean": [0]}, ValueError, r"mean: expected shape \(3,\), got \(1,\)"),
        ({"images": IMAGES.tolist()}, TypeError, r"images: .* got list"),
        ({"index": [0.7]}, TypeError, r"index: .* got float64"),
        ({"index": [True]}, TypeError, r"index: .* got bool"),
        ({"corner": [[0, 0.5]]}, TypeError, r"corner: .* got float64"),
        ({"flip": [2]}, TypeError, r"flip: .* got int64"),
        ({"mean": [1j] * 3}, TypeError, r"mean: .* got complex128"),
        ({"pad": -1}, ValueError, r"pad: expected an int, 0 or more, got -1"),
        ({"cutout": 1.5}, ValueError, r"cutout: expected an int, 0 or more, got 1.5"),
        ({"std": 1}, ValueError, r"std: expected shape \(3,\), got \(\)"),
    ],
)
def test_kernel_says_what_is_wrong(change, error, message):
    with pytest.raises(error, match=message):
        augment_batch(**{"images": IMAGES, "index": [0], **STILL, "pad": 0, "cutout": 0, **change})
