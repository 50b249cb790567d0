"""Tensors and other libraries' arrays in the same memory, models as ONNX files made elsewhere, objects as HTML.

This file is long because an ONNX file can be made, and can be wrong, in many ways.
"""

import base64
import gc
import re
import sys
import warnings
from ast import literal_eval
from copy import deepcopy
from dataclasses import asdict
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.nets import images, randomised

import tinyres as tr
from tinyres import Tensor, html, models, nn, ops
from tinyres.kernels import memory
from tinyres.onnx_import import OPERATORS, OnnxError
from tinyres.testing.strategies import ORDERS, conv_problems, in_order, shapes

pytestmark = pytest.mark.usefixtures("one_thread")

F4, F8 = np.float32, np.float64
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip(
        "torch", reason="compares with PyTorch, which is not installed: pip install torch==2.13.0"
    )


def outcome(function):
    """What a function returns, or the class of what it raises."""
    try:
        return function()
    except (ValueError, TypeError) as error:
        return type(error)


# ---------------------------------------------------------------- NumPy's protocol
@given(
    shapes(), st.sampled_from(ORDERS), st.sampled_from([F4, F8]), st.sampled_from([None, F4, F8, np.int64]),
    st.sampled_from([None, True, False]), st.booleans(), seeds,
)  # fmt: skip
def test_a_tensor_becomes_an_array_as_its_array_does(shape, order, own, dtype, copy, writeable, seed):
    a = in_order(np.random.default_rng(seed).standard_normal(shape).astype(own), order)
    a.flags.writeable = writeable
    t = Tensor._wrap(a)
    expected, found = (outcome(lambda x=x: np.array(x, dtype, copy=copy)) for x in (a, t))
    if expected is ValueError:
        assert copy is False
        assert found is ValueError
        return
    assert found.dtype == expected.dtype
    assert found.strides == expected.strides
    np.testing.assert_array_equal(found, expected)
    assert np.shares_memory(found, a) == np.shares_memory(expected, a)
    assert found.flags.writeable == expected.flags.writeable
    assert copy is not True or not np.shares_memory(found, a)


def test_an_array_of_a_tensor_is_its_data_and_of_one_with_a_gradient_refused():
    t = Tensor([1.0, 2.0], requires_grad=True)
    for copy in (None, True, False):
        with pytest.raises(TypeError, match=r"would lose its gradient: .* t.detach\(\)"):
            np.array(t, copy=copy)
        with tr.no_grad():
            np.testing.assert_array_equal(np.array(t, copy=copy), [1, 2])
    assert np.asarray(t.detach()) is t.data
    y = t * t
    assert not np.asarray(t.detach()).flags.writeable  # the tape needs it
    assert np.array(t.detach()).flags.writeable  # this is a copy
    y.sum().backward()
    assert np.asarray(t.detach()).flags.writeable


# ---------------------------------------------------------------- DLPack
def layouts(torch):
    """The same shape and numbers, lying in memory in several ways."""
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    wide = torch.zeros(2, 3, 8, 10)
    wide[:, :, ::2, 1::2] = images
    return {
        "channels first": images.clone(),
        "channels last": images.clone().to(memory_format=torch.channels_last),
        "part": wide[:, :, ::2, 1::2],
    }


@pytest.mark.parametrize("layout", ["channels first", "channels last", "part"])
def test_memory_of_pytorch_is_shared(torch, layout):
    theirs = layouts(torch)[layout]
    ours = tr.from_dlpack(theirs)
    assert (ours.shape, ours.dtype, ours.requires_grad) == ((2, 3, 4, 5), F4, False)
    assert ours.data.strides == tuple(4 * s for s in theirs.stride())
    np.testing.assert_array_equal(ours.data, np.arange(120.0).reshape(2, 3, 4, 5))
    theirs[1, 2, 3, 4] = -1.0
    assert ours.data[1, 2, 3, 4] == -1
    ours.data[0, 1, 2, 3] = -2.0
    assert theirs[0, 1, 2, 3] == -2
    back = torch.from_dlpack(ours)
    assert back.data_ptr() == theirs.data_ptr()
    assert back.stride() == theirs.stride()


def test_memory_of_ours_is_shared_with_pytorch(torch):
    """A channels-last view of the pool's memory, as every activation is."""
    with tr.no_grad():
        ours = ops.relu(ops.conv2d(tr.randn(2, 3, 64, 64), tr.randn(16, 3, 3, 3), padding=1))
    assert ours.data.nbytes >= memory.SMALLEST
    theirs = torch.from_dlpack(ours)
    assert theirs.is_contiguous(memory_format=torch.channels_last)
    assert theirs.data_ptr() == ours.data.ctypes.data
    theirs[1, 15, 63, 63] = 7.0
    assert ours.data[1, 15, 63, 63] == 7
    ours.data[0, 0, 0, 0] = 8.0
    assert theirs[0, 0, 0, 0] == 8


