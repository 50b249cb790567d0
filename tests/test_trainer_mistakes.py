"""What is told of a mistake in the use of a trainer, and of images and batches that do not fit it."""

import itertools
import re

import numpy as np
import pytest
from support.runs import BLACK, trainer

import tinyres as tr
from tinyres import callbacks
from tinyres.data.labelled import as_images

pytestmark = pytest.mark.usefixtures("tiny", "one_thread")

X, Y = BLACK


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
