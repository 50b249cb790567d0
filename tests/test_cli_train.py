"""The commands that train, and those that look at a run: what they print, and what they leave behind."""

import json
import os
import re
import shutil
import signal
import sys

import numpy as np
import pytest
from PIL import Image
from support.commands import TRAIN, bad, good, tinyres
from support.json_keys import check_keys

import tinyres as tr
from tinyres import checkpoints, models, progress, train
from tinyres.runs import read_config

pytestmark = pytest.mark.usefixtures("small_world")


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


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode here")
def test_runs_whose_names_are_not_unicode_are_compared(run, tmp_path):
    other = shutil.copytree(run, tmp_path / os.fsdecode(b"not \xff UTF-8"))
    good("compare", run, other, "--out", tmp_path / "page")
    assert "not \\udcff UTF-8" in (tmp_path / "page" / "comparison.html").read_text()


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
    check_keys("tinyres lr-find", found)
    assert found["suggestion"] == found["rates"][2 + int(np.argmin(found["smoothed"][2:]))]
    assert f"Suggestion: --lr {found['suggestion']:.2g}" in text
    config = train.Config(dataset="shapes", model="tiny", batch_size=12, validation=0)
    assert found["losses"] == tr.lr_find(train.Run(config, None), steps=12, highest=1.0).losses
    assert not (tmp_path / "runs").exists()
    assert "--lowest, --highest: got 2.0 and 1.0" in bad(*options, "--lowest", "2")
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
