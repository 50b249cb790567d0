"""What onnxruntime computes from an exported file is what the model computes."""

import json
import sys
from importlib import metadata

import numpy as np
import pytest
from support.nets import images, randomised

import tinyres as tr
from tinyres import models, nn
from tinyres.export import OPERATORS, ExportError, to_onnx
from tinyres.tape import Node

onnx = pytest.importorskip("onnx", reason="exports to ONNX: pip install 'tinyres[onnx]'")
reference = pytest.importorskip("onnx.reference", reason="exports to ONNX: pip install 'tinyres[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="runs ONNX: pip install 'tinyres[onnx]'")


def session(path):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def assert_same(path, model, side, channels=3, tolerance=1e-5):
    """At batch sizes that the model was not exported with."""
    exported = session(path)
    for n in (1, 3, 7):
        x = images(n, side, channels)
        expected, (found,) = model(tr.Tensor(x)).data, exported.run(["logits"], {"images": x})
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def snapshot(model):
    """All that an export must leave as it is."""
    flags = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return {n: a.tobytes() for n, a in model.state_dict().items()}, flags, [m.training for m in model.modules()]


NETS = [
    ("resnet20", {}, 32),
    ("resnet20", {"shortcut": "C"}, 16),
    ("resnet18", {"stem": "cifar", "num_classes": 10}, 16),
    ("resnet18", {"num_classes": 10}, 48),
    ("resnet50", {"num_classes": 10}, 40),
    ("resnext50_32x4d", {"layers": [1, 1, 1, 1], "num_classes": 10}, 40),
    ("plain20", {}, 17),
    ("preact_resnet20", {}, 16),
]


@pytest.mark.parametrize("fused", [False, True], ids=["as it is", "fused"])
@pytest.mark.parametrize(("name", "options", "side"), NETS, ids=[f"{n}-{s}" for n, _, s in NETS])
def test_logits(tmp_path, name, options, side, fused):
    tr.manual_seed(0)
    model = randomised(models.create(name, **options)).eval()
    before = snapshot(model)
    exported = nn.fuse(model, image_size=side) if fused else model
    to_onnx(exported, tmp_path / "m.onnx", image_size=side)
    assert_same(tmp_path / "m.onnx", model, side)
    assert snapshot(model) == before
    assert all(p.data.flags.writeable for p in model.parameters())


def test_float64(tmp_path):
    """In onnx's own reference implementation: onnxruntime has no convolution in float64."""
    model = randomised(models.create("resnet20", layers=[1, 1, 1])).eval().astype(np.float64)
    to_onnx(model, tmp_path / "m.onnx", image_size=8)
    x = images(3, 8, dtype=np.float64)
    (found,) = reference.ReferenceEvaluator(str(tmp_path / "m.onnx")).run(None, {"images": x})
    np.testing.assert_allclose(found, model(tr.Tensor(x)).data, rtol=1e-12, atol=1e-13)


def test_the_file_says_what_it_is(tmp_path):
    model = randomised(models.create("resnet20", num_classes=2)).eval()
    with tr.no_grad():  # a trace is made all the same
        to_onnx(model, tmp_path / "m.onnx", classes=("cat", "dog"))
    file = onnx.load(tmp_path / "m.onnx")
    assert (file.producer_name, file.producer_version) == ("tinyres", metadata.version("tinyres"))
    assert (file.opset_import[0].version, file.ir_version) == (17, 8)
    assert [v.name for v in (*file.graph.input, *file.graph.output)] == ["images", "logits"]
    for value, rest in ((file.graph.input[0], (3, 32, 32)), (file.graph.output[0], (2,))):
        batch, *lengths = value.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert tuple(d.dim_value for d in lengths) == rest
    assert json.loads({p.key: p.value for p in file.metadata_props}["classes"]) == ["cat", "dog"]
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in file.graph.initializer}
    for parameter, value in model.named_parameters():
        np.testing.assert_array_equal(arrays[parameter], value.data)
    bn = model.layer2[0].bn1
    np.testing.assert_array_equal(arrays["layer2.0.bn1.running_mean"], bn.running_mean)
    np.testing.assert_allclose(arrays["layer2.0.bn1.running_var"], bn.running_var + bn.eps, rtol=1e-6)
    assert any(node.name.startswith("layer2.0.conv1/Conv") for node in file.graph.node)
    assert [node.op_type for node in file.graph.node][-4:] == ["GlobalAveragePool", "Reshape", "Gemm", "Identity"]


