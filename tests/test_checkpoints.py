"""Checkpoints: what goes in comes out, and no file is taken for what it is not."""

import json
import os

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres import checkpoints, models
from tinyres.checkpoints import CheckpointError

LAYOUTS = {
    "contiguous": lambda a: a,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    "reversed": lambda a: a[::-1].copy()[::-1] if a.ndim else a,
    "read-only": lambda a: np.broadcast_to(a, a.shape),
}


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int64, np.uint8]))
    values = np.random.default_rng(draw(st.integers(0, 999))).standard_normal(shape)
    return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](np.asarray(100 * values).astype(dtype))


names = st.text("abc.", min_size=1, max_size=6)
info = st.dictionaries(
    names, st.recursive(st.none() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=4)
)


@given(st.dictionaries(names, arrays(), max_size=4), info)
def test_what_goes_in_comes_out(tmp_path_factory, saved, info):
    path = tmp_path_factory.mktemp("checkpoint") / "a.safetensors"
    checkpoints.save(path, saved, info)
    loaded, told = checkpoints.load(path)
    assert told == info
    assert loaded.keys() == saved.keys()
    for name, array in loaded.items():
        assert array.dtype == saved[name].dtype
        assert array.shape == saved[name].shape
        np.testing.assert_array_equal(array, saved[name])


