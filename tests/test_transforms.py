"""Transforms: what follows from a generator alone, what changes nothing, and what each operation does to pixels."""

import functools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import ImageOps

from tinyres.data import ColorJitter, Compose, Loader, RandAugment, RandomResizedCrop, TrivialAugment, transforms

# what torchvision does, written down by support/torchvision_transforms.py, which says what is in it
with np.load(Path(__file__).parent / "data" / "torchvision_transforms.npz") as file:
    THEIRS = dict(file)
PICTURES = [THEIRS[f"picture{i}"] for i in range(4)]

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 40)


def noise(channels, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (channels, height, width), np.uint8)


pictures = st.builds(noise, st.sampled_from([1, 3]), sides, sides, seeds)
factors = st.floats(0, 3)
ALL = [
    RandomResizedCrop(9),
    RandomResizedCrop((5, 12), scale=(0.2, 0.5), ratio=(1.0, 2.0)),
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    RandAugment(),
    RandAugment(n=4, magnitude=30),
    TrivialAugment(),
    Compose([RandomResizedCrop(8), RandAugment(), ColorJitter(0.5)]),
]


def grey(picture):
    """As ITU-R 601-2 has it; Pillow's whole numbers are within one of it."""
    return picture[0].astype(float) if len(picture) == 1 else np.tensordot([0.299, 0.587, 0.114], picture, 1)


# ---------------------------------------------------------------- all of them
@given(st.sampled_from(ALL), pictures, seeds)
def test_one_generator_one_result(transform, picture, seed):
    before = picture.copy()
    first, again = (transform(picture, np.random.default_rng(seed)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(picture, before)
    assert first.dtype == np.uint8
    size = {RandomResizedCrop(9): (9, 9), ALL[1]: (5, 12), ALL[-1]: (8, 8)}.get(transform, picture.shape[1:])
    assert first.shape == (len(picture), *size)
    first[...] = 0  # writable, and no view of what was given
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_generators_differ(transform):
    results = {transform(noise(3, 32, 32), np.random.default_rng(seed)).tobytes() for seed in range(20)}
    assert len(results) > 10


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((3, 8, 8), np.float32), r"float32 of shape \(3, 8, 8\)"),
        (np.zeros((2, 8, 8), np.uint8), r"uint8 of shape \(2, 8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), r"uint8 of shape \(8, 8, 3\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 of shape \(8, 8\)"),
        (np.zeros((3, 0, 8), np.uint8), r"uint8 of shape \(3, 0, 8\)"),
        ([[0]], "list"),
    ],
)
def test_what_is_no_picture_is_refused(transform, image, got):
    with pytest.raises(ValueError, match=rf"image: got {got}, expected uint8 of shape \(1, H, W\) or \(3, H, W\)"):
        transform(image, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizedCrop(0), "size: got 0, expected 1 or more"),
        (lambda: RandomResizedCrop(2.5), "size: got 2.5, expected"),
        (lambda: RandomResizedCrop((3, 0)), r"size: got \(3, 0\), expected"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), r"scale: got \(0.5, 1.5\), expected two shares"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 0.1)), r"scale: got \(0.5, 0.1\), .* in order"),
        (lambda: RandomResizedCrop(8, scale=(0.0, 1.0)), r"scale: got \(0.0, 1.0\), .* more than 0"),
        (lambda: RandomResizedCrop(8, scale=0.5), "scale: got 0.5"),
        (lambda: RandomResizedCrop(8, ratio=(0.0, 1.0)), r"ratio: got \(0.0, 1.0\)"),
        (lambda: RandomResizedCrop(8, ratio=(1.0, math.inf)), r"ratio: got \(1.0, inf\)"),
        (lambda: RandomResizedCrop(8, ratio=(1, 2, 3)), r"ratio: got \(1, 2, 3\)"),
        (lambda: ColorJitter(brightness=-0.1), "brightness: got -0.1, expected 0 or more"),
        (lambda: ColorJitter(contrast=(2, 1)), r"contrast: got \(2, 1\), expected"),
        (lambda: ColorJitter(saturation="much"), "saturation: got 'much', expected"),
        (lambda: ColorJitter(contrast=math.nan), "contrast: got nan, expected"),
        (lambda: ColorJitter(hue=0.6), "hue: got 0.6, expected 0 or more, at most 0.5"),
        (lambda: ColorJitter(hue=(-0.6, 0)), r"hue: got \(-0.6, 0\), expected"),
        (lambda: RandAugment(n=-1), "n: got -1, expected 0 or more"),
        (lambda: RandAugment(magnitude=31), "magnitude: got 31, expected 0 to 30"),
        (lambda: RandAugment(magnitude=1.5), "magnitude: got 1.5, expected 0 to 30"),
        (lambda: Compose([RandAugment(), "flip"]), "transforms: got 'flip', expected a callable .* in place 1"),
    ],
)
def test_parameters_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- one after the other
@given(pictures, seeds)
def test_compose_is_one_after_the_other(picture, seed):
    def roll(image, rng):
        return np.roll(image, rng.integers(5), axis=2)

    parts = [roll, RandAugment(), roll, ColorJitter(0.3)]
    rng = np.random.default_rng(seed)
    expected = functools.reduce(lambda image, part: part(image, rng), parts, picture)
    np.testing.assert_array_equal(Compose(parts)(picture, np.random.default_rng(seed)), expected)
    assert Compose([])(picture, rng) is picture


