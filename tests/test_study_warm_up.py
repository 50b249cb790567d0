"""The study of a low learning rate in the first steps."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import data_set
from test_study import command, good

import tinyres as tr
from tinyres.recipe import Config
from tinyres.study import probe, warm_up
from tinyres.study.warm_up import Curve

pytestmark = pytest.mark.usefixtures("one_thread")

errors = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def config(**changed):
    return Config(**{**probe.RECIPE, "dataset": "shapes", "batch_size": 8, "flip": False, "pad": 0, **changed})


def by_hand(config, found, rates):
    """Losses of steps with these learning rates, each computed on the tape."""
    net = probe.network("tiny", config, found).train()
    optimizer = tr.optim.SGD(net.parameters(), 1.0, momentum=config.momentum, weight_decay=config.weight_decay)
    batches = (
        batch for epoch in range(len(rates)) for batch in probe.loader(config, found, config.augment).epoch(epoch)
    )
    losses = []
    for rate, (x, y) in zip(rates, batches, strict=False):
        optimizer.set_lr(rate)
        optimizer.zero_grad()
        loss = tr.ops.cross_entropy(net(tr.Tensor(x)), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# ---------------------------------------------------------------- the error of the last batches
@given(errors, st.integers(1, 50))
def test_smooth_is_the_mean_of_the_last(values, window):
    means = [np.mean(values[max(0, i - window) : i]) for i in range(1, len(values) + 1)]
    assert warm_up.smooth(values, window) == pytest.approx(means, abs=1e-12)


@given(st.lists(st.integers(0, 8).map(lambda n: n / 8), min_size=1, max_size=40), st.sampled_from([1, 2, 4, 8]))
def test_converged_is_the_first_full_window_below(values, window):
    steps = warm_up.converged(values, 0.5, window)
    full = [sum(values[n - window : n]) < 0.5 * window for n in range(window, len(values) + 1)]
    assert steps == (window + full.index(True) if any(full) else None)


# ---------------------------------------------------------------- training
def test_without_warm_up_it_is_training_at_one_rate(tiny):
    curve = warm_up.train("tiny", config(lr=0.05), data_set(16), 7, warm_up=False)
    assert curve.raised == 0
    assert curve.losses == by_hand(config(lr=0.05), data_set(16), [0.05] * 7)


@pytest.mark.parametrize("window", [1, 3])
def test_the_rate_rises_when_the_error_is_low_enough(tiny, monkeypatch, window):
    monkeypatch.setattr(warm_up.converged, "__defaults__", (0.8, window))
    curve = warm_up.train("tiny", config(lr=0.5), data_set(16), 12, warm_up=True)
    n = curve.raised
    assert n is not None
    assert n == warm_up.converged(curve.errors)
    assert curve.losses == by_hand(config(), data_set(16), [0.5 * warm_up.LOW] * n + [0.5] * (12 - n))


def test_a_warm_up_that_does_not_end(tiny):
    curve = warm_up.train("tiny", config(lr=1e-6), data_set(16), 5, warm_up=True)
    assert curve.raised is None
    assert curve.losses == by_hand(config(), data_set(16), [1e-6 * warm_up.LOW] * 5)


def test_what_diverges_ends(tiny):
    curve = warm_up.train("tiny", config(lr=1e30), data_set(16), 9, warm_up=False)
    assert 0 < len(curve.losses) < 9
    assert len(curve.losses) == len(curve.errors)
    assert np.isfinite(curve.losses).all()


# ---------------------------------------------------------------- words, picture, command
@given(st.dictionaries(st.tuples(st.sampled_from(["resnet20", "resnet110"]), st.booleans()), errors, min_size=1))
def test_verdict_and_picture_have_every_training(runs):
    curves = [Curve(name, slow, values, values, None) for (name, slow), values in runs.items()]
    sentences = warm_up.verdict(curves)
    assert [sentence.split(":")[0] for sentence in sentences] == [curve.title for curve in curves]
    drawn = {axis.get_title(): axis.lines for axis in warm_up.draw(curves).axes}
    for name, lines in drawn.items():
        percent = [100 * np.array(warm_up.smooth(c.errors)) for c in curves if c.model == name]
        assert len(lines) == len(percent) + 1  # and the limit
        for line, values in zip(lines, percent, strict=False):
            np.testing.assert_array_equal(line.get_ydata(), values)


def test_nothing_to_say_of_a_training_that_diverges_at_once():
    assert "not finite in the first step" in warm_up.verdict([Curve("resnet20", False, [], [], 0)])[0]


def test_the_command(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = good("warm-up", "tiny", "--steps", 3, "--dataset", "shapes", "--subset", 40, "--batch-size", 8)
    numbers = json.loads((tmp_path / "study/warm-up/warm-up.json").read_text())
    assert [(c["model"], c["warm_up"], len(c["errors"])) for c in numbers["curves"]] == [
        ("tiny", False, 3), ("tiny", True, 3),
    ]  # fmt: skip
    assert all(sentence in output for sentence in numbers["verdict"])
    assert (tmp_path / "study/warm-up/warm-up.png").stat().st_size > 5000


@pytest.mark.parametrize(("words", "message"), [(["--steps", "0"], "1 or more"), (["resnet21"], "resnet21")])
def test_mistakes_are_said_before_any_work(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = command("warm-up", *words, "--dataset", "shapes")
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "study").exists()