def test_the_same_model_makes_the_same_file(tmp_path):
    model = randomised(models.create("resnet20")).eval()
    for name in ("a.onnx", "b.onnx"):
        to_onnx(model, tmp_path / name, classes="abcdefghij")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_names_of_other_classes_are_refused(tmp_path):
    model = models.create("resnet20").eval()
    with pytest.raises(ValueError, match="classes: got 2 names, expected 10, one for each logit"):
        to_onnx(model, tmp_path / "a.onnx", classes=("cat", "dog"))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("opset", [13, 15, 18, 21])
def test_opsets(tmp_path, opset):
    """All that the operators' definitions have changed in: batch norm, softmax, pad, reshape, pooling."""
    model = randomised(
        nn.Sequential(models.create("resnet20", layers=[1, 1], widths=[4, 8]), Call(tr.ops.softmax))
    ).eval()
    to_onnx(model, tmp_path / "m.onnx", image_size=8, opset=opset)
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == opset
    assert_same(tmp_path / "m.onnx", model, 8)


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Chain(nn.Module):
    """A function of a linear layer's 4 outputs."""

    def __init__(self, function):
        super().__init__()
        tr.manual_seed(0)
        self.fc, self.function = nn.Linear(2 * 64, 4), function
        self.w = nn.Parameter(np.array([[0.5, 1, 2, 3]], "f4"))
        self.matrix = nn.Parameter(np.arange(8, dtype="f4").reshape(4, 2))

    def forward(self, x):
        return self.function(self.fc(tr.ops.flatten(x)), self)


FUNCTIONS = {
    "sigmoid, tanh": lambda y, m: tr.ops.tanh(tr.ops.sigmoid(y)),
    "exp, log, sqrt": lambda y, m: tr.ops.sqrt(tr.ops.log(tr.ops.exp(y * y) + m.w)),
    "arithmetic": lambda y, m: -((y * m.w - m.w) / m.w) + y,
    "matmul, maximum": lambda y, m: tr.ops.maximum(y @ m.matrix, y[:, :2]),
    "softmax": lambda y, m: tr.ops.softmax(y),
    "log_softmax": lambda y, m: tr.ops.log_softmax(y, axis=1),
    "concat": lambda y, m: tr.ops.concat([y, y * m.w], axis=1),
    "slices": lambda y, m: y[:, 1::2],
    "reshape": lambda y, m: y.reshape(len(y.data), 2, 2),
    "slices from the end": lambda y, m: y[:, -3:-1],
    "permute": lambda y, m: y.reshape(-1, 2, 2).permute(0, 2, 1),
    "pad": lambda y, m: tr.ops.pad(y, (1, 2), value=-1.5),
    "two of a kind": lambda y, m: tr.ops.pad(tr.ops.pad(y, (1, 2)), (3, 0), value=2)[:, 1:][:, 2:],
    "reshaped parameters": lambda y, m: y + m.matrix.reshape(2, 4)[1:] * m.w.reshape(4),
    "transposed parameters": lambda y, m: y @ m.matrix.reshape(2, 4).T,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators(tmp_path, name):
    model = Chain(FUNCTIONS[name]).eval()
    to_onnx(model, tmp_path / "m.onnx", image_size=8, channels=2)
    assert_same(tmp_path / "m.onnx", model, 8, channels=2)


@pytest.mark.parametrize(
    "layers",
    [
        [
            nn.Conv2d(2, 6, (3, 2), stride=(2, 1), padding=(2, 1), groups=2, dilation=(1, 2)),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1, padding=1),
        ],
        [nn.Conv2d(2, 4, 1, bias=False), nn.AvgPool2d((3, 2), stride=(1, 2), padding=(1, 0)), nn.GlobalAvgPool2d()],
        [
            nn.Conv2d(2, 4, 3),
            Call(tr.ops.sigmoid),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 2, padding=1),
            Call(tr.ops.tanh),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        ],
        [nn.AvgPool2d(8, stride=2, padding=1)],  # as large as the image, and yet not its mean
    ],
    ids=["max-pool", "average pools", "sigmoid, tanh", "padded average"],
)
def test_layers(tmp_path, layers):
    model = nn.Sequential(*layers, nn.Flatten()).eval()
    to_onnx(model, tmp_path / "m.onnx", image_size=8, channels=2)
    assert_same(tmp_path / "m.onnx", model, 8, channels=2)