@given(shapes(), st.sampled_from([o for o in ORDERS if o != "broadcast"]), st.sampled_from([F4, F8]), seeds)
def test_there_and_back_is_the_same_memory(shape, order, dtype, seed):
    a = in_order(np.random.default_rng(seed).standard_normal(shape).astype(dtype), order)
    t = Tensor._wrap(a)
    back = tr.from_dlpack(t)
    assert (back.shape, back.dtype) == (t.shape, t.dtype)
    np.testing.assert_array_equal(back.data, a)
    a += 1
    np.testing.assert_array_equal(back.data, a)


def test_memory_that_is_shared_is_not_given_to_another_array(torch):
    """The pool takes memory back with the last view of an array: the other library's is one."""
    shape = (512, 1024)  # 2 MiB
    before = memory._pool.held()
    array = memory.empty(shape, F4)
    array[...] = 3
    place, t = array.ctypes.data, Tensor._wrap(array)
    theirs, there = torch.from_dlpack(t), np.from_dlpack(t)
    del array, t
    gc.collect()
    assert memory._pool.held() == before + 4 * 512 * 1024
    others = [memory.zeros(shape, F4) for _ in range(4)]
    assert place not in [other.ctypes.data for other in others]
    assert bool((theirs == 3).all())
    del theirs
    assert memory._pool.held() == before + 5 * 4 * 512 * 1024  # NumPy still has it
    np.testing.assert_array_equal(there, 3)
    del there, others
    assert memory._pool.held() == before
    assert memory.empty(shape, F4).ctypes.data == place  # and now it is


def test_memory_of_pytorch_stays_as_long_as_ours(torch):
    theirs = torch.full((256, 256), 3.0)
    place = theirs.data_ptr()
    ours = tr.from_dlpack(theirs)
    view = ours.reshape(-1)
    del theirs, ours
    gc.collect()
    others = [torch.zeros(256, 256) for _ in range(4)]
    assert place not in [other.data_ptr() for other in others]
    np.testing.assert_array_equal(view.data, 3)


def test_what_is_shared_can_be_trained(torch):
    """It is read-only while the tape needs it, and can be written to again afterwards, which NumPy would not allow."""
    theirs = torch.ones(4, 3)
    p = tr.from_dlpack(theirs)
    p.requires_grad = True
    y = (p * p).sum()
    with pytest.raises(ValueError, match="read-only"):
        p.data[0, 0] = 5
    y.backward()
    tr.optim.SGD([p], lr=0.25).step()
    assert p.data.flags.writeable
    np.testing.assert_array_equal(theirs.numpy(), np.full((4, 3), 0.5))  # 1 - 0.25 * 2


def test_values_that_must_stay_are_not_shared(torch):
    t = Tensor(np.ones((2, 2), F4), requires_grad=True)
    for share in (torch.from_dlpack, np.from_dlpack, tr.from_dlpack):
        with pytest.raises((BufferError, ValueError), match=r"requires a gradient, .* share t.detach\(\)"):
            share(t)
    y = t * t
    for held in (t.detach(), Tensor._wrap(np.broadcast_to(F4(1), (2, 2)))):
        for share in (torch.from_dlpack, np.from_dlpack, tr.from_dlpack):
            with pytest.raises((BufferError, ValueError), match=r"read-only, .* share a copy, tr.tensor\(t\)"):
                share(held)
        copy = torch.from_dlpack(tr.tensor(held))
        copy += 1
        assert bool((copy == 2).all())
        np.testing.assert_array_equal(held.data, 1)
    y.sum().backward()
    theirs = torch.from_dlpack(t.detach())
    theirs[0, 0] = 5.0
    assert t.data[0, 0] == 5
    assert t.detach().__dlpack_device__() == (1, 0)


def test_an_array_that_is_read_only_stays_so():
    """As those of JAX are."""
    a = np.arange(3.0)
    a.flags.writeable = False
    t = tr.from_dlpack(a)
    assert np.shares_memory(t.data, a)
    assert not t.data.flags.writeable
    t.requires_grad = True
    (t * t).sum().backward()
    np.testing.assert_array_equal(t.grad, 2 * a)
    assert not t.data.flags.writeable


class Elsewhere:
    """An array on the second graphics card."""

    device = "cuda:1"

    def __dlpack_device__(self):
        return 2, 1

    def __dlpack__(self, **options):
        raise AssertionError("never asked for")


def test_what_cannot_be_shared_is_refused(torch):
    for wrong, error, message in [
        ([1.0], TypeError, "x: got list, expected an array with __dlpack__; tr.tensor copies others"),
        (Elsewhere(), ValueError, "x: got an array on cuda:1, expected it in the processor's memory"),
        (torch.ones(2, device="meta"), ValueError, "x: got an array on meta, expected"),
        (torch.ones(2, dtype=torch.bfloat16), TypeError, "x: got dtype torch.bfloat16, expected float32 or float64"),
        (torch.ones(2, dtype=torch.float16), TypeError, "x: got dtype torch.float16, expected float32 or float64"),
        (np.arange(2), TypeError, "x: got dtype int64, expected float32 or float64"),
        (torch.ones(2, requires_grad=True), ValueError, "x: its library does not share it: .* use tensor.detach"),
    ]:
        with pytest.raises(error, match=message):
            tr.from_dlpack(wrong)


