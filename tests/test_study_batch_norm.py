"""The study of batch norm: weights of any size, and the product of factors with it and without."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import data_set
from test_study import command, good

import tinyres as tr
from tinyres import data, models
from tinyres.recipe import Config
from tinyres.study import batch_norm, gradient_flow
from tinyres.study.batch_norm import Point
from tinyres.study.variants import vary

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small(tiny, monkeypatch):
    monkeypatch.setitem(
        models.FAMILY, "plain20", {**models.FAMILY["tiny"], "block": models.PlainBlock, "layers": [2, 2]}
    )


def points_of(small, scales, seed=0):
    return batch_norm.batch_norm(["plain20"], Config(dataset="shapes", batch_size=8, seed=seed), data_set(8), scales)


def test_without_it_factors_grow_with_the_weights_and_with_it_they_do_not(small):
    @settings(max_examples=15)
    @given(st.floats(0.25, 4), st.integers(0, 9))
    def holds(scale, seed):
        without, times, with_it, with_times = points_of(small, [1.0, scale] if scale != 1 else [1.0, 2.0], seed)
        # a plain net of ReLUs without biases is linear in each weight; but other logits have a gradient of another
        # direction, and so the factors are not quite in proportion
        assert times.factor / without.factor == pytest.approx(times.scale, rel=0.1)
        # batch norm's eps, 1e-5, is felt where weights are small
        assert with_times.product == pytest.approx(with_it.product, rel=2e-2)

    holds()


def test_a_scale_of_one_is_the_network_as_it_is(small):
    without, with_it = points_of(small, [1.0])
    config, images = Config(dataset="shapes", batch_size=8), data_set(8)
    x, y = next(data.Loader(*images.train, 8, mean=images.mean, std=images.std).epoch(0))
    for point in (without, with_it):
        tr.manual_seed(config.seed)
        net = vary(models.create("plain20"), batch_norm=point.batch_norm)
        _, layers = gradient_flow.measure(net, x, y)
        assert (point.product, point.factor) == gradient_flow.whole(layers)
        assert point.layers == len(layers)


@pytest.mark.parametrize(
    ("scales", "message"), [([], "none"), ([1.0, 1.0], "1, 1"), ([0.0], "got 0,"), ([np.inf], "inf"), ([np.nan], "nan")]
)
def test_scales_are_positive_numbers_each_once(scales, message):
    with pytest.raises(ValueError, match=f"scale: .*{message}"):
        batch_norm.batch_norm(["plain20"], None, None, scales)


@given(st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=4, unique_by=lambda v: f"{v:.1g}"))
def test_verdict_and_picture_have_every_network_with_and_without(products):
    scales = [float(2**i) for i in range(len(products))]
    points = [
        Point(name, norm, scale, 19, 1.0, product)
        for name in ("plain20", "resnet20")
        for norm in (False, True)
        for scale, product in zip(scales, products, strict=True)
    ]
    sentences = batch_norm.verdict(points[::-1])
    assert len(sentences) == 5
    assert all(f"all 18 by {min(products):.2g} to {max(products):.2g}." in sentence for sentence in sentences[:4])
    axes = batch_norm.draw(points).axes
    assert [len(axis.lines) for axis in axes] == [2, 2]
    for axis in axes:
        for line in axis.lines:
            assert list(line.get_xdata()) == scales
            assert list(line.get_ydata()) == products


def test_the_command(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--dataset", "shapes", "--batch-size", 12, "--scale", 1, "--scale", 2)
    output = good("batch-norm", "plain20", *options)
    numbers = json.loads((tmp_path / "study/batch-norm/batch-norm.json").read_text())
    assert [(p["batch_norm"], p["scale"]) for p in numbers["points"]] == [
        (False, 1.0), (False, 2.0), (True, 1.0), (True, 2.0),
    ]  # fmt: skip
    assert all(f"{p['factor']:.3f}" in output for p in numbers["points"])
    assert (tmp_path / "study/batch-norm/batch-norm.png").stat().st_size > 5000


def test_a_scale_that_is_not_one_is_a_users_mistake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("batch-norm", "--scale", "-1", "--dataset", "shapes")
    assert result.exit_code == 1
    assert "scale: got -1, expected a positive number" in result.output
    assert not (tmp_path / "study").exists()
