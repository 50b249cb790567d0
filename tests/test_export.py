"""What onnxruntime computes from an exported file is what the model computes."""

import json

import numpy as np
import pytest

import tinyres as tr
from tinyres import models, nn
from tinyres.export import OPERATORS, ExportError, to_onnx
from tinyres.tape import Node

onnx = pytest.importorskip("onnx", reason="exports to ONNX: pip install 'tinyres[onnx]'")
reference = pytest.importorskip("onnx.reference", reason="exports to ONNX: pip install 'tinyres[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="runs ONNX: pip install 'tinyres[onnx]'")


def randomised(model, seed=0):
    """Statistics and parameters that leave nothing trivially 0 or 1."""
    rng = np.random.default_rng(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            c = module.weight.size
            module.weight.data[...] = rng.uniform(0.5, 1.5, c)
            module.bias.data[...] = rng.normal(0, 0.3, c)
            module.running_mean[...] = rng.normal(0, 0.3, c)
            module.running_var[...] = rng.uniform(0.5, 2, c)
    return model.eval()


def images(n, side, channels=3, dtype=np.float32):
    return np.random.default_rng(1).standard_normal((n, channels, side, side)).astype(dtype)


def run(path, x):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": x})[0]


def assert_same(path, model, side, channels=3, dtype=np.float32, tolerance=1e-5):
    """At batch sizes that the model was not exported with."""
    for n in (1, 3, 7):
        x = images(n, side, channels, dtype)
        expected, found = model(tr.Tensor(x)).data, run(path, x)
        assert found.dtype == dtype
        assert found.shape == expected.shape
        assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


NETS = [
    ("resnet20", {}, 32),
    ("resnet20", {"shortcut": "C"}, 16),
    ("resnet18", {"stem": "cifar", "num_classes": 10}, 16),
    ("resnet18", {"num_classes": 10}, 64),
    ("resnet50", {"num_classes": 10}, 64),
    ("resnext50_32x4d", {"layers": [1, 1, 1, 1], "num_classes": 10}, 40),
    ("plain20", {}, 17),
    ("preact_resnet20", {}, 16),
]


@pytest.mark.parametrize("fused", [False, True], ids=["as it is", "fused"])
@pytest.mark.parametrize(("name", "options", "side"), NETS, ids=[f"{n}-{s}" for n, _, s in NETS])
def test_logits(tmp_path, name, options, side, fused):
    tr.manual_seed(0)
    model = randomised(models.create(name, **options))
    state = model.state_dict()
    exported = nn.fuse(model, image_size=side) if fused else model
    to_onnx(exported, tmp_path / "m.onnx", image_size=side)
    assert_same(tmp_path / "m.onnx", model, side)
    assert all(np.array_equal(a, state[n]) for n, a in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_float64(tmp_path):
    """In onnx's own reference implementation: onnxruntime has no convolution in float64."""
    model = randomised(models.create("resnet20", layers=[1, 1, 1])).astype(np.float64)
    to_onnx(model, tmp_path / "m.onnx", image_size=8)
    x = images(3, 8, dtype=np.float64)
    (found,) = reference.ReferenceEvaluator(str(tmp_path / "m.onnx")).run(None, {"images": x})
    np.testing.assert_allclose(found, model(tr.Tensor(x)).data, rtol=1e-12, atol=1e-13)


def test_the_file_says_what_it_is(tmp_path):
    model = randomised(models.create("resnet20", num_classes=2))
    with tr.no_grad():  # a trace is made all the same
        to_onnx(model, tmp_path / "m.onnx", classes=("cat", "dog"))
    file = onnx.load(tmp_path / "m.onnx")
    assert [v.name for v in (*file.graph.input, *file.graph.output)] == ["images", "logits"]
    for value, rest in ((file.graph.input[0], (3, 32, 32)), (file.graph.output[0], (2,))):
        batch, *lengths = value.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert tuple(d.dim_value for d in lengths) == rest
    assert json.loads({p.key: p.value for p in file.metadata_props}["classes"]) == ["cat", "dog"]
    names = {array.name for array in file.graph.initializer}
    assert names >= set(dict(model.named_parameters()))
    assert any(node.output[0].startswith("layer2.0.conv1/Conv") for node in file.graph.node)


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
    "pad": lambda y, m: tr.ops.pad(y, (1, 2), value=-1.5),
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
            nn.Conv2d(2, 6, (3, 2), stride=(2, 1), padding=(2, 1), groups=2),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1, padding=1),
        ],
        [nn.Conv2d(2, 4, 1, bias=False), nn.AvgPool2d((3, 2), stride=(1, 2), padding=(1, 0)), nn.GlobalAvgPool2d()],
    ],
)
def test_layers(tmp_path, layers):
    model = nn.Sequential(*layers, nn.Flatten()).eval()
    to_onnx(model, tmp_path / "m.onnx", image_size=8, channels=2)
    assert_same(tmp_path / "m.onnx", model, 8, channels=2)


def test_every_operation_of_the_family_has_a_translation():
    seen = set()
    for name in models.FAMILY:
        if "1202" in name or "1001" in name:
            continue
        options = {"layers": [1] * len(models.FAMILY[name]["layers"])}
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
        (lambda y, m: y * 2, r"<mul\(2, 4\)> takes an array that is neither computed from the images nor a parameter"),
        (lambda y, m: y.transpose(), r"<transpose.* has no translation; there is one for add, avg_pool2d"),
        (lambda y, m: y.reshape(-1), r"<reshape\(8,\)> reshapes \(2, 4\), expected the batch to stay the first axis"),
        (lambda y, m: y[:, [0, 1]], r"is indexed with .* expected slices with positive steps"),
        (lambda y, m: y[:, ::-1], r"expected slices with positive steps"),
        (lambda y, m: m.w, "the model's output does not depend on its input"),
    ],
)
def test_what_cannot_be_translated_is_named(tmp_path, function, message):
    (tmp_path / "m.onnx").write_bytes(b"old")
    with pytest.raises(ExportError, match=message):
        to_onnx(Chain(function).eval(), tmp_path / "m.onnx", image_size=8, channels=2)
    assert (tmp_path / "m.onnx").read_bytes() == b"old"


def test_training_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"to_onnx: the model is in training mode.*call model.eval\(\) first"):
        to_onnx(models.create("resnet20"), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_depth_is_no_limit(tmp_path):
    """1,202 layers, by an order that is found without recursion."""
    model = models.create("resnet1202").eval()
    to_onnx(model, tmp_path / "m.onnx", image_size=8)
    assert sum(node.op_type == "Conv" for node in onnx.load(tmp_path / "m.onnx").graph.node) == 1201
