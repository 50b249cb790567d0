"""Pictures from files, and folders of them: what is read, how it is split, and what is said of damaged ones."""

import contextlib
import io
import shutil
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinyres import data
from tinyres.data import DatasetError, DatasetNotFound, PictureError, folder, image_folder, read_picture
from tinyres.data.pictures import in_channels

COLOURS = ["red", "lime", "blue", "white", "black"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


def saved(place, pixels, name="a.png", **options):
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(place / name, **options)
    return place / name


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# ---------------------------------------------------------------- one picture
@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_picture_of_the_right_size_is_its_pixels(place, size, seed):
    pixels = noise(size, size, seed)
    np.testing.assert_array_equal(read_picture(saved(place, pixels), size), pixels.transpose(2, 0, 1))


@given(st.integers(1, 12), st.integers(0, 9), st.booleans())
def test_a_longer_picture_is_cut_around_its_middle(place, size, more, tall):
    pixels = noise(size, size + more)
    first = more // 2
    expected = pixels[:, first : first + size]
    if tall:
        pixels, expected = pixels.transpose(1, 0, 2), expected.transpose(1, 0, 2)
    found = read_picture(saved(place, np.ascontiguousarray(pixels)), size)
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.integers(0, 10))
def test_scaling_keeps_what_is_of_one_colour(place, height, width, size, more):
    found = read_picture(saved(place, Image.new("RGB", (width, height), (10, 20, 30))), size, resize=size + more)
    assert found.shape == (3, size, size)
    assert found.dtype == np.uint8
    assert (found == np.array([10, 20, 30])[:, None, None]).all()


