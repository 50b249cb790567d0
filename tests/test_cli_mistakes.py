"""One short message for each mistake on the command line, and nothing that was there is harmed."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import TRAIN, bad, good

from tinyres import checkpoints, progress
from tinyres.data import cifar

pytestmark = pytest.mark.usefixtures("small_world")


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fake_cifar(root, *, label=0, cut=0):
    folder = root / cifar.CIFAR10.folder
    folder.mkdir(parents=True)
    record = bytes([0]) + bytes(cifar.PIXELS)
    for names in cifar.CIFAR10.files.values():
        for name in names:
            content = record * 3 + bytes([label]) + bytes(cifar.PIXELS)
            (folder / name).write_bytes(content[: len(content) - cut])
    return root


@pytest.fixture
def few_records(monkeypatch):
    records = dict.fromkeys(cifar.CIFAR10.records, 4)
    monkeypatch.setattr(cifar, "CIFAR10", cifar.CIFAR10._replace(records=records))


@pytest.mark.usefixtures("few_records")
@pytest.mark.parametrize("dataset", ["auto", "cifar10"])
def test_bad_data(tmp_path, dataset):
    train_on = ["train", "--dataset", dataset, "--model", "tiny", "--out", tmp_path / "run", "--data"]
    message = bad(*train_on, tmp_path / "nowhere")
    assert "CIFAR-10 was not found: there is no" in message
    assert "--data DIR" in message
    assert "expected 12,292 bytes, found 12,291" in bad(*train_on, fake_cifar(tmp_path / "cut", cut=1))
    message = bad(*train_on, fake_cifar(tmp_path / "label", label=10))
    assert "record 3 has label 10, expected 0 to 9" in message
    (tmp_path / "file").write_bytes(b"no archive")
    assert "not a whole .tar.gz archive" in bad(*train_on, tmp_path / "file")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "batch_size: got 0, expected 1 or more"),
        (["--epochs", "0"], "epochs: got 0, expected 1 or more"),
        (["--lr", "0"], "lr: got 0.0, expected a positive number"),
        (["--lr", "nan"], "lr: got nan"),
        (["--model", "resnet2"], "there is no 'resnet2'; did you mean resnet"),
        (["--model", "plain21"], " plain20 "),
        (["--dataset", "cifar"], "dataset: got 'cifar', expected one of cifar10, cifar100, shapes, mnist, "),
        (["--optimizer", "adam"], "optimizer: got 'adam', expected sgd or adamw"),
        (["--schedule", "linear"], "schedule: got 'linear', expected one of"),
        (["--shortcut", "D"], "shortcut: got 'D', expected one of A, A-after, B, C"),
        (["--validation", "50"], "validation: got 50, expected less than the 50 training images"),
        (["--momentum", "1"], "momentum: got 1.0"),
        (["--warmup", "1"], "warmup: got 1.0"),
        (["--label-smoothing", "2"], "label_smoothing: got 2.0"),
        (["--clip-norm", "0"], "clip_norm: got 0.0"),
        (["--seed", "-1"], "seed: got -1"),
        (["--threads", "0"], "--threads: got 0 threads, expected 1 to"),
        (["--threads", "100000"], "--threads: got 100000 threads, expected 1 to"),
    ],
)
def test_bad_options(tmp_path, options, message):
    assert message in bad(*TRAIN, "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [["--epochs", "three"], ["--lr", "high"], ["--no-such-option"], ["--seed"]])
def test_options_that_cannot_be_read(tmp_path, options):
    message = bad(*TRAIN, "--out", tmp_path / "run", *options, code=2)
    assert options[0] in message
    assert not (tmp_path / "run").exists()


def test_folder_that_holds_a_run_is_not_overwritten(run):
    before = contents(run)
    message = bad(*TRAIN, "--out", run)
    assert (
        message
        == f"Error: {run} already holds a run: choose another folder, or continue it (--resume; resume=True in Python)"
    )
    assert contents(run) == before


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("precious")
    assert "file" in bad(*TRAIN, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_verify(run, tmp_path):
    text = good("verify", run)
    assert "run again on" in text
    assert f"give the state of {run / 'last.safetensors'} to the last bit" in text
    assert re.search("SHA-256 [0-9a-f]{64}$", text.strip())
    assert "no configuration of a run" in bad("verify", tmp_path)


def test_bad_checkpoint_every(tmp_path):
    message = bad("train", "--checkpoint-every", "often", "--out", tmp_path / "run")
    assert message == (
        "Error: --checkpoint-every: got 'often', expected a number of steps such as 500, or of minutes such as 10m"
    )
    assert not (tmp_path / "run").exists()


def test_bad_resume(run, tmp_path):
    before = contents(run)
    assert "--resume needs the run's folder: --out DIR" in bad("train", "--resume")
    assert "no configuration of a run" in bad("train", "--resume", "--out", tmp_path / "nowhere")
    message = bad("train", "--resume", "--out", run, "--batch-size", "13")
    assert f"--batch-size: got 13, but the run in {run} has 12; leave it out to resume" in message
    assert "--model: got resnet20, but" in bad("train", "--resume", "--out", run, "--model", "resnet20")
    assert contents(run) == before
    whole = (run / "last.safetensors").read_bytes()
    (run / "last.safetensors").write_bytes(whole[:-1])
    assert "last.safetensors: not a safetensors file, or a damaged one" in bad("train", "--resume", "--out", run)
    (run / "last.safetensors").unlink()
    assert "last.safetensors: no such file" in bad("train", "--resume", "--out", run)


def test_output_takes_no_place_of_a_run_or_of_another(run, tmp_path):
    """Neither of the checkpoint that is read, nor of another file of a run, nor of the other output."""
    before, best = contents(run), run / "best.safetensors"
    alone = Path(shutil.copy(best, tmp_path / "alone.safetensors"))
    (tmp_path / "link.safetensors").symlink_to(run / "last.safetensors")
    for output in (best, run / "last.safetensors", alone, tmp_path / "link.safetensors"):
        message = bad("export", alone, "--safetensors", output)
        assert message == (
            f"Error: --safetensors: got {output}, a checkpoint or another file of a run; expected another file"
        )
    message = bad("export", best, "--onnx", "a.onnx", "--safetensors", tmp_path / "a.onnx")
    assert message == "Error: --onnx, --safetensors: got a.onnx for both, expected two files"
    assert not (tmp_path / "a.onnx").exists()
    (tmp_path / "a.onnx").touch()
    message = bad("export", tmp_path / "missing.safetensors", "--onnx", "a.onnx")
    assert message.endswith("missing.safetensors: no such file")
    message = bad("eval", best, "--json", run / "config.json")
    assert message == f"Error: --json: got {run / 'config.json'}, a file of a run; expected another file"
    assert contents(run) == before
    assert alone.read_bytes() == best.read_bytes()


@pytest.mark.parametrize("command", [["eval"], ["predict", "a.png"]])
def test_bad_checkpoints(run, tmp_path, command):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    command, *image = command
    path = tmp_path / "bad.safetensors"
    whole = (run / "best.safetensors").read_bytes()

    def message():
        return bad(command, path, *image)

    assert "bad.safetensors: no such file" in message()
    path.write_bytes(whole[: len(whole) // 2])
    assert "bad.safetensors: not a safetensors file, or a damaged one" in message()
    path.write_bytes(b"")
    assert "damaged" in message()
    path.write_text("not safetensors at all")
    assert "damaged" in message()
    arrays, info = checkpoints.load(run / "best.safetensors")
    checkpoints.save(path, arrays, {**info, "model": {"name": "resnet20", "options": {}}})
    text = message()
    assert "its arrays do not belong to this model: state does not fit ResNet: " in text
    assert re.search(r"conv1\.weight: got shape \(8, 3, 3, 3\), expected \(16, 3, 3, 3\) .* and \d+ more$", text)
    checkpoints.save(path, arrays, {**info, "model": {"name": "resnet21", "options": {}}})
    assert "does not describe a model of tinyres" in message()
    checkpoints.save(path, arrays, {"step": 1})
    assert "does not describe a model" in message()
    assert f"{run}: a folder, expected a checkpoint" in bad(command, run, *image)
    if command == "eval":
        checkpoints.save(path, arrays, {**info, "config": {**info["config"], "future": 1}})
        assert "bad.safetensors: " in message()
        assert "future" in message()


def test_bad_pictures(run, tmp_path):
    best = run / "best.safetensors"
    assert "none.png: no such file" in bad("predict", best, "none.png")
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png: not an image that can be read" in bad("predict", best, "text.png")
    (tmp_path / "empty.png").write_bytes(b"")
    assert "empty.png: not an image" in bad("predict", best, "empty.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    assert "cut.png: not an image" in bad("predict", best, "cut.png")
    assert "--top: got 0, expected 1 or more" in bad("predict", best, "whole.png", "--top", "0")


def test_bad_split_model_and_size(run):
    message = bad("eval", run / "best.safetensors", "--split", "all")
    assert "--split: got 'all', expected test, validation or train" in message
    assert "there is no 'resnet200'; did you mean resnet20" in bad("summary", "resnet200")
    assert "--image-size: got 0" in bad("summary", "tiny", "--image-size", "0")
    assert "num_classes: got 0, expected 1 or more" in bad("summary", "tiny", "--num-classes", "0")


def test_divergence_is_one_message(tmp_path, monkeypatch):
    step = progress.ProgressBar.on_batch_end

    def poison(self, run, *arguments):
        step(self, run, *arguments)
        run.model.fc.bias.data[0] = np.nan

    monkeypatch.setattr(progress.ProgressBar, "on_batch_end", poison)
    with np.errstate(invalid="ignore"):
        message = bad(*TRAIN, "--out", tmp_path / "run")
    assert "the loss became nan at step 1 (epoch 1), at learning rate" in message
