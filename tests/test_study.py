"""The studies' numbers, their pictures, and their commands."""

import json
import sys

import pytest
from typer.testing import CliRunner

from tinyres import plots
from tinyres.cli import app
from tinyres.study import bottleneck


def command(*words):
    return CliRunner().invoke(app, ["study", *map(str, words)], env={"COLUMNS": "100"})


def good(*words):
    run = command(*words)
    assert run.exit_code == 0, run.output
    return run.output


# ---------------------------------------------------------------- pictures
@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_are_of_the_kind_of_their_name_and_always_the_same(tmp_path, kind, start):
    contents = []
    for name in ("a", "b"):
        figure, axis = plots.subplots()
        axis.plot([1, 2, 3])
        plots.save(figure, tmp_path / f"{name}.{kind}")
        contents.append((tmp_path / f"{name}.{kind}").read_bytes())
    assert contents[0].startswith(start)
    assert contents[0] == contents[1]


def test_other_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.gif: expected a name that ends in one of \.png, \.svg, \.pdf"):
        plots.save(plots.subplots()[0], tmp_path / "a.gif")


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = command("bottleneck", "--out", tmp_path / "out")
    assert run.exit_code == 1
    assert "pictures need matplotlib: pip install 'tinyres[plot]'" in run.output
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- bottleneck
def test_bottleneck_arithmetic(tmp_path):
    text = good("bottleneck", "--out", tmp_path)
    assert "16.9" in text
    blocks = json.loads((tmp_path / "bottleneck.json").read_text())["blocks"]
    for basic, other in zip(blocks["basic"], blocks["bottleneck"], strict=True):
        w, pixels = basic["width"], basic["size"] ** 2
        assert basic["multiply_adds"] == 18 * w * w * pixels
        assert other["multiply_adds"] * 16 == 17 * w * w * pixels
    assert (tmp_path / "bottleneck.png").read_bytes().startswith(b"\x89PNG")


def test_bottleneck_of_small_images_has_pixels_left():
    assert [cost.size for cost in bottleneck.bottleneck(32)["basic"]] == [8, 4, 2, 1]


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "a").write_text("mine")
    run = command("bottleneck", "--out", tmp_path / "a")
    assert run.exit_code == 1
    assert "expected a folder" in run.output
    assert (tmp_path / "a").read_text() == "mine"
