"""Training: what a run writes; one seed gives one result; a run that was stopped goes on as if it had not been.

Most runs here are those of `runs`. This file is long because a run can be stopped, resumed and broken in many ways.
"""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import Reporter, config, fit, install_tiny, pictures, result, stop

import tinyres as tr
from tinyres import backend, checkpoints, loop, models, train
from tinyres.checkpoints import CheckpointError
from tinyres.runs import holds_run, read_config, read_times

FILES = {"config.json", "metrics.jsonl", "times.json", "last.safetensors", "previous.safetensors", "best.safetensors"}
CURVES = train.curves  # which runs of the tiny network do without
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that others are compared with, in full."""
    with pytest.MonkeyPatch.context() as patch:
        install_tiny(patch)
        return fit(tmp_path_factory.mktemp("whole") / "run")[1]


# ---------------------------------------------------------------- what a run does
def test_run_writes_its_files_and_tells_its_story(tmp_path):
    reporter = Reporter()
    scores, _ = fit(tmp_path / "deep" / "run", reporter)
    folder = tmp_path / "deep" / "run"
    assert {p.name for p in folder.iterdir()} - {"curves.png"} == FILES
    assert json.loads((folder / "config.json").read_text()) == dataclasses.asdict(config())
    assert read_config(folder) == config()

    *epochs, test = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert epochs == reporter.epochs
    assert [e["epoch"] for e in epochs] == [1, 2, 3]
    assert [e["step"] for e in epochs] == [4, 8, 12]
    keys = ["epoch", "step", "lr", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
    assert all(list(e) == keys for e in epochs)
    assert test == scores
    assert scores.keys() == {"test_loss", "test_accuracy"}

    assert reporter.started == 1
    assert reporter.images == [12, 12, 12, 6] * 3
    schedule = tr.schedule.one_cycle(0.05, 12, warmup=0.2)
    assert reporter.rates == [schedule(step) for step in range(12)]
    for epoch, record in enumerate(epochs):
        here = slice(4 * epoch, 4 * epoch + 4)
        assert record["train_loss"] == pytest.approx(np.average(reporter.losses[here], weights=[12, 12, 12, 6]))
        assert record["lr"] == reporter.rates[4 * epoch + 3]
        assert record["train_accuracy"] * 42 == pytest.approx(round(record["train_accuracy"] * 42))


@pytest.mark.parametrize(("epochs", "few"), [(1, True), (74, True), (75, False)])
def test_a_run_too_short_to_learn_says_so_before_it_begins(tmp_path, epochs, few):
    run = train.Run(config(epochs=epochs), tmp_path / "run")
    told = [note for note in run.notes if "may end near chance" in note]
    assert bool(told) == few
    if few:
        assert told[0].startswith(f"A run of {4 * epochs} steps with a learning rate up to 0.05 ")


def test_a_run_without_a_folder_trains_and_says_before_it_that_it_cannot_be_tested():
    run = train.Run(config(epochs=1), None)
    with pytest.raises(ValueError, match="fit: got a run that has no folder for its checkpoints"):
        run.fit()
    assert run.step == 0
    run.train_to(run.total_steps)
    assert len(run.history) == 1


def test_curves_are_a_picture(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="curves.png is drawn by matplotlib, which is not installed")
    monkeypatch.setattr(train, "curves", CURVES)
    fit(tmp_path / "run")
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_runs_do_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "curves", CURVES)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    fit(tmp_path / "run", epochs=1)
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES - {"previous.safetensors"}


def test_checkpoints_hold_a_model_and_what_it_needs(tmp_path):
    scores, _ = fit(tmp_path / "run")
    model, info = checkpoints.load_model(tmp_path / "run" / "best.safetensors")
    assert info["classes"] == list(tr.data.SHAPES_CLASSES)
    assert info["image_size"] == 16
    loader = tr.data.Loader(*pictures("test"), 7, mean=info["mean"], std=info["std"], shuffle=False)
    loss, accuracy = train.evaluate(model, loader)
    assert accuracy == scores["test_accuracy"]
    assert loss == pytest.approx(scores["test_loss"], rel=1e-5)  # other batches, other sums


def test_validation_images_are_not_trained_on(tmp_path):
    run = train.Run(config(), tmp_path / "run")
    trained, held = ({i.tobytes() for i in part[0]} for part in (run.data.train, run.data.validation))
    assert (len(trained), len(held)) == (42, 8)
    assert not trained & held
    assert trained | held == {i.tobytes() for i in pictures("train")[0]}
    mean, std = tr.data.channel_statistics(pictures("train")[0])
    np.testing.assert_array_equal(run.loader.mean, mean)
    np.testing.assert_array_equal(run.loader.std, std)


def test_evaluation_counts_every_image_once_and_keeps_the_mode():
    model = models.create("tiny")
    images, labels = pictures("test")
    options = {"mean": [0.5] * 3, "std": [0.25] * 3, "shuffle": False}
    (loss, accuracy), other = (
        train.evaluate(model, tr.data.Loader(images, labels, n, **options)) for n in (len(images), 3)
    )
    assert model.training
    with tr.no_grad():
        model.eval()
        logits = model(tr.Tensor((images.astype(np.float32) / 255 - 0.5) / 0.25))
    assert accuracy == other[1] == np.mean(logits.data.argmax(1) == labels)
    assert loss == pytest.approx(tr.ops.cross_entropy(logits, labels).item(), rel=1e-5)
    assert loss == pytest.approx(other[0], rel=1e-5)


# ---------------------------------------------------------------- which checkpoint is tested
@pytest.mark.parametrize("accuracies", [[0.5, 0.75, 0.25], [0.5, 0.25, 0.5], [0.0, 0.0, 0.0], [0.1, 0.2, 0.3]])
def test_best_is_the_first_with_the_highest_validation_accuracy(tmp_path, monkeypatch, accuracies):
    """And the test images are seen once, at the end."""
    seen = []

    def evaluate(model, loader):
        seen.append(len(loader.labels))
        return 1.0, accuracies[len(seen) - 1] if len(seen) <= 3 else 0.125

    monkeypatch.setattr(train, "evaluate", evaluate)
    monkeypatch.setattr(loop, "evaluate", evaluate)
    scores, found = fit(tmp_path / "run")
    assert seen == [8, 8, 8, 20]
    assert scores["test_accuracy"] == 0.125
    best = found["best.safetensors"][0]
    assert best["step"] == 4 * (1 + accuracies.index(max(accuracies)))
    assert [r["validation_accuracy"] for r in best["history"]] == accuracies[: best["step"] // 4]
    assert found["last.safetensors"][0]["step"] == 12


def test_without_validation_the_last_checkpoint_is_tested(tmp_path):
    scores, found = fit(tmp_path / "run", validation=0, epochs=2)
    assert "best.safetensors" not in found
    model, info = checkpoints.load_model(tmp_path / "run" / "last.safetensors")
    assert info["step"] == 2 * 5
    loader = tr.data.Loader(*pictures("test"), 20, mean=info["mean"], std=info["std"], shuffle=False)
    assert train.evaluate(model, loader)[1] == scores["test_accuracy"]
    assert "validation" not in found["metrics"]


# ---------------------------------------------------------------- one seed, one result
def test_one_seed_gives_one_result_to_the_last_bit(tmp_path, whole):
    assert fit(tmp_path / "again")[1] == whole
    other = fit(tmp_path / "other", seed=1)[1]
    assert other["metrics"] != whole["metrics"]


@pytest.mark.skipif(backend.max_threads() < 2, reason="needs two cores to compare one thread with two")
def test_number_of_threads_changes_no_bit(tmp_path, whole):
    for n in (1, 2):
        tr.set_num_threads(n)
        assert fit(tmp_path / str(n))[1] == whole


@pytest.mark.parametrize("layer", ["omp", "tbb", "workqueue"])
def test_threading_layer_changes_no_bit(tmp_path, whole, layer):
    """In a process of its own: a process has one layer for life."""
    code = (
        "import sys, pathlib, numba, pytest, tinyres as tr\n"
        "from support import runs\n"
        "runs.install_tiny(pytest.MonkeyPatch())\n"
        "tr.set_num_threads(2)\n"
        "runs.fit(pathlib.Path(sys.argv[1]))\n"
        "print(numba.threading_layer())"
    )
    paths = os.pathsep.join([str(Path(tr.__file__).parents[1]), str(Path(__file__).parent)])
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2", "PYTHONPATH": paths}
    command = [sys.executable, "-c", code, tmp_path / "run"]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "No threading layer could be loaded" in child.stderr:
        pytest.skip(f"Numba has no threading layer {layer} here")
    assert child.stdout == f"{layer}\n", child.stderr
    assert result(tmp_path / "run") == whole


# ---------------------------------------------------------------- stop and go on
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("step", [1, 3, 4, 6, 8, 11])  # 4 and 8 are the ends of epochs
def test_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, whole, step, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    folder = tmp_path / "run"
    reporter = Reporter(step, stop(number))
    with pytest.raises(train.Interrupted):
        fit(folder, reporter)
    assert len(reporter.losses) == step
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert checkpoints.load(folder / "last.safetensors")[1]["step"] == step

    rest = Reporter()
    run = train.Run(read_config(folder), folder, resume=True)
    assert run.step == step
    run.fit(rest)
    assert len(rest.losses) == 12 - step
    assert result(folder) == whole


def test_run_may_be_stopped_again_and_again(tmp_path, whole):
    folder = tmp_path / "run"
    for step in range(1, 12):
        run = train.Run(config(), folder, resume=step > 1)
        with pytest.raises(train.Interrupted):
            run.fit(Reporter(step, stop(signal.SIGINT)))
    train.Run(config(), folder, resume=True).fit()
    assert result(folder) == whole


def test_stop_at_each_of_40_steps(tmp_path):
    """Weights, optimizer, metrics: after each step, and at the end, all as of the run that was not stopped, to the last
    bit."""
    states = {}

    def note(run):
        states[run.step] = checkpoints.state_digest(*run.state())

    whole = train.Run(config(epochs=10), tmp_path / "whole")
    for step in range(1, 41):
        whole.train_to(step)
        note(whole)
    whole.fit()
    expected, states = states, {}

    train.Run(config(epochs=10), tmp_path / "run")
    for step in range(1, 40):
        run = train.Run(read_config(tmp_path / "run"), tmp_path / "run", resume=True)
        assert run.step == step - 1
        with pytest.raises(train.Interrupted):
            run.fit(Reporter(step, stop(signal.SIGTERM)))
        note(run)
    run = train.Run(read_config(tmp_path / "run"), tmp_path / "run", resume=True)
    run.fit()
    note(run)
    assert states == expected
    assert len(states) == 40
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path, whole):
    folder = tmp_path / "run"
    train.Run(config(), folder)
    (folder / ".last.safetensors.abc.part").write_bytes(b"half")
    run = train.Run(read_config(folder), folder, resume=True)
    assert {p.name for p in folder.iterdir()} == {"config.json"}
    run.fit()
    assert result(folder) == whole
    (folder / "last.safetensors").unlink()  # that is another matter
    with pytest.raises(CheckpointError, match=r"last\.safetensors: no such file"):
        train.Run(config(), folder, resume=True)


# ---------------------------------------------------------------- checkpoints within an epoch
def saved_steps(folder, monkeypatch, every):
    steps = []
    save = checkpoints.save

    def note(path, arrays, info, **options):
        if path.name == "last.safetensors":
            steps.append(info["step"])
        return save(path, arrays, info, **options)

    monkeypatch.setattr(checkpoints, "save", note)
    train.Run(config(), folder).fit(every=every)
    return steps


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 100])
def test_saves_every_so_many_steps_and_at_the_end_of_epochs(tmp_path, monkeypatch, whole, steps):
    found = saved_steps(tmp_path / "run", monkeypatch, train.Every(steps=steps))
    assert found == [s for s in range(1, 13) if s % steps == 0 or s % 4 == 0]
    assert result(tmp_path / "run") == whole
    previous = checkpoints.load(tmp_path / "run" / "previous.safetensors")[1]
    assert previous["step"] == found[-2]


def test_saves_every_so_many_seconds(tmp_path, monkeypatch, whole):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(train.time, "monotonic", lambda: next(clock))  # ten seconds each time somebody looks
    assert saved_steps(tmp_path / "run", monkeypatch, train.Every(seconds=15)) == [2, 4, 6, 8, 10, 12]
    assert result(tmp_path / "run") == whole


@pytest.mark.parametrize("text", ["", "0", "0m", "-1", "1.5", "5 m", "m", "5s", "1e3", "٣", "9" * 13])
def test_bad_interval(text):
    with pytest.raises(ValueError, match="expected a number of steps such as 500, or of minutes such as 10m"):
        train.Every.parse(text)


def test_file_system_without_links_keeps_the_previous_checkpoint(tmp_path, monkeypatch, whole):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert fit(tmp_path / "run")[1] == whole
    assert checkpoints.load(tmp_path / "run" / "previous.safetensors")[1]["step"] == 8


def test_signal_in_the_very_last_step_comes_too_late(tmp_path, whole):
    scores, found = fit(tmp_path / "run", Reporter(12, stop(signal.SIGINT)))
    assert found == whole
    assert "test_accuracy" in scores


@pytest.mark.parametrize("options", [{"optimizer": "adamw", "lr": 0.01}, {"decay_bias": False, "clip_norm": 0.5}])
def test_other_optimizers_go_on_alike(tmp_path, options):
    options = {**options, "epochs": 2, "cutout": 4, "label_smoothing": 0.1}
    expected = fit(tmp_path / "whole", **options)[1]
    with pytest.raises(train.Interrupted):
        fit(tmp_path / "run", Reporter(5, stop(signal.SIGTERM)), **options)
    train.Run(config(**options), tmp_path / "run", resume=True).fit()
    assert result(tmp_path / "run") == expected


def test_second_signal_stops_at_once(tmp_path):
    def twice(run):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # a background job of a shell ignores it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "run", Reporter(6, twice))
        assert checkpoints.load(tmp_path / "run" / "last.safetensors")[1]["step"] == 4
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_first_signal_is_told_of_once_with_what_a_second_would_lose(tmp_path):
    class Listener(Reporter):
        told: ClassVar[list] = []

        def on_stopping(self, run):
            self.told.append((run.step, run.saved))

    with pytest.raises(train.Interrupted):
        fit(tmp_path / "run", Listener(6, stop(signal.SIGINT)))
    assert Listener.told == [(6, 4)]
    run = train.Run(config(), tmp_path / "run", resume=True)
    assert run.saved == run.step == 6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_validation_loss_that_is_no_number_ends_the_run_and_is_never_best(tmp_path, bad):
    def break_(run):  # after the epoch's last step: training has seen nothing of it
        run.model.fc.bias.data[0] = bad

    with np.errstate(invalid="ignore"), pytest.raises(train.Diverged, match=r"the validation loss became (nan|inf)"):
        fit(tmp_path / "run", Reporter(8, break_))
    for name in ("best", "last"):
        arrays, info = checkpoints.load(tmp_path / "run" / f"{name}.safetensors")
        assert len(info["history"]) == 1
        assert all(np.isfinite(a).all() for a in arrays.values())


def test_a_test_loss_that_is_no_number_is_no_result(tmp_path):
    def break_(run):
        run.model.fc.bias.data[0] = np.nan

    with np.errstate(invalid="ignore"), pytest.raises(train.Diverged, match="the test loss became nan at step 15"):
        fit(tmp_path / "run", Reporter(15, break_), validation=0)
    assert "test_loss" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_crash_loses_no_more_than_the_epoch(tmp_path, whole):
    def crash(run):
        raise MemoryError

    with pytest.raises(MemoryError):
        fit(tmp_path / "run", Reporter(7, crash))
    run = train.Run(config(), tmp_path / "run", resume=True)
    assert run.step == 4
    run.fit()
    assert result(tmp_path / "run") == whole


def test_run_that_is_done_is_only_tested_again(tmp_path, whole):
    folder = tmp_path / "run"
    scores, _ = fit(folder)
    reporter = Reporter()
    assert train.Run(config(), folder, resume=True).fit(reporter) == scores
    assert not reporter.losses
    assert result(folder) == whole


def test_full_disk_leaves_a_run_that_can_go_on(tmp_path, monkeypatch, whole):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:

        def fill(run):
            def full(*args):
                raise OSError(28, "No space left on device")

            patch.setattr(os, "fsync", full)

        with pytest.raises(OSError, match="No space left"):
            fit(folder, Reporter(7, fill))
    assert {p.name for p in folder.iterdir()} - {"curves.png"} <= FILES
    train.Run(config(), folder, resume=True).fit()
    assert result(folder) == whole


# ---------------------------------------------------------------- divergence
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_divergence_names_step_and_rate_and_what_to_do(tmp_path, bad):
    def poison(run):
        run.model.fc.bias.data[0] = bad

    with np.errstate(invalid="ignore"), pytest.raises(train.Diverged) as caught:
        fit(tmp_path / "run", Reporter(6, poison), schedule="constant", validation=8)
    message = str(caught.value)
    for part in (
        "the loss became nan at step 6 (epoch 2)",
        "learning rate 0.05",
        "--detect-anomaly",
        "detect_anomaly()",
    ):
        assert part in message
    assert checkpoints.load(tmp_path / "run" / "last.safetensors")[1]["step"] == 4


def test_too_high_a_rate_diverges(tmp_path):
    with np.errstate(all="ignore"), pytest.raises(train.Diverged, match="Try a lower rate, a clip norm"):
        fit(tmp_path / "run", lr=1e30, schedule="constant", epochs=5)


def test_anomaly_detection_names_the_layer(tmp_path):
    run = train.Run(config(), tmp_path / "run", anomaly=True)

    def poison(run):
        run.model.layer2[0].conv1.weight.data[0, 0, 0, 0] = np.nan

    with pytest.raises(FloatingPointError, match=r"forward of 'conv2d' in layer2\.0\.conv1 gave nan"):
        run.fit(Reporter(2, poison))
    assert not tr.tape.state.anomaly


# ---------------------------------------------------------------- folders
def test_folder_that_holds_a_run_is_not_touched(tmp_path):
    fit(tmp_path / "run", epochs=1)
    before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(
        FileExistsError, match=r"already holds a run: choose another folder, or continue it \(--resume; resume=True"
    ):
        train.Run(config(seed=1), tmp_path / "run")
    assert {p: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    assert holds_run(tmp_path / "run")
    assert not holds_run(tmp_path)


def test_of_two_runs_that_begin_at_once_one_has_the_folder(tmp_path, monkeypatch):
    """Both have seen that there is no run in it; while the second reads its images, the first writes."""
    read = train.Run._read
    with monkeypatch.context() as patch:

        def meanwhile(run, *arguments):
            patch.undo()
            train.Run(config(seed=1), run.folder)
            return read(run, *arguments)

        patch.setattr(train.Run, "_read", meanwhile)
        with pytest.raises(FileExistsError, match="already holds a run: choose another folder"):
            train.Run(config(seed=2), tmp_path / "run")
    assert read_config(tmp_path / "run").seed == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def damaged(change):
    def damage(folder):
        path = folder / "last.safetensors"
        arrays, info = checkpoints.load(path)
        change(arrays, info)
        checkpoints.save(path, arrays, info)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "last.safetensors").unlink(), r"last\.safetensors: no such file"),
        (
            lambda folder: (folder / "last.safetensors").write_bytes(b"x" * 50),
            "not a safetensors file, or a damaged one",
        ),
        (damaged(lambda arrays, info: arrays.pop("model.conv1.weight")), "conv1.weight: missing"),
        (
            damaged(lambda arrays, info: arrays.pop("optimizer.0.momentum")),
            r"optimizer state does not fit .*0\.momentum",
        ),
        (damaged(lambda arrays, info: info["config"].update(seed=9)), "another configuration than config.json"),
        (damaged(lambda arrays, info: info.pop("config")), "another configuration than config.json"),
        (damaged(lambda arrays, info: info.pop("sums")), r"not the state of a run \('sums'\)"),
    ],
    ids=["missing", "garbage", "no weight", "no momentum", "other config", "no config", "no sums"],
)
def test_damaged_run_is_not_resumed(tmp_path, damage, message):
    folder = tmp_path / "run"
    fit(folder, epochs=1)
    damage(folder)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(CheckpointError, match=message):
        train.Run(config(epochs=1), folder, resume=True)
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("content", [None, "{", "[]", '{"depth": 3}', '{"epochs": 0}', '{"epochs": "three"}', "\xff"])
def test_configuration_that_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode("latin1"))
    with pytest.raises(CheckpointError, match=r"config\.json: no configuration of a run"):
        read_config(tmp_path)


# ---------------------------------------------------------------- configuration
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "imagenet"}, "dataset: got 'imagenet', expected one of cifar10, cifar100, shapes"),
        ({"model": "resnet21"}, "there is no 'resnet21'; did you mean .*resnet20"),
        ({"shortcut": "D"}, "shortcut: got 'D', expected one of A, A-after, B, C"),
        ({"epochs": 0}, "epochs: got 0, expected 1 or more"),
        ({"batch_size": 0}, "batch_size: got 0, expected 1 or more"),
        ({"optimizer": "adam"}, "optimizer: got 'adam', expected sgd or adamw"),
        ({"schedule": "step"}, "schedule: got 'step', expected one of one-cycle"),
        ({"lr": 0.0}, r"lr: got 0\.0, expected a positive number"),
        ({"lr": math.inf}, "lr: got inf"),
        ({"lr": math.nan}, "lr: got nan"),
        ({"warmup": 1.0}, r"warmup: got 1\.0, expected 0 or more and less than 1"),
        ({"momentum": 1.0}, r"momentum: got 1\.0"),
        ({"weight_decay": -1.0}, r"weight_decay: got -1\.0, expected 0 or more"),
        ({"weight_decay": math.nan}, "weight_decay: got nan"),
        ({"label_smoothing": 1.5}, r"label_smoothing: got 1\.5, expected 0 to 1"),
        ({"clip_norm": 0.0}, r"clip_norm: got 0\.0, expected a positive number"),
        ({"pad": -1}, "pad: got -1"),
        ({"cutout": -1}, "cutout: got -1"),
        ({"validation": -1}, "validation: got -1"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_configuration_says_which_field_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


def test_validation_must_leave_images(tmp_path):
    with pytest.raises(ValueError, match=r"validation: got 50, expected less than the 50 training images"):
        train.Run(config(validation=50), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", train.SCHEDULES)
def test_schedules_end_with_the_run(name):
    rate = train.SCHEDULES[name](config(schedule=name), 100)
    values = [rate(step) for step in range(100)]
    assert max(values) <= 0.05
    assert max(values) > 0.04
    assert all(v > 0 for v in values)
    if name != "constant":
        assert values[0] < 0.01
        assert values[-1] < 0.01


# ---------------------------------------------------------------- learning
def test_it_learns_shapes(tmp_path, monkeypatch):
    """Four kinds of shapes, 800 pictures of 12 pixels, some seconds.

    Chance is 25 % of 160 test images, with a standard deviation of 3.4 %. 60 to 75 % are reached; 45 % is asked for,
    six deviations above chance, since another processor rounds otherwise and training is chaotic.
    """

    def read(split):
        images, labels = tr.data.shapes(2000 if split == "train" else 400, split, size=12)
        return images[labels < 4], labels[labels < 4]

    monkeypatch.setitem(train.DATASETS, "shapes", (read, tr.data.SHAPES_CLASSES))
    reporter = Reporter()
    scores, _ = fit(tmp_path / "run", reporter, epochs=7, batch_size=20, validation=100, pad=0)
    assert scores["test_accuracy"] > 0.45
    assert reporter.epochs[-1]["train_loss"] < reporter.epochs[0]["train_loss"] - 0.3


@pytest.mark.skipif("TINYRES_DATA" not in os.environ, reason="TINYRES_DATA names no folder with CIFAR-10")
def test_it_learns_cifar10(monkeypatch, tmp_path):
    """ln 10 = 2.30 is the loss of a guess. Some dozens of steps get well below it."""

    def read(root, split):
        images, labels = tr.data.cifar10(root, split, download=False)
        return images[:2560], labels[:2560]

    monkeypatch.setitem(train.DATASETS, "cifar10", (read, tr.data.CLASSES))
    reporter = Reporter()
    fit(tmp_path / "run", reporter, dataset="cifar10", epochs=4, batch_size=64, validation=256, lr=0.2)
    assert len(reporter.losses) == 4 * 36
    assert np.mean(reporter.losses[-20:]) < 2.0
    assert np.mean(reporter.losses[-20:]) < np.mean(reporter.losses[:5]) - 0.3


@pytest.mark.parametrize("name", list(train.SCHEDULES))
@pytest.mark.parametrize("total", [10, 100, 353])
@pytest.mark.parametrize("warmup", [0, 0.2, 0.45])
def test_every_schedule_rises_to_the_rate_that_was_asked_for(name, total, warmup):
    schedule = train.SCHEDULES[name](train.Config(lr=0.3, schedule=name, warmup=warmup), total)
    highest = max(schedule(step) for step in range(total))
    # the peak may lie between two steps; a decay that started under the warm-up would miss it by far more
    assert 0.3 * (1 - 1 / total) <= highest <= 0.3 * (1 + 1e-12)


@given(lr=st.floats(0.01, 1), batch=st.integers(1, 4096), base=st.integers(1, 4096))
def test_rate_is_in_proportion_to_the_batch(lr, batch, base):
    """k batches in one step go as far as k steps; and the rate is what was asked for where nothing was."""
    scaled = train.Config(lr=lr, lr_batch_size=base, batch_size=batch)
    assert scaled.peak_lr == pytest.approx(lr * batch / base)
    assert train.Config(lr=lr, batch_size=batch).peak_lr == lr
    assert max(train.SCHEDULES["one-cycle"](scaled, 100)(step) for step in range(100)) == pytest.approx(scaled.peak_lr)


def test_blocks_may_begin_as_their_shortcuts(tiny, tmp_path):
    run = train.Run(config(zero_init_residual=True), tmp_path / "run")
    last = [p.data for name, p in run.model.named_parameters() if name.endswith("bn2.weight")]
    assert last
    assert not np.concatenate(last).any()


def test_signal_while_validating_stops_at_the_end_of_the_epoch(tiny, tmp_path, monkeypatch):
    real = train.evaluate

    def evaluate(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    run = train.Run(config(), tmp_path / "run")
    with pytest.raises(train.Interrupted):
        run.fit()
    assert run.step == run.saved == len(run.loader)


# ---------------------------------------------------------------- what is frozen, and how long it takes
@pytest.fixture
def weights(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    checkpoints.save_weights(path, models.create("tiny"))
    return path


@pytest.mark.parametrize(("last", "still"), [("stem", {"conv1", "bn1"}), ("layer1", {"conv1", "bn1", "layer1"})])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_part_is_frozen_with_all_before_it_and_stays_so_on_resuming(tmp_path, weights, last, still, shards):
    wanted = config(freeze=last, shards=shards, weights=weights)
    run = train.Run(wanted, tmp_path / "run")
    before = run.model.state_dict()
    run.train_to(5)
    run.save("last")
    run = train.Run(wanted, tmp_path / "run", resume=True)
    run.train_to(run.total_steps)
    after = run.model.state_dict()
    assert {n.split(".")[0] for n in before if (before[n] == after[n]).all()} == still


@pytest.mark.parametrize("part", ["head", "fc", "layer3", ""])
def test_a_part_that_cannot_be_the_last_frozen_is_refused(tmp_path, weights, part):
    with pytest.raises(ValueError, match=f"freeze: got '{part}', expected one of stem, layer1, layer2"):
        train.Run(config(freeze=part, weights=weights), tmp_path / "run")


def test_random_weights_are_not_frozen():
    with pytest.raises(ValueError, match=r"weights: got None, expected a file to start from"):
        config(freeze="stem")


def test_parts_of_the_network_learn_at_their_share_of_the_rate(tmp_path):
    run = train.Run(config(layer_decay=0.5, bias_lr=4.0, schedule="constant", lr=0.08), tmp_path / "run")
    run.train_to(1)
    rates = {p: group["lr"] for group in run.optimizer.groups for p in group["params"]}
    assert rates[run.model.fc.weight] == 0.08
    assert rates[run.model.layer2[0].conv1.weight] == 0.04
    assert rates[run.model.conv1.weight] == 0.01
    assert rates[run.model.bn1.bias] == 0.04


def test_a_run_says_how_long_its_epochs_took_over_stops(tmp_path, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(train.time, "monotonic", lambda: float(next(clock)))
    run = train.Run(config(), tmp_path / "run")
    run.train_to(6)
    run.save("last")
    before = read_times(tmp_path / "run")
    assert len(before.epochs) == 1
    assert min(*before.epochs, before.since) > 0
    for _ in range(100):
        next(clock)  # until it goes on
    run = train.Run(config(), tmp_path / "run", resume=True)
    run.fit()
    times = read_times(tmp_path / "run")
    assert len(times.epochs) == 3
    assert times.epochs[0] == before.epochs[0]
    assert before.since < times.epochs[1] < 100


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"epochs": [-1], "since": 0}', '{"epochs": 3, "since": 0}', "[" * 9999]
)
def test_times_that_make_no_sense_are_none(tmp_path, text):
    (tmp_path / "times.json").write_text(text)
    assert read_times(tmp_path) is None
    assert read_times(tmp_path / "nowhere") is None