# ---------------------------------------------------------------- models from ONNX files
@pytest.fixture(scope="module")
def onnx():
    return pytest.importorskip("onnx", reason="reads ONNX files: pip install 'tinyres[onnx]'")


@pytest.fixture(scope="module")
def runtime():
    return pytest.importorskip("onnxruntime", reason="runs ONNX: pip install 'tinyres[onnx]'")


def run(runtime, content, x):
    """What onnxruntime makes of x by a file, or by a file's content."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def assert_near(found, expected, tolerance=1e-5):
    """Relative, in the norm over all elements. Both sides round in float32: convolutions by Winograd's algorithm by up
    to 5e-6 (docs in `kernels/`), all else by less."""
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


TINY = {"layers": [1, 1], "widths": [32, 64], "num_classes": 10}
FAMILY = [  # every kind of block, shortcut and stem
    ("resnet20", {"layers": [1, 1, 1]}, 16),
    ("resnet20", {"layers": [1, 1, 1], "shortcut": "A-after"}, 17),
    ("resnet20", {"layers": [1, 1, 1], "shortcut": "C"}, 16),
    ("plain20", {"layers": [1, 1, 1]}, 16),
    ("preact_resnet20", {"layers": [1, 1, 1]}, 16),
    ("resnet18", TINY, 40),
    ("resnet50", TINY, 40),
    ("resnet50_v1", TINY, 40),
    ("resnext50_32x4d", TINY, 40),
    ("preact_resnet50", TINY, 40),
    ("slim_resnet9", {"widths": [8, 16, 16], "stem_width": 8}, 33),
]


@pytest.mark.parametrize("fused", [False, True], ids=["as it is", "fused"])
@pytest.mark.parametrize(("name", "options", "side"), FAMILY, ids=[f"{n}-{s}" for n, _, s in FAMILY])
def test_what_we_exported_comes_back(onnx, runtime, tmp_path, name, options, side, fused):
    tr.manual_seed(0)
    model = randomised(models.create(name, **options)).eval()
    model = nn.fuse(model, image_size=side) if fused else model
    path, classes = tmp_path / "m.onnx", [f"class {k}" for k in range(10)]
    tr.export.to_onnx(model, path, image_size=side, classes=classes)
    found = tr.from_onnx(path)
    assert {n: p.shape for n, p in found.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert all(p.requires_grad and p.data.flags.writeable for p in found.parameters())
    assert (found.classes, found.image_shape, found.training) == (classes, (3, side, side), False)
    with tr.no_grad():
        for n in (1, 5):
            x = images(n, side)
            assert_near(found(Tensor(x)).data, run(runtime, str(path), x))


def test_gradients_are_those_of_the_model_that_was_exported(onnx, tmp_path):
    """In float64, where 1e-10 is far from what rounding leaves, and from any term that is missing."""
    model = randomised(models.create("resnet20", layers=[1, 1, 1], shortcut="B")).eval().double()
    tr.export.to_onnx(model, tmp_path / "m.onnx", image_size=8)
    found = tr.from_onnx(tmp_path / "m.onnx")
    assert next(found.parameters()).dtype == F8
    x, labels = images(4, 8, dtype=F8), np.array([1, 2, 3, 4])
    for net in (model, found.train()):  # nothing changes with that
        ops.cross_entropy(net(Tensor(x)), labels).backward()
    gradients = {name: p.grad for name, p in found.named_parameters()}
    assert len(gradients) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        assert_near(gradients[name], p.grad, 1e-10)


def test_a_step_of_training_lowers_the_loss_and_keeps_the_statistics(onnx, tmp_path):
    tr.manual_seed(0)
    tr.export.to_onnx(models.create("resnet20", layers=[1, 1, 1]).eval(), tmp_path / "m.onnx", image_size=8)
    net = tr.from_onnx(tmp_path / "m.onnx").train()
    statistics = {name: buffer.copy() for name, buffer in net.named_buffers()}
    assert len(statistics) == 2 * 7
    optimizer = tr.optim.SGD(net.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        net.zero_grad()
        loss = ops.cross_entropy(net(Tensor(images(8, 8))), np.arange(8))
        loss.backward()
        assert all(p.grad.any() for p in net.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    for name, buffer in net.named_buffers():
        np.testing.assert_array_equal(buffer, statistics[name])


def test_what_was_imported_can_be_exported(onnx, runtime, tmp_path):
    model = randomised(models.create("resnet20", layers=[1, 1, 1])).eval()
    tr.export.to_onnx(model, tmp_path / "a.onnx", image_size=16)
    tr.export.to_onnx(tr.from_onnx(tmp_path / "a.onnx"), tmp_path / "b.onnx", image_size=16)
    x = images(3, 16)
    assert_near(run(runtime, str(tmp_path / "b.onnx"), x), run(runtime, str(tmp_path / "a.onnx"), x))
    again = deepcopy(tr.from_onnx(tmp_path / "b.onnx"))
    assert_near(again(Tensor(x)).data, model(Tensor(x)).data)


def residual_net(torch, shortcut, head):
    """Two blocks in PyTorch, the second with fewer pixels and more channels."""
    F = torch.nn.functional

    class Block(torch.nn.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(after)
            self.conv2 = torch.nn.Conv2d(after, after, 3, 1, 1, bias=False)
            self.bn2 = torch.nn.BatchNorm2d(after)
            self.downsample = None
            if before != after and shortcut == "B":
                self.downsample = torch.nn.Sequential(
                    torch.nn.Conv2d(before, after, 1, stride, bias=False), torch.nn.BatchNorm2d(after)
                )

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.downsample is not None:
                x = self.downsample(x)
            elif x.shape[1] != y.shape[1]:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
            return F.relu(y + x)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8)
            self.layers = torch.nn.Sequential(Block(8, 8, 1), Block(8, 16, 2))
            self.pool, self.dropout, self.fc = torch.nn.MaxPool2d(3, 2, 1), torch.nn.Dropout(), torch.nn.Linear(16, 5)

        def forward(self, x):
            x = self.layers(self.pool(F.relu(self.bn1(self.conv1(x)))))
            if head == "mean":
                x = x.mean((2, 3))
            elif head == "view":
                x = F.adaptive_avg_pool2d(x, 1)
                x = x.view(x.size(0), -1)
            else:
                x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
            return self.fc(self.dropout(x))

    torch.manual_seed(0)
    return Net().eval()


def torch_export(torch, net, path, *, fixed=False, plain=False, opset=17):
    """By the exporter that needs no other package. `plain` leaves batch norm and constants as they are."""
    how = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False} if plain else {}
    axes = None if fixed else {"x": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is old, and that the net asks for shapes
        torch.onnx.export(
            net, (torch.zeros(2, 3, 16, 16),), str(path), dynamo=False, input_names=["x"], dynamic_axes=axes,
            opset_version=opset, **how,
        )  # fmt: skip


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("plain", [False, True], ids=["folded", "plain"])
@pytest.mark.parametrize(("shortcut", "head"), [("A", "mean"), ("A", "view"), ("B", "flatten"), ("B", "view")])
def test_what_pytorch_exported_is_understood(torch, onnx, runtime, tmp_path, shortcut, head, plain, opset):
    net, path = residual_net(torch, shortcut, head), tmp_path / "m.onnx"
    torch_export(torch, net, path, plain=plain, opset=opset)
    found = tr.from_onnx(path)
    for n in (1, 5):
        x = images(n, 16)
        assert_near(found(Tensor(x)).data, run(runtime, str(path), x))
        assert_near(found(Tensor(x)).data, net(torch.from_numpy(x)).detach().numpy())
    torch_export(torch, net, path, fixed=True, plain=plain, opset=opset)  # for two images: ours takes any number
    assert_near(tr.from_onnx(path)(Tensor(x)).data, net(torch.from_numpy(x)).detach().numpy())


def test_equal_arrays_that_pytorch_saved_once_are_trained_apart(torch, onnx, tmp_path):
    """All batch norms of a new net have the same numbers, and PyTorch says Identity of the first."""
    net = residual_net(torch, "B", "mean")
    torch_export(torch, net, tmp_path / "m.onnx", plain=True)
    found = tr.from_onnx(tmp_path / "m.onnx")
    state = {name: t.numpy() for name, t in net.state_dict().items() if "num_batches" not in name}
    assert {n: a.shape for n, a in found.state_dict().items()} == {n: a.shape for n, a in state.items()}
    for name, array in found.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    arrays = [array for _, array in found.named_arrays()]
    assert len({array.ctypes.data for array in arrays}) == len(arrays)
    x, labels = images(4, 16), np.arange(4)
    ops.cross_entropy(found(Tensor(x)), labels).backward()
    torch.nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(labels)).backward()
    for name, theirs in net.named_parameters():  # in float32, through four layers backward: ten times forward's
        assert_near(dict(found.named_parameters())[name].grad, theirs.grad.numpy(), 1e-4)


# ---------------------------------------------------------------- one operator
def graph(onnx, nodes, arrays=(), *, shape=("n", 4, 6, 6), kind=None, opset=17):
    """The content of a file: nodes are (operator, inputs, output, options), arrays have names."""
    kind = kind or onnx.TensorProto.FLOAT
    made = [onnx.helper.make_node(op, list(ins), [o], f"the {op}", **options) for op, ins, o, options in nodes]
    initialisers = [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in dict(arrays).items()]
    x, y = (onnx.helper.make_tensor_value_info(name, kind, lengths) for name, lengths in (("x", shape), ("y", None)))
    file = onnx.helper.make_model(
        onnx.helper.make_graph(made, "g", [x], [y], initialisers),
        opset_imports=[onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    return onnx.shape_inference.infer_shapes(file).SerializeToString()  # an output must have a shape


RNG = np.random.default_rng(2)
W, B = RNG.standard_normal((6, 4, 3, 3)).astype(F4), RNG.standard_normal(6).astype(F4)
V, M = RNG.uniform(0.5, 2, 4).astype(F4), RNG.standard_normal((6, 5)).astype(F4)
I8 = np.int64
FLAT = ("n", 6)

CASES = [  # operator, arrays beside x, options, shape of x, opset
    ("Conv", [W, B], {"pads": [1, 2, 1, 2], "strides": [2, 1], "dilations": [1, 2]}, None, 17),
    ("Conv", [W[:, :2]], {"group": 2, "kernel_shape": [3, 3]}, None, 17),
    ("BatchNormalization", [V, V - 1, V - 2, V + 1], {"epsilon": 0.01, "momentum": 0.5}, None, 17),
    ("MaxPool", [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 0]}, None, 17),
    ("MaxPool", [], {"kernel_shape": [2, 2]}, None, 13),
    ("AveragePool", [], {"kernel_shape": [3, 3], "strides": [2, 2]}, None, 17),
    ("AveragePool", [], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, None, 20),
    ("GlobalAveragePool", [], {}, None, 17),
    ("Gemm", [M.T.copy(), B[:5]], {"transB": 1}, FLAT, 17),
    ("Gemm", [M, B[:5]], {"alpha": 0.5, "beta": 3.0}, FLAT, 17),
    ("Gemm", [M], {}, FLAT, 17),
    ("Gemm", [M, B[:1].reshape(1, 1)], {}, FLAT, 17),
    ("MatMul", [M], {}, FLAT, 17),
    ("Add", [V[:, None, None]], {}, None, 17),
    ("Sub", [V[:, None, None]], {}, None, 17),
    ("Mul", [F4(2)], {}, None, 17),
    ("Div", [V[:, None, None]], {}, None, 17),
    ("Neg", [], {}, None, 17),
    ("Max", [F4(0.2), V[:, None, None] - 1], {}, None, 17),
    ("Relu", [], {}, None, 17),
    ("Sigmoid", [], {}, None, 17),
    ("Tanh", [], {}, None, 17),
    ("Exp", [], {}, None, 17),
    ("Log", [], {}, None, 17),
    ("Sqrt", [], {}, None, 17),
    ("Softmax", [], {}, FLAT, 17),
    ("Softmax", [], {"axis": 1}, None, 13),
    ("LogSoftmax", [], {"axis": 1}, FLAT, 17),
    ("ReduceMean", [], {"axes": [2, 3], "keepdims": 0}, None, 17),
    ("ReduceMean", [np.array([-1, -2])], {}, None, 18),
    ("Dropout", [F4(0.5), np.array(False)], {}, None, 17),
    ("Identity", [], {}, None, 17),
    ("Flatten", [], {}, None, 17),
    ("Reshape", [np.array([0, -1, 12])], {}, None, 17),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}, None, 17),
    ("Squeeze", [np.array([1, -1])], {}, ("n", 1, 6, 1), 17),
    ("Unsqueeze", [np.array([1, -1])], {}, FLAT, 17),
    ("Concat", ["x", "x"], {"axis": 1}, None, 17),
    ("Slice", [np.array([1, 0]), np.array([4, 2**62]), np.array([-1, 1]), np.array([2, 3])], {}, None, 17),
    ("Slice", [np.array([0, -2]), np.array([2**62, 2**62])], {}, None, 17),
    ("Pad", [np.array([0, 1, 2, 0, 0, 3, 0, 1]), F4(1.5)], {}, None, 17),
    ("Pad", [np.array([1, 2, 0, 3]), "", np.array([3, 1])], {"mode": "constant"}, None, 18),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_each_operator_is_what_onnxruntime_makes_of_it(onnx, runtime, tmp_path, case):
    op, others, options, shape, opset = case
    arrays = {f"a{i}": a for i, a in enumerate(others) if not isinstance(a, str)}
    inputs = ["x", *(a if isinstance(a, str) else f"a{i}" for i, a in enumerate(others))]
    content = graph(onnx, [(op, inputs, "y", options)], arrays, shape=shape or ("n", 4, 6, 6), opset=opset)
    (tmp_path / "m.onnx").write_bytes(content)
    net = tr.from_onnx(tmp_path / "m.onnx")
    for n in (1, 3):
        x = RNG.standard_normal((n, *(shape or (0, 4, 6, 6))[1:])).astype(F4)
        x = np.abs(x) if op in ("Log", "Sqrt") else x
        assert_near(net(Tensor(x)).data, run(runtime, content, x))


def test_every_operator_has_a_case():
    shapes_alone = {"Shape", "Gather"}  # of what PyTorch exports
    assert {case[0] for case in CASES} | shapes_alone == set(OPERATORS)


@settings(max_examples=settings().max_examples // 4)  # each makes a session
@given(
    conv_problems(F4, max_size=8), st.sampled_from([(1, 1), (2, 1), (2, 2)]), st.integers(0, 2), st.integers(1, 2),
)  # fmt: skip
def test_any_convolution(onnx, runtime, tmp_path_factory, p, stride, pad, dilation):
    x, w = p.x, p.weight
    reach = [dilation * (k - 1) + 1 for k in w.shape[2:]]
    assume(all(n + 2 * pad >= r for n, r in zip(x.shape[2:], reach, strict=True)) and w.shape[1] == x.shape[1])
    options = {"pads": [pad] * 4, "strides": stride, "dilations": [dilation] * 2}
    content = graph(
        onnx, [("Conv", ["x", "w"], "y", options)], {"w": np.ascontiguousarray(w)}, shape=("n", *x.shape[1:])
    )
    path = tmp_path_factory.mktemp("conv") / "m.onnx"
    path.write_bytes(content)
    expected = run(runtime, content, np.ascontiguousarray(x))
    # sums may cancel: relative to what they were summed from
    scale = np.linalg.norm(x) * np.linalg.norm(w)
    assert np.linalg.norm(tr.from_onnx(path)(Tensor(x)).data - expected) <= 1e-5 * scale


def test_an_array_with_two_roles_is_trained_in_one(onnx, tmp_path):
    """Scale and variance of a batch norm share an array: a step may not change the variance."""
    bn = ("BatchNormalization", ["x", "one", "zero", "zero", "one"], "y", {})
    path = tmp_path / "m.onnx"
    path.write_bytes(graph(onnx, [bn], {"one": np.ones(4, F4), "zero": np.zeros(4, F4)}))
    net = tr.from_onnx(path)
    assert [name for name, _ in net.named_parameters()] == ["one", "zero"]
    assert [name for name, _ in net.named_buffers()] == [
        "zero of the BatchNormalization",
        "one of the BatchNormalization",
    ]
    net(Tensor(images(2, 6, 4))).sum().backward()
    tr.optim.SGD(net.parameters(), lr=0.1).step()
    np.testing.assert_array_equal([b[0] for b in net.buffers()], [0, 1])
    assert not np.array_equal(net.state_dict()["zero"], np.zeros(4))


def test_a_constant_is_not_trained(onnx, tmp_path):
    scale = onnx.numpy_helper.from_array(np.array([2], F4))
    nodes = [("Constant", [], "c", {"value": scale}), ("Mul", ["x", "c"], "z", {}), ("Mul", ["z", "w"], "y", {})]
    (tmp_path / "m.onnx").write_bytes(graph(onnx, nodes, {"w": F4(3)}))
    net = tr.from_onnx(tmp_path / "m.onnx")
    assert [name for name, _ in net.named_parameters()] == ["w"]
    np.testing.assert_array_equal(net(Tensor(images(2, 6, 4))).data, images(2, 6, 4) * 2 * 3)


def test_values_are_dropped_after_their_last_use(onnx, tmp_path):
    tr.export.to_onnx(models.create("resnet20", layers=[1, 1, 1]).eval(), tmp_path / "m.onnx", image_size=8)
    steps = tr.from_onnx(tmp_path / "m.onnx").steps
    dropped = [name for step in steps for name in step.last]
    assert sorted(dropped) == sorted(["images", *(step.output for step in steps[:-1])])
    for i, step in enumerate(steps):
        assert not {*step.last} & {name for later in steps[i + 1 :] for name in later.inputs}


def test_images_of_another_shape_are_refused(onnx, tmp_path):
    """Else a Reshape to a fixed length could take pixels for images."""
    nodes = [("Reshape", ["x", "shape"], "y", {})]
    (tmp_path / "m.onnx").write_bytes(graph(onnx, nodes, {"shape": np.array([-1, 144])}, shape=("n", 4, 6, "w")))
    net = tr.from_onnx(tmp_path / "m.onnx")
    assert net(tr.zeros(3, 4, 6, 6)).shape == (3, 144)
    for wrong in [(3, 4, 12, 6), (3, 2, 6, 6), (4, 6, 6)]:
        with pytest.raises(ValueError, match=r"x: got shape \(.*\), expected \(N, 4, 6, any\), as the file has it"):
            net(tr.zeros(wrong))
    with pytest.raises(ValueError, match="reshape") as error:
        net(tr.zeros(1, 4, 6, 5))
    assert error.value.__notes__ == ["in node 'the Reshape' (Reshape) of the ONNX graph"]


# ---------------------------------------------------------------- files that cannot be held
X = ["x"]
ASYMMETRIC = {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1]}
REFUSED = {  # nodes, arrays, options of `graph`, message
    "operator": (
        [("Erf", X, "y", {})], {}, {}, r"node 'the Erf' \(Erf\): operator Erf is not supported, expected one of Add",
    ),
    "domain": (
        [("Inverse", X, "y", {"domain": "com.microsoft"})], {}, {}, r"operator com.microsoft.Inverse is not supported",
    ),
    "opset": ([("Relu", X, "y", {})], {}, {"opset": 12}, r"opset: got 12, expected 13 to 21: convert it, by onnx"),
    "pads": ([("MaxPool", X, "y", ASYMMETRIC)], {}, {}, r"\(MaxPool\): pads: got \(0, 0, 1, 1\), expected the same"),
    "auto_pad": (
        [("MaxPool", X, "y", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"})], {}, {},
        r"auto_pad: got SAME_UPPER, expected NOTSET or VALID",
    ),
    "ceil_mode": (
        [("MaxPool", X, "y", {"kernel_shape": [3, 3], "ceil_mode": 1})], {}, {}, r"ceil_mode: got 1, expected 0"
    ),
    "padding that is not counted": (
        [("AveragePool", X, "y", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})], {}, {}, r"count_include_pad: got 0",
    ),
    "one dimension": (
        [("MaxPool", X, "y", {"kernel_shape": [3], "strides": [1]})], {}, {"shape": ("n", 4, 6)},
        r"strides: got \(1,\), pads",
    ),
    "axis": ([("Flatten", X, "y", {"axis": 2})], {}, {}, r"\(Flatten\): axis: got 2, expected 1"),
    "mode": (
        [("Pad", ["x", "p"], "y", {"mode": "edge"})], {"p": np.ones(8, I8)}, {}, r"mode: got edge, expected constant",
    ),
    "part of a shape": (
        [("Shape", X, "s", {"end": 1}), ("Reshape", ["x", "s"], "y", {})], {}, {}, r"\(Shape\): end: an option",
    ),
    "dropout": (
        [("Dropout", ["x", "r", "t"], "y", {})], {"r": F4(0.5), "t": np.array(True)}, {},
        r"\(Dropout\): training_mode: got true",
    ),
    "statistics": (
        [("Relu", ["v"], "r", {}), ("BatchNormalization", ["x", "v", "v", "v", "r"], "y", {})], {"v": V}, {},
        r"\(BatchNormalization\): its statistics 'r' are computed by the graph",
    ),
    "float16": (
        [("Add", ["x", "h"], "y", {})], {"h": np.ones(6, np.float16)}, {},
        r"initialiser 'h': got FLOAT16, expected FLOAT",
    ),
    "images first": (
        [("Gemm", ["x", "m"], "y", {"transA": 1})], {"m": M}, {"shape": (6, 6)}, r"\(Gemm\): transA: got 1, expected 0",
    ),
    "half images": ([("Relu", X, "y", {})], {}, {"kind": 10}, r"input 'x': got FLOAT16, expected FLOAT or DOUBLE"),
    "no shape": ([("Relu", X, "y", {})], {}, {"shape": ()}, r"input 'x': has no shape, expected \(N, C, H, W\)"),
    "unknown input": ([("Add", ["x", "z"], "y", {})], {}, {}, r"not a valid ONNX model"),
    "wrong shapes": ([("MatMul", ["x", "m"], "y", {})], {"m": M[1:]}, {"shape": FLAT}, r"not a valid ONNX model"),
    "constant": ([("Identity", ["v"], "y", {})], {"v": V}, {}, r"output 'y': does not depend on the input"),
    "large": (
        [("ConstantOfShape", ["s"], "c", {}), ("Add", ["x", "c"], "y", {})], {"s": np.array([2**40])},
        {"shape": ("n", 1)},
        r"\(ConstantOfShape\): makes more than 1,000,000 numbers",
    ),
    "cast": ([("Cast", X, "y", {"to": 1})], {}, {}, r"operator Cast is supported only for constants"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_held_is_named(onnx, tmp_path, case):
    nodes, arrays, options, message = REFUSED[case]
    (tmp_path / "m.onnx").write_bytes(graph(onnx, nodes, arrays, **options))
    with pytest.raises(OnnxError, match=rf"(?s)m\.onnx: .*{message}"):
        tr.from_onnx(tmp_path / "m.onnx")


def test_numbers_in_another_file_are_refused(onnx, tmp_path):
    content = graph(onnx, [("Conv", ["x", "w"], "y", {})], {"w": W})
    model = onnx.load_model_from_string(content)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(OnnxError, match=r"initialiser 'w': its numbers are in another file; onnx\.load reads both"):
        tr.from_onnx(tmp_path / "m.onnx")


def test_files_that_are_none(onnx, tmp_path):
    with pytest.raises(OnnxError, match=r"nowhere\.onnx: no such file"):
        tr.from_onnx(tmp_path / "nowhere.onnx")
    with pytest.raises(OnnxError, match="cannot be read"):
        tr.from_onnx(tmp_path)
    for i, content in enumerate([b"", b"PK\x03\x04 a pickle", b"\x80\x02}", b"hello", bytes(100)]):
        path = tmp_path / f"{i}.onnx"
        path.write_bytes(content)
        with pytest.raises(OnnxError, match=rf"{i}\.onnx: not an ONNX file"):
            tr.from_onnx(path)


def test_a_damaged_file_never_does_worse_than_say_so(onnx, tmp_path):
    nodes = [("Conv", ["x", "w"], "z", {"pads": [1] * 4}), ("Reshape", ["z", "s"], "y", {})]
    content = graph(onnx, nodes, {"w": W, "s": np.array([0, -1])})
    path, rng, refused = tmp_path / "m.onnx", np.random.default_rng(0), 0
    for trial in range(300):
        damaged = bytearray(content)
        if trial % 3 == 0:
            damaged = damaged[: rng.integers(len(damaged))]
        else:  # the weights are most of it: the rest is before and after them
            place = rng.integers(200) - 100
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            tr.from_onnx(path)
        except OnnxError:
            refused += 1
    assert refused > 100


def test_without_onnx_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"needs the package onnx: pip install 'tinyres\[onnx\]'"):
        tr.from_onnx(tmp_path / "m.onnx")


# ---------------------------------------------------------------- HTML
class Page(HTMLParser):
    """Tags with their attributes, and text, of a page whose tags must match."""

    EMPTY = ("img",)

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text, self.cells = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_data(self, text):
        self.text.append(text)
        if self.open[-1] in ("td", "th"):
            self.cells.append(text)


NAMES = st.text(min_size=1, max_size=20) | st.sampled_from(
    ["<script>", "</div>", "&lt;", '"><img src=x>', "'", "a\x00b"]
)
KNOWN = {"div", "b", "span", "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "code", "img"}


def expect_harmless(page):
    """No tag but ours, no script, no colours, nothing that is fetched."""
    parsed = Page(page)
    assert {tag for tag, _ in parsed.tags} <= KNOWN
    for tag, attributes in parsed.tags:
        assert set(attributes) <= ({"alt", "src"} if tag == "img" else {"style", "open"})
        assert "color" not in attributes.get("style", "")
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    return parsed


@given(st.lists(NAMES, min_size=6, max_size=6))
def test_whatever_names_say_is_shown_as_text(names):
    a, b, c, d, e, f = names
    below = html.Part(b, c, d, [(e, (2, 3), f)], 6, [])
    module = html.of_module(html.Part("", a, "", [], 6, [below]))
    run = html.of_run(a, {b: c}, {}, [{d: 1.5, e: 2}], curves=b"\x89PNG")
    for page, expected in ((module, names), (run, [a, b, c, d, e])):
        text = "".join(expect_harmless(page).text)
        for name in expected:
            assert name in text


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet20", "slim_resnet9"])
def test_a_module_is_shown_as_a_tree_with_its_counts(name):
    model = models.create(name, layers=[1, 1, 1], widths=[4, 8, 8])
    model.layer1.freeze()
    page = model._repr_html_()
    tree = ElementTree.fromstring(page)  # well-formed as XML, too
    text = "".join(expect_harmless(page).text)
    assert f"{type(model).__name__}() {sum(p.size for p in model.parameters()):,} parameters" in text
    assert [d.get("open") for d in tree.iter("details")].count("open") == 1 == int(tree.get("open") == "open")
    for module in tree.iter("details"):
        lines = ["".join(line.itertext()) for line in module.iter("div") if not line.get("style")]
        arrays = [line for line in lines if re.fullmatch(r"\w+ \([\d, ]*\) (frozen)?", line)]
        listed = sum(int(np.prod(literal_eval(line[line.index("(") :].removesuffix("frozen")))) for line in arrays)
        assert module.find("summary/span").text == f"{listed:,} parameters"  # of all that are in it and below
    frozen = sum(1 for span in tree.iter("span") if span.text == "frozen")
    assert frozen == len(list(model.layer1.parameters()))


def test_a_small_tensor_is_shown_by_its_numbers():
    page = expect_harmless(Tensor([[1.5, -2.0], [np.nan, 1e10]], requires_grad=True)._repr_html_())
    assert page.cells == ["1.5", "-2", "nan", "1e+10"]
    assert "".join(page.text).startswith("Tensor (2, 2) float32, requires_grad")
    assert expect_harmless(Tensor(np.float64(0.25))._repr_html_()).cells == ["0.25"]
    assert "no numbers" in Tensor(np.zeros((0, 3)))._repr_html_()


@given(shapes(min_dims=3, max_dims=4), st.sampled_from([F4, F8]), st.integers(0, 3), seeds)
def test_a_large_tensor_is_shown_by_a_summary(shape, dtype, wrong, seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape).astype(dtype)
    a.reshape(-1)[rng.permutation(a.size)[:wrong]] = rng.choice([np.nan, np.inf, -np.inf])
    cells = expect_harmless(Tensor(a)._repr_html_()).cells
    found = dict(zip(cells[: len(cells) // 2], map(float, cells[len(cells) // 2 :]), strict=True))
    good = a[np.isfinite(a)].astype(F8)
    expected = {"min": np.min, "mean": np.mean, "max": np.max} if good.size else {}
    expected = {name: f(good) for name, f in expected.items()}
    if good.size > 1:
        expected["std"] = Tensor(good).std().item()
    if good.size < a.size:
        expected["not finite"] = a.size - good.size
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-12)  # five digits are shown; a mean may cancel


def test_a_run_shows_what_is_not_the_default_and_every_epoch():
    config, default = (asdict(tr.train.Config(**options)) for options in ({"epochs": 3, "model": "resnet32"}, {}))
    history = [{"epoch": 1, "train_loss": 2.345678}, {"epoch": 2, "train_loss": 1.5, "validation_accuracy": 0.25}]
    page = expect_harmless(html.of_run("runs/<1>", config, default, history, curves=b"\x89PNG"))
    assert "runs/<1>" in page.text
    asked, measured = page.cells[:4], page.cells[4:]
    assert asked == ["model", "epochs", "resnet32", "3"]
    assert measured == ["epoch", "train_loss", "validation_accuracy", "1", "2.3457", "2", "1.5", "0.25"]
    (picture,) = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert base64.b64decode(picture.split(",")[1]) == b"\x89PNG"
    fresh = expect_harmless(html.of_run("runs/2", default, default, []))
    assert "".join(fresh.text) == "Run runs/2the default configuration"