def test_transforms_make_a_loaders_images():
    images = np.stack([noise(3, 16, 16, seed) for seed in range(6)])
    loader = Loader(images, np.arange(6), 4, transform=Compose([RandomResizedCrop(8), TrivialAugment()]))
    assert [x.shape for x, _ in loader.epoch(0)] == [(4, 3, 8, 8), (2, 3, 8, 8)]


# ---------------------------------------------------------------- crops
areas = st.lists(st.floats(0.01, 1), min_size=2, max_size=2).map(sorted).map(tuple)
ratios = st.lists(st.floats(0.2, 5), min_size=2, max_size=2).map(sorted).map(tuple)


@given(st.integers(8, 300), st.integers(8, 300), areas, ratios, seeds)
def test_boxes_are_inside_and_of_the_right_area_and_ratio(height, width, scale, ratio, seed):
    crop = RandomResizedCrop(8, scale=scale, ratio=ratio)
    left, top, right, bottom = crop.box(height, width, np.random.default_rng(seed))
    w, h = right - left, bottom - top
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    # a rectangle of real sides within half a pixel of these has ratio and area within the bounds; or none did fit,
    # and it is the largest of an allowed ratio
    least, most = (w - 0.5) / (h + 0.5), (w + 0.5) / max(h - 0.5, 1e-9)
    assert least <= ratio[1] * (1 + 1e-9)
    assert most >= ratio[0] * (1 - 1e-9)
    share_least, share_most = (w - 0.5) * (h - 0.5) / (height * width), (w + 0.5) * (h + 0.5) / (height * width)
    in_area = share_least <= scale[1] * (1 + 1e-9) and share_most >= scale[0] * (1 - 1e-9)
    assert in_area or w == width or h == height


def test_boxes_cover_the_picture_and_all_areas():
    crop, rng = RandomResizedCrop(8), np.random.default_rng(0)
    boxes = np.array([crop.box(100, 100, rng) for _ in range(2000)])
    share = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / 100**2
    # drawn evenly from 0.08 to 1, but those with a > 0.75 fit with probability log a / log 0.75 alone
    area = np.linspace(0.08, 1, 10_001)
    fits, bins = np.minimum(1, np.log(area) / np.log(0.75)), [0, 0.3, 0.5, 0.75, 1.01]
    expected = np.histogram(area, bins, weights=fits / fits.sum())[0]
    # within four standard deviations of at most sqrt(0.25 / 2000) = 0.011
    np.testing.assert_allclose(np.histogram(share, bins)[0] / 2000, expected, atol=0.045)
    assert (boxes[:, :2].min(0) == 0).all()
    assert (boxes[:, 2:].max(0) == 100).all()
    log_ratio = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    assert abs(log_ratio.mean()) < 0.02  # as often wide as high: the standard error is 0.17 / sqrt(2000) = 0.004