def test_what_is_shared_is_stored_once(tmp_path):
    conv, norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
    model = randomised(nn.Sequential(conv, norm, conv, norm, nn.Flatten())).eval()
    to_onnx(model, tmp_path / "m.onnx", image_size=8, channels=2)
    assert_same(tmp_path / "m.onnx", model, 8, channels=2)
    names = [array.name for array in onnx.load(tmp_path / "m.onnx").graph.initializer]
    assert len(names) == len(set(names)) == 2 + 4 + 1  # and the shape of Flatten


class TwoNorms(nn.Module):
    """Two batch norms of one module, told apart by nothing but their statistics."""

    def __init__(self, training=False):
        super().__init__()
        self.weight, self.bias = nn.Parameter(np.array([0.5, 2], "f4")), nn.Parameter(np.array([1, -1], "f4"))
        self.norms_training = training

    def forward(self, x):
        for mean in (0.5, -1.0):
            statistics = np.full(2, mean, "f4"), np.full(2, 2 + mean, "f4")
            x = tr.ops.batch_norm(x, *statistics, self.weight, self.bias, training=self.norms_training)
        return x


def test_arrays_of_one_name_are_told_apart(tmp_path):
    model = nn.Sequential(TwoNorms()).eval()
    to_onnx(model, tmp_path / "m.onnx", image_size=8, channels=2)
    assert_same(tmp_path / "m.onnx", model, 8, channels=2)
    model = Chain(lambda y, m: tr.ops.pad(y, (1, 0), value=3) * m.value).eval()
    model.value = nn.Parameter(np.array(5, "f4"))  # as the constant of pad is called
    to_onnx(model, tmp_path / "m.onnx", image_size=8, channels=2)
    assert_same(tmp_path / "m.onnx", model, 8, channels=2)


def test_frozen_parameters_are_parameters(tmp_path):
    model = randomised(models.create("resnet20", layers=[1, 1], widths=[4, 8])).eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc.weight.requires_grad = True
    before = snapshot(model)
    to_onnx(model, tmp_path / "m.onnx", image_size=8)
    assert_same(tmp_path / "m.onnx", model, 8)
    assert snapshot(model) == before
    with pytest.raises(ValueError, match="x: got shape"):
        to_onnx(model, tmp_path / "m.onnx", image_size=8, channels=4)
    assert snapshot(model) == before


def test_a_model_without_parameters(tmp_path):
    to_onnx(nn.Identity().eval(), tmp_path / "m.onnx", image_size=8)
    assert_same(tmp_path / "m.onnx", nn.Identity(), 8)


