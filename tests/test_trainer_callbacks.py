"""Callbacks of a trainer: what they are told and when, what they stop, and what goes on after a stop."""

import csv
import importlib
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import BLACK, bits, config, pictures, stop, trainer

import tinyres as tr
from tinyres import callbacks, checkpoints, loop, train
from tinyres.callbacks.monitor import Monitor

pytestmark = pytest.mark.usefixtures("tiny", "one_thread")


class Ender(callbacks.Callback):
    """Has enough after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_batch_end(self, training, logs):
        if training.step == self.step:
            training.stop("enough")


class Stopper(callbacks.Callback):
    """Presses Ctrl-C after so many steps."""

    def __init__(self, step):
        self.step = step

    def on_batch_end(self, training, logs):
        if training.step == self.step:
            stop(signal.SIGINT)(training)


# ---------------------------------------------------------------- callbacks
class Diary(callbacks.Callback):
    def __init__(self):
        self.moments = []

    def on_train_begin(self, training):
        self.moments.append("[")

    def on_epoch_begin(self, training):
        self.moments.append("(")

    def on_batch_begin(self, training):
        self.moments.append("b")

    def on_batch_end(self, training, logs):
        assert logs.keys() == {"loss", "lr", "images"}
        self.moments.append("B")

    def on_epoch_end(self, training, logs):
        assert training.history[-1] is logs
        self.moments.append(")")

    def on_interrupt(self, training):
        self.moments.append("!")

    def on_train_end(self, training):
        self.moments.append("]")

    def teardown(self):
        self.moments.append(".")


def test_moments_come_in_their_order(data):
    diary = Diary()
    trainer(callbacks=[diary]).fit(*data)
    assert "".join(diary.moments) == "[(bBbBbBbBbB)(bBbBbBbBbB)]."


@pytest.mark.parametrize(("step", "story"), [(3, "[(bBbBbB!]."), (5, "[(bBbBbBbBbB)].")])
def test_a_callback_ends_the_training(data, step, story):
    diary = Diary()
    ours = trainer(callbacks=[Ender(step), diary])
    ours.fit(*data)
    assert "".join(diary.moments) == story
    assert (ours.run.step, ours.run.stopped) == (step, "enough")


def test_all_are_torn_down_whatever_happens(data):
    class Fails(callbacks.Callback):
        def on_batch_end(self, training, logs):
            raise LookupError("here")

        def teardown(self):
            raise ValueError("there")

    diary = Diary()
    with pytest.raises(ValueError, match="there") as caught:
        trainer(callbacks=[Fails(), diary]).fit(*data)
    assert isinstance(caught.value.__context__, LookupError)
    assert diary.moments[-1] == "."


accuracies = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=12)


@given(accuracies, st.integers(1, 4), st.sampled_from([0.0, 0.15]))
def test_early_stopping_is_a_function_of_the_history(values, patience, min_delta):
    """As long as one looks at each epoch, and as well for one that went on after a stop."""
    stopping = callbacks.EarlyStopping("validation_accuracy", patience=patience, min_delta=min_delta)
    best, since, expected = -1.0, 0, None
    for i, value in enumerate(values):
        best, since = (value, 0) if value - best > min_delta or i == 0 else (best, since + 1)
        if since >= patience:
            expected = i
            break

    class Fake:
        history, stopped = [], None

        def stop(self, why):
            self.stopped = why

        def state(self):
            return {}, {}

    found = None
    for i in range(len(values)):
        training = Fake()
        training.history = [{"validation_accuracy": v} for v in values[: i + 1]]
        stopping.on_epoch_end(training, training.history[-1])
        if training.stopped:
            found = i
            break
    assert found == expected


def test_early_stopping_goes_back_to_the_best(data, monkeypatch):
    losses = iter([(1.0, 0.5), (0.5, 0.5), (0.8, 0.5), (0.9, 0.5)])
    monkeypatch.setattr(loop, "evaluate", lambda *_: next(losses))
    states = []
    look = type("Look", (callbacks.Callback,), {"on_epoch_end": lambda _, t, logs: states.append(bits(t.model))})()
    ours = trainer(epochs=9, callbacks=[look, callbacks.EarlyStopping(patience=2)], schedule="constant")
    assert len(ours.fit(*data, validation=0.2)) == 4
    assert ours.run.stopped == "validation_loss was best in epoch 2, 0.5, 2 epochs ago"
    assert bits(ours.model) == states[1]


def test_checkpoints_of_the_better_epochs(data, tmp_path, monkeypatch):
    found = iter([(1.0, 0.1), (1.0, 0.3), (1.0, 0.2), (1.0, 0.4)])
    monkeypatch.setattr(loop, "evaluate", lambda *_: next(found))
    name = str(tmp_path / "in" / "e{epoch:.0f}-{validation_accuracy:.1f}.safetensors")
    ours = trainer(epochs=4, callbacks=[callbacks.ModelCheckpoint(name, monitor="validation_accuracy")])
    ours.fit(*data, validation=0.2)
    files = sorted(path.name for path in (tmp_path / "in").iterdir())
    assert files == ["e1-0.1.safetensors", "e2-0.3.safetensors", "e4-0.4.safetensors"]
    again = tr.Trainer.load(tmp_path / "in" / files[-1])
    assert (again.logits(data[0]) == ours.logits(data[0])).all()


def test_the_history_is_a_table(data, tmp_path):
    path = tmp_path / "deep" / "history.csv"
    ours = trainer(callbacks=[callbacks.CSVLogger(path)])
    ours.fit(*data, validation=0.2)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == ours.history


def test_trying_rates_leaves_everything_as_it_was(data, tmp_path):
    run = train.Run(config(ema=0.9, lookahead=0.5), tmp_path / "run")
    run.train_to(3)
    before = checkpoints.state_digest(*run.state())
    rates = tr.lr_find(run, lowest=1e-3, highest=1.0, steps=40)
    assert checkpoints.state_digest(*run.state()) == before
    run.train_to(run.total_steps)
    whole = train.Run(config(ema=0.9, lookahead=0.5), tmp_path / "whole")
    whole.train_to(whole.total_steps)
    assert checkpoints.state_digest(*run.state()) == checkpoints.state_digest(*whole.state())
    assert rates.rates == pytest.approx(np.geomspace(1e-3, 1.0, 40)[: len(rates.rates)])


def test_the_rate_is_found_up_to_which_the_loss_falls(data, monkeypatch):
    """Of a loss that is known: flat below 0.01, falling to 0.1, then rising, exploding after 1."""

    def step(run, arrays):
        rate = run.lr(run.step)
        run.step += 1
        fall, rise = np.clip(np.log10(rate / 0.01), 0, 1), np.clip(np.log10(rate / 0.1), 0, 1)
        loss = 2 - fall + rise if rate < 1 else 100.0
        return {"loss": float(loss), "lr": rate, "images": 1}

    monkeypatch.setattr(loop.Loop, "one_step", step)
    monkeypatch.setattr(importlib.import_module("tinyres.lr_range"), "SMOOTHED", 0.5)
    found = trainer().lr_find(*data, steps=100)
    assert 0.1 <= found.suggestion <= 0.15  # which smoothing moves up by a step or two of 12 %
    assert found.rates[-1] < 2  # where it ended


def test_a_rate_that_was_found_is_trained_at_and_gone_on_with(data, tmp_path):
    finder = callbacks.LearningRateFinder(lowest=1e-3, steps=40, share=0.5)
    options = {"folder": tmp_path / "run", "callbacks": [finder, Stopper(7)], "epochs": 3}
    ours = trainer(**options)
    with pytest.raises(KeyboardInterrupt):
        ours.fit(*data)
    assert ours.config.lr == 0.5 * finder.found.suggestion
    again = trainer(**{**options, "callbacks": [callbacks.LearningRateFinder(lowest=1e-3, steps=40)]})
    again.fit(*data, resume=True)
    assert again.config.lr == ours.config.lr
    assert again.callbacks[0].found is None


def test_a_monitor_knows_what_is_better():
    history = [{"validation_accuracy": a, "train_loss": b} for a, b in [(0.1, 3.0), (0.3, 2.0), (0.2, 2.5)]]
    assert Monitor("validation_accuracy").best(history) == Monitor("train_loss").best(history) == 1
    assert Monitor("train_loss", "max").best(history) == 0
    assert Monitor("train_loss").best([]) == -1
    with pytest.raises(ValueError, match="monitor: got 'validation_los', expected one of validation_accuracy, train_"):
        Monitor("validation_los").best(history)


@pytest.mark.parametrize(
    "callback", [callbacks.EarlyStopping(), callbacks.ModelCheckpoint("a", monitor="validation_accuracy")]
)
def test_a_monitor_that_will_have_no_number_says_so_before_the_first_step(callback):
    diary = Diary()
    with pytest.raises(ValueError, match=r"monitor: got 'validation_.*, expected train_loss .* without validation"):
        trainer(callbacks=[callback, diary]).fit(*BLACK)
    assert diary.moments == ["."]


# ---------------------------------------------------------------- stops
@given(st.integers(1, 14), st.sampled_from([{}, {"ema": 0.8}, {"cutmix": 1.0}]))
@settings(max_examples=8)
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path_factory, step, changes):
    data, folder = pictures("train"), tmp_path_factory.mktemp("stopped") / "run"
    options = {"epochs": 3, "schedule": "constant", **changes}
    whole = trainer(callbacks=[callbacks.EarlyStopping(patience=1)], **options)
    whole.fit(*data, validation=0.2)
    first = trainer(callbacks=[Stopper(step), callbacks.EarlyStopping(patience=1)], folder=folder, **options)
    try:
        first.fit(*data, validation=0.2)
    except KeyboardInterrupt:
        assert first.run.saved == first.run.step
    again = trainer(callbacks=[callbacks.EarlyStopping(patience=1)], folder=folder, **options)
    again.fit(*data, validation=0.2, resume=True)
    assert again.history == whole.history
    assert bits(again.model) == bits(whole.model)


@pytest.mark.parametrize("step", [7, 8, 9])  # epochs have 4
def test_the_best_weights_are_known_after_a_stop(data, tmp_path, monkeypatch, step):
    def fit(folder, *stopper, resume=False):
        early = callbacks.EarlyStopping(patience=2)
        ours = trainer(epochs=9, callbacks=[*stopper, early], folder=folder, schedule="constant")
        ours.fit(*data, validation=0.2, resume=resume)
        return bits(ours.model)

    monkeypatch.setattr(loop, "evaluate", lambda *_, losses=[1.0, 0.5, 0.8, 0.9] * 2: (losses.pop(0), 0.5))
    whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", Stopper(step))
    assert fit(tmp_path / "run", resume=True) == whole


def test_callbacks_take_up_what_was_saved_once(tmp_path):
    class Counts(callbacks.Callback):
        count = 0

        def on_batch_end(self, training, logs):
            self.count += 1

        def state_dict(self):
            return {"count": np.array(self.count)}

        def load_state_dict(self, state):
            self.count = int(state["count"])

    train.Run(config(), tmp_path / "run").train_to(4, Counts())  # an epoch
    again, counts = train.Run(config(), tmp_path / "run", resume=True), Counts()
    for step in (6, 8):
        again.train_to(step, counts)
    assert counts.count == 8


def test_what_is_left_of_a_stopped_training_is_the_average(data):
    stopped, ended = trainer(ema=0.8, callbacks=[Stopper(7)]), trainer(ema=0.8, callbacks=[Ender(7)])
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(*data)
    ended.fit(*data)
    assert bits(stopped.model) == bits(ended.model)


def test_an_error_in_a_step_is_the_one_that_is_told(data):
    """Not one of the average, which cannot take its place while a graph holds the weights."""
    ours = trainer(ema=0.8, loss=lambda logits, y: logits.sum())
    with pytest.raises(ValueError, match=r"loss: got shape \(\) of it, expected a Tensor of shape \(12,\)"):
        ours.fit(*data)


@given(st.sampled_from([{"validation": 1.5}, {"sample_weight": [1.0]}, {"resume": True}, "lr_find", "callback"]))
def test_what_failed_or_was_only_tried_leaves_no_trace(how):
    x, y = pictures("train")
    ours, fresh = trainer(epochs=1), trainer(epochs=1)
    if how == "lr_find":
        ours.lr_find(x[:20] // 2, np.arange(20), steps=10)
    elif how == "callback":
        ours.callbacks.append(callbacks.EMA(0.5))  # too late for the configuration
        with pytest.raises(ValueError, match="EMA: the run was made with"):
            ours.fit(x // 2, np.arange(50))
        ours.callbacks.clear()
    else:
        with pytest.raises(ValueError, match="expected"):
            ours.fit(x // 2, np.arange(50), **how)
    ours.fit(x, y)
    fresh.fit(x, y)
    assert ours.classes == fresh.classes
    assert bits(ours.model) == bits(fresh.model)


def test_other_images_or_settings_do_not_go_on(data, tmp_path):
    images, labels = data
    with pytest.raises(KeyboardInterrupt):
        trainer(folder=tmp_path / "run", callbacks=[Stopper(3)]).fit(images, labels)
    with pytest.raises(FileExistsError, match="already holds a run"):
        trainer(folder=tmp_path / "run").fit(images, labels)
    with pytest.raises(ValueError, match=r"resume: the run in .* has other images, .*, whose mean differs"):
        trainer(folder=tmp_path / "run").fit(images // 2, labels, resume=True)
    with pytest.raises(ValueError, match=r"resume: the run in .* has other .*, whose digest differs"):
        trainer(folder=tmp_path / "run").fit(images, labels[::-1], resume=True)
    with pytest.raises(ValueError, match=r"resume: the run in .* has other .*, whose digest differs"):
        trainer(folder=tmp_path / "run").fit(images, labels, class_weight="balanced", resume=True)
    with pytest.raises(ValueError, match=r"batch_size: got 128, but the run in .* has 12"):
        tr.Trainer("tiny", "default", verbose=False, folder=tmp_path / "run").fit(images, labels, resume=True)
    with pytest.raises(ValueError, match=r"lr: got 0\.1, but the run in .* has 0\.05"):
        trainer(folder=tmp_path / "run", lr=0.1).fit(images, labels, resume=True)
    more = trainer(folder=tmp_path / "run", epochs=4)
    assert len(more.fit(images, labels, resume=True)) == 4