@given(st.sampled_from([1, 3]), st.integers(1, 24), seeds)
def test_a_crop_of_all_is_the_picture(channels, size, seed):
    picture = noise(channels, size, size, seed)
    whole = RandomResizedCrop(size, scale=(1, 1), ratio=(1, 1))
    np.testing.assert_array_equal(whole(picture, np.random.default_rng(seed)), picture)


@given(pictures, seeds)
def test_a_crop_sees_nothing_beyond_its_edges(picture, seed):
    crop = RandomResizedCrop(5, scale=(0.1, 0.6))
    left, top, right, bottom = crop.box(*picture.shape[1:], np.random.default_rng(seed))
    other = noise(*picture.shape, seed=1)
    other[:, top:bottom, left:right] = picture[:, top:bottom, left:right]
    seen = [crop(image, np.random.default_rng(seed)) for image in (picture, other)]
    np.testing.assert_array_equal(*seen)


def test_strips_that_no_ratio_fits_are_cut_in_the_middle():
    assert RandomResizedCrop(8, ratio=(1, 1), scale=(0.9, 1)).box(10, 100, np.random.default_rng(0)) == (45, 0, 55, 10)
    assert RandomResizedCrop(8, ratio=(2, 3), scale=(0.9, 1)).box(100, 10, np.random.default_rng(0)) == (0, 47, 10, 52)


@pytest.mark.parametrize("i", range(4))
def test_parts_are_scaled_as_torchvision_does(monkeypatch, i):
    for box, expected in zip(THEIRS["boxes"], THEIRS[f"cut{i}"], strict=True):
        monkeypatch.setattr(RandomResizedCrop, "box", lambda *_, box=box: tuple(box))
        np.testing.assert_array_equal(RandomResizedCrop((9, 7))(PICTURES[i], np.random.default_rng(0)), expected)


def test_boxes_where_nothing_fits_are_torchvisions():
    twice = SimpleNamespace(uniform=lambda low, high: 2.0)  # the picture's area
    for (height, width, *ratio), expected in zip(THEIRS["strips"], THEIRS["middles"], strict=True):
        assert RandomResizedCrop(8, ratio=tuple(ratio)).box(int(height), int(width), twice) == tuple(expected)


@pytest.mark.parametrize("i", range(5))
def test_boxes_are_distributed_as_torchvisions(i):
    height, width, low, high, least, most = THEIRS["crops"][i]
    crop, rng = RandomResizedCrop(8, scale=(low, high), ratio=(least, most)), np.random.default_rng(0)
    left, top, right, bottom = np.array([crop.box(int(height), int(width), rng) for _ in range(20_000)]).T
    w, h = right - left, bottom - top
    for drawn, values, shares in zip(
        (left, top, w, h, w * h, w / h), THEIRS["values"][i], THEIRS["shares"][i], strict=True
    ):
        # two samples of 20,000 from one distribution are further apart once in 5,000 times (Kolmogorov and Smirnov)
        assert np.abs((drawn[:, None] <= values).mean(0) - shares).max() < 0.0215


# ---------------------------------------------------------------- colours
@given(pictures, factors, seeds)
def test_brightness_is_a_factor(picture, factor, seed):
    found = ColorJitter(brightness=(factor, factor))(picture, np.random.default_rng(seed))
    assert np.abs(found - np.clip(factor * picture, 0, 255)).max() <= 1  # Pillow cuts off what is less than one


@given(pictures, factors, seeds)
def test_contrast_is_about_the_mean_grey(picture, factor, seed):
    found = ColorJitter(contrast=(factor, factor))(picture, np.random.default_rng(seed))
    mean = np.rint(grey(picture).mean())
    # a step of rounding, and as many again as the mean grey's, a whole number, may be off by
    assert np.abs(found - np.clip(factor * picture + (1 - factor) * mean, 0, 255)).max() <= 1 + 1.1 * abs(1 - factor)


@given(pictures, factors, seeds)
def test_saturation_is_about_each_pixels_grey(picture, factor, seed):
    found = ColorJitter(saturation=(factor, factor))(picture, np.random.default_rng(seed))
    expected = np.clip(factor * picture + (1 - factor) * grey(picture), 0, 255)
    assert np.abs(found - expected).max() <= 1 + 1.1 * abs(1 - factor)  # as above, of a pixel's grey
    if len(picture) == 1:
        np.testing.assert_array_equal(found, picture)


