"""Training on arrays and batches: the command line's loop in Keras's words; callbacks; what is told of a mistake."""

import csv
import importlib.util
import io
import itertools
import pickle
import re
import signal
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich import console
from support.runs import config, pictures, stop

import tinyres as tr
from tinyres import callbacks, checkpoints, evaluation, loop, progress, train
from tinyres.callbacks.monitor import Monitor
from tinyres.data.labelled import Labels, as_images, statistics

pytestmark = pytest.mark.usefixtures("tiny", "one_thread")

SETTINGS = {"epochs": 2, "batch_size": 12, "lr": 0.05, "verbose": False}


def trainer(model="tiny", **changes):
    return tr.Trainer(model, **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def data():
    return pictures("train")


def bits(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


# ---------------------------------------------------------------- one loop
@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"mixup": 0.2, "lookahead": 0.5}, {"whiten": True, "pad": 2}])
def test_a_trainer_computes_what_the_command_line_does(data, tmp_path, changes):
    wanted = {"epochs": 2, "batch_size": 12, "lr": 0.05, "pad": 4, "flip": True, **changes}
    run = train.Run(config(validation=0, **wanted), tmp_path / "run")
    run.train_to(run.total_steps)
    ours = trainer(**wanted)
    history = ours.fit(*data)
    assert history == run.history
    with run.averaged():
        assert bits(ours.model) == bits(run.model)


def test_a_recipe_is_where_a_trainer_starts(data):
    ours = tr.Trainer("tiny", "default", epochs=1)
    recipe = tr.recipes.find("default").settings()
    assert ours.config.epochs == 1
    assert (ours.config.lr, ours.config.flip, ours.config.pad) == (recipe["lr"], True, 4)
    assert tr.Trainer("tiny", tr.train.Config(momentum=0.5)).config.momentum == 0.5


def test_batches_that_a_loader_makes_train_as_the_arrays_do(data):
    images, labels = data
    whole, parts = trainer(epochs=1), trainer(tr.models.create("tiny"), epochs=1)
    whole.fit(images, labels)
    tr.manual_seed(0)
    parts = tr.Trainer(tr.models.create("tiny"), epochs=1, lr=0.05, verbose=False)
    mean, std = tr.data.channel_statistics(images)
    parts.fit(list(tr.data.Loader(images, labels, 12, mean=mean, std=std).epoch(0)))
    assert bits(parts.model) == bits(whole.model)


def test_a_loader_is_trained_on_as_it_is(data):
    loader = tr.data.Loader(*data, 10, mean=[0.5] * 3, std=[0.2] * 3)
    ours = tr.Trainer("tiny", epochs=1, verbose=False)
    ours.fit(loader, validation=loader)
    assert ours.run.loader is loader
    assert len(ours.predict(loader)) == len(data[1])
    assert ours.evaluate(loader)["accuracy"] == pytest.approx(ours.history[-1]["validation_accuracy"])


class Anew(list):
    """Batches in another order each time."""

    def __iter__(self):
        self.append(self.pop(0))
        return super().__iter__()


def test_batches_are_scored_by_their_own_labels_in_whatever_order(data):
    ours = trainer(epochs=4)  # with a batch_size, which says nothing of these
    ours.fit(*data)
    expected = ours.evaluate(*data)
    loader = tr.data.Loader(*data, 10, mean=ours.mean, std=ours.std)
    assert expected["accuracy"] > 0.2  # 0.1 by chance
    for batches in (loader, Anew(loader.epoch(0)), [(x, np.eye(10)[y]) for x, y in loader.epoch(0)]):
        # sums of other batches: float32 in the network
        assert ours.evaluate(batches) == pytest.approx(expected, rel=1e-5)


def test_classes_of_probabilities_and_of_mixtures_are_all_of_them(data):
    images, labels = data
    for loader in (
        tr.data.Loader(images, np.eye(12, dtype=np.float32)[labels], 12),
        tr.data.Loader(images, labels, 12, mix=tr.data.Mix(12, 0.2)),
    ):
        ours = tr.Trainer("tiny", epochs=1, verbose=False)
        ours.fit(loader)
        assert ours.classes == list(range(12))


