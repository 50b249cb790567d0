"""The command line: what it prints, what it leaves behind, and one short message for each mistake."""

import contextlib
import inspect
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

import tinyres as tr
from tinyres import checkpoints, cli, machine, models, profile, progress, train
from tinyres import console as console_module
from tinyres.data import cifar, download
from tinyres.runs import read_config
from tinyres.study import gym

# also run in new processes, so it is text
TINY = """
import tinyres as tr
from tinyres import models, train
def pictures(split):
    return tr.data.shapes(50 if split == "train" else 20, split, size=16)
models.FAMILY["tiny"] = {
    "block": models.BasicBlock, "layers": [1, 1], "widths": (8, 16), "shortcut": "A", "num_classes": 10
}
train.DATASETS["shapes"] = (pictures, tr.data.SHAPES_CLASSES)
tr.set_num_threads(1)
"""
TRAIN = ["train", "--dataset", "shapes", "--model", "tiny", "--epochs", "2", "--batch-size", "12", "--validation", "8"]


@contextlib.contextmanager
def small_world(folder):
    """Small models and data, an empty current folder, and no data or network from outside."""
    threads = tr.num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for table in (models.FAMILY, train.DATASETS):
            for name, value in table.items():
                patch.setitem(table, name, value)
        patch.setitem(models.FAMILY, "tiny", None)
        exec(TINY, {})
        patch.chdir(folder)
        patch.delenv("TINYRES_DATA", raising=False)
        patch.setattr(download, "user_cache_path", lambda name: folder / "cache")
        patch.setattr(download, "_probe", no_network)
        yield
    tr.set_num_threads(threads)


@pytest.fixture(autouse=True)
def tiny(tmp_path):
    with small_world(tmp_path):
        yield


def no_network(url):
    raise ConnectionError("no network in this test")


