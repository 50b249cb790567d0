"""Pictures of one's own, weights of others, and what leaves for other programs, from the command line."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from typer.testing import CliRunner

import tinyres as tr
from tinyres import checkpoints, cli, models, train
from tinyres.models import weights
from tinyres.runs import read_config

COLOURS = {"blue": (30, 40, 200), "green": (30, 180, 40), "red": (200, 40, 30)}
SMALL = {"block": models.BasicBlock, "layers": [1, 1], "widths": (8, 16), "shortcut": "B"}
TRAIN = ["train", "--dataset", "folder", "--model", "tiny", "--image-size", "16", "--batch-size", "8", "--epochs", "2"]
TRAIN += ["--lr", "0.1"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """Small models in an empty folder, on one thread: images are too small for more."""
    threads = tr.num_threads()
    monkeypatch.setitem(models.FAMILY, "tiny", {**SMALL, "num_classes": 10})
    monkeypatch.setitem(models.FAMILY, "tiny_imagenet", {**SMALL, "num_classes": 1000, "stem": "imagenet"})
    monkeypatch.chdir(tmp_path)
    tr.set_num_threads(1)
    yield
    tr.set_num_threads(threads)


def tinyres(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def good(*arguments):
    result = tinyres(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def bad(*arguments):
    result = tinyres(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())


@pytest.fixture
def pictures(tmp_path):
    """Three classes of colour, in every size and shape: train, val."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 5)):
        for name, colour in COLOURS.items():
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(12, 40, 2)
                noise = rng.integers(-25, 25, (height, width, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.{'jpg' if i % 2 else 'png'}")
    return tmp_path / "pictures"


# ---------------------------------------------------------------- pictures of one's own
def test_train_eval_and_predict_on_a_folder(pictures):
    text = good(*TRAIN, "--data", pictures, "--epochs", "6", "--num-classes", "3", "--out", "run")
    assert "on folder (48 images)" in text
    assert "There is no folder of test pictures: those of val choose the best checkpoint and also test it." in text
    assert float(re.search(r"Test accuracy ([\d.]+)%", text)[1]) > 90  # colours: even a tiny net tells them apart
    info = checkpoints.load("run/best.safetensors")[1]
    assert info["classes"] == list(COLOURS)
    assert (info["image_size"], info["resize"]) == (16, 16)
    accuracy = re.search(r"Test accuracy ([\d.]+%)", text)[1]
    assert f"folder test: accuracy {accuracy}" in good("eval", "run/best.safetensors")
    for name in COLOURS:
        first_cell = good("predict", "run/best.safetensors", pictures / "val" / name / "0.png").splitlines()[3]
        assert name in first_cell.split("│")[2]


def test_test_pictures_are_used_where_there_are_some(pictures):
    (pictures / "test").mkdir()
    (pictures / "val" / "red").rename(pictures / "test" / "red")
    text = good(*TRAIN, "--data", pictures, "--out", "run")
    assert "no folder of test pictures" not in text
    images, labels, *_ = train.read_split(read_config("run"), "test")
    assert (len(images), set(labels)) == (5, {2})


def test_eval_knows_classes_by_name_and_says_what_it_passes_over(pictures, tmp_path):
    good(*TRAIN, "--data", pictures, "--epochs", "1", "--out", "run")
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    for split in ("train", "val"):
        (other / split / "green").rename(other / split / "grey")
    message = bad("eval", "run/best.safetensors", "--data", other)
    assert "--data: got pictures of blue, grey, red; expected the classes of run/best.safetensors" in message
    for i in range(100):
        Image.new("RGB", (20, 20), COLOURS["red"]).save(pictures / "val" / "red" / f"more{i}.png")
    (pictures / "val" / "red" / "broken.jpg").write_bytes(b"no picture")
    text = good("eval", "run/best.safetensors")
    assert re.search(r"Passed over: .*broken\.jpg: not an image that can be read", text)
    for wrong in json.loads(good("eval", "run/best.safetensors", "--json"))["worst"]:
        assert Path(wrong["file"]).parent.name == wrong["class"]
        assert Path(wrong["file"]).exists()


def test_eval_refuses_weights_that_are_no_numbers(pictures):
    good(*TRAIN, "--data", pictures, "--epochs", "1", "--out", "run")
    arrays, info = checkpoints.load("run/best.safetensors")
    arrays["model.fc.bias"][0] = np.nan
    checkpoints.save("nan.safetensors", arrays, info)
    assert "logits: got NaN or infinity, expected numbers" in bad("eval", "nan.safetensors", "--json")


def test_compare_tells_folders_apart(pictures, tmp_path):
    good(*TRAIN, "--data", pictures, "--epochs", "1", "--out", "run")
    shutil.copytree(pictures, tmp_path / "other")
    good(*TRAIN, "--data", tmp_path / "other", "--epochs", "1", "--out", "run2")
    found = json.loads(good("compare", "run", "run2", "--json"))
    assert found["differences"] == {"data": [str(pictures), str(tmp_path / "other")]}


def test_one_tree_is_split_by_the_seed(pictures):
    tree = pictures / "train"
    text = good(*TRAIN, "--data", tree, "--out", "run")
    assert "on folder (39 images)" in text  # a fifth of each 16 is held out
    config = read_config("run")
    assert len(train.load_data(config).validation[1]) == 9
    assert good("eval", "run/best.safetensors") == good("eval", "run/best.safetensors")


def test_pictures_that_do_not_decode_are_named_and_passed_over(pictures):
    """One of 109 is less than one in a hundred; one of 49 is not."""
    (pictures / "train" / "red" / "broken.jpg").write_bytes(b"no picture")
    message = bad(*TRAIN, "--data", pictures, "--out", "run")
    assert "1 of 49" in message
    assert "broken.jpg" in message
    for i in range(60):
        Image.new("RGB", (20, 20), COLOURS["red"]).save(pictures / "train" / "red" / f"more{i}.png")
    text = good(*TRAIN, "--data", pictures, "--epochs", "1", "--out", "run")
    assert "on folder (108 images)" in text
    assert re.search(r"Passed over: .*broken\.jpg: not an image that can be read", text)


@contextlib.contextmanager
def stopping_after(steps, monkeypatch):
    """A process that dies in the step after so many."""
    real, calls = train.Run._train_step, []

    def step(self, *batch):
        calls.append(None)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return real(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "_train_step", step)
        yield


def test_resume_needs_neither_the_weights_nor_another_look_at_the_statistics(pictures, monkeypatch):
    good(*TRAIN, "--data", pictures, "--out", "first")
    options = [*TRAIN, "--data", pictures, "--weights", "first/best.safetensors"]
    good(*options, "--out", "whole")
    for folder, steps in (("early", 5), ("cut", 7)):  # an epoch has six
        with stopping_after(steps, monkeypatch):
            tinyres(*options, "--out", folder)
    weights = checkpoints.load("first/best.safetensors")
    (pictures.parent / "first" / "best.safetensors").unlink()
    assert not (pictures.parent / "early" / "last.safetensors").exists()  # nothing was saved that could be resumed
    good("train", "--out", "cut", "--resume")
    whole, cut = (checkpoints.load(f"{name}/last.safetensors") for name in ("whole", "cut"))
    assert all(np.array_equal(a, cut[0][n]) for n, a in whole[0].items())
    assert whole[1]["mean"] == cut[1]["mean"] == weights[1]["mean"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        ([], "data: got None, expected the folder that holds the pictures"),
        (
            ["--data", "pictures", "--num-classes", "4"],
            "num_classes: got 4, expected 3, the classes of the data: blue, green",
        ),
        (["--data", "pictures", "--stem", "large"], "stem: got 'large', expected one of cifar, imagenet"),
        (["--data", "pictures", "--image-size", "0"], "image_size: got 0, expected 1 or more"),
        (["--data", "pictures", "--weights", "none.safetensors"], "none.safetensors: no such file"),
    ],
)
def test_mistakes(pictures, options, message):
    assert message in bad(*TRAIN, *options, "--out", "run")
    assert not (pictures.parent / "run" / "last.safetensors").exists()


def test_image_size_is_for_folders():
    assert "image_size: got 16" in bad("train", "--dataset", "shapes", "--image-size", "16", "--out", "run")


# ---------------------------------------------------------------- weights of others
def test_fine_tuning_starts_from_the_weights_and_replaces_the_head(pictures):
    tr.manual_seed(7)
    net = models.create("tiny_imagenet")
    safetensors.numpy.save_file(net.state_dict(), "weights.safetensors")
    options = ["--model", "tiny_imagenet", "--data", pictures, "--weights", "weights.safetensors"]
    run = train.Run(config(pictures, model="tiny_imagenet", weights="weights.safetensors"), "run")
    assert run.notes[-1] == (
        "Starting from weights.safetensors; fc has 1000 classes in the file and 3 in the model: it starts afresh"
    )
    np.testing.assert_array_equal(run.model.state_dict()["conv1.weight"], net.conv1.weight.data)
    assert run.model.fc.weight.shape == (3, 16)
    np.testing.assert_allclose(run.data.mean, [0.485, 0.456, 0.406])  # what ImageNet's weights expect
    text = good(*TRAIN, *options, "--epochs", "1", "--out", "run2")
    assert "Starting from weights.safetensors; fc has 1000 classes in the file and 3 in the model" in text


def config(pictures, **options):
    return train.Config(dataset="folder", data=str(pictures), image_size=16, batch_size=8, **options)


def test_checkpoints_are_weights_too(pictures):
    good(*TRAIN, "--data", pictures, "--epochs", "1", "--out", "first")
    arrays, info = checkpoints.load("first/best.safetensors")
    info["mean"] = [0.1, 0.2, 0.3]
    checkpoints.save("other.safetensors", arrays, info)
    run = train.Run(config(pictures, model="tiny", weights="other.safetensors"), "run")
    assert run.notes[-1] == "Starting from other.safetensors"
    np.testing.assert_array_equal(run.model.state_dict()["fc.weight"], arrays["model.fc.weight"])
    np.testing.assert_allclose(run.data.mean, [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "no tinyres checkpoint"),
        ("{", "no tinyres checkpoint"),
        ('{"format": 2, "mean": ["grey"], "std": [1, 1, 1]}', "mean, std: expected three numbers each"),
        ('{"format": 2, "mean": [0, 0], "std": [1, 1]}', "mean, std: expected three numbers each"),
        ('{"format": 2, "mean": [0, 0, 0], "std": [1, 0, 1]}', "mean, std: expected three numbers each"),
    ],
)
def test_weights_whose_description_is_damaged(pictures, text, message):
    arrays = {f"model.{n}": a for n, a in models.create("tiny").state_dict().items()}
    safetensors.numpy.save_file(arrays, "damaged.safetensors", metadata={"tinyres": text})
    found = bad(*TRAIN, "--data", pictures, "--out", "run", "--weights", "damaged.safetensors")
    assert "damaged.safetensors" in found
    assert message in found
    assert not (pictures.parent / "run").exists()