def test_length_of_the_header_is_not_taken_for_a_pickle(tmp_path):
    """Its first bytes, of 640 and the next few lengths that safetensors pads to, are those of a pickle's protocol."""
    starts = set()
    for length in range(300, 2000):
        checkpoints.save(tmp_path / "a", {}, {"text": "x" * length})
        starts.add((tmp_path / "a").read_bytes()[:2])
        assert checkpoints.load(tmp_path / "a")[1] == {"text": "x" * length}
    assert {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"} <= starts


@pytest.mark.parametrize("special", [np.nan, np.inf, -0.0, 5e-324, 1.7e308])
def test_every_bit_is_kept(tmp_path, special):
    array = np.array([special, 1 / 3])
    checkpoints.save(tmp_path / "a", {"a": array}, {"third": 1 / 3})
    loaded, told = checkpoints.load(tmp_path / "a")
    assert loaded["a"].tobytes() == array.tobytes()
    assert told["third"] == 1 / 3


def test_file_is_plain_safetensors(tmp_path):
    """Other tools can read the weights."""
    path = tmp_path / "a.safetensors"
    checkpoints.save(path, {"model.w": np.arange(3.0)}, {"step": 5})
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["model.w"], [0, 1, 2])
    with safetensors.safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()["tinyres"]) == {"format": checkpoints.FORMAT, "step": 5}
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    checkpoints.save(tmp_path / "a", {}, {"step": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(tmp_path / "a", {}, {"step": np.zeros(2)})
    assert checkpoints.load(tmp_path / "a")[1]["step"] == 1


# ---------------------------------------------------------------- checksum
def test_every_flipped_bit_is_noticed(tmp_path):
    """In the description too: its text, and the name of the checksum."""
    path = tmp_path / "a"
    checkpoints.save(path, {"a": np.arange(3, dtype=np.float32), "b": np.array(7)}, {"step": 1})
    content = path.read_bytes()
    expected = checkpoints.load(path)
    harmless = 0
    for i in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[i // 8] ^= 1 << i % 8
        path.write_bytes(damaged)
        try:
            arrays, info = checkpoints.load(path)
        except CheckpointError:
            continue
        harmless += 1  # white space between the header and the arrays
        assert i // 8 < 8 + int.from_bytes(content[:8], "little")
        assert info == expected[1]
        assert {n: a.tobytes() for n, a in arrays.items()} == {n: a.tobytes() for n, a in expected[0].items()}
    assert harmless < 100


def test_checksum_is_of_content_not_of_order(tmp_path):
    a, b = np.zeros(2), np.ones((2, 2), np.float32)
    written = checkpoints.save(tmp_path / "a", {"a": a, "b": b.T}, {"step": 1})
    assert written == checkpoints.save(tmp_path / "b", {"b": b, "a": a}, {"step": 1})
    assert written == checkpoints.state_digest({"b": b, "a": a}, {"step": 1})
    others = [
        ({"a": a, "c": b}, {"step": 1}),
        ({"a": b, "b": a}, {"step": 1}),
        ({"a": a, "b": b.reshape(4)}, {"step": 1}),
        ({"a": -a, "b": b}, {"step": 1}),
        ({"a": a.view(np.int64), "b": b}, {"step": 1}),
        ({"a": a, "b": b}, {"step": 1.0}),
        ({"a": a, "b": b}, {"stop": 1}),
        ({"a": a}, {"step": 1}),
    ]
    assert len({written, *(checkpoints.state_digest(*other) for other in others)}) == 1 + len(others)


# ---------------------------------------------------------------- what is not a checkpoint
@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "a.safetensors"
    checkpoints.save(path, {"a": np.arange(3, dtype=np.float32), "b": np.zeros((), np.int64)}, {"step": 1})
    return path


def test_every_truncation_is_noticed(small_file, tmp_path):
    content, path = small_file.read_bytes(), tmp_path / "cut.safetensors"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.safetensors: not a safetensors file, or a damaged one"):
            checkpoints.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(path)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_checkpoint(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"random\.safetensors: "):
        checkpoints.load(path)


@given(st.data())
def test_damage_anywhere_gives_one_kind_of_error_or_none(tmp_path_factory, small_file, data):
    """Some bytes of an array, or of a name, can be anything: nothing guards them. All else is noticed."""
    content = bytearray(small_file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    try:
        loaded, _ = checkpoints.load(path)
    except CheckpointError:
        return
    assert sum(a.nbytes for a in loaded.values()) == 3 * 4 + 8


def described(text):
    return safetensors.numpy.save({"a": np.zeros(1)}, metadata={"tinyres": text})


def with_dtype(name, size):
    header = {"a": {"dtype": name, "shape": [1], "data_offsets": [0, size]}}
    header["__metadata__"] = {"tinyres": '{"format": 2}'}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (safetensors.numpy.save({"a": np.zeros(1)}), "a safetensors file, but no tinyres checkpoint"),
        (safetensors.numpy.save({}, metadata={"format": "pt"}), "a safetensors file, but no tinyres checkpoint"),
        (described("{"), "no tinyres checkpoint"),
        (described("[1]"), "no tinyres checkpoint"),
        (described("3"), "no tinyres checkpoint"),
        (described("{}"), "no tinyres checkpoint"),
        (described("[" * 100_000), "no tinyres checkpoint"),
        (described('{"format": 1}'), "format 1, expected 3: written by another version of tinyres"),
        (described('{"format": null}'), "format None, expected 3"),
        (with_dtype("BF16", 2), "bfloat16"),
        (with_dtype("F8_E4M3", 1), "float8"),
        (b"", "not a safetensors file"),
        (b"\x80\x04\x95pickle", "a pickle, as torch.save writes"),
    ],
)
def test_other_files_are_no_checkpoints(tmp_path, content, message):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"other\.safetensors: .*{message}"):
        checkpoints.load(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such file"):
        checkpoints.load(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=rf"{tmp_path.name}: a folder, expected .*best\.safetensors"):
        checkpoints.load(tmp_path)
    assert issubclass(CheckpointError, ValueError)


# ---------------------------------------------------------------- models
@pytest.fixture
def tiny(monkeypatch):
    spec = {"block": models.BasicBlock, "layers": [1], "widths": (4,), "shortcut": "A", "num_classes": 10}
    monkeypatch.setitem(models.FAMILY, "tiny", spec)


def save_model(path, name="tiny", *, drop=(), add=(), options=(), **info):
    model = models.create(name)
    arrays = {f"model.{n}": a for n, a in model.state_dict().items() if n not in drop}
    description = {"name": name, "options": dict(options)}
    rest = {"classes": list("0123456789"), "image_size": 8, "mean": [0.5] * 3, "std": [0.2] * 3, "config": {}}
    checkpoints.save(path, {**arrays, **dict(add)}, {"model": description, **rest, **info})
    return model


@pytest.mark.usefixtures("tiny")
def test_model_is_loaded_ready_for_use(tmp_path):
    path = tmp_path / "a"
    model = save_model(path, add={"optimizer.0.momentum": np.zeros(2)})
    loaded, info = checkpoints.load_model(path)
    assert not loaded.training
    assert info["image_size"] == 8
    x = tr.Tensor(np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("f4"))
    np.testing.assert_array_equal(loaded(x).data, model.eval()(x).data)


@pytest.mark.usefixtures("tiny")
def test_model_of_other_arrays_names_what_does_not_fit(tmp_path):
    path = tmp_path / "a"
    add = {"model.layer9.0.conv1.weight": np.zeros(1), "model.fc.bias": np.zeros(7)}
    save_model(path, drop=["conv1.weight"], add=add)
    with pytest.raises(CheckpointError, match="its arrays do not belong to this model") as caught:
        checkpoints.load_model(path)
    for line in (
        "conv1.weight: missing",
        "layer9.0.conv1.weight: unexpected",
        r"fc.bias: got shape (7,), expected (10,)",
    ):
        assert f"\n  {line}" in str(caught.value)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"model": {"name": "resnet21", "options": {}}}, "does not describe a model .*did you mean .*resnet20"),
        ({"model": {"name": "tiny", "options": {"depth": 3}}}, "does not describe a model .*depth"),
        ({"model": {"name": "tiny", "options": {"shortcut": "Z"}}}, "does not describe a model .*shortcut: got 'Z'"),
        ({"model": {"name": ["tiny"], "options": {}}}, "does not describe a model"),
        ({"model": None}, "does not describe a model"),
        ({"model": {"name": "tiny", "options": {"num_classes": 3}}}, r"fc\.weight: got shape \(10, 4\)"),
    ],
)
def test_description_of_no_model(tmp_path, info, message):
    save_model(tmp_path / "a", **info)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load_model(tmp_path / "a")


@pytest.mark.usefixtures("tiny")
def test_description_that_is_not_whole(tmp_path):
    checkpoints.save(tmp_path / "a", {}, {"model": {"name": "tiny", "options": {}}})
    with pytest.raises(CheckpointError, match="does not describe a model of tinyres"):
        checkpoints.load_model(tmp_path / "a")


@pytest.mark.usefixtures("tiny")
def test_long_lists_of_what_does_not_fit_are_cut(tmp_path):
    save_model(tmp_path / "a", model={"name": "resnet20", "options": {}})
    with pytest.raises(CheckpointError, match=r"expected \(16,\)\n  and \d+ more$") as caught:
        checkpoints.load_model(tmp_path / "a")
    assert len(str(caught.value).splitlines()) == 10


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_or_a_device_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(checkpoints.CheckpointError, match="a pipe or a device, expected a file"):
            checkpoints.load(path)