def test_scores_are_of_the_images_that_a_loader_gives(data):
    images, labels = data
    model = tr.models.create("tiny")
    plain = {"shuffle": False}
    whole = evaluation.score(model, tr.data.Loader(images, labels, 12, **plain))
    soft = evaluation.score(model, tr.data.Loader(images, np.eye(10, dtype=np.float32)[labels], 12, **plain))
    assert (soft.confusion == whole.confusion).all()
    some = evaluation.score(model, tr.data.Loader(images, labels, 12, weight=np.ones(50), drop_last=True, **plain))
    assert (some.logits == whole.logits[:48]).all()
    for options in ({"shuffle": True}, {"part": (0, 2), **plain}, {"mix": tr.data.Mix(10, 0.2), **plain}):
        with pytest.raises(ValueError, match="loader: got one with shuffle="):
            evaluation.score(model, tr.data.Loader(images, labels, 12, **options))


# ---------------------------------------------------------------- any images, any labels
@given(st.integers(1, 4), st.integers(4, 9), st.integers(4, 9), st.sampled_from(["uint8", "float32", "float64"]))
@settings(max_examples=12)
def test_images_of_any_size_channels_and_dtype(channels, height, width, dtype):
    x = np.random.default_rng(0).integers(0, 256, (12, channels, height, width)).astype(dtype)
    ours = trainer(epochs=1)
    ours.fit(x, np.arange(12) % 3)
    assert ours.predict_proba(x).shape == (12, 3)
    assert ours.predict_proba(x).sum(1) == pytest.approx(1)
    assert set(ours.predict(x)) <= {0, 1, 2}


labels_of_a_kind = st.one_of(
    st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=5, unique=True),
    st.lists(st.text("abcxyzäß 1", min_size=1, max_size=6), min_size=2, max_size=5, unique=True),
)


@given(labels_of_a_kind, st.data())
def test_labels_are_what_they_are_called(kinds, draw):
    numbers = draw.draw(st.lists(st.integers(0, len(kinds) - 1), min_size=1, max_size=30))
    y = [kinds[i] for i in numbers]
    labels = Labels.of(y)
    assert labels.classes == sorted(set(y))
    assert labels.named(labels.numbers(y)).tolist() == y


def test_what_labels_are_called_changes_nothing_but_the_answers(data):
    images, labels = data
    names = np.array([f"class {i}" for i in range(10)])  # in the order of the numbers
    by_number, by_name = trainer(), trainer()
    by_number.fit(images, labels)
    by_name.fit(images, names[labels])
    assert bits(by_number.model) == bits(by_name.model)
    assert (names[by_number.predict(images)] == by_name.predict(images)).all()
    assert by_name.evaluate(images, names[labels]) == by_number.evaluate(images, labels)


def test_floats_are_seen_as_bytes_are(data):
    images, labels = data
    ours, theirs = trainer(epochs=1), trainer(epochs=1)
    ours.fit(images, labels)
    theirs.fit(images / 255, labels)
    # the same but for rounding, of pixels to 24 bits, and after four steps
    np.testing.assert_allclose(ours.logits(images), theirs.logits(images / 255), atol=1e-3)


def test_the_same_seed_gives_the_same_bits_and_another_others(data):
    found = [trainer(seed=seed, transform=lambda image, rng: np.roll(image, rng.integers(8), 2)) for seed in (1, 1, 2)]
    for each in found:
        each.fit(*data)
    first, second, third = (bits(each.model) for each in found)
    assert first == second != third


def test_a_second_fit_goes_on_from_the_weights(data):
    ours = trainer(epochs=1)
    ours.fit(*data)
    before = ours.run.model.state_dict()
    x, y = data[0][:12], data[1][:12]
    mean, std = ours.mean.copy(), ours.std.copy()
    twin = tr.models.create("tiny")
    twin.load_state_dict(before)
    ours.fit(x, y)
    tr.Trainer(twin, epochs=1, lr=0.05, verbose=False).fit(
        list(tr.data.Loader(x, y, 12, mean=mean, std=std).epoch(0))  # normalised as at first
    )
    assert bits(ours.model) == bits(twin)


