"""Drawings of the site: each is on a page, can be read, and shows what the engine has computed."""

import importlib
import inspect
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres.kernels.isa import SETS

sys.path.append(str(Path(__file__).parents[1] / "docs"))
from figures import svg
from figures.graphs import Graph

DOCS = Path(svg.__file__).parents[1]
MODULES = [path.stem for path in DOCS.glob("figures/*.py") if path.stem != "svg"]
SHOWN = [name for page in DOCS.rglob("*.md") for name in re.findall(r"^:::\{drawn\} (\S+)", page.read_text(), re.M)]
WHOLE = st.integers(-9, 9).map(float)  # their products are exact


def draw(name):
    module, function = name.split(".")
    return getattr(importlib.import_module(f"figures.{module}"), function)()


def texts(drawing, kind=None):
    elements = ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")
    return [e.text for e in elements if kind is None or kind in e.get("class").split()]


def test_every_drawing_is_on_a_page():
    for module in MODULES:
        for name, value in vars(importlib.import_module(f"figures.{module}")).items():
            if inspect.isfunction(value) and value.__module__ == f"figures.{module}" and not name.startswith("_"):
                drawn = inspect.signature(value).return_annotation is str
                assert not drawn or f"{module}.{name}" in SHOWN


@pytest.mark.parametrize("name", sorted(set(SHOWN)))
def test_a_drawing_says_what_it_shows_and_keeps_within_its_frame(name):
    root = ElementTree.fromstring(draw(name))
    assert len(root.get("aria-label")) > 20
    *_, width, height = map(float, root.get("viewBox").split())
    assert 300 < width <= 760, "what a page has room for"
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y, w, h = (float(rect.get(of)) for of in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
    assert draw(name) == draw(name), "one result, whenever it is built"


@given(WHOLE, WHOLE, WHOLE)
def test_shares_on_arrows_add_up_to_gradients(x, w1, w2):
    graph = Graph("")
    x, w1, w2 = (tr.Tensor(v, requires_grad=True) for v in (x, w1, w2))
    for name, tensor in (("x", x), ("w1", w1), ("w2", w2)):
        graph.add(name, name, tensor, 0, 0)
    a = graph.add("a", "a", w1 * x, 0, 0)
    b = graph.add("b", "b", w2 * a, 0, 0)
    y = graph.add("y", "y", x + b, 0, 0)
    graph.backward(y)
    for name in ("x", "w1", "w2", "a", "b"):
        assert sum(share for (start, _), share in graph.shares.items() if start == name) == graph.gradients[name]
    assert graph.gradients["x"] == 1 + w1.item() * w2.item()
    assert set(graph.shares) == {("w1", "a"), ("x", "a"), ("w2", "b"), ("a", "b"), ("x", "y"), ("b", "y")}


def test_the_first_graph_shows_the_numbers_of_its_page():
    drawing = draw("graphs.scalar")
    assert {"2", "1.5", "−0.5", "3", "−1.5", "0.5"} == set(texts(drawing, "value"))
    assert {"0.25", "−0.75", "1", "−1", "−0.5", "3"} == set(texts(drawing, "gradient"))


def test_the_blocks_have_the_weights_of_the_paper():
    weights = [text for text in texts(draw("blocks.both")) if text.endswith("weights")]
    assert weights == [f"{n:,} weights" for n in (9 * 64 * 64, 9 * 64 * 64, 256 * 64, 9 * 64 * 64, 64 * 256)]


def rects(drawing):
    return list(ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}rect"))


def test_the_tile_has_the_sizes_of_the_table():
    drawing = draw("tile.registers")
    written, used = texts(drawing), [s for s in SETS if s.name in ("avx512", "avx2")]
    for s in used:
        rows, lanes = s.rows[2], s.width // 4
        assert f"{s.name}: R = {rows}, V = 2, {lanes} numbers in a vector" in written
        assert f"{2 * rows + 2 + 1} of {s.registers} registers" in written
        for r in range(rows):
            assert {f"C[{r}, 0:{lanes}]", f"C[{r}, {lanes}:{2 * lanes}]"} <= set(written)
    assert len([text for text in written if text.startswith("C[")]) == sum(2 * s.rows[2] for s in used)
    assert len([rect for rect in rects(drawing) if rect.get("width") == "24"]) == sum(s.registers for s in used)
    at_work = [rect for rect in rects(drawing) if rect.get("width") == "24" and rect.get("class") == "lit"]
    assert len(at_work) == len(used) * (2 + 2 + 1), "two sums, two vectors of columns, one number"


def test_another_table_makes_another_tile(monkeypatch):
    tile = importlib.import_module("figures.tile")
    wide, narrow, *_ = SETS
    monkeypatch.setattr(tile, "SETS", (wide._replace(rows={2: 12}), narrow))
    assert "C[11, 0:16]" in texts(tile.registers())
    assert "27 of 32 registers" in texts(tile.registers())
    monkeypatch.setattr(tile, "SETS", (wide, narrow._replace(rows={2: 7})))
    with pytest.raises(AssertionError):  # 17 of 16
        tile.registers()


def test_the_tape_of_the_tutorials_block_has_its_steps_and_its_parameters():
    written = texts(draw("tape.rezero"))
    steps = [text for text in written if re.match(r"\d\. ", text)]
    assert [step.split(". ")[1] for step in steps] == [
        *("relu", "add", "mul", "batch_norm", "conv2d", "batch_norm, ReLU", "conv2d")
    ]
    names = {"alpha", *(name for name, _ in tr.models.BasicBlock(16, 16).named_parameters())}
    assert names <= set(written)
    assert written.count("shortcut") == 1


def test_the_passes_of_batch_norm_read_and_write_what_its_kernels_say():
    passes = importlib.import_module("figures.passes")
    assert passes.moved() == [
        ("_statistics", ["x"], []),
        ("_apply", ["x", "a"], ["y"]),
        ("_grad_sums", ["dy", "x", "y"], ["g"]),
        ("_grad_apply", ["g", "x"], ["dx"]),
    ]
    written = texts(draw("passes.batch_norm"), "value")
    assert written == ["x", "x, a", "y", "dy, x, y", "g", "g, x", "dx"]


@given(st.floats(-1e6, 1e6))
def test_a_number_is_the_one_that_is_written(value):
    assert abs(float(svg.number(value).replace("−", "-")) - value) <= 0.005 + 5e-6 * abs(value)


def test_columns_of_a_matrix_stand_below_each_other():
    rows = svg.numbers(np.array([[1.0, -2.5], [10.0, 3.0]]))
    assert rows == [" 1 −2.5", "10    3"]