def test_a_third_of_a_turn_makes_red_green():
    red = np.zeros((3, 4, 4), np.uint8)
    red[0] = 200
    turned = ColorJitter(hue=(1 / 3, 1 / 3))(red, np.random.default_rng(0))
    np.testing.assert_array_equal(turned, red[[1, 0, 2]])
    np.testing.assert_array_equal(ColorJitter(hue=(-0.34, -0.34))(red, np.random.default_rng(0))[:2], red[[1, 2]])


@given(pictures, seeds)
def test_what_is_not_set_changes_nothing(picture, seed):
    for jitter in (ColorJitter(), ColorJitter((1, 1), (1, 1), (1, 1), (0, 0)), RandAugment(n=0)):
        np.testing.assert_array_equal(jitter(picture, np.random.default_rng(seed)), picture)


@given(seeds)
def test_one_number_is_a_range_and_leaving_one_out_does_not_change_the_others(seed):
    white = np.full((1, 2, 2), 100, np.uint8)  # of which contrast and saturation change nothing
    level = ColorJitter(brightness=0.4)(white, np.random.default_rng(seed))[0, 0, 0]
    assert 59 <= level <= 140
    assert level == ColorJitter(0.4, 0.3, 0.2, 0.1)(white, np.random.default_rng(seed))[0, 0, 0]
    assert level == ColorJitter(brightness=(0.6, 1.4))(white, np.random.default_rng(seed))[0, 0, 0]


def test_colours_are_varied_in_any_order():
    rng, picture = np.random.default_rng(0), np.array([10, 240], np.uint8).reshape(1, 1, 2)
    found = {tuple(ColorJitter((2, 2), (0.5, 0.5))(picture, rng).ravel()) for _ in range(30)}
    assert len(found) == 2
    assert {bright for _, bright in found} == {196, 255}  # 255 and 20 are halfway to 138; 182 is doubled


# ---------------------------------------------------------------- policies
@pytest.fixture
def chosen(monkeypatch):
    """What the policies do: a list of (name, amount)."""
    calls = []

    def watched(name, operation):
        return lambda picture, amount: calls.append((name, amount)) or operation(picture, amount)

    watching = {name: (watched(name, op), signed) for name, (op, signed) in transforms.OPERATIONS.items()}
    monkeypatch.setattr(transforms, "OPERATIONS", watching)
    return calls


def ours(name, number):
    """Our amount for torchvision's argument: what is taken away, where that says what is left."""
    return {"Posterize": 8 - number, "Solarize": 255 - number}.get(name, number)


SIGNED = THEIRS["operations"][THEIRS["signed"]]
SPACES = {  # each operation's amounts in 31 bins, of a picture of 20 x 40 pixels
    policy: {op: ours(op, table) for op, table in zip(THEIRS["operations"], THEIRS[policy.lower()], strict=True)}
    for policy in ("RandAugment", "TrivialAugment")
}


@pytest.mark.parametrize("name", SPACES)
def test_all_operations_are_chosen_equally_often_and_in_either_direction(chosen, name):
    policy = RandAugment(n=1, magnitude=30) if name == "RandAugment" else TrivialAugment()
    rng, picture = np.random.default_rng(0), noise(3, 20, 40)
    for _ in range(14 * 200):
        policy(picture, rng)
    amounts = {op: np.array([a for n, a in chosen if n == op]) for op in SPACES[name]}
    assert len(chosen) == 14 * 200
    assert len(amounts) == len(transforms.OPERATIONS) == 14
    for op, values in amounts.items():
        assert 140 <= len(values) <= 260, op  # 200, within four standard deviations of 14
        if op in SIGNED:  # each way half of the time: within four standard deviations of 7
            assert 0.36 < (values < 0).mean() < 0.64, op
        else:
            assert (values >= 0).all(), op


