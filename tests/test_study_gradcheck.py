"""The gradcheck study: its errors follow the theory, its kinks are where they must be; the picture, the command."""

import json

import numpy as np
import pytest
from support.registry import REGISTRY
from test_study import command, good

import tinyres as tr
from tinyres.study import gradcheck
from tinyres.study.gradcheck import STEPS, errors, verdict
from tinyres.study.problems import Problem, sample

SMOOTH = ["exp", "log", "sqrt", "sigmoid", "tanh", "softmax", "log_softmax", "cross_entropy"]
LINEAR = [
    *("astype", "avg_pool2d", "concat", "flatten", "global_avg_pool2d", "mean", "pad", "permute", "reshape", "squeeze"),
    *("stack", "sum", "transpose", "unsqueeze", "where"),
]
PARABOLAS = ["conv2d", "linear", "matmul"]
KINKED = ["abs", "batch_norm", "clip", "conv2d", "l1_loss", "max", "max_pool2d", "maximum", "min", "relu"]

pytestmark = pytest.mark.usefixtures("one_thread", "reference")  # tiny arrays, and nothing to compile


@pytest.fixture
def reference():
    with tr.use_backend("reference"):
        yield


@pytest.mark.parametrize("op", REGISTRY)
def test_every_operation_has_a_sample_and_a_best_step_better_than_its_neighbours(op):
    found, *others = (errors(op, seed) for seed in range(3))
    for dtype, curve in found.curves.items():
        assert len(curve.central) == len(curve.forward) == len(STEPS)
        assert np.isfinite([*curve.central, *curve.forward]).all()
        assert curve.best_error < (1e-9 if dtype == "float64" else 1e-3)
        slopes = [some.curves[dtype].slopes["round-off"] for some in (found, *others)]
        assert np.median(slopes) == pytest.approx(-1, abs=0.5)  # noise, over half a dozen decades or fewer
    assert any(op in sentence for sentence in verdict(found))


@pytest.mark.parametrize("op", SMOOTH + ["batch_norm"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_smooth_operations_follow_taylor(op, seed):
    curve = errors(op, seed).curves["float64"]
    assert curve.slopes["central"] == pytest.approx(2, abs=0.05)
    assert curve.slopes["forward"] == pytest.approx(1, abs=0.05)
    assert 1 / 10 < curve.best_step / curve.predicted_step < 10
    assert 1 / 30 < curve.best_error / curve.predicted_error < 3  # rounding errors cancel more often than they add up
    assert np.min(curve.forward[:-1]) > curve.best_error / 100  # nothing to be gained on one side


def test_float32_is_coarser_by_the_ratio_of_its_rounding():
    double, single = errors("exp").curves.values()
    assert single.roundoff / double.roundoff == pytest.approx(2.0**29, rel=1e-4)
    assert single.predicted_step / double.predicted_step == pytest.approx(2.0 ** (29 / 3), rel=1e-4)


@pytest.mark.parametrize("op", LINEAR + PARABOLAS)
def test_nothing_is_truncated_where_there_is_no_third_derivative(op):
    found = errors(op)
    curve = found.curves["float64"]
    assert curve.truncation == 0
    assert curve.predicted_step is curve.predicted_error is curve.slopes["central"] is None
    assert (curve.forward_truncation > 0) == (op in PARABOLAS)
    shape = "a parabola" if op in PARABOLAS else "a straight line"
    assert f"{op} is {shape} along this direction" in " ".join(verdict(found))


@pytest.mark.parametrize("op", REGISTRY)
def test_only_what_has_kinks_has_kinks(op):
    assert (errors(op).kink is not None) == (op in KINKED)


@pytest.mark.parametrize("seed", range(10))
def test_kink_of_relu_is_where_the_first_element_reaches_0(seed):
    found, problem = errors("relu", seed), sample("relu", seed)
    rng = np.random.default_rng([seed, 1])
    d = rng.uniform(0.5, 1, (3, 4))
    assert found.kink == pytest.approx(np.min(np.abs(problem.inputs[0]) / d), rel=1e-6)
    curve = found.curves["float64"]
    before, after = (np.array(curve.central)[side] for side in (found.kink > STEPS, found.kink < STEPS))
    assert before[-5:].max() < 1e-10
    assert after.min() > 1e-4


def test_kink_of_maximum_is_where_the_two_meet():
    found, (a, b) = errors("maximum"), sample("maximum").inputs
    rng = np.random.default_rng([0, 1])
    da, db = (rng.uniform(0.5, 1, a.shape) * rng.choice([-1.0, 1.0], a.shape) for _ in range(2))
    assert found.kink == pytest.approx(np.min(np.abs((a - b) / (da - db))), rel=1e-6)


def test_one_seed_one_result_and_another_another():
    assert errors("tanh", 3) == errors("tanh", 3)
    assert errors("tanh", 3) != errors("tanh", 4)


def test_wrong_names_and_directions_that_change_nothing_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="op: got 'exq', expected one of abs, adaptive_avg_pool2d, astype"):
        errors("exq")
    monkeypatch.setattr(gradcheck, "sample", lambda op, seed: Problem("relu", (np.full(3, -5.0),)))
    with pytest.raises(ValueError, match="seed: with 0, relu does not change along the direction"):
        errors("relu")


def test_picture_marks_kinks():
    for ops in (["exp"], ["exp", "relu"]):
        figure = gradcheck.draw([errors(op) for op in ops])
        texts = {axis.get_title(): " ".join(t.get_text() for t in axis.texts) for axis in figure.axes}
        assert list(texts) == ops
        for op, text in texts.items():
            assert ("kink from" in text) == (op == "relu")
            assert ("h² f‴/6" in text) == (op == "exp")


def test_command(tmp_path):
    text = good("gradcheck", "exp", "relu", "--out", tmp_path)
    assert "slopes: central 2.00, forward 1.00" in text
    assert "cross a kink of relu" in text
    found = json.loads((tmp_path / "gradcheck.json").read_text())
    assert list(found["curves"]) == ["exp", "relu"]
    assert found["operations"]["relu"]["kink"] == errors("relu").kink
    assert found["curves"]["exp"]["float32"]["central"] == errors("exp").curves["float32"].central
    assert (tmp_path / "gradcheck.png").read_bytes().startswith(b"\x89PNG")
    run = command("gradcheck", "exq", "--out", tmp_path / "other")
    assert run.exit_code == 1
    assert "got 'exq', expected one of" in run.output
    assert not (tmp_path / "other").exists()
