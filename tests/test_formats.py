"""Files of older versions are read as they were meant, or refused in words. docs/versions.md has the table.

`data/formats` has a run of each format of checkpoints, made by a version that wrote it, with its network's answers.
"""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import tinyres as tr
from tinyres import checkpoints, models, runs, train, verify
from tinyres.checkpoints import FORMAT, CheckpointError
from tinyres.study import comparison

FILES = Path(__file__).parent / "data" / "formats"
X = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
OTHER = r"format {}, expected 3: written by another version of tinyres"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The network and the images of data/formats/make.py."""
    spec = {"block": models.BasicBlock, "layers": [1, 1], "widths": (2, 4), "shortcut": "A", "num_classes": 10}
    monkeypatch.setitem(models.FAMILY, "tiny", spec)
    monkeypatch.setitem(train.DATASETS, "shapes", (pictures, tr.data.SHAPES_CLASSES))
    monkeypatch.setattr(train, "curves", lambda history, title: None)
    with tr.use_backend("reference"):
        yield


def pictures(split):
    return tr.data.shapes(24 if split == "train" else 8, split, size=16)


def answered(form):
    return np.array(json.loads((FILES / f"format-{form}" / "logits.json").read_text()), np.float32)


def copy(form, folder):
    shutil.copytree(FILES / f"format-{form}", folder)
    return folder


def with_format(form, path):
    """The checkpoint of format 3 as a version yet to come might write it."""
    with safetensors.safe_open(FILES / "format-3" / "last.safetensors", "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        info = json.loads(file.metadata()["tinyres"])
    safetensors.numpy.save_file(arrays, path, {"tinyres": json.dumps({**info, "format": form})})
    return path


def test_there_are_files_of_every_format():
    assert {path.name for path in FILES.glob("format-*")} == {f"format-{n}" for n in range(1, FORMAT + 1)}
    assert sum(path.stat().st_size for path in FILES.rglob("*") if path.is_file()) < 100_000


@pytest.mark.parametrize("form", [2, 3])
def test_a_checkpoint_answers_as_it_did(form):
    model, info = checkpoints.load_model(FILES / f"format-{form}" / "last.safetensors")
    assert info["classes"] == list(tr.data.SHAPES_CLASSES)
    np.testing.assert_allclose(model(tr.Tensor(X)).data, answered(form), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [2, 3])
def test_a_run_goes_on(form, tmp_path):
    folder = copy(form, tmp_path / "run")
    config = runs.config_to_resume(folder, {"epochs": 3})
    assert config.shortcut == ("A-after" if form == 2 else None)
    run = train.Run(config, folder, resume=True)
    run.fit()
    assert [record["epoch"] for record in run.history] == [1, 2, 3]
    with safetensors.safe_open(folder / "last.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["tinyres"])["format"] == FORMAT
    verify.verify(folder)


def test_of_format_1_weights_are_read_and_the_rest_is_refused(tmp_path):
    """It has no checksum, and does not say where in an epoch it was written."""
    folder = copy(1, tmp_path / "run")
    for read in (checkpoints.load, checkpoints.load_info, checkpoints.load_model):
        with pytest.raises(CheckpointError, match=OTHER.format(1)):
            read(folder / "last.safetensors")
    with pytest.raises(CheckpointError, match=OTHER.format(1)):
        train.Run(runs.read_config(folder), folder, resume=True)
    with pytest.raises(CheckpointError, match=r"with shortcut 'A-after', .*the model with shortcut='A-after'"):
        models.load_weights(models.create("tiny"), folder / "last.safetensors")
    model = models.create("tiny", shortcut="A-after")
    models.load_weights(model, folder / "last.safetensors")
    np.testing.assert_allclose(model.eval()(tr.Tensor(X)).data, answered(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [0, 4, "5", None])
def test_a_format_yet_to_come_is_refused(form, tmp_path):
    path = with_format(form, tmp_path / "a.safetensors")
    into = partial(models.load_weights, models.create("tiny"))
    for read in (checkpoints.load, checkpoints.load_info, checkpoints.load_model, into):
        with pytest.raises(CheckpointError, match=OTHER.format(repr(form))):
            read(path)


@pytest.mark.parametrize("form", [1, 2, 3])
def test_settings_are_read_and_may_be_used_again(form):
    path = FILES / f"format-{form}" / "config.json"
    assert runs.read_config(path.parent).batch_size == 8
    assert train.Config(**tr.recipes.read(path).settings()).ema == 0  # which came later


def test_settings_yet_to_come_are_refused(tmp_path):
    settings = json.loads((FILES / "format-3" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "warp": 9}))
    with pytest.raises(CheckpointError, match=r"unknown settings \['warp'\]: written by another version of tinyres"):
        runs.read_config(tmp_path)
    with pytest.raises(ValueError, match="warp"):
        tr.recipes.read(tmp_path / "config.json")


@pytest.mark.parametrize("form", [1, 2, 3])
def test_an_onnx_file_answers_as_the_checkpoint_beside_it(form):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'tinyres[onnx]'")
    model = tr.from_onnx(FILES / f"format-{form}" / "net.onnx").eval()
    np.testing.assert_allclose(model(tr.Tensor(X)).data, answered(form), rtol=1e-4, atol=1e-5)


def test_runs_of_all_formats_are_laid_side_by_side():
    found = comparison.numbers([comparison.read(FILES / f"format-{form}") for form in (1, 2, 3)])
    for form, run in enumerate(found["runs"], 1):
        lines = map(json.loads, (FILES / f"format-{form}" / "metrics.jsonl").read_text().splitlines())
        assert run["train_loss"] == [line["train_loss"] for line in lines if "epoch" in line][-1]
    assert found["differences"]["shortcut"][1:] == ["A-after", None]