def test_the_arrays_of_weights_are_read_once(pictures, monkeypatch):
    """They may be hundreds of megabytes."""
    good(*TRAIN, "--data", pictures, "--epochs", "1", "--out", "first")
    reads = []
    real = weights.read_arrays
    for module in (weights, checkpoints, train):  # wherever it is known by its name
        monkeypatch.setattr(module, "read_arrays", lambda path: reads.append(path) or real(path), raising=False)
    train.Run(config(pictures, model="tiny", weights="first/best.safetensors"), "run")
    assert reads == ["first/best.safetensors"]


def test_weights_of_another_network_and_pickles_are_refused(pictures):
    safetensors.numpy.save_file(models.create("plain20").state_dict(), "other.safetensors")
    options = [*TRAIN, "--data", pictures, "--out", "run", "--weights"]
    message = bad(*options, "other.safetensors")
    assert "missing" in message
    assert "unexpected" in message
    with open("resnet.pth", "wb") as file:
        file.write(b"PK\x03\x04 and so on")
    message = bad(*options, "resnet.pth")
    assert "a pickle, as torch.save writes" in message
    assert "torch.load(sys.argv[1], weights_only=True)" in message


# ---------------------------------------------------------------- for other programs
@pytest.fixture
def trained(pictures):
    good(*TRAIN, "--data", pictures, "--epochs", "1", "--out", "run")
    return checkpoints.load_model("run/best.safetensors")


def test_exported_weights_are_the_state_dict(trained):
    good("export", "run/best.safetensors", "--safetensors", "weights.safetensors")
    found, state = safetensors.numpy.load_file("weights.safetensors"), trained[0].state_dict()
    assert set(found) == set(state)
    assert all(np.array_equal(found[name], state[name]) for name in state)
    with safetensors.safe_open("weights.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_exported_model_gives_the_same_logits(trained):
    runtime = pytest.importorskip("onnxruntime", reason="runs the exported model: pip install 'tinyres[onnx]'")
    text = good("export", "run/best.safetensors", "--onnx", "model.onnx")
    assert "images of 16 x 16" in text
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype("f4")
    (logits,) = session.run(None, {"images": x})
    np.testing.assert_allclose(logits, trained[0](tr.Tensor(x)).data, rtol=1e-4, atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(COLOURS)


def test_export_says_what_it_needs(trained):
    assert "export: expected --onnx FILE or --safetensors FILE" in bad("export", "run/best.safetensors")
    assert "no such file" in bad("export", "none.safetensors", "--safetensors", "weights.safetensors")
    assert "nowhere" in bad("export", "run/best.safetensors", "--safetensors", "nowhere/weights.safetensors")