@pytest.mark.parametrize("changes", [{"shards": 2}, {"shards": 2, "sync_batch_norm": True}])
def test_a_network_is_left_to_whoever_trains_it_next(data, changes):
    ours = trainer(tr.models.create("tiny"), epochs=1, **changes)
    ours.lr_find(*data, steps=10)
    kept = []
    for _ in range(2):
        ours.fit(*data)
        kept.append(ours.run)  # so that it is still there
    x = tr.Tensor(data[0] / np.float32(255))
    for changed in (ours.model, ours.model.train()):
        tr.ops.cross_entropy(changed(x), data[1]).backward()
    assert all(p.grad is not None for p in ours.model.parameters())


def test_what_a_network_whitens_with_stays_for_a_second_fit(data):
    ours = trainer(epochs=1, whiten=True)
    ours.fit(*data)
    before = ours.model.conv1.weight.data.copy()
    ours.fit(data[0] // 2, data[1])
    assert (ours.model.conv1.weight.data == before).all()
    assert not ours.model.conv1.weight.requires_grad


def test_weights_of_a_file_see_the_images_that_they_expect(data, tmp_path):
    images, labels = data
    first = trainer()
    first.fit(images, labels)
    first.save(tmp_path / "net.safetensors")
    again = trainer(weights=str(tmp_path / "net.safetensors"))
    again.fit(images // 2, labels)
    assert (again.mean == first.mean).all()
    assert again._notes == [f"Starting from {tmp_path / 'net.safetensors'}"]
    checkpoints.save_weights(tmp_path / "bare.safetensors", first.model)
    bare = trainer(weights=str(tmp_path / "bare.safetensors"))
    bare.fit(images // 2, labels)
    assert (bare.mean < first.mean).all()


def test_bytes_and_floats_are_not_taken_for_each_other(data, tmp_path):
    images, labels = data
    of_batches, of_floats, of_bytes = (tr.Trainer("tiny", epochs=1, verbose=False) for _ in range(3))
    of_batches.fit([(images / 255, labels)])
    of_floats.fit(images / 255, labels)
    of_bytes.fit(images, labels)
    of_floats.save(tmp_path / "net.safetensors")
    for ours in (of_batches, of_floats, tr.Trainer.load(tmp_path / "net.safetensors")):
        with pytest.raises(
            ValueError, match="x: got uint8, expected floats in the same unit as in the training images"
        ):
            ours.predict(images)
        assert len(ours.predict(images / 255)) == len(labels)
    with pytest.raises(ValueError, match="x: got float32, expected uint8, 0 to 255, as in the training images"):
        of_bytes.predict(images / 255)
    with pytest.raises(ValueError, match="validation: got float32, expected uint8"):
        trainer().fit(images, labels, validation=(images / 255, labels))
    with pytest.raises(ValueError, match="x: got float32, expected uint8"):
        of_bytes.fit(images / 255, labels)


# ---------------------------------------------------------------- weights and losses
def test_equal_weights_are_none_and_zero_is_absence_from_the_sum(data):
    images, labels = data
    plain, ones, given_loss = trainer(epochs=1), trainer(epochs=1), trainer(
        epochs=1, loss=lambda logits, y: tr.ops.cross_entropy(logits, y, reduction="none")
    )  # fmt: skip
    plain.fit(images, labels)
    ones.fit(images, labels, sample_weight=np.ones(len(labels)))
    given_loss.fit(images, labels)
    assert bits(ones.model) == bits(given_loss.model)
    for name, array in plain.model.state_dict().items():  # sums in another order
        np.testing.assert_allclose(array, ones.model.state_dict()[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_weighted_loss_is_the_mean_of_weight_times_loss(data):
    images, labels = (part[:12] for part in data)
    weight = np.arange(12.0)
    ours = trainer(epochs=1, schedule="constant")
    seen = {}

    class Look(tr.callbacks.Callback):
        def on_train_begin(self, training):
            with tr.no_grad():
                x, y, w = next(training.loader.epoch(0))
                training.model.train()
                each = tr.ops.cross_entropy(training.model(tr.Tensor(x)), y, reduction="none").data
            seen["expected"] = float((each * w).mean())

        def on_batch_end(self, training, logs):
            seen["loss"] = logs["loss"]

    ours.callbacks.append(Look())
    ours.fit(images, labels, sample_weight=weight)
    assert seen["loss"] == pytest.approx(seen["expected"], rel=1e-5)  # float32


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.floats(0.1, 4))
def test_class_weights_are_weights_of_samples(numbers, factor):
    labels, y = Labels([0, 1, 2, 3]), np.array(numbers)
    sample = np.linspace(1, 2, len(y))
    found = labels.weights(y, sample, {2: factor})
    assert found == pytest.approx(sample * np.where(y == 2, factor, 1.0), rel=1e-6)
    balanced = labels.weights(y, None, "balanced")
    of_each = [balanced[y == k].sum() for k in np.unique(y)]
    assert of_each == pytest.approx([len(y) / len(of_each)] * len(of_each), rel=1e-5)  # as much each, N in all


def test_balanced_are_the_images_that_are_trained_on(data):
    ours = trainer(epochs=1)
    ours.fit(*data, validation=0.5, class_weight="balanced")
    weights = ours.run.loader.weight
    of_each = np.bincount(ours.run.loader.labels, weights)
    assert len(weights) == 25
    assert of_each[of_each > 0] == pytest.approx(25 / np.count_nonzero(of_each), rel=1e-6)  # float32


@given(st.integers(1, 600), st.floats(-1e6, 1e6), st.floats(1e-2, 1e3), st.integers(0, 9))
@settings(max_examples=20)
def test_mean_and_deviation_of_floats(n, offset, spread, seed):
    x = np.random.default_rng(seed).normal(offset, spread, (n, 2, 3, 4)).astype(np.float32)
    x[:, 1] = offset
    mean, std = statistics(x)
    assert mean == pytest.approx(x.mean((0, 2, 3), dtype=np.float64), rel=1e-6)  # float32, of which this is some bits
    assert std[0] == pytest.approx(x[:, 0].std(dtype=np.float64), rel=1e-6)
    assert std[1] == 1  # and not what rounding leaves of 0


def test_statistics_of_many_floats_need_no_copy_of_them():
    x = np.ones((4000, 1, 32, 32), np.float32)
    tracemalloc.start()
    statistics(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes / 2  # three copies of 256 images in float64 are 6 MiB, all images 16


def test_predicting_bytes_needs_no_copy_of_them_as_floats():
    net = tr.nn.Sequential(tr.nn.GlobalAvgPool2d(), tr.nn.Flatten(), tr.nn.Linear(3, 3))
    ours = trainer(net, epochs=1)
    ours.fit(X, Y)
    x = np.zeros((8000, 3, 32, 32), np.uint8)
    tracemalloc.start()
    ours.predict(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes  # four batches of 250 as float32 are half of it, all images four times as much


def test_a_class_that_counts_nothing_is_not_learnt(data):
    images, labels = data
    ours = trainer(epochs=6, schedule="constant")
    ours.fit(images, labels, class_weight=dict.fromkeys(range(1, 10), 0.0))
    assert (ours.predict(images) == 0).all()


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


# ---------------------------------------------------------------- files
def test_a_checkpoint_predicts_as_its_trainer(data, tmp_path):
    images, labels = data
    names = np.array(tr.data.SHAPES_CLASSES)[labels]
    ours = trainer(ema=0.9)
    ours.fit(images[:, :1], names)
    ours.save(tmp_path / "net.safetensors")
    again = tr.Trainer.load(tmp_path / "net.safetensors")
    assert (again.logits(images[:, :1]) == ours.logits(images[:, :1])).all()
    assert again.predict(images[:, :1]).tolist() == ours.predict(images[:, :1]).tolist()
    assert again.history == ours.history
    again.save(tmp_path / "again.safetensors")
    one, other = (checkpoints.load(tmp_path / name) for name in ("net.safetensors", "again.safetensors"))
    assert checkpoints.state_digest(*one) == checkpoints.state_digest(*other)
    copy = pickle.loads(pickle.dumps(ours))  # noqa: S301  # our own, as scikit-learn hands it to other processes
    assert (copy.logits(images[:, :1]) == ours.logits(images[:, :1])).all()


def test_a_network_of_ones_own_is_loaded_into_one(data, tmp_path):
    def own():
        return tr.nn.Sequential(tr.nn.Conv2d(3, 4, 3), tr.nn.ReLU(), tr.nn.GlobalAvgPool2d(), tr.nn.Flatten(), tr.nn.Linear(4, 10))  # fmt: skip # noqa: E501

    ours = trainer(own())
    ours.fit(*data)
    ours.save(tmp_path / "net.safetensors")
    again = tr.Trainer.load(tmp_path / "net.safetensors", own())
    assert (again.logits(data[0]) == ours.logits(data[0])).all()
    with pytest.raises(
        checkpoints.CheckpointError, match="belongs to your own network: give a network of the same structure"
    ):
        tr.Trainer.load(tmp_path / "net.safetensors")


def test_a_loaded_trainer_goes_on_learning_as_it_is_told(data, tmp_path):
    first = trainer()
    first.fit(*data)
    first.save(tmp_path / "net.safetensors")
    loaded = tr.Trainer.load(tmp_path / "net.safetensors", **{**SETTINGS, "epochs": 1})
    first.config = loaded.config
    assert loaded.fit(*data) == first.fit(*data)
    assert len(loaded.history) == 1
    assert bits(loaded.model) == bits(first.model)


anything = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.lists(st.none()) | st.integers()))
fields = ("labels", "classes", "mean", "std", "model", "history", "step", "sums")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(fields, anything)))
def test_a_checkpoint_that_does_not_say_enough_is_one_that_is_told(tmp_path_factory, info):
    path, net = tmp_path_factory.getbasetemp() / "net.safetensors", tr.nn.Linear(2, 1)
    checkpoints.save(path, {f"model.{name}": array for name, array in net.state_dict().items()}, info)
    with pytest.raises(checkpoints.CheckpointError):
        tr.Trainer.load(path, net)


# ---------------------------------------------------------------- showing it
def test_a_trainer_has_one_bar(data, monkeypatch):
    bars = []
    monkeypatch.setattr(callbacks.ProgressBar, "on_train_begin", lambda bar, run: bars.append(bar))
    for name in ("on_batch_end", "on_epoch_end", "print"):
        monkeypatch.setattr(callbacks.ProgressBar, name, lambda *_: None)
    own = callbacks.ProgressBar()
    trainer(epochs=1, verbose=True, callbacks=[own]).fit(*data)
    assert bars == [own]
    trainer(epochs=1, verbose=True).fit(*data)
    assert len(bars) == 2


@pytest.mark.parametrize(("there", "shown"), [(None, False), (True, True)])
def test_a_bar_in_a_notebook_needs_what_can_move_it(monkeypatch, there, shown):
    """Without ipywidgets, rich warns in its place."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there)
    notebook = console.Console(force_jupyter=True, file=io.StringIO())
    assert progress.bars(notebook).disable == (not shown)


# ---------------------------------------------------------------- mistakes
X, Y = np.zeros((6, 3, 8, 8), np.uint8), np.arange(6) % 3


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (X.astype(np.int64), Y, {}, "x: got int64 of shape (6, 3, 8, 8), expected uint8 or float"),
        (X[0, 0], Y, {}, "x: got uint8 of shape (8, 8), expected"),
        (X[:0], Y[:0], {}, "x: got uint8 of shape (0, 3, 8, 8), expected"),
        (X.transpose(0, 2, 3, 1), Y, {}, "expected (N, C, H, W): x.transpose(0, 3, 1, 2)"),
        (np.full(X.shape, np.nan), Y, {}, "x: got NaN or infinity"),
        (X, Y[:5], {}, "y: got 5 labels, expected one for each of 6 images"),
        (X, Y / 2, {}, "y: got float64 of shape (6,), expected whole numbers or strings"),
        (X, None, {}, "y: got object of shape ()"),
        (X, Y, {"validation": 1.5}, "validation: got 1.5 of 6 images, expected a part"),
        (X, Y, {"validation": 0.01}, "validation: got 0.01 of 6 images, expected a part"),
        (X, Y, {"validation": (X, Y + 1)}, "validation: got 3, expected one of 0, 1, 2"),
        (X, Y, {"sample_weight": [1.0]}, "sample_weight: got shape (1,), expected (6,)"),
        (X, Y, {"sample_weight": -np.ones(6)}, "expected finite numbers, 0 or more"),
        (X, Y, {"class_weight": "best"}, "class_weight: got 'best', expected 'balanced' or a dict"),
        (X, Y, {"class_weight": [1.0] * 3}, "class_weight: got a list, expected 'balanced' or a dict"),
        ([X[0], X[1, :, 1:]], Y[:2], {}, "x: got a list of arrays of different shapes"),
        (X, Y, {"class_weight": {7: 1.0}}, "class_weight: got a weight for 7"),
        (X, Y, {"resume": True}, "resume: got True, expected False without a folder"),
        (iter([(X, Y)]), None, {}, "which ends after one epoch"),
        ([(X, Y)], None, {}, "images of batch 0: got uint8"),
        ([(X / 255, Y / 1)], None, {}, "labels of batch 0: got float64 of shape (6,)"),
        ([(X / 255, Y[:4])], None, {}, "batch 0 has 6 images and 4 labels"),
        ([(X / 255, Y, np.ones((6, 1)))], None, {}, "weights of batch 0: got float64 of shape (6, 1), expected a"),
        ([(X / 255, Y, np.full(6, -1))], None, {}, "weights of batch 0: expected finite numbers, 0 or more"),
        (tr.data.Loader(X, Y, 6, part=(1, 2)), None, {}, "part (1, 2), expected (0, 1)"),
        ([X / 255], None, {}, "batch 0 is ndarray, expected (x, y) or (x, y, weight)"),
        ([], None, {}, "batches: got none"),
        (X, Y, {"validation": (X[:, :1], Y)}, "validation: got images of shape (6, 1, 8, 8), expected (N, 3, H, W)"),
        (X, Y, {"validation": (X, Y[:4])}, "validation: got 6 images and 4 labels"),
        ([(X / 255, Y)], None, {"sample_weight": np.ones(6)}, "expected None with batches"),
        ([(X / 255, Y)], None, {"validation": 0.5}, "validation: got 0.5, expected batches"),
    ],
)
def test_what_does_not_fit_is_told(x, y, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tr.Trainer("tiny", epochs=1, verbose=False).fit(x, y, **options)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"epoch": 3}, TypeError, "epoch: not a setting of a Trainer; did you mean epochs?"),
        ({"dataset": "cifar10"}, TypeError, "dataset: not a setting"),
        ({"epochs": 0}, ValueError, "epochs: got 0"),
        ({"ema": 0.5, "callbacks": [callbacks.EMA(0.9)]}, ValueError, "ema: got 0.5, expected no value with"),
        ({"callbacks": [callbacks.EMA(0.5), callbacks.EMA(0.9)]}, ValueError, "ema: got 0.5, expected no value with"),
        (
            {"label_smoothing": 0.1, "loss": lambda logits, y: logits.sum(1)},
            ValueError,
            "label_smoothing: got 0.1, exp",
        ),
        ({"model": tr.nn.Identity(), "weights": "a"}, ValueError, "weights: got a network, too"),
        ({"callbacks": [print]}, TypeError, "callbacks: got <built-in function print>, expected instances"),
        ({"model": "resnet21"}, ValueError, "there is no 'resnet21'"),
        ({"model": 3}, TypeError, "model: got a int, expected a name of the family or a Module"),
    ],
)
def test_a_trainer_that_cannot_be_is_told(options, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        tr.Trainer(**options)


def test_what_was_said_of_batches_is_not_dropped():
    with pytest.raises(ValueError, match="batch_size: got batches, expected arrays"):
        trainer().fit([(X / 255, Y)])


def test_what_cannot_be_whitened_is_told():
    with pytest.raises(ValueError, match="whiten: got True, expected False with batches"):
        tr.Trainer("tiny", epochs=1, whiten=True, verbose=False).fit([(X / 255, Y)])
    net = tr.nn.Sequential(tr.nn.GlobalAvgPool2d(), tr.nn.Flatten(), tr.nn.Linear(3, 3))
    with pytest.raises(ValueError, match="whiten: got True, expected False with your own network"):
        tr.Trainer(net, epochs=1, whiten=True, verbose=False).fit(X, Y)


def test_one_callback_and_any_number_will_do(data):
    ours = trainer(epochs=1, callbacks=callbacks.EMA(0.5))
    ours.fit(*data, validation=np.float32(0.2))
    assert ours.config.ema == 0.5
    assert len(ours.run.validation.images) == 10


def test_a_network_for_other_classes_is_refused():
    net = tr.models.create("tiny", num_classes=2)
    with pytest.raises(ValueError, match=r"model: got logits of shape \(1, 2\), expected \(1, 3\)"):
        trainer(net).fit(X, Y)
    with pytest.raises(ValueError, match="y: got the classes \\[1, 2, 3\\], but the network has 10 logits"):
        trainer(tr.models.create("tiny")).fit(X, Y + 1)
    more = trainer(tr.models.create("tiny"), epochs=1)
    more.fit(X, Y)
    assert more.classes == list(range(10))


def test_nothing_is_predicted_before_anything_is_learnt():
    for ours in (trainer(), trainer(tr.models.create("tiny"))):
        for use in (ours.predict, ours.scores, ours.save):
            with pytest.raises(RuntimeError, match="call fit first"):
                use(X)


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
        trainer(callbacks=[callback, diary]).fit(X, Y)
    assert diary.moments == ["."]


def test_images_that_are_not_those_of_the_network_are_told():
    ours = trainer(epochs=1)
    ours.fit(X, Y)
    with pytest.raises(
        ValueError, match=r"x: got images of shape \(3, 1, 8, 8\), expected \(N, 3, H, W\); for one image"
    ):
        ours.predict(X[0])
    with pytest.raises(ValueError, match="x: got no batches"):
        ours.predict([])
    assert (ours.logits(list(X)) == ours.logits(X)).all()
    assert (ours.logits([(X / 255, Y), (X / 255, Y)]) == ours.logits([X / 255, X / 255])).all()
    assert ours.evaluate(list(X), list(Y)) == ours.evaluate(X, Y)


def test_batches_that_change_are_told():
    class Shrinks:
        epochs = 0

        def __iter__(self):
            self.epochs += 1
            return iter([(X / 255, Y)] * (3 - (self.epochs > 2)))

    with pytest.raises(ValueError, match="epoch 0 ended before batch 2, expected 3 batches"):
        tr.Trainer("tiny", epochs=2, verbose=False).fit(Shrinks())


def test_batches_hear_the_number_of_the_epoch():
    class Sampler(list):
        def __init__(self, *args):
            super().__init__(*args)
            self.told = []

        def set_epoch(self, epoch):
            self.told.append(epoch)

    batches = Sampler([(X / 255, Y)])
    tr.Trainer("tiny", epochs=3, verbose=False).fit(batches)
    assert [epoch for epoch, _ in itertools.groupby(batches.told)] == [0, 1, 2]


def test_a_picture_axis_is_added_where_there_is_none():
    assert as_images(np.zeros((4, 5, 6), np.uint8)).shape == (4, 1, 5, 6)
