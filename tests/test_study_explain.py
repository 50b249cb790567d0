"""The notes of both passes are the engine's own numbers; formulas, pictures and layout say what is the case.

This file is long because numbers, source, layout, formulas and pictures are each compared with the engine's.
"""

import base64
import inspect
import io
import itertools
import linecache
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from support.registry import REGISTRY
from support.runs import fit
from typer.testing import CliRunner

import tinyres as tr
from tinyres import models, ops
from tinyres.cli import app
from tinyres.study import formulas, mosaic, page
from tinyres.study.explain import explain
from tinyres.study.numbers import Numbers

PACKAGE = Path(tr.__file__).parent
BLOCKS = {
    "basic": models.BasicBlock, "bottleneck": models.Bottleneck, "preact": models.PreActBlock,
    "preact bottleneck": models.PreActBottleneck, "plain": models.PlainBlock,
}  # fmt: skip


def network(block="basic", shortcut="A", layers=(1, 1), seed=0):
    tr.manual_seed(seed)
    return models.ResNet(BLOCKS[block], layers, widths=(4, 8)[: len(layers)], shortcut=shortcut, num_classes=5)


def picture(seed=0, size=8):
    return np.random.default_rng(seed).standard_normal((3, size, size), np.float32)


def ordinary(model, image, label):
    """A training step's forward and backward as anyone writes them: logits, loss, and gradients by name."""
    x = tr.Tensor(image[None], requires_grad=True)
    model.zero_grad()
    logits = model(x)
    loss = ops.cross_entropy(logits, [label])
    loss.backward()
    return logits.data, loss.data, {"": x.grad, **{name: p.grad for name, p in model.named_parameters()}}


def with_its_shortcut(options):
    """Plain blocks have none, and bottlenecks change shapes in the first stage as well, where A does not reach."""
    shortcuts = {"plain": None, "bottleneck": "B", "preact bottleneck": "C"}
    return {**options, "shortcut": shortcuts.get(options["block"], options["shortcut"])}


nets = st.fixed_dictionaries(
    {
        "block": st.sampled_from(sorted(BLOCKS)),
        "shortcut": st.sampled_from("ABC"),
        "layers": st.sampled_from([(1,), (1, 1), (2, 1)]),
        "seed": st.integers(0, 9),
    }
).map(with_its_shortcut)


# ---------------------------------------------------------------- numbers
@given(nets, st.integers(0, 4), st.booleans())
def test_all_numbers_are_those_of_an_ordinary_run(one_thread, options, label, training):
    model, image = network(**options).train(training), picture(options["seed"])
    passes = explain(model, image, label)
    logits, loss, gradients = ordinary(network(**options).train(training), image, label)

    steps = passes.steps
    assert np.array_equal(steps[0].value[0], image)
    assert np.array_equal(steps[-2].value, logits)
    assert steps[-1].value == loss == np.float32(passes.loss)
    assert np.array_equal(steps[0].gradient, gradients[""])
    for name, gradient in gradients.items():
        given_ = [i.gradient for step in steps for i in step.inputs if i.name == name and i.step is None]
        if name:
            assert len(given_) == 1, name
            assert np.array_equal(given_[0], gradient), name
    for step in steps:  # what came is what was given, and adds up
        shares = [i.gradient for later in steps for i in later.inputs if i.step == step.number]
        assert len(shares) == len(step.received)
        if step is not steps[-1]:
            assert {g.by for g in step.received} == {later.number for later in steps if step.number in later.parents}
            total = np.sum([np.asarray(g.gradient, np.float64) for g in step.received], 0)
            np.testing.assert_allclose(step.gradient, total, rtol=1e-4, atol=1e-6 * max(1e-6, abs(total).max()))


def test_values_are_what_each_layer_returned(one_thread):
    model, seen = network("bottleneck", "B"), {}
    for name, module in model.named_modules():
        if not any(module.children()):
            module.register_forward_hook(lambda _, __, y, name=name: seen.__setitem__(name, y.data.copy()))
    steps = explain(model, picture(), 1).steps
    last = {step.module: step for step in steps if not step.fused}
    last |= {step.module: steps[step.number + 2] for step in steps if step.fused and step.op == "batch_norm"}
    assert len(seen) > 10
    for name, value in seen.items():
        assert np.array_equal(last[name].value, value), name


