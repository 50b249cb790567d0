"""The degradation study: curves of real runs, which stop and go on; the verdict; the command."""

import dataclasses
import json
import signal

import pytest
from support.runs import Reporter, call_tiny, config, stop
from test_study import command, good

from tinyres import train
from tinyres.runs import read_config
from tinyres.study import degradation
from tinyres.study.degradation import Curve, verdict

NETS = ("plain20", "plain32", "resnet20")


@pytest.fixture(autouse=True)
def small(tiny, monkeypatch):
    call_tiny(monkeypatch, *NETS)


def curves(folder, *callbacks, **changes):
    return degradation.degradation(config(validation=0, **changes), folder, NETS, *callbacks)


def test_curves_are_those_of_the_runs(tmp_path):
    found = curves(tmp_path)
    assert [curve.model for curve in found] == list(NETS)
    for curve in found:
        lines = [json.loads(line) for line in (tmp_path / curve.model / "metrics.jsonl").read_text().splitlines()]
        assert curve.train == [1 - line["train_accuracy"] for line in lines[:-1]]
        assert len(curve.test) == 3
        assert curve.test[-1] == 1 - lines[-1]["test_accuracy"]  # measured by the run itself, at its end
        assert len(set(curve.train)) > 1
    assert curves(tmp_path) == found  # it is done, and is only read


@pytest.mark.parametrize("step", [1, 5, 10, 14])  # of 15: epochs end after 5 and 10
def test_what_was_stopped_goes_on(tmp_path, step):
    expected = curves(tmp_path / "whole")
    with pytest.raises(train.Interrupted):
        curves(tmp_path / "stopped", Reporter(step, stop(signal.SIGINT)))
    assert curves(tmp_path / "stopped") == expected


def test_test_of_an_epoch_that_was_killed_before_it_is_made_up_for(tmp_path):
    expected = curves(tmp_path / "whole")
    with pytest.raises(train.Interrupted):
        curves(tmp_path / "killed", Reporter(10, stop(signal.SIGINT)))
    path = tmp_path / "killed" / "plain20" / "test.jsonl"
    assert len(path.read_text().splitlines()) == 2
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert curves(tmp_path / "killed") == expected


def test_other_recipe_in_the_same_folder_is_refused(tmp_path):
    curves(tmp_path)
    with pytest.raises(ValueError, match=r"plain20: holds a run with lr 0\.05, expected 0\.1: choose another folder"):
        curves(tmp_path, lr=0.1)


def test_damaged_errors_are_refused(tmp_path):
    curves(tmp_path)
    (tmp_path / "plain20" / "test.jsonl").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"test\.jsonl: expected a test error on each line"):
        curves(tmp_path)


def test_verdict_compares_the_ends():
    found = [
        Curve("resnet56", [0.5, 0.1], [0.5, 0.2]),
        Curve("plain56", [0.5, 0.3], [0.5, 0.35]),
        Curve("plain20", [0.5, 0.2], [0.5, 0.36]),
        Curve("resnet20", [0.5, 0.15], [0.5, 0.18]),
    ]
    assert verdict(found) == [
        "plain56 beside plain20: training error 10.00 points worse (30.00 % against 20.00 %), "
        "test error 1.00 points better (35.00 % against 36.00 %).",
        "resnet56 beside resnet20: training error 5.00 points better (10.00 % against 15.00 %), "
        "test error 2.00 points worse (20.00 % against 18.00 %).",
    ]
    assert verdict(found[:2]) == []


def test_part_of_the_images(tmp_path):
    whole, part = (train.load_data(config(subset=n)) for n in (None, 20))
    assert len(part.train[1]) == 20
    assert {i.tobytes() for i in part.train[0]} < {i.tobytes() for i in whole.train[0]}
    assert (part.mean == whole.mean).all()
    with pytest.raises(ValueError, match="subset: got 43, expected at most the 42 training images"):
        train.load_data(config(subset=43))


def test_command(tmp_path):
    options = ["--dataset", "shapes", "--networks", ",".join(NETS), "--epochs", 2, "--batch-size", 12, "--lr", 0.05]
    text = good("degradation", *options, "--out", tmp_path)
    assert "plain32 beside plain20: training error" in text
    found = json.loads((tmp_path / "degradation.json").read_text())
    assert [curve["model"] for curve in found["curves"]] == list(NETS)
    assert found["recipe"].items() < dataclasses.asdict(read_config(tmp_path / "plain20")).items()
    assert (tmp_path / "degradation.png").read_bytes().startswith(b"\x89PNG")
    run = command("degradation", *options, "--networks", "plain20,plain21", "--out", tmp_path / "other")
    assert run.exit_code == 1
    assert "plain21" in run.output
