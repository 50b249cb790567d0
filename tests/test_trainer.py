"""Training on arrays and batches: the command line's loop in Keras's words.

Its callbacks and its mistakes are in test_trainer_callbacks and test_trainer_mistakes.
"""

import importlib.util
import io
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich import console
from support.runs import BLACK, SETTINGS, bits, config, trainer

import tinyres as tr
from tinyres import callbacks, checkpoints, evaluation, progress, train
from tinyres.data.labelled import Labels, statistics

pytestmark = pytest.mark.usefixtures("tiny", "one_thread")


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
    ours.fit(*BLACK)
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