@given(nets, st.booleans())
def test_the_end_of_a_block_is_a_batch_norm_a_sum_and_a_relu(one_thread, options, training):
    """Three steps of what the engine has computed in one, to the bit in both directions."""
    model = network(**options).train(training)
    steps = explain(model, picture(options["seed"]), 0).steps
    fused = [step for step in steps if step.fused]
    blocks = sum(options["layers"]) if options["block"] in ("basic", "bottleneck") else 0
    assert [step.op for step in fused] == ["batch_norm", "add", "relu"] * blocks
    for norm, add, relu in zip(fused[::3], fused[1::3], fused[2::3], strict=True):
        through, shortcut = add.inputs
        assert (norm.number, add.number) == (through.step, relu.inputs[0].step) == (add.number - 1, relu.number - 1)
        assert np.array_equal(add.value, norm.value + steps[shortcut.step].value)
        assert np.array_equal(relu.value, np.maximum(add.value, 0))  # which an ordinary run has as well, see above
        assert np.array_equal(add.gradient, np.where(relu.value > 0, relu.gradient, 0))
        assert np.array_equal(norm.gradient, add.gradient)
        assert np.array_equal(shortcut.gradient, add.gradient)  # the engine's own, of the pass through all three
        assert (add.module, relu.module) == (norm.module.rpartition(".")[0],) * 2
        assert len(norm.inputs) == 3
        assert not norm.attributes["relu"]