def test_resize_and_cut_is_imagenets(place):
    """The shorter side to 256, and 224 x 224 from the middle: to rounding, what scaling all of it first gives."""
    rows, columns = np.mgrid[:300, :400]
    pixels = np.stack([rows * 255 // 300, columns * 255 // 400, (rows + columns) * 255 // 700], -1).astype(np.uint8)
    path = saved(place, pixels)
    whole = np.asarray(Image.fromarray(pixels).resize((341, 256), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    found = read_picture(path, 224, resize=data.short_side(224)).astype(int)
    assert np.abs(found - whole[:, 16:240, 58:282]).max() <= 2
    assert data.short_side(224) == 256
    assert [data.short_side(n) for n in (32, 64, 128)] == [32, 64, 146]


@given(st.integers(2, 120), st.integers(2, 120), st.integers(1, 40), st.integers(0, 10))
def test_scaling_keeps_a_gradient(place, height, width, size, more):
    ramp = np.linspace(0, 255, width)
    pixels = np.repeat(np.tile(ramp.round().astype(np.uint8), (height, 1))[..., None], 3, axis=2)
    found = read_picture(saved(place, pixels), size, resize=size + more)
    assert (found == found[:1, :1]).all()
    scale, square = min(height, width) / (size + more), min(height, width) * size / (size + more)
    at = (width - square) // 2 + scale * (np.arange(size) + 0.5) - 0.5  # of each new pixel, in old ones
    inner = np.minimum(at, width - 1 - at) >= 2 * max(scale, 1)  # nearer the edge, the filter is cut off
    assert np.abs(found[0, 0] - np.interp(at, np.arange(width), ramp))[inner].max(initial=0) <= 2


def test_fine_patterns_turn_grey(place):
    checks = np.where(np.indices((64, 64)).sum(0) % 2, 255, 0).astype(np.uint8)
    assert np.abs(read_picture(saved(place, checks), 8).astype(int) - 127).max() <= 2


def test_long_strips_take_no_memory(place):
    assert read_picture(saved(place, Image.new("RGB", (1, 60_000))), 224).shape == (3, 224, 224)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_every_kind_of_pixel(place, mode):
    white = {
        "1": 1,
        "LA": (255, 255),
        "P": "white",
        "RGB": (255,) * 3,
        "RGBA": (255,) * 4,
        "CMYK": (0,) * 4,
        "I": 65535,
        "I;16": 65535,
    }
    found = read_picture(saved(place, Image.new(mode, (12, 9), white.get(mode, 255)), "a.tif"), 8)
    assert found.shape == (3, 8, 8)
    assert (found == 255).all()


def test_palettes_may_be_transparent(place):
    path = saved(place, Image.new("P", (9, 9), "red"), transparency=bytes([128]))
    assert (read_picture(path, 8) == np.array([255, 0, 0])[:, None, None]).all()


def test_sixteen_bits_of_grey_keep_their_brightness(place):
    path = saved(place, np.full((9, 9), 40_000, np.uint16))
    assert (read_picture(path, 8) == 40_000 >> 8).all()


def test_pictures_are_turned_upright(place):
    pixels = noise(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # held so that the camera's right is up: to be turned clockwise
    found = read_picture(saved(place, pixels, exif=exif), 8)
    np.testing.assert_array_equal(found, np.rot90(pixels, -1).transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.tif", "a.webp", "a.ppm"])
def test_a_file_that_is_cut_off_anywhere_is_an_error(place, name):
    content = io.BytesIO()
    Image.fromarray(noise(24, 24)).save(content, Image.registered_extensions()[Path(name).suffix])
    whole = content.getvalue()
    for length in range(0, len(whole) * 3 // 4, 7):
        (place / name).write_bytes(whole[:length])
        with pytest.raises(PictureError, match=rf"{name}: not an image that can be read \("):
            read_picture(place / name, 8)
    (place / name).write_bytes(whole)
    assert read_picture(place / name, 8).shape == (3, 8, 8)


@given(st.data())
def test_damage_gives_a_picture_or_a_picture_error(place, data):
    content = io.BytesIO()
    Image.fromarray(noise(16, 16)).save(content, data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF"])))
    damaged = bytearray(content.getvalue())
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    (place / "damaged").write_bytes(damaged)
    with contextlib.suppress(PictureError):  # and no other
        assert read_picture(place / "damaged", 8).shape == (3, 8, 8)


def test_any_error_of_a_decoder_is_a_picture_error(place):
    path = saved(place, noise(16, 16), "a.tif")
    content = path.read_bytes()
    entry = struct.pack("<HH", 273, 4)  # where the pixels begin, a whole number
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, struct.pack("<HH", 273, 11)))  # as a float: a TypeError to Pillow
    with pytest.raises(PictureError, match=r"a\.tif: not an image that can be read"):
        read_picture(path, 8)


def test_want_of_memory_is_not_a_damaged_picture(place, monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    path = saved(place, noise(9, 9))
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        read_picture(path, 8)


def test_kinds_that_start_other_programs_are_refused(place):
    """Pillow gives EPS to Ghostscript, whatever the file is called."""
    eps = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    (place / "a.jpg").write_text(eps)
    with Image.open(place / "a.jpg") as file:
        assert file.format == "EPS"
    with pytest.raises(PictureError, match=r"a\.jpg: not an image that can be read"):
        read_picture(place / "a.jpg", 8)


def test_bombs_and_other_mistakes(place, monkeypatch):
    path = saved(place, noise(9, 9))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.warns(Image.DecompressionBombWarning, match="81 pixels"):
        assert read_picture(path, 8).shape == (3, 8, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(PictureError, match=r"81 pixels.* exceeds limit of 80 pixels"):
        read_picture(path, 8)
    with pytest.raises(PictureError, match=r"none\.png: no such file"):
        read_picture(place / "none.png", 8)
    with pytest.raises(PictureError, match="not an image"):
        read_picture(place, 8)
    for size, resize in ((0, None), (8, 7)):
        with pytest.raises(ValueError, match=f"size: got {size} with resize {resize}"):
            read_picture(path, size, resize=resize)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("size", [(400, 300), (300, 431), (700, 40)])
def test_huge_pictures_are_read_at_a_smaller_scale(place, monkeypatch, name, size):
    """And nothing else changes: a smooth picture looks the same."""
    across = np.linspace(0, 255, size[0]) * np.ones((size[1], 1))
    picture = np.stack([across, across[:, ::-1], np.linspace(0, 255, size[1])[:, None] * np.ones(size[0])], -1)
    Image.fromarray(picture.astype(np.uint8)).save(place / name, quality=95)
    plain = read_picture(place / name, 16, resize=20)
    seen = []
    upright = data.pictures._upright
    monkeypatch.setattr(data.pictures, "HUGE", 1000)
    monkeypatch.setattr(data.pictures, "_upright", lambda file: seen.append(upright(file)) or seen[-1])
    np.testing.assert_allclose(read_picture(place / name, 16, resize=20), plain, atol=4)
    smaller = min(size) >= 80 and name == "a.jpg"  # twice what the side is scaled to, twice
    assert (seen[0].size[0] <= size[0] / 2) == smaller
    assert min(seen[0].size) >= min(*size, 40)


# ---------------------------------------------------------------- folders
def tree(root, classes, **options):
    """A folder for each class, with so many pictures, each of its own brightness."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (10, 8), (i, 0, 0)).save(root / name / f"{i:03}.png", **options)
    return root


def brightness(found):
    """(class, number) of each picture that was read."""
    return [(found.classes[label], image[0, 0, 0]) for image, label in zip(found.images, found.labels, strict=True)]


@given(st.lists(st.integers(1, 11), min_size=2, max_size=4), st.integers(0, 2**32 - 1))
def test_one_tree_is_cut_in_two(counts, seed):
    if max(counts) < 2:
        counts[0] = 2
    with TemporaryDirectory() as root:
        tree(Path(root), {COLOURS[i]: n for i, n in enumerate(counts)})
        train, val, test = (image_folder(root, s, image_size=8, seed=seed) for s in ("train", "val", "test"))
    parts = brightness(train), brightness(val)
    assert sorted(parts[0] + parts[1]) == sorted((COLOURS[i], j) for i, n in enumerate(counts) for j in range(n))
    for i, n in enumerate(counts):
        held = sum(name == COLOURS[i] for name, _ in parts[1])
        assert held == (max(1, n // 5) if n > 1 else 0)
    assert brightness(test) == parts[1]
    assert train.classes == tuple(sorted(COLOURS[: len(counts)]))


def test_the_seed_chooses_and_contents_do_not(tmp_path):
    tree(tmp_path, {"a": 100, "b": 100})
    first, again, other = (brightness(image_folder(tmp_path, "val", image_size=8, seed=s)) for s in (1, 1, 2))
    assert first == again != other
    (tmp_path / "a" / "007.png").write_bytes(b"")
    parts = [image_folder(tmp_path, s, image_size=8, seed=1) for s in ("train", "val")]
    assert [x for x in first if x != ("a", 7)] == brightness(parts[1])
    assert sum(len(p.bad) for p in parts) == 1


@pytest.mark.parametrize("val", ["val", "validation"])
def test_folders_of_splits(tmp_path, val):
    tree(tmp_path / "train", {"b": 3, "a": 2})
    tree(tmp_path / val, {"b": 1})
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("no class")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "train" / "a" / "folder.png").mkdir()
    (tmp_path / "train" / "a" / "more").mkdir()
    Image.new("RGB", (9, 9), (77, 0, 0)).save(tmp_path / "train" / "a" / "more" / "x.JPG", "PNG")
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "a" / ".x.png")
    found = image_folder(tmp_path, image_size=8)
    assert brightness(found) == [("a", 0), ("a", 1), ("a", 77), ("b", 0), ("b", 1), ("b", 2)]
    assert brightness(image_folder(tmp_path, "val", image_size=8)) == [("b", 0)]
    assert brightness(image_folder(tmp_path, "test", image_size=8)) == [("b", 0)]
    tree(tmp_path / "test", {"a": 2})
    assert brightness(image_folder(tmp_path, "test", image_size=8)) == [("a", 0), ("a", 1)]


def test_one_picture_in_a_hundred_may_be_damaged(tmp_path):
    tree(tmp_path / "train", {"a": 50, "b": 50})
    for i in range(2):
        (tmp_path / "train" / "a" / f"{i:03}.png").write_bytes(b"damaged")
        if not i:
            found = image_folder(tmp_path, image_size=8)
            assert len(found.images) == len(found.labels) == 99
            assert brightness(found)[0] == ("a", 1)
            (message,) = found.bad
            assert "000.png: not an image that can be read" in message
    with pytest.raises(DatasetError, match=r"2 of 100 train pictures cannot be read.*\n.*000\.png.*\n.*001\.png"):
        image_folder(tmp_path, image_size=8)
    for i in range(9):
        (tmp_path / "train" / "b" / f"{i:03}.png").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=r"(?s)11 of 100 .*and 6 more") as caught:
        image_folder(tmp_path, image_size=8)
    assert len(str(caught.value).splitlines()) == 7


def test_pictures_are_scaled_and_cut_as_read_picture_does(tmp_path):
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        path = saved(tmp_path / "train" / name, noise(20, 30))
    found = image_folder(tmp_path, image_size=8, resize=12)
    np.testing.assert_array_equal(found.images, [read_picture(path, 8, resize=12)] * 2)
    with pytest.raises(ValueError, match="size: got 8 with resize 7"):
        image_folder(tmp_path, image_size=8, resize=7)


def test_progress_counts_to_the_end(tmp_path):
    calls = []
    image_folder(tree(tmp_path, {"a": 4, "b": 2}), image_size=8, progress=lambda *call: calls.append(call))
    assert calls == [(i + 1, 4) for i in range(4)]


def test_what_is_wrong_with_a_folder(tmp_path):
    def message(error, **options):
        with pytest.raises(error) as caught:
            image_folder(tmp_path / "x", image_size=8, **options)
        return str(caught.value)

    assert f"does not exist; expected a folder that holds {folder.LAYOUT}" in message(DatasetNotFound)
    (tmp_path / "x").write_text("")
    assert "is not a folder" in message(DatasetNotFound)
    (tmp_path / "x").unlink()
    (tmp_path / "x").mkdir()
    assert "holds no folders of classes" in message(DatasetNotFound)
    tree(tmp_path / "x" / "val", {"a": 1, "b": 1})
    assert "has val, but no train" in message(DatasetNotFound)
    shutil.rmtree(tmp_path / "x" / "val")
    tree(tmp_path / "x", {"a": 2})
    assert "only one class, a; expected two or more" in message(DatasetError)
    (tmp_path / "x" / "b").mkdir()
    assert "b: no pictures; expected some of .bmp" in message(DatasetError)
    tree(tmp_path / "x" / "train", {"a": 1, "b": 1})
    assert "has train, but no val" in message(DatasetNotFound, split="val")
    tree(tmp_path / "x" / "val", {"c": 1})
    assert "there are no classes c in" in message(DatasetError, split="val")
    assert "split: expected 'train', 'val' or 'test', got 'dev'" in message(ValueError, split="dev")
    with pytest.raises(ValueError, match="image_size: expected 1 or more, got 0"):
        image_folder(tmp_path / "x", image_size=0)
    single = tree(tmp_path / "single", {"a": 1, "b": 1})
    with pytest.raises(DatasetError, match="too few pictures to hold out some for val"):
        image_folder(single, "val", image_size=8)


# ---------------------------------------------------------------- shades of grey
@given(st.integers(0, 2**32 - 1))
def test_grey_is_pillows(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    expected = [np.asarray(Image.fromarray(p.transpose(1, 2, 0).copy()).convert("L")) for p in pixels]
    assert (in_channels(pixels, 1)[:, 0] == expected).all()
    assert in_channels(pixels, 3) is pixels
    with pytest.raises(ValueError, match="images: got pictures of 3 colours, expected 4 channels"):
        in_channels(pixels, 4)
