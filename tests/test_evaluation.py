"""Scores against plain counting, and what a mirrored look changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres.evaluation import Scores, evaluate, score


@st.composite
def scores(draw):
    n, classes, seed = draw(st.integers(1, 40)), draw(st.integers(1, 6)), draw(st.integers(0, 999))
    rng = np.random.default_rng(seed)
    logits = draw(st.sampled_from([0.1, 1.0, 30.0])) * rng.standard_normal((n, classes))
    return Scores(logits.astype(draw(st.sampled_from(["f4", "f8"]))), rng.integers(0, classes, n))


@given(scores())
def test_what_is_counted_is_what_a_loop_counts(found):
    n, classes = found.logits.shape
    answers = [max(range(classes), key=lambda k: row[k]) for row in found.logits.tolist()]
    right = [a == y for a, y in zip(answers, found.labels.tolist(), strict=True)]
    assert found.accuracy == pytest.approx(sum(right) / n)
    for k in range(classes):
        of_class = [r for r, y in zip(right, found.labels, strict=True) if y == k]
        answered = [r for r, a in zip(right, answers, strict=True) if a == k]
        np.testing.assert_allclose(found.recall[k], np.mean(of_class) if of_class else np.nan)
        np.testing.assert_allclose(found.precision[k], np.mean(answered) if answered else np.nan)
        for j in range(classes):
            assert found.confusion[k, j] == sum(y == k and a == j for a, y in zip(answers, found.labels, strict=True))


@given(scores())
def test_loss_is_the_cross_entropy(found):
    expected = tr.ops.cross_entropy(tr.Tensor(found.logits.astype("f8")), found.labels).item()
    assert found.loss == pytest.approx(expected, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(found.probabilities.sum(1), 1)


@given(scores(), st.integers(1, 20))
def test_calibration_puts_each_image_into_one_bin_of_its_confidence(found, bins):
    calibration = found.calibration(bins)
    assert calibration.images.sum() == len(found.labels)
    sure = found.probabilities.max(1)
    for b in range(bins):
        inside = (sure > b / bins) & (sure <= (b + 1) / bins)
        edge = np.abs(sure * bins - np.rint(sure * bins)) < 1e-9  # may be rounded to either side
        assert inside[~edge].sum() <= calibration.images[b] <= inside.sum() + edge.sum()
        if calibration.images[b]:
            assert b / bins - 1e-9 <= calibration.confidence[b] <= (b + 1) / bins + 1e-9
    share = calibration.images / len(found.labels)
    assert np.nansum(share * calibration.accuracy) == pytest.approx(found.accuracy)
    assert np.nansum(share * calibration.confidence) == pytest.approx(sure.mean())
    assert abs(found.accuracy - sure.mean()) - 1e-9 <= calibration.error <= 1


def test_the_calibration_error_of_an_example():
    """10 images of which the network is 80 % sure, 6 of them right; 5 of 60 %, 5 right: 10/15 0.2 + 5/15 0.4."""
    logits = np.log([[0.8, 0.2]] * 10 + [[0.6, 0.4]] * 5)
    found = Scores(logits, np.array([0] * 6 + [1] * 4 + [0] * 5))
    assert found.calibration(10).error == pytest.approx(10 / 15 * 0.2 + 5 / 15 * 0.4)
    assert found.calibration(1).error == pytest.approx(abs(11 / 15 - (8 + 3) / 15))


@given(scores(), st.integers(0, 50))
def test_the_worst_are_wrong_and_in_order(found, n):
    worst = found.worst(n)
    wrong = np.flatnonzero(found.answers != found.labels)
    assert len(worst) == min(n, len(wrong))
    assert {*worst} <= {*wrong}
    losses = -found.log_probabilities[np.arange(len(found.labels)), found.labels]
    assert (np.diff(losses[worst]) <= 0).all()
    left_out = np.setdiff1d(wrong, worst)
    assert not worst.size or not left_out.size or losses[left_out].max() <= losses[worst].min()


@given(scores(), st.integers(1, 9))
def test_the_most_frequent_mistakes_come_first(found, n):
    pairs = found.confused(n)
    assert all(a != b and count == found.confusion[a, b] > 0 for a, b, count in pairs)
    off = found.confusion - np.diag(np.diag(found.confusion))
    assert [count for *_, count in pairs] == sorted(off[off > 0].tolist(), reverse=True)[:n]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), r"got shapes \(2, 3\) and \(3,\)"),
        (np.zeros(3), np.zeros(3, int), "got shapes"),
        (np.zeros((0, 3)), np.zeros(0, int), "at least one image"),
        (np.zeros((2, 3)), np.array([0, 3]), "expected whole numbers from 0 to 2"),
        (np.zeros((2, 3)), np.array([0, -1]), "expected whole numbers from 0 to 2"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), "expected whole numbers from 0 to 2"),
    ],
)
def test_what_are_no_scores_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        Scores(logits, labels)


@pytest.fixture(scope="module")
def model():
    tr.manual_seed(0)
    return tr.models.ResNet(tr.models.BasicBlock, [1, 1], widths=(8, 16))


def loader(images, labels, batch=7):
    return tr.data.Loader(images, labels, batch, mean=[0.5] * 3, std=[0.25] * 3, shuffle=False)


@pytest.mark.parametrize("flip", [False, True])
def test_scores_are_those_of_evaluate_and_keep_the_mode(model, flip):
    images, labels = tr.data.shapes(20, size=16)
    found = score(model, loader(images, labels), flip=flip)
    loss, accuracy = evaluate(model, loader(images, labels), flip=flip)
    assert model.training
    assert (found.accuracy, found.loss) == (accuracy, pytest.approx(loss, rel=1e-5))
    with tr.no_grad():
        model.eval()
        x = (images.astype("f4") / 255 - 0.5) / 0.25
        expected = model(tr.Tensor(x)).data
        if flip:
            expected = (expected + model(tr.Tensor(np.ascontiguousarray(x[..., ::-1]))).data) / 2
        model.train()
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)


def test_mirrored_images_have_the_same_scores_where_both_are_looked_at(model):
    images, labels = tr.data.shapes(9, size=16)
    other = np.ascontiguousarray(images[..., ::-1])
    both = [score(model, loader(x, labels), flip=True).logits for x in (images, other)]
    np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5)
    alone = [score(model, loader(x, labels)).logits for x in (images, other)]
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