def test_a_constant_shortcut_and_one_without_a_relu(one_thread):
    class Shifted(tr.nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.fc = tr.nn.BatchNorm2d(3), tr.nn.Linear(3, 2)

        def forward(self, x):
            y = self.bn(x, residual=tr.Tensor(np.ones(x.shape, np.float32)), relu=True)
            y = self.bn(y, residual=y)
            return self.fc(ops.global_avg_pool2d(y).reshape(1, 3))

    steps = explain(Shifted(), picture(), 0).steps
    assert [step.op for step in steps][:6] == ["input", "batch_norm", "add", "relu", "batch_norm", "add"]
    assert steps[2].inputs[1].gradient is None
    assert np.array_equal(steps[2].gradient, np.where(steps[3].value > 0, steps[3].gradient, 0))
    assert sorted(given.by for given in steps[3].received) == [4, 5]  # y: normalised, and added
    assert np.array_equal(steps[5].value, steps[4].value + steps[3].value)


# ---------------------------------------------------------------- numbers of a page
@given(st.lists(st.integers(1, 9), max_size=6), st.integers(0, 30))
def test_a_page_holds_arrays_up_to_one_size_and_no_more_than_it_can_bear(sizes, most):
    held = Numbers()
    arrays = [np.arange(k, k + size).astype(np.float32) for k, size in enumerate(sizes)]
    places = [held.add(array) for array in arrays]
    largest = held.largest(most)
    contents = held.contents(largest)
    assert places == list(range(len(sizes)))
    assert [packed is not None for packed in contents] == [size <= largest for size in sizes]
    assert sum(size for size in sizes if size <= largest) <= most
    above = [size for size in sizes if size > largest]
    if above:  # one size more would be too much
        assert sum(size for size in sizes if size <= min(above)) > most
    for packed, array in zip(contents, arrays, strict=True):
        if packed:
            assert base64.b64decode(packed["base64"]) == array.astype("<f4").tobytes()


def test_an_array_is_held_once_and_in_its_precision():
    held = Numbers()
    array = np.random.default_rng(0).standard_normal((2, 3, 4))
    assert held.add(array) == held.add(array.copy()) == 0
    assert held.add(array.astype(np.float32)) == held.add(array.astype(np.float32).transpose(0, 1, 2)) == 1
    assert held.add(array.transpose(2, 1, 0)) == 2
    assert [packed["bits"] for packed in held.contents(24)] == [64, 32, 64]


def test_the_image_a_result_used_twice_and_a_parameter_used_twice(one_thread):
    class Twice(tr.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = tr.nn.Parameter(np.full((1, 3), 2, np.float32))

        def forward(self, x):
            y = ops.flatten(x) * self.scale
            unused = y.exp()
            assert unused.requires_grad
            return y * y + self.scale

    image = np.array([1.0, -2.0, 0.5], np.float32).reshape(3, 1, 1)
    passes = explain(Twice(), image, 0)
    assert [step.op for step in passes.steps] == ["input", "reshape", "mul", "mul", "add", "cross_entropy"]
    assert [step.number for step in passes.steps] == list(range(6))
    used = passes.steps[2]
    assert [given.by for given in used.received] == [3, 3]  # y y: once as each factor
    assert np.allclose(used.gradient, 2 * used.value * passes.steps[3].gradient)


def test_the_model_is_left_as_it_was(one_thread):
    model = network().train()
    parameter = next(model.parameters())
    parameter.grad = np.ones_like(parameter.data)
    before = model.state_dict()
    explain(model, picture(), 0)
    assert all(np.array_equal(before[name], array) for name, array in model.state_dict().items())
    assert np.array_equal(parameter.grad, np.ones_like(parameter.data))
    assert model.training


def test_without_a_label_the_most_likely_class_is_taken(one_thread):
    passes = explain(network().eval(), picture(3))
    assert passes.label == passes.probabilities.argmax()
    assert not passes.training
    assert passes.probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("model", "image", "label", "message"),
    [
        (network(), np.zeros((1, 3, 8, 8), np.float32), 0, r"image: got shape \(1, 3, 8, 8\), expected one image"),
        (network(), picture(), 5, "label: got 5, expected 0 to 4"),
        (network(), picture(), -1, "label: got -1, expected 0 to 4"),
        (network(), np.zeros((4, 8, 8), np.float32), 0, r"expected images \(N, 3, H, W\)"),
        (tr.nn.ReLU(), picture(), 0, r"model: it returned shape \(1, 3, 8, 8\), expected logits"),
    ],
)
def test_what_is_refused(model, image, label, message):
    with pytest.raises(ValueError, match=message):
        explain(model, image, label)


def test_logits_that_do_not_depend_on_the_image():
    class Deaf(tr.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = tr.nn.Parameter(np.zeros((1, 2), np.float32))

        def forward(self, x):
            return self.logits * 1

    with pytest.raises(ValueError, match="do not depend on the image"):
        explain(Deaf(), picture(), 0)


# ---------------------------------------------------------------- source
@pytest.mark.parametrize("block", BLOCKS)
def test_source_lines_are_in_the_files(block, one_thread):
    for step in explain(network(block, None if block == "plain" else "B"), picture(), 0).steps[1:]:
        for source in (step.model, step.layer, step.computing, step.pullback):
            lines = (PACKAGE.parent / source.file).read_text().splitlines()
            there = lines[source.line - 1 :][: source.text.count("\n") + 1]
            assert [line.strip() for line in there] == [line.strip() for line in source.text.splitlines()]
            assert source.text
        assert step.computing.file.startswith(("tinyres/ops/", "tinyres/tensor.py"))
        if step.module.endswith(("conv1", "conv2", "bn1", "bn2", "bn3")):
            start, end = step.model.mark
            assert step.model.text[start:end].startswith(f"self.{step.module.split('.')[-1]}(")
            assert step.model.file in ("tinyres/models/blocks.py", "tinyres/models/resnet.py")
            assert step.layer.file == f"tinyres/nn/{'norm' if step.op == 'batch_norm' else 'layers'}.py"


def test_the_line_that_computes_is_not_the_line_that_records(one_thread):
    steps = {step.op: step for step in explain(network(), picture(), 0).steps}
    assert steps["conv2d"].computing.text.startswith("y = kernels.conv2d(")
    assert steps["batch_norm"].computing.text.startswith("y = kernels.batch_norm_apply(")
    assert "batch_norm_grad" in steps["batch_norm"].pullback.text
    assert steps["cross_entropy"].computing.text.startswith("launch(_cross_entropy, x, r, ")
    assert steps["getitem"].computing.text == steps["getitem"].computing.text.strip()


def test_a_model_of_ones_own_and_an_operation_of_ones_own(one_thread):
    class Cube(tr.nn.Module):
        def forward(self, x):
            a = ops.flatten(x).data
            # é before the call: columns are counted in bytes there, in letters here
            return ("é", tr.record("cube", a**3, (ops.flatten(x),), lambda dy: (3 * a**2 * dy,)))[1]

    net = tr.nn.Sequential(Cube(), tr.nn.Linear(12, 2))
    cube = next(s for s in explain(net, picture(size=2), 0).steps if s.op == "cube")
    assert cube.model.file == Path(__file__).name
    assert cube.model.text[slice(*cube.model.mark)].startswith('tr.record("cube"')
    assert cube.model.text[slice(*cube.model.mark)].endswith("dy,))")
    assert "lambda dy: (3 * a**2 * dy,)" in cube.pullback.text
    assert formulas.formula("cube", {}, 1) is None
    assert linecache.getline(inspect.getfile(Cube), cube.model.line).strip() == cube.model.text


# ---------------------------------------------------------------- layout
@given(nets)
def test_each_step_has_a_place_of_its_own_below_its_parents(one_thread, options):
    passes = explain(network(**options), picture(), 0)
    cells = [cell for block in passes.blocks for cell in block.cells]
    assert [cell.step for cell in cells] == list(range(len(passes.steps)))
    for block in passes.blocks:
        places = {cell.step: cell for cell in block.cells}
        assert len({cell[1:] for cell in block.cells}) == len(block.cells)
        main = [cell for cell in block.cells if cell.lane == 0]
        for cell in block.cells:
            for parent in passes.steps[cell.step].parents:
                if parent in places:
                    assert places[parent].row < cell.row
        for above, below in itertools.pairwise(main):  # a column has no holes
            assert above.step in passes.steps[below.step].parents
    assert [b.title for b in passes.blocks][0 :: len(passes.blocks) - 1] == ["stem", "head"]


def test_the_shortcut_is_beside_the_way_through_the_block(one_thread):
    for block, expected in [("basic", ["getitem", "pad"]), ("preact", ["getitem", "pad"])]:
        passes = explain(network(block, "A"), picture(), 0)
        blocks = {b.path: b for b in passes.blocks}
        assert {cell.lane for cell in blocks["layer1.0"].cells} == {0}
        beside = [passes.steps[cell.step].op for cell in blocks["layer2.0"].cells if cell.lane == 1]
        assert beside == expected


# ---------------------------------------------------------------- formulas
class Names:
    def __init__(self):
        self.found = []

    def recorded(self, node, inputs):
        self.found.append((node.name, node.attributes, len(inputs)))

    def summed(self, node):
        pass


def recorded(call):
    names = Names()
    with tr.tape.watching(names):
        call()
    return names.found


def leaf(*shape):
    return tr.Tensor(np.ones(shape, np.float32), requires_grad=True)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_operation_has_a_formula_for_each_of_its_gradients(name):
    for case in REGISTRY[name].cases:
        tensors = [leaf(*shape) for shape in case.shapes]
        for op, attributes, inputs in recorded(lambda: REGISTRY[name].call(*tensors, **case.options)):  # noqa: B023
            found = formulas.formula(op, attributes, inputs)
            assert found is not None, op
            assert found.forward, op
            if op in ("conv2d", "batch_norm", "linear"):
                assert sum(line.startswith("dL/d") for line in found.backward) == inputs


def test_every_operator_has_a_formula():
    a, b = leaf(2, 2), leaf(2, 2)
    used = recorded(lambda: [a + b, a - b, a * b, a / b, a**b, a @ b, -a, a[0], a.T, a.reshape(4)])
    assert len(used) == 10
    assert all(formulas.formula(*one) for one in used)


def test_formulas_say_how_the_operation_was_called():
    how = {"training": True, "relu": True}
    assert any("/ P" in line for line in formulas.formula("batch_norm", how, 3).backward)
    assert not any("/ P" in line for line in formulas.formula("batch_norm", {**how, "training": False}, 3).backward)
    assert formulas.formula("batch_norm", how, 4).backward[-1] == "dL/dr = g"
    how = {"bias": True, "relu": False, "groups": 4, "stride": (2, 2), "padding": (1, 0), "dilation": (1, 1)}
    found = formulas.formula("conv2d", how, 4)
    assert "stride s = 2, padding p = (1, 0)" in found.where
    assert "in 4 groups" in found.where
    assert found.forward[0].startswith("y_{n,o,i,j} = b_{o} + ")
    assert "r_{n,o,i,j}" in found.forward[0]


def test_formulas_as_html():
    for line in itertools.chain.from_iterable(f.forward + f.backward for f in formulas.FORMULAS.values()):
        html = formulas.to_html(line)
        assert not set("{}^") & set(html), html
        for tag in ("i", "sub", "sup"):
            assert html.count(f"<{tag}>") == html.count(f"</{tag}>")
    assert formulas.to_html("a < e^{x_{i}} and dL/dγ") == (
        "<i>a</i> &lt; <i>e</i><sup><i>x</i><sub><i>i</i></sub></sup> and d<i>L</i>/d<i>γ</i>"
    )


# ---------------------------------------------------------------- pictures
def decoded(picture):
    image = Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2])))
    assert image.size == (picture.width, picture.height)
    return np.asarray(image.convert("RGBA"))