def test_every_operation_of_the_family_has_a_translation():
    seen = set()
    for name in models.FAMILY:
        if "1202" in name or "1001" in name:
            continue
        stages = len(models.FAMILY[name]["layers"])
        options = {"layers": [1] * stages, "widths": [64] * stages}
        stack = [models.create(name, **options).eval()(tr.Tensor(images(1, 32)))._node]
        while stack:
            node = stack.pop()
            if isinstance(node, Node):
                seen.add(node.name)
                stack.extend(node.parents)
    assert seen <= set(OPERATORS)
    assert len(seen) >= 7


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda y, m: y * 2, r"<mul\(2, 4\)> uses an array that is neither computed from the images nor a parameter"),
        (lambda y, m: y.T, r"<permute\(4, 2\)> permutes the axes to \(1, 0\), expected the batch to stay"),
        (lambda y, m: y.sum(1), r"<sum\(2,\)> has no translation; use only operations that have one: add, avg_pool2d"),
        (
            lambda y, m: y + tr.Tensor(np.ones(4, "f4"), requires_grad=True),
            r"<add.* nor a parameter of the model; make",
        ),
        (lambda y, m: m.gate(y), r"<mul\(2, 4\) in gate> uses an array"),
        (lambda y, m: y.reshape(-1), r"<reshape\(8,\)> reshapes \(2, 4\), expected the batch to stay the first axis"),
        (lambda y, m: y[:, [0, 1]], r"is indexed with .* expected slices with positive steps"),
        (lambda y, m: y[:, ::-1], r"expected slices with positive steps"),
        (lambda y, m: m.w, "the model's output does not depend on its input"),
        (lambda y, m: m.w.exp(), "the model's output does not depend on its input"),
        (lambda y, m: y[:1], r"an output of shape \(1, 4\) for 2 images, expected \(2, ...\)"),
        (lambda y, m: (y, y), r"the model returned a tuple, expected one Tensor"),
    ],
)
def test_what_cannot_be_translated_is_named(tmp_path, function, message):
    (tmp_path / "m.onnx").write_bytes(b"old")
    model = Chain(function)
    model.gate = Call(lambda y: y * 2)
    with pytest.raises(ExportError, match=message):
        to_onnx(model.eval(), tmp_path / "m.onnx", image_size=8, channels=2)
    assert (tmp_path / "m.onnx").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_names_of_input_and_output_are_taken(tmp_path):
    model = Chain(lambda y, m: y + m.logits).eval()
    model.logits = nn.Parameter(np.ones(4, "f4"))
    with pytest.raises(ExportError, match="'logits' is the name of the graph's input or output: rename"):
        to_onnx(model, tmp_path / "m.onnx", image_size=8, channels=2)


def test_training_mode_is_refused(tmp_path):
    model = models.create("resnet20", layers=[1, 1], widths=[4, 8])
    with pytest.raises(ValueError, match=r"to_onnx: the model is in training mode.*call model.eval\(\) first"):
        to_onnx(model, tmp_path / "m.onnx")
    model.eval().layer2[0].bn1.train()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"to_onnx: module 'layer2.0.bn1' is in training mode"):
        to_onnx(model, tmp_path / "m.onnx")
    assert snapshot(model) == before
    with pytest.raises(
        ExportError, match=r"<batch_norm\(2, 2, 8, 8\) in 0> normalises with the statistics of the batch"
    ):
        to_onnx(nn.Sequential(TwoNorms(training=True)).eval(), tmp_path / "m.onnx", image_size=8, channels=2)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("opset", [12, 22])
def test_other_opsets_are_refused(tmp_path, opset):
    with pytest.raises(ValueError, match=f"opset: got {opset}, expected 13 to 21"):
        to_onnx(nn.Identity().eval(), tmp_path / "m.onnx", opset=opset)


def test_without_onnx_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"needs the package onnx: pip install 'tinyres\[onnx\]'"):
        to_onnx(nn.Identity().eval(), tmp_path / "m.onnx")


def test_depth_is_no_limit(tmp_path):
    """1,202 layers, by an order that is found without recursion."""
    model = models.create("resnet1202").eval()
    to_onnx(model, tmp_path / "m.onnx", image_size=8)
    assert sum(node.op_type == "Conv" for node in onnx.load(tmp_path / "m.onnx").graph.node) == 1201