def tinyres(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def good(*arguments):
    result = tinyres(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def bad(*arguments, code=1):
    """Run what must fail, and return its message."""
    result = tinyres(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    assert len(result.stderr) < 1500
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with small_world(folder):
        good(*TRAIN, "--out", folder / "run")
    return folder / "run"


@pytest.fixture
def run(tmp_path, trained):
    """A run of its own for each test."""
    return shutil.copytree(trained, tmp_path / "run")


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- help
@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["lr-find"],
        ["recipes"],
        ["eval"],
        ["compare"],
        ["predict"],
        ["export"],
        ["summary"],
        ["profile"],
        ["warmup"],
        ["verify"],
    ],
)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(command, option):
    text = good(*command, option)
    assert "Usage" in text
    assert "--help" in text


@pytest.mark.parametrize("command", [["train"], ["predict"], ["study", "degradation"]])
def test_help_breaks_lines_where_the_terminal_ends(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = good(*command, "--help").split("╭")[0]
    paragraphs = [paragraph.splitlines() for paragraph in text.split("\n" + " " * 80 + "\n")[1:]]
    assert max(map(len, paragraphs)) > 1  # one at least is longer than a line
    for lines in paragraphs:
        for line, after in itertools.pairwise(line.strip() for line in lines):
            assert len(line) + 1 + len(after.split()[0]) > 78, f"{line!r} has room for {after.split()[0]!r}"


def grouped(*command):
    """The options of a command by the heading that its help has them under."""
    found, panel = {}, None
    for line in good(*command, "--help").splitlines():
        if heading := re.match(r"╭─ (.*?) ─", line):
            panel = found.setdefault(heading[1], set())
        elif option := re.match(r"│ +(--[a-z-]+)", line):
            panel.add(option[1])
    return found


def commands(group, *path):
    for name, command in group.commands.items():
        yield from commands(command, *path, name) if hasattr(command, "commands") else [((*path, name), command)]


def test_each_option_stands_under_a_heading(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    panels = grouped("train")
    assert list(panels) == ["Options", "Data", "Model", "Recipe", "Variation of images", "Run", "Machine"]
    named = [option for options in panels.values() for option in options]
    assert len(named) == len(set(named))
    assert len(named) == len(dict(commands(typer.main.get_command(cli.app)))["train",].params) + 1
    assert {"--dataset", "--subset"} <= panels["Data"]
    assert {"--recipe", "--lr", "--zero-init-residual"} <= panels["Recipe"]
    assert {"--out", "--resume", "--seed"} <= panels["Run"]
    for path, command in commands(typer.main.get_command(cli.app)):
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        if len(options) > 8:
            assert grouped(*path)["Options"] == {"--help"}, path


def test_no_command_shows_help():
    result = tinyres()
    assert "Usage" in result.output
    assert "train" in result.output


def test_version():
    assert good("--version") == f"tinyres {tr.__version__}, kernels for {tr.machine.simd()}\n"


# ---------------------------------------------------------------- train, eval
def test_train_writes_a_run_and_says_where(tmp_path):
    text = good(*TRAIN, "--out", tmp_path / "run")
    assert "tiny (" in text
    assert "on shapes (42 images)" in text
    for epoch in (1, 2):
        assert re.search(rf"epoch +{epoch}  train loss \d\.\d+ accuracy [\d.]+%  validation loss", text)
    assert re.search(r"Test accuracy [\d.]+%, loss \d\.\d{4} \(.*best\.safetensors\)", text)
    assert "Traceback" not in text
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {"config.json", "metrics.jsonl", "last.safetensors"}


def test_train_makes_a_folder_of_its_own(tmp_path):
    good(*TRAIN)
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"tiny-shapes-\d{8}-\d{6}", folder.name)


def test_every_option_reaches_the_configuration(tmp_path):
    options = {
        "shortcut": "B", "epochs": 1, "batch_size": 25, "optimizer": "adamw", "lr": 0.01, "schedule": "cosine",
        "warmup": 0.1, "momentum": 0.8, "weight_decay": 0.001, "label_smoothing": 0.05, "clip_norm": 2.0, "pad": 2,
        "cutout": 3, "validation": 5, "subset": 30, "seed": 7, "stem": "imagenet", "num_classes": 10,
        "lr_batch_size": 50, "shards": 4, "mixup": 0.2, "cutmix": 1.0,
        "bias_lr": 4.0, "layer_decay": 0.5, "ema": 0.9, "lookahead": 0.5,
        "freeze": "stem", "weights": str(tmp_path / "w.safetensors"),
    }  # fmt: skip
    checkpoints.save_weights(options["weights"], models.create("tiny", stem="imagenet", shortcut="B"))
    arguments = [str(a) for name, value in options.items() for a in ("--" + name.replace("_", "-"), value)]
    flags = ["--no-nesterov", "--no-decay-bias", "--no-flip", "--threads", "1"]
    flags += ["--sync-batch-norm", "--zero-init-residual"]
    good("train", "--dataset", "shapes", "--model", "tiny", *arguments, *flags, "--out", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    expected = {**options, "dataset": "shapes", "model": "tiny", "data": None, "image_size": None}
    off = dict.fromkeys(("nesterov", "decay_bias", "flip"), False)
    on = dict.fromkeys(("sync_batch_norm", "zero_init_residual"), True)
    assert config == {**expected, **off, **on, "alternate_flip": False, "whiten": False}
    good(*TRAIN, "--alternate-flip", "--whiten", "--out", tmp_path / "other")
    other = read_config(tmp_path / "other")
    assert (other.alternate_flip, other.whiten) == (True, True)
    assert "alternate_flip: got True, expected False if flip is False" in bad(*TRAIN, "--alternate-flip", "--no-flip")


def test_eval_agrees_with_the_end_of_training(run):
    scores = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    text = good("eval", run / "best.safetensors")
    assert f"shapes test: accuracy {scores['test_accuracy']:.2%}, loss {scores['test_loss']:.4f} (20 images)" in text
    assert "shapes train: accuracy" in good("eval", run / "best.safetensors", "--split", "train")


def width_of(picture):
    with Image.open(picture) as opened:
        return opened.size[0]


def test_eval_counts_classes_and_mistakes_and_draws_them(run, tmp_path):
    best = run / "best.safetensors"
    text = good("eval", best, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert json.loads(good("eval", best, "--json")) == found
    assert sum(map(sum, found["confusion"])) == found["images"] == 20
    assert sum(c["images"] * (c["accuracy"] or 0) for c in found["classes"]) == pytest.approx(20 * found["accuracy"])
    assert f"Expected calibration error {found['calibration_error']:.2%} (15 bins)" in text
    first = found["confused"][0]
    assert f"{first['class']} taken for {first['answer']}: {first['images']} of " in text
    assert [w["probability"] for w in found["worst"]] == sorted(w["probability"] for w in found["worst"])
    for name in ("confusion", "calibration", "mistakes"):
        assert width_of(tmp_path / "out" / f"{name}.png") > 300
    mirrored = good("eval", best, "--flip").splitlines()[0]
    assert mirrored.endswith("(20 images, each mirrored as well)")
    epoch = json.loads((run / "metrics.jsonl").read_text().splitlines()[1])
    last = json.loads(good("eval", run / "last.safetensors", "--split", "validation", "--json"))
    assert last["images"] == 8
    assert last["accuracy"] == epoch["validation_accuracy"]


def test_eval_needs_images_and_a_folder_to_write_to(run, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file, a file; expected a folder" in bad("eval", run / "best.safetensors", "--out", tmp_path / "file")
    good(*TRAIN, "--out", tmp_path / "none", "--validation", "0", "--epochs", "1")
    message = bad("eval", tmp_path / "none" / "last.safetensors", "--split", "validation")
    assert "held out no images" in message


def test_compare_says_what_differs_and_what_came_of_it(run, tmp_path):
    good(*TRAIN, "--out", tmp_path / "other", "--lr", "0.25", "--epochs", "1")
    text = good("compare", run, tmp_path / "other", "--out", tmp_path / "page")
    found = json.loads((tmp_path / "page" / "comparison.json").read_text())
    assert found == json.loads(good("compare", run, tmp_path / "other", "--json"))
    assert found["differences"] == {"epochs": [2, 1], "lr": [0.5, 0.25]}
    scores = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["runs"][0]["test_accuracy"] == scores["test_accuracy"]
    assert found["runs"][0]["minutes"] > 0
    assert f"{scores['test_accuracy']:.2%}" in text
    page = (tmp_path / "page" / "comparison.html").read_text()
    assert "<td>0.25</td>" in page
    assert "{{" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert width_of(tmp_path / "page" / "comparison.png") > 300
    assert "Their configurations are the same." in good("compare", run, shutil.copytree(run, tmp_path / "again"))
    (run / "times.json").unlink()  # a run of before it was written
    assert json.loads(good("compare", run, tmp_path / "other", "--json"))["runs"][0]["minutes"] is None
    good("compare", run, tmp_path / "other", "--out", tmp_path / "page")


def test_compare_needs_runs(run, tmp_path):
    for same in ([run], [run, run]):
        assert "RUNS: got 1, expected two or more" in bad("compare", *same)
    assert "config.json: no configuration of a run" in bad("compare", run, tmp_path / "nowhere")
    broken = shutil.copytree(run, tmp_path / "broken")
    epoch = '{"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5}\n'
    junk = (
        '["test_accuracy"]', '{"test_accuracy": "high", "test_loss": 1.0}', '{"test_accuracy": 0.5, "test_loss": NaN}',
        '{"epoch": 2, "train_loss": "8.7", "train_accuracy": 0.5}', "null",
    )  # fmt: skip
    for content in ("", "{", "3\n", '{"epoch": 1}\n', "[" * 9999, *(epoch + line for line in junk)):
        (broken / "metrics.jsonl").write_text(content)
        assert "metrics.jsonl: " in bad("compare", run, broken)
    (tmp_path / "file").write_text("")
    assert "expected a folder" in bad("compare", run, broken, "--out", tmp_path / "file")


def test_resumed_run_ends_as_the_whole_one(run, tmp_path, monkeypatch):
    step = progress.ProgressBar.on_batch_end

    def stop(self, run, *arguments):
        step(self, run, *arguments)
        if run.step == 6:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(progress.ProgressBar, "on_batch_end", stop)
        result = tinyres(*TRAIN, "--out", tmp_path / "other")
    assert result.exit_code == 130
    assert "Stopped and saved at step 6 of 8. To continue:" in result.stdout
    assert f"tinyres train --out {tmp_path / 'other'} --resume" in result.stdout
    text = good("train", "--out", tmp_path / "other", "--resume")
    assert "from step 6 of 8" in text
    for name in ("last", "best"):
        a, b = (checkpoints.load(folder / f"{name}.safetensors") for folder in (run, tmp_path / "other"))
        assert a[1] == b[1]
        assert all(np.array_equal(a[0][n], b[0][n]) for n in a[0])
    good("train", "--out", tmp_path / "other", "--resume", "--epochs", "2", "--seed", "0")  # the same once more is fine


def test_recipes_are_listed_and_printed(tmp_path):
    text = good("recipes")
    assert all(name in text for name in tr.recipes.names())
    listed = json.loads(good("recipes", "--json"))
    assert [recipe["name"] for recipe in listed] == tr.recipes.names()
    (tmp_path / "mine.toml").write_text(good("recipes", "paper"))  # as printed, it can be read
    assert tr.recipes.read(tmp_path / "mine.toml").config == tr.recipes.find("paper").config
    assert "recipe: got 'papers', expected one of default, fast, finetune, paper, record; did you mean paper?" in bad(
        "recipes", "papers"
    )


def test_a_recipe_is_what_a_run_starts_from_and_options_change_it(tmp_path):
    tiny = ["--dataset", "shapes", "--model", "tiny", "--validation", "8", "--batch-size", "25", "--epochs", "1"]
    good("train", "--recipe", "paper", *tiny, "--lr", "0.2", "--out", tmp_path / "run")
    config = read_config(tmp_path / "run")
    assert (config.schedule, config.nesterov, config.weight_decay) == ("steps", False, 1e-4)  # the recipe's
    assert (config.lr, config.batch_size, config.model) == (0.2, 25, "tiny")  # the command line's
    good("train", "--config", tmp_path / "run" / "config.json", "--out", tmp_path / "again")
    assert read_config(tmp_path / "again") == config
    assert (tmp_path / "again" / "metrics.jsonl").read_text() == (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", ""], "--recipe: got '', expected one of default, fast, finetune, paper, record"),
        (["--recipe", "", "--config", "a.toml"], "--recipe, --config: got both, expected only one of them"),
        (["--config", "."], "--config: got ., expected a file that can be read"),
        (["--config", "none.toml"], "--config: got none.toml, expected a file that can be read"),
        (["--layer-decay", "2"], "layer_decay: got 2.0, expected more than 0 and at most 1"),
        (["--recipe", "fats"], "--recipe: got 'fats', expected one of default, fast, finetune, paper, record"),
        (["--recipe", "paper", "--config", "a.toml"], "--recipe, --config: got both, expected only one of them"),
        (
            ["--config", "wrong.toml"],
            "--config: wrong.toml: epoch: not a field of a configuration; did you mean epochs?",
        ),
        (["--config", "value.toml"], "epochs: got '3', expected int"),
        (
            ["--resume", "--recipe", "paper"],
            "--recipe: a resumed run keeps its configuration; leave it out to resume",
        ),
        (["--resume", "--config", "one.toml"], "--config: a resumed run keeps its configuration; leave it out to"),
    ],
)
def test_what_a_run_cannot_start_from_is_said(options, message, tmp_path):
    for name, text in [("wrong", "epoch = 3"), ("value", "epochs = '3'"), ("one", "epochs = 3")]:
        (tmp_path / f"{name}.toml").write_text(text)
    assert message in bad("train", *options, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fallback_to_shapes_says_so_in_one_line(tmp_path):
    text = good("train", "--model", "tiny", "--epochs", "1", "--validation", "8", "--out", tmp_path / "run")
    line = "CIFAR-10 was not found and cannot be downloaded: training on the built-in shapes."
    (told,) = [t for t in text.splitlines() if "CIFAR" in t]
    assert told.startswith(line)
    assert "--data DIR" in told
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"] == "shapes"


@pytest.mark.parametrize("end", [True, False])
def test_resume_with_more_epochs_goes_on(tmp_path, end):
    """From the end, and from the middle: what is left is trained at the rates of the longer run."""
    options = ["--checkpoint-every", "3", "--out", tmp_path / "run"]
    good(*TRAIN, *options)
    if not end:  # as if stopped at step 6 of 8
        (tmp_path / "run" / "previous.safetensors").replace(tmp_path / "run" / "last.safetensors")
    text = good("train", "--resume", "--epochs", "3", *options)
    assert f"from step {8 if end else 6} of 12" in text
    assert json.loads((tmp_path / "run" / "config.json").read_text())["epochs"] == 3
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, 3, None]
    config = read_config(tmp_path / "run")
    rates = train.SCHEDULES[config.schedule](config, 12)
    assert lines[2]["lr"] == rates(11)
    assert (lines[1]["lr"] == rates(7)) == (not end)  # epoch 2 was trained by the shorter run's, or by the longer one's
    assert "Certified: steps" in good("verify", tmp_path / "run")
    message = bad("train", "--resume", "--epochs", "2", *options)
    assert f"--epochs: got 2, but the run in {tmp_path / 'run'} has 3; leave it out to resume, or give more" in message


def test_verify_of_a_run_that_was_stopped_before_it_used_its_new_epochs(run):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "epochs": 9}))
    assert "Certified: steps 4 to 8" in good("verify", run)
    (run / "config.json").write_text(json.dumps({**config, "epochs": 1}))
    assert "belongs to a run with another configuration" in bad("verify", run)


def test_lr_find_suggests_what_it_measured_and_draws_it(tmp_path):
    options = ["lr-find", *TRAIN[1:5], "--batch-size", "12", "--steps", "12", "--highest", "1"]
    text = good(*options, "--plot", "rates.svg")
    assert "Written: rates.svg" in text
    assert (tmp_path / "rates.svg").read_bytes().startswith(b"<?xml")
    found = json.loads(tinyres(*options, "--json", "-").stdout)
    assert found["suggestion"] == found["rates"][2 + int(np.argmin(found["smoothed"][2:]))]
    assert f"Suggestion: --lr {found['suggestion']:.2g}" in text
    config = train.Config(dataset="shapes", model="tiny", batch_size=12, validation=0)
    assert found["losses"] == tr.lr_find(train.Run(config, None), steps=12, highest=1.0).losses
    assert not (tmp_path / "runs").exists()
    assert "--lowest, highest: got 2.0 and 1.0" in bad(*options, "--lowest", "2")
    assert "--steps: got 3, expected 10 or more" in bad(*options, "--steps", "3")
    assert "expected a name that ends in one of .png, .svg, .pdf" in bad(*options, "--plot", "rates.gif")


def test_without_matplotlib_no_work_is_done_for_a_picture_and_train_says_what_is_not_there(monkeypatch, run):
    missing = "pictures need matplotlib: pip install 'tinyres[plot]'"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        patch.setattr(train, "Run", None)  # none is made
        assert missing in bad("lr-find", *TRAIN[1:5], "--plot", "rates.svg")
    assert missing not in good("train", "--out", run, "--resume")
    (run / "curves.png").unlink()
    monkeypatch.setattr(train, "curves", lambda history, title: None)
    assert f"No curves.png: {missing}" in good("train", "--out", run, "--resume")


# ---------------------------------------------------------------- predict
@pytest.mark.parametrize(
    ("name", "mode", "size"),
    [
        ("a.png", "RGB", (16, 16)),
        ("a.jpg", "RGB", (40, 30)),
        ("a.png", "RGBA", (20, 50)),
        ("a.png", "L", (7, 9)),
        ("a.png", "1", (8, 8)),
        ("a.png", "P", (16, 20)),
        ("a.png", "LA", (16, 20)),
        ("a.png", "I;16", (16, 20)),
        ("a.jpg", "CMYK", (16, 20)),
        ("a.png", "RGB", (1, 1)),
        ("a.png", "RGB", (3000, 2)),
        ("a.png", "RGB", (1, 2000)),
    ],
)
def test_predict_takes_any_picture(run, tmp_path, name, mode, size):
    Image.new(mode, size).save(tmp_path / name)
    text = good("predict", run / "best.safetensors", tmp_path / name, "--top", "1")
    assert any(kind[:4] in text for kind in tr.data.SHAPES_CLASSES)
    assert "%" in text


def test_predict_agrees_with_the_network(run, tmp_path):
    images, _ = tr.data.shapes(3, "test", size=16)
    model, info = checkpoints.load_model(run / "best.safetensors")
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
        np.testing.assert_array_equal(tr.data.read_picture(path, 16), image)
    x = (images.astype(np.float32) / 255 - np.array(info["mean"])[:, None, None]) / np.array(info["std"])[:, None, None]
    p = tr.ops.softmax(model(tr.Tensor(x.astype(np.float32)))).data
    text = good("predict", run / "best.safetensors", *(f"{i}.png" for i in range(3)), "--top", "1")
    for i in range(3):
        best = int(p[i].argmax())
        assert re.search(rf"{i}\.png +│ {tr.data.SHAPES_CLASSES[best]} {p[i, best]:.1%}", text)


def test_predict_sees_pictures_as_a_trainer_saw_its_images(tmp_path):
    images, labels = tr.data.shapes(40, size=16)
    picture = Image.fromarray(images[0].transpose(1, 2, 0))
    picture.save(tmp_path / "colour.png")
    for channels, name in ((3, "colour"), (1, "grey")):
        grey = np.stack([np.asarray(Image.fromarray(i.transpose(1, 2, 0)).convert("L")) for i in images])
        seen = images if channels == 3 else grey
        trainer = tr.Trainer("tiny", epochs=1, lr=0.05, verbose=False)
        trainer.fit(seen, labels)
        trainer.save(tmp_path / f"{name}.safetensors")
        (row,) = json.loads(good("predict", tmp_path / f"{name}.safetensors", "colour.png", "--json"))
        best = int(trainer.predict_proba(seen[:1])[0].argmax())
        assert row["top"][0]["class"] == str(trainer.classes[best])
        # folded, in float32
        assert row["top"][0]["probability"] == pytest.approx(trainer.predict_proba(seen[:1])[0, best], rel=1e-4)
        good("export", tmp_path / f"{name}.safetensors", "--safetensors", tmp_path / "weights.safetensors")
    trainer = tr.Trainer("tiny", epochs=1, verbose=False)
    trainer.fit(images / 255, labels)
    trainer.save(tmp_path / "floats.safetensors")
    message = bad("predict", tmp_path / "floats.safetensors", tmp_path / "colour.png")
    assert "the network was trained on floats, so it cannot classify pictures" in message
    assert "these images were given to a tr.Trainer in Python" in bad("eval", tmp_path / "colour.safetensors")


def test_predict_folders_and_json(run, tmp_path):
    """Pictures of a folder are found, in order, each once, and say what they say alone."""
    folder = tmp_path / "some [of] them"
    (folder / "more").mkdir(parents=True)
    images, _ = tr.data.shapes(3, "test", size=16)
    paths = [folder / "a.png", folder / "more" / "b.PNG", folder / "z.png"]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    (folder / "notes.txt").write_text("no picture")
    weights = run / "best.safetensors"
    found = json.loads(good("predict", weights, folder, paths[0], "--json", "--top", "2"))
    assert [entry["image"] for entry in found] == [str(path) for path in paths]
    assert all(len(entry["top"]) == 2 for entry in found)
    for path, entry in zip(paths, found, strict=True):
        (alone,) = json.loads(good("predict", weights, path, "--json", "--top", "99"))
        assert [top["class"] for top in alone["top"][:2]] == [top["class"] for top in entry["top"]]
        assert {top["class"] for top in alone["top"]} == set(tr.data.SHAPES_CLASSES)
        assert sum(top["probability"] for top in alone["top"]) == pytest.approx(1)
        np.testing.assert_allclose(
            [top["probability"] for top in alone["top"][:2]],
            [top["probability"] for top in entry["top"]],
            rtol=1e-5,  # sums of another batch
        )


def test_predict_a_folder_in_parts(run, tmp_path, monkeypatch):
    """What is read together does not matter."""
    for i, image in enumerate(tr.data.shapes(5, "test", size=16)[0]):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    whole = good("predict", run / "best.safetensors", tmp_path)
    monkeypatch.setattr("tinyres.cli.predict.BATCH", 2)
    assert good("predict", run / "best.safetensors", tmp_path) == whole


def test_predict_passes_over_what_a_folder_has_damaged(run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    assert "no pictures in this folder" in bad("predict", run / "best.safetensors", folder)
    (folder / "bad.png").write_bytes(b"no picture")
    assert "none of the 1 pictures can be read" in bad("predict", run / "best.safetensors", folder)
    Image.new("RGB", (16, 16)).save(folder / "good.png")
    result = tinyres("predict", run / "best.safetensors", folder, "--json")
    assert result.exit_code == 0
    assert [entry["image"] for entry in json.loads(result.stdout)] == [str(folder / "good.png")]
    assert result.stderr.startswith(f"Passed over: {folder / 'bad.png'}: not an image")
    assert "bad.png: not an image" in bad("predict", run / "best.safetensors", folder, folder / "bad.png")


# ---------------------------------------------------------------- summary, profile, warmup
def test_summary_as_json_and_as_a_table():
    found = json.loads(good("summary", "resnet20", "--json"))
    assert (found["model"], found["parameters"], found["multiply_adds"]) == ("resnet20", 269_722, 40_551_040)
    assert found["layers"][0]["name"] == "conv1"
    text = good("summary", "resnet20")
    assert "269,722" in text
    assert "40,551,040" in text
    assert json.loads(good("summary", "tiny", "--num-classes", "3", "--json"))["layers"][-1]["output"] == [3]
    assert json.loads(good("summary", "tiny", "--image-size", "9", "--json"))["layers"][0]["output"] == [8, 9, 9]
    found = json.loads(good("summary", "resnet50_v1", "--json"))  # 224 pixels, those of its stem
    assert (found["image_size"], found["multiply_adds"]) == (224, 3_857_973_248)
    assert json.loads(good("summary", "resnet18", "--stem", "cifar", "--json"))["image_size"] == 32
    assert json.loads(good("summary", "resnet34", "--shortcut", "A", "--json"))["multiply_adds"] == 3_644_493_824


@pytest.mark.parametrize("name", ["resnet152", "preact_resnet1001", "resnext50_32x4d", "plain20"])
def test_summary_at_80_columns_keeps_names_whole(name, monkeypatch):
    to = Console(highlight=False, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(console_module, "out", to)
    lines = good("summary", name).splitlines()
    assert max(map(len, lines)) <= 80
    rows = models.summarize(models.create(name), models.image_size(name))
    words = [line.split() for line in lines]
    for row in rows:
        output = "x".join(map(str, row.output))
        assert any(word[:1] == [row.name] and output in word for word in words), row.name


def test_summary_of_pictures_with_other_channels():
    found = json.loads(good("summary", "tiny", "--in-channels", "1", "--json"))
    assert found["layers"][0]["parameters"] == 8 * 9
    assert "in_channels: got 0, expected 1 or more" in bad("summary", "tiny", "--in-channels", "0")


def test_summary_compares_blocks():
    text = good("summary", "--compare", "basic,bottleneck", "--image-size", "64")
    assert re.search(r"256 +│ 16\^2 +│ basic +│ +1,180,672 │ +301,989,888", text)
    assert "16.9 x" in text  # 18 / (17 / 16)
    found = json.loads(good("summary", "--compare", "basic,bottleneck", "--image-size", "64", "--json"))["blocks"]
    assert found["basic"][0]["multiply_adds"] == 18 * 256**2 * 16**2
    assert "there is no 'basik'" in bad("summary", "--compare", "basik")
    assert "expected the name of a model, or --compare" in bad("summary")
    assert "expected the name of a model, or --compare" in bad("summary", "tiny", "--compare", "basic")


@pytest.fixture
def ceilings(monkeypatch):
    """Known ones, at no cost."""
    monkeypatch.setattr(machine, "ceilings", lambda: machine.Ceilings(sgemm=100e9, copy=10e9))


def cells(line):
    return [cell.strip() for cell in line.split("│")[1:-1]]


@pytest.mark.usefixtures("ceilings")
def test_profile_as_a_table_and_as_json(tmp_path):
    text = good("profile", "tiny", "--batch-size", "2", "--steps", "2", "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["model"], found["batch_size"], found["image_size"], found["options"]) == ("tiny", 2, 32, {})
    assert len(found["all_step_seconds"]) == 2
    table = [cells(line) for line in text.splitlines() if line.startswith("│")]
    assert len(table) == len(found["rows"]) + len(found["totals"]) + 1

    def shown(seconds):
        return f"{1000 * seconds:,.2f}" if seconds else ""

    for line, row in zip(table, found["rows"], strict=False):
        assert line[:3] == [row["module"], row["op"], " x ".join(map(str, row["output"]))]
        assert (line[3], line[7]) == (shown(row["forward"]["seconds"]), shown(row["backward"]["seconds"]))
    line, row = next((line, row) for line, row in zip(table, found["rows"], strict=False) if row["module"] == "conv1")
    for at, cost in ((4, row["forward"]), (8, row["backward"])):
        assert line[at : at + 2] == [f"{cost['gflop_per_second']:.1f}", f"{cost['gb_per_second']:.1f}"]
        assert line[at + 2] == f"{max(cost['of_sgemm'], cost['of_copy']):.0%}"
    for line, total in zip(table[len(found["rows"]) :], found["totals"], strict=False):
        assert line[0].startswith(total["kind"])
        assert line[1:5] == [*(shown(total[k]) for k in ("forward", "backward", "seconds")), f"{total['share']:.1%}"]
    assert table[-1][:5] == ["step", "", "", shown(found["step_seconds"]), "100.0%"]
    assert "n = 2), on the tape" in text
    assert f"): {found['images_per_second']:,.1f} images/s, 50,000 images in" in text
    assert len(found["repeated_step_seconds"]) == 2
    assert "Ceilings 100 GFLOP/s (sgemm) and 10.0 GB/s (copy), 1 threads" in text


@pytest.mark.usefixtures("ceilings")
def test_profile_options_reach_the_measurement(tmp_path):
    options = ["--stem", "imagenet", "--num-classes", "7", "--shortcut", "B", "--image-size", "16", "--batch-size", "3"]
    tail = ["--steps", "1", "--images", "600", "--threads", "1", "--sort", "time", "--json", "out.json"]
    text = good("profile", "tiny", *options, *tail)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["options"] == {"stem": "imagenet", "num_classes": 7, "shortcut": "B"}
    assert found["rows"][0]["output"] == [3, 8, 8, 8]
    assert any(row["op"] == "max_pool2d" for row in found["rows"])
    assert found["rows"][-2]["output"] == [3, 7]
    assert found["epoch"] == {"images": 600, "seconds": 600 / 3 * np.median(found["repeated_step_seconds"])}
    times = [cells(line) for line in text.splitlines() if line.startswith("│")][: len(found["rows"])]
    spent = [sum(float(line[at] or 0) for at in (3, 7)) for line in times]
    assert all(a >= b - 0.02 for a, b in itertools.pairwise(spent))  # as rounded
    assert spent[0] > spent[-1]


@pytest.mark.usefixtures("ceilings")
def test_profile_in_a_narrow_terminal_loses_no_name(monkeypatch):
    monkeypatch.setattr(
        "tinyres.cli.profile.out", Console(highlight=False, width=80, force_terminal=True, color_system=None)
    )
    text = good("profile", "tiny", "--batch-size", "2", "--steps", "1")
    assert max(map(len, text.splitlines()[:-3])) <= 80
    assert "…" not in text
    assert "GFLOP/s" not in text.split("Step ")[0]
    assert "100.0%" in text


def test_profile_has_the_sizes_that_models_were_made_for(monkeypatch):
    asked = []

    def stop(net, **options):
        asked.append(options)
        raise ValueError("enough")

    monkeypatch.setattr(profile, "profile", stop)
    for arguments in (["resnet20"], ["resnet18"], ["resnet18", "--stem", "cifar"]):
        assert bad("profile", *arguments) == "Error: enough"
    assert [(options["batch_size"], options["image_size"]) for options in asked] == [(128, 32), (16, 224), (128, 32)]
    assert asked[0]["steps"] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet21"], "there is no 'resnet21'; did you mean resnet"),
        (["tiny", "--batch-size", "0"], "--batch-size: got 0, expected 1 or more"),
        (["tiny", "--image-size", "0"], "--image-size: got 0, expected 1 or more"),
        (["tiny", "--steps", "0"], "--steps: got 0, expected 1 or more"),
        (["tiny", "--images", "-1"], "--images: got -1, expected 1 or more"),
        (["tiny", "--sort", "name"], "--sort: got 'name', expected one of run, time, forward, backward"),
        (["tiny", "--stem", "wide"], "stem: got 'wide', expected one of 'cifar', 'imagenet'"),
        (["tiny", "--num-classes", "0"], "num_classes: got 0, expected 1 or more"),
        (["tiny", "--threads", "0"], "--threads: got 0 threads, expected 1 to"),
        (
            ["tiny", "--json", "nowhere/out.json"],
            "--json: got nowhere/out.json, expected a file in a folder that exists",
        ),
        (["tiny", "--json", "."], "--json: got ., expected a file in a folder that exists"),
        (["tiny", "--batch-size", "1", "--image-size", "2"], "expected more than one value per channel in training"),
        (["tiny", "--batch-size", "1000000000000"], "Unable to allocate"),
    ],
)
def test_profile_mistakes(tmp_path, arguments, message):
    assert message in bad("profile", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_warmup_compiles_each_kernel_once_and_says_so(monkeypatch):
    called = []
    steps = [(name, lambda name=name: called.append(name)) for name in ("one", "two")]
    monkeypatch.setattr(console_module.warmup, "steps", lambda: iter(steps))
    assert re.search(r"2 kernels ready in \d", good("warmup"))
    assert called == ["one", "two"]


def test_warmup_is_all_that_a_training_step_needs():
    """In a new process: after the calls of `warmup` a step compiles nothing more, nor loads it."""
    code = """
from tinyres.kernels import warmup
for name, compile_kernel in warmup.steps():
    compile_kernel()
import numpy as np, numba, tinyres as tr
from numba.core import event
class Listener(event.Listener):
    def on_start(self, e): raise SystemExit(f"compiles {e.data}")
    def on_end(self, e): pass
event.register("numba:compile", Listener())
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (4, 3, 16, 16), np.uint8)
loader = tr.data.Loader(images, np.arange(4), 4, mean=[0.5] * 3, std=[0.2] * 3, augment=tr.data.Augment())
for net in (tr.models.ResNet(tr.models.BasicBlock, [1, 1], widths=(16, 32), shortcut=s) for s in "AB"):
    for x, y in loader.epoch(0):
        loss = tr.ops.cross_entropy(net(tr.Tensor(x)), y)
        loss.backward()
        tr.optim.SGD(net.parameters(), 0.1).step()
        net.eval()
        with tr.no_grad():
            net(tr.Tensor(x))
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "done", done.stderr


# ---------------------------------------------------------------- JSON
@pytest.fixture
def tables(run, tmp_path):
    """What prints a table, but for studies; and cells of it, of the numbers."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    other = shutil.copytree(run, tmp_path / "other")
    best = run / "best.safetensors"
    return {
        "summary": (["tiny"], lambda n: [f"{n['parameters']:,}", f"{n['layers'][0]['multiply_adds']:,}"]),
        "summary of blocks": (
            ["--compare", "basic,plain"],
            lambda n: [f"{cost['parameters']:,}" for cost in n["blocks"]["basic"]],
        ),
        "recipes": ([], lambda n: [recipe["name"] for recipe in n]),
        "eval": ([best], lambda n: [f"{n['accuracy']:.2%}", f"{n['loss']:.4f}", f"{n['calibration_error']:.2%}"]),
        "compare": ([run, other], lambda n: [f"{r['test_loss']:.4f}" for r in n["runs"]]),
        "predict": ([best, "a.png"], lambda n: [f"{top['class']} {top['probability']:.1%}" for top in n[0]["top"]]),
        "profile": (
            ["tiny", "--batch-size", 2, "--steps", 1],
            lambda n: [f"{1000 * n['step_seconds']:,.2f}", *(total["kind"] for total in n["totals"])],
        ),
    }


def keys(found):
    """All but the values, of which some are times."""
    if isinstance(found, dict):
        return {key: keys(value) for key, value in found.items()}
    return [keys(value) for value in found] if isinstance(found, list) else type(found)


NAMED = ["summary", "summary of blocks", "recipes", "eval", "compare", "predict", "profile"]


@pytest.mark.usefixtures("ceilings")
@pytest.mark.parametrize("name", NAMED)
def test_numbers_of_tables_as_json(tables, tmp_path, name):
    """In a file beside the text, or alone on the terminal, with nothing rounded that the text rounds."""
    words, cells = tables[name]
    command = [name.split()[0], *words]
    text = good(*command, "--json", "numbers.json")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert cells(numbers)
    for cell in cells(numbers):
        assert cell in text
    alone = [json.loads(good(*command, *form)) for form in (["--json", "-"], ["--json"])]
    for found in alone:
        assert (keys(found) == keys(numbers)) if name == "profile" else (found == numbers)
    good(*command, "--json", "numbers.json")  # once more, over what is there
    assert good(*command)[:20] == text[:20]  # nothing stays as it was for the terminal


def test_every_table_is_to_be_had_as_json(tables):
    """Where a command's file draws tables, it has the option, and a test above or in test_study_json."""
    assert set(tables) == set(NAMED)
    with_json, with_tables = set(), set()
    for path, command in commands(typer.main.get_command(cli.app)):
        if any("--json" in parameter.opts for parameter in command.params):
            with_json.add(path[-1])
        if "gym" not in path and "Table(" in inspect.getsource(inspect.getmodule(command.callback)):
            with_tables.add(path[-1])
    assert with_json == with_tables
    assert {name.split()[0] for name in NAMED} == {name for name in with_json if hasattr(cli, name) or name == "eval"}


def test_json_has_no_nan():
    found = {"loss": float("nan"), "rise": [float("inf"), -float("inf"), 0.1 + 0.2]}
    text = console_module.json_text(found)
    assert json.loads(text) == {"loss": None, "rise": [None, None, 0.1 + 0.2]}
    assert "NaN" not in text


def test_json_alone_sends_notes_to_stderr_and_puts_the_console_back(tmp_path):
    with console_module.errors(), console_module.numbers_to(console_module.Path("-")) as take:
        assert console_module.out.file is sys.stderr
        take({})
        assert console_module.out.quiet
    assert console_module.out.file is sys.stdout
    assert not console_module.out.quiet
    with pytest.raises(KeyError), console_module.numbers_to(console_module.Path("-")):
        raise KeyError
    assert console_module.out.file is sys.stdout


def test_json_does_not_take_the_place_of_a_picture(run, tmp_path):
    """`predict ... --json a.png b.png`, with the picture where the file's name belongs."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    message = bad("predict", run / "best.safetensors", "--json", "a.png", "a.png")
    assert "--json: got a.png, which exists and is not a .json file; expected a new file, or a .json file" in message
    assert (tmp_path / "a.png").read_bytes() == before
    assert "--json: got none/a.json, expected a file in a folder that exists" in bad("recipes", "--json", "none/a.json")


# ---------------------------------------------------------------- mistakes
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


# ---------------------------------------------------------------- real processes
def process(*arguments, **options):
    code = TINY + "from tinyres.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_process_trains_and_fails_with_the_right_codes(tmp_path):
    out, err = (done := process(*TRAIN, "--out", tmp_path / "run")).communicate(timeout=300)
    assert (done.returncode, err) == (0, "")
    assert "Test accuracy" in out
    out, err = (done := process(*TRAIN, "--out", tmp_path / "run")).communicate(timeout=300)
    assert (done.returncode, out) == (1, "")
    assert err.startswith("Error: ")
    assert len(err.strip().splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals to processes are not the same on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_process_that_is_stopped_saves_and_says_how_to_go_on(tmp_path, number):
    running = process(*TRAIN, "--epochs", "100000", "--out", tmp_path / "run")
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert running.poll() is None, running.communicate()
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "")
    step, total = map(int, re.search(r"Stopped and saved at step (\d+) of (\d+)", out).groups())
    assert 0 < step < total
    assert checkpoints.load(tmp_path / "run" / "last.safetensors")[1]["step"] == step


@pytest.mark.skipif(os.name == "nt", reason="signals to processes are not the same on Windows")
def test_ctrl_c_while_it_starts_leaves_without_a_traceback():
    """Wherever it comes: modules are loaded for a second before a command can hear of it."""
    code = "import sys; sys.argv = ['tinyres', 'summary', 'resnet20']; import tinyres_command; "
    code += "sys.addaudithook(lambda name, arguments: name == 'import' and arguments[0] == 'tinyres.cli' and "
    code += "print(flush=True)); tinyres_command.main()"  # from when it begins to load
    for delay in (0, 0.1, 0.3, 0.6, 1):
        command = [sys.executable, "-c", code]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert running.stdout.readline() == "\n"
        time.sleep(delay)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
        assert running.returncode in (130, 0, -signal.SIGINT)  # the last where Python has put its handlers away already
        assert "Traceback" not in err


def test_second_ctrl_c_is_announced_and_leaves_with_130(tmp_path, monkeypatch):
    step = progress.ProgressBar.on_batch_end

    def stop(self, run, *arguments):
        step(self, run, *arguments)
        if run.step == 6:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress.ProgressBar, "on_batch_end", stop)
    result = tinyres(*TRAIN, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "Finishing the step, and saving. Ctrl-C again stops at once, and loses 2 steps." in result.stdout
    assert result.stderr == "Stopped.\n"


@pytest.mark.parametrize(("terminal", "cached"), [(True, False), (True, True), (False, False)])
def test_kernels_are_announced_once_and_to_those_who_look(tmp_path, monkeypatch, terminal, cached):
    to = console_module.console(100)
    to.file, ran = io.StringIO(), []
    monkeypatch.setattr(to, "_force_terminal", terminal)
    monkeypatch.setattr(console_module, "out", to)
    monkeypatch.setattr(console_module, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(console_module.warmup, "steps", lambda: iter([("one", lambda: ran.append(1))]))
    if cached:  # as Numba has it: in a folder for each source
        (tmp_path / "kernels_0" / "norm.nbi").parent.mkdir()
        (tmp_path / "kernels_0" / "norm.nbi").touch()
    console_module.prepare_kernels()
    assert ("Compiling kernels, once" in to.file.getvalue()) == bool(ran) == (terminal and not cached)


# ---------------------------------------------------------------- names that look like something else
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0\r\n", exclude_categories=["C", "Z"]), min_size=1)


@given(NAMES | st.sampled_from(["[lr=0.1]", "[red]cat", "d[", "[/x]", ":smile:", "it's", "$HOME", "a b", "-x"]))
def test_names_are_printed_as_they_are_and_hints_are_for_the_shell(name):
    file = io.StringIO()
    to = console_module.console(10**4)
    to.file = file
    to.print(name, soft_wrap=True)
    table = Table("image")
    table.add_row(name)
    to.print(table)
    assert file.getvalue().startswith(name + "\n")
    assert f" {name} " in file.getvalue()
    assert shlex.split(console_module.shell("tinyres", "train", "--out", name)) == ["tinyres", "train", "--out", name]


def test_folders_classes_and_pictures_with_brackets(run, tmp_path):
    folder = tmp_path / "runs" / "[lr=0.1] $x"
    text = good(*TRAIN, "--out", folder)
    assert f"Run folder: {folder}\n" in text
    assert f"({folder / 'best.safetensors'})" in text
    picture = tmp_path / "d[" / "x].png"
    picture.parent.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(picture)
    assert str(picture) in good("predict", run / "best.safetensors", picture)  # whole, where it is no terminal
    missing = tmp_path / "[/x].png"
    assert f"Error: {missing}" in bad("predict", run / "best.safetensors", missing)


def test_validation_that_diverges_fails(tmp_path):
    with np.errstate(all="ignore"):
        text = bad(*TRAIN, "--out", tmp_path / "run", "--lr", "1e6")
    assert "became" in text
    assert "Try a lower rate" in text


def test_terminals_that_know_ascii_alone(run, tmp_path):
    """Every name is printed, as its code points where it must be; nothing fails over a progress bar or a frame."""
    Image.new("RGB", (16, 16)).save(tmp_path / "katze-äöü.png")
    code = TINY + "from tinyres.cli import main; main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    for arguments in (
        ["predict", run / "best.safetensors", "katze-äöü.png"],
        ["predict", run / "best.safetensors", "nicht-äöü.png"],
        ["train", "--help"],
    ):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
        assert b"Traceback" not in found.stderr
        text = (found.stdout + found.stderr).decode("ascii")
        if "predict" in arguments:
            assert re.search(r"-(\\[a-z0-9]+)+\.png", text)
        assert found.returncode == int("nicht-äöü.png" in arguments), text


@pytest.mark.parametrize("module", ["tinyres", "tinyres.cli"])
def test_python_m_tinyres(module):
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"tinyres {tr.__version__}, kernels for {tr.machine.simd()}\n")


# ---------------------------------------------------------------- completion
COMPLETE = {
    "bash": lambda words: {"COMP_WORDS": " ".join(["tinyres", *words]), "COMP_CWORD": str(len(words))},
    "zsh": lambda words: {"_TYPER_COMPLETE_ARGS": " ".join(["tinyres", *words])},
    "fish": lambda words: {
        "_TYPER_COMPLETE_ARGS": " ".join(["tinyres", *words]), "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    },
}  # fmt: skip
"""What each shell's script, as `tinyres --show-completion` prints it, tells of the words so far."""


def completed(*words):
    environment = {"_TINYRES_COMPLETE": "complete_bash", **COMPLETE["bash"](words)}
    result = CliRunner().invoke(cli.app, [], env=environment, prog_name="tinyres")
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--model", "resnet1"], [name for name in models.FAMILY if name.startswith("resnet1")]),
        (["train", "--recipe", ""], tr.recipes.names()),
        (["train", "--dataset", ""], ["auto", "folder", *train.DATASETS]),
        (["train", "--optimizer", "a"], ["adamw"]),
        (["train", "--schedule", ""], list(train.SCHEDULES)),
        (["train", "--stem", ""], list(models.STEMS)),
        (["train", "--shortcut", "A"], ["A", "A-after"]),
        (["train", "--detect"], ["--detect-anomaly"]),
        (["eval", "a.safetensors", "--split", "v"], ["validation"]),
        (["profile", "resnet20", "--sort", "back"], ["backward"]),
        (["summary", "preact_resnet110"], ["preact_resnet110"]),
        (["summary", "--compare", "basic,bo"], ["basic,bottleneck"]),
        (["recipes", "pa"], ["paper"]),
        (["study", "gradcheck", "exp", "conv"], ["conv2d"]),
        (["study", "gradient-flow", "plain20", "--activation", "s"], ["sigmoid"]),
        (["study", "degradation", "--networks", "plain20,plain5"], ["plain20,plain56"]),
        (["study", "explain", "plain18"], ["plain18"]),
        (["train", "--out", ""], [""]),  # nothing of ours: a shell then looks for files
        (["train", "--model", "no"], [""]),
    ],
)
def test_shells_complete_what_is_known(words, expected):
    assert completed(*words) == expected


def test_what_completes_is_taken():
    """Levels by name; and each optimizer that is offered is one."""
    for name in completed("study", "gym", "start", ""):
        assert gym.find(name).name == name
    for name in completed("train", "--optimizer", ""):
        assert train.Config(optimizer=name).optimizer == name


@pytest.mark.parametrize("shell", COMPLETE)
def test_the_installed_command_completes(shell, tmp_path):
    """By the variables that each shell's script sets. Nothing is compiled for it."""
    code = "import sys, tinyres_command; sys.argv = ['tinyres']; tinyres_command.main()"
    variables = {"_TINYRES_COMPLETE": f"complete_{shell}", **COMPLETE[shell](["train", "--schedule", "co"])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **variables, "TINYRES_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"[\w-]{5,}", done.stdout.replace("_arguments", "")) == ["cosine", "constant"]
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash on this machine")
def test_bash_completes_by_the_script_that_is_shown(tmp_path):
    command = tmp_path / "tinyres"
    command.write_text(f"#!{sys.executable}\nfrom tinyres_command import main\nmain()\n")
    command.chmod(0o755)
    typed = 'eval "$(tinyres --show-completion bash)"; COMP_WORDS=(tinyres train --optimizer ""); COMP_CWORD=3; '
    typed += '_tinyres_completion tinyres; echo "${COMPREPLY[@]}"'
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        ["bash", "--norc", "-c", typed], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert (done.stdout, done.stderr) == ("sgd adamw\n", "")