def test_a_mosaic_has_each_channel_in_its_place():
    array = np.zeros((2, 16, 4, 5), np.float32)
    array[0, 6, 2, 3], array[0, 9, 0, 0], array[1] = 1, -1, 5  # the second image is not shown
    pixels = decoded(mosaic.draw(array, signed=True))
    assert pixels.shape == (4 * 5 - 1, 4 * 6 - 1, 4)
    red, blue, white = ([int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in ("#67001f", "#053061", "#f7f7f7"))
    assert pixels[1 * 5 + 2, 2 * 6 + 3, :3].tolist() == red
    assert pixels[2 * 5, 1 * 6, :3].tolist() == blue
    shown = pixels[pixels[..., 3] > 0][:, :3]
    assert len(shown) == 16 * 20
    assert sum(p.tolist() == white for p in shown) == 16 * 20 - 2  # 0 is exactly white
    assert not pixels[4, :, 3].any()
    assert not pixels[:, 5, 3].any()


def test_a_weight_has_a_row_for_each_output():
    weight = np.zeros((2, 3, 3, 3), np.float32)
    weight[1, 2, 0, 1] = 4
    pixels = decoded(mosaic.draw(weight, signed=False, weight=True))
    assert pixels.shape == (7, 11, 4)
    assert pixels[4, 9, :3].tolist() == [0xFD, 0xE7, 0x25]


def test_what_is_not_finite_is_magenta_and_does_not_set_the_scale():
    picture = mosaic.draw(np.array([[np.nan, 1.0, np.inf, -3.0]]), signed=True)
    assert (picture.low, picture.high) == (-3, 3)
    assert [p.tolist() == [255, 0, 255, 255] for p in decoded(picture)[0]] == [True, False, True, False]


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
        | st.sampled_from(
            [(1, 3, 70, 40), (1, 200, 2, 1), (300,), (150, 2), (60, 70, 3, 3), (1, 2, 1, 500), (1, 0, 2, 2)]
        ),
        elements=st.sampled_from([0.0, 1.0, -2.5, 3e38, -3e38, 1e-44, float("nan"), float("inf")]),
        fill=st.just(0.5),
    ),
    st.booleans(),
    st.booleans(),
)
def test_any_array_has_a_picture_of_bounded_size(array, signed, weight):
    picture = mosaic.draw(array, signed=signed, weight=weight)
    assert decoded(picture).size
    assert picture.width <= 2 * mosaic.LARGEST + 100
    assert picture.height <= 2 * mosaic.LARGEST + 100
    assert picture.caption
    page.statistics(array)


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=5), elements=st.floats(-100, 100)))
def test_statistics(array):
    found = page.statistics(array)
    assert found["min"] <= found["mean"] + 1e-9
    assert found["max"] == max(array.ravel())
    assert found["zeros"] * array.size == pytest.approx((array == 0).sum())
    assert found["norm"] == pytest.approx(np.linalg.norm(array.ravel()))
    assert found["std"] == pytest.approx(np.std(array))