@pytest.mark.parametrize("name", SPACES)
def test_amounts_are_torchvisions(chosen, name):
    rng, picture = np.random.default_rng(0), noise(3, 20, 40)
    if name == "RandAugment":
        policies = [RandAugment(n=200, magnitude=m) for m in range(31)]
    else:
        policies = [TrivialAugment()] * 31 * 200
    for policy in policies:
        policy(picture, rng)
    for op, expected in SPACES[name].items():
        found = list(dict.fromkeys(abs(amount) for n, amount in chosen if n == op))  # in the order of magnitudes
        if name == "TrivialAugment":
            found.sort()
        if op == "Posterize":  # of whole bits
            found = np.round(found)
        most = expected[-1]
        # theirs are of 32 bits, after a division, a product and a sum: within some 1e-7 of the greatest
        np.testing.assert_allclose(found, expected if most else [0], rtol=0, atol=4e-7 * most)


@pytest.mark.parametrize("i", range(4))
def test_operations_are_torchvisions(i):
    for name, number, expected in zip(THEIRS["names"], THEIRS["numbers"], THEIRS[f"done{i}"], strict=True):
        kind = name.removeprefix("adjust_")
        if kind in ("brightness", "contrast", "saturation", "hue"):
            found = ColorJitter(**{kind: (number, number)})(PICTURES[i], np.random.default_rng(0))
        else:
            operation, _ = transforms.OPERATIONS[name]
            found = transforms._array(operation(transforms._picture(PICTURES[i]), ours(name, number)))
        np.testing.assert_array_equal(found, expected, err_msg=f"{name} {number}")


@given(pictures, seeds, st.sampled_from(sorted(transforms.OPERATIONS)))
def test_no_amount_is_no_change(picture, seed, name):
    """But of what has no amount, and of white to solarize."""
    operation, _ = transforms.OPERATIONS[name]
    before = transforms._picture(picture)
    after = transforms._array(operation(before, 0))
    if name in ("AutoContrast", "Equalize"):
        expected = transforms._array(getattr(ImageOps, name.lower())(before))
    elif name == "Solarize":
        expected = np.where(picture == 255, 0, picture)
    else:
        expected = picture
    np.testing.assert_array_equal(after, expected)


@given(pictures, st.sampled_from([1, -1]), st.floats(0, 1))
def test_operations_in_plain_numpy(picture, sign, strength):
    """Those whose result is known to the pixel."""

    def done(name, amount):
        return transforms._array(transforms.OPERATIONS[name][0](transforms._picture(picture), amount))

    _, height, width = picture.shape
    for name, axis in (("TranslateX", 2), ("TranslateY", 1)):
        by = sign * int(strength * picture.shape[axis])
        expected = np.roll(picture, by, axis)
        where = np.arange(picture.shape[axis])
        outside = (where < by) | (where >= picture.shape[axis] + by)
        np.moveaxis(expected, axis, 0)[outside] = 0
        np.testing.assert_array_equal(done(name, by), expected)
    bits = 8 - round(4 * strength)
    np.testing.assert_array_equal(done("Posterize", 4 * strength), picture & (256 - 2 ** (8 - bits)))
    solarized = np.where(picture >= 255 - 255 * strength, 255 - picture, picture)
    np.testing.assert_array_equal(done("Solarize", 255 * strength), solarized)
    assume(0.05 < strength % 1 < 0.45)
    amount = sign * strength
    for name in ("ShearX", "ShearY"):
        rows, columns = np.mgrid[:height, :width] + 0.5  # a pixel is where its middle is
        x = columns + (amount * rows if name == "ShearX" else 0)
        y = rows + (amount * columns if name == "ShearY" else 0)
        close = np.minimum(np.abs(x - np.rint(x)), np.abs(y - np.rint(y))) < 1e-3  # of an edge: either may round on
        x, y = np.floor(x).astype(int), np.floor(y).astype(int)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        expected = np.where(inside, picture[:, y.clip(0, height - 1), x.clip(0, width - 1)], 0)
        np.testing.assert_array_equal(done(name, amount)[:, ~close], expected[:, ~close])


def test_rotation_is_in_degrees():
    picture = noise(3, 9, 9)
    turned = transforms._array(transforms.OPERATIONS["Rotate"][0](transforms._picture(picture), 90))
    np.testing.assert_array_equal(turned, np.rot90(picture, axes=(1, 2)))