# ---------------------------------------------------------------- the command
def command(*words):
    return CliRunner().invoke(app, ["study", "explain", *map(str, words)], env={"COLUMNS": "100"})


def test_command(tiny, tmp_path):
    out = tmp_path / "new" / "page.html"
    run = command("tiny", "--out", out, "--seed", 3)
    assert run.exit_code == 0, run.output
    assert "steps forward and as many backward; loss" in run.output
    assert "Gradients of 2 results are sums" in run.output  # what each of the two blocks starts from
    first = out.read_bytes()
    assert first.startswith(b"<!DOCTYPE html>")
    command("tiny", "--out", out, "--seed", 3)
    assert out.read_bytes() == first
    command("tiny", "--out", out, "--seed", 4)
    assert out.read_bytes() != first


def test_command_with_a_picture_and_a_checkpoint(tiny, tmp_path):
    fit(tmp_path / "run", epochs=1)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red <b>.png")
    out, checkpoint = tmp_path / "page.html", tmp_path / "run" / "best.safetensors"
    run = command("tiny", tmp_path / "red <b>.png", "--checkpoint", checkpoint, "--out", out)
    assert run.exit_code == 0, run.output
    text = out.read_text()
    assert "weights of best.safetensors" in text
    assert "running statistics, as in use" in text
    assert "red &lt;b&gt;.png" in text
    assert "<b>.png" not in text
    run = command("resnet20", "--checkpoint", checkpoint, "--out", out)
    assert run.exit_code == 1
    assert "has tiny, expected resnet20" in run.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet21"], "there is no 'resnet21'; did you mean resnet32 or resnet20"),
        (["tiny", "--label", 10], "label: got 10, expected 0 to 9"),
        (["tiny", "--label", -1], "label: got -1, expected 0 to 9"),
        (["tiny", "missing.png"], "missing.png: no such file"),
        (["tiny", __file__], "not an image that can be read"),
        (["tiny", "--checkpoint", "missing.safetensors"], "missing.safetensors"),
        (["tiny", "--out", "."], "--out: got ., a folder; expected a file"),
    ],
)
def test_mistakes_of_a_user(tiny, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    run = command(*words)
    assert run.exit_code == 1
    assert message in run.output.replace("\n", " ")
    assert "Traceback" not in run.output
    assert list(tmp_path.iterdir()) == []


def test_without_jinja(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.chdir(tmp_path)
    run = command("tiny")
    assert run.exit_code == 1
    assert "pages need jinja2: pip install 'tinyres[report]'" in run.output
    assert list(tmp_path.iterdir()) == []


def test_a_page_too_large_for_browsers_is_not_written(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("tinyres.study.commands.explain.LARGEST", 1000)
    run = command("tiny", "--out", tmp_path / "page.html")
    assert run.exit_code == 1
    assert "choose a model with fewer layers" in run.output
    assert list(tmp_path.iterdir()) == []


def test_the_template_comes_with_the_package():
    assert "{{ data }}" in (PACKAGE / "study" / "explain.html.j2").read_text()
    build = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert "tinyres" in build["targets"]["sdist"]["include"]  # the whole folder, whatever its files are called
    assert build["targets"]["wheel"] == {"only-include": ["tinyres", "tinyres_command.py"]}
    assert not {"include", "exclude", "only-include"} & build.keys()
