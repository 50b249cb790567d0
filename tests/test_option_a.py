"""The shortcut without parameters: where its zeros stand, in nets made here, made before, and made by others."""

import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from support import runs

import tinyres as tr
from tinyres import checkpoints, export, models, train, verify
from tinyres.checkpoints import CheckpointError
from tinyres.models import PaddedIdentity
from tinyres.runs import read_config

X = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype("f4")


@given(st.integers(1, 6), st.integers(0, 7), st.integers(1, 9), st.integers(1, 3), st.data())
def test_old_channels_stand_between_the_new_ones(channels, new, side, stride, data):
    """Half of the new ones before, the smaller half; or as many as asked for."""
    x = np.random.default_rng(0).standard_normal((2, channels, side, side))
    before = data.draw(st.none() | st.integers(0, new))
    y = PaddedIdentity(channels, channels + new, stride, before=before)(tr.Tensor(x)).data
    first = new // 2 if before is None else before
    assert y.shape[1] == channels + new
    np.testing.assert_array_equal(y[:, first : first + channels], x[:, :, ::stride, ::stride])
    assert not y[:, :first].any()
    assert not y[:, first + channels :].any()


@pytest.mark.parametrize("before", [-1, 3])
def test_more_zeros_before_than_there_are(before):
    with pytest.raises(ValueError, match=rf"before: got {before}, expected 0 to 2, the number of new channels"):
        PaddedIdentity(4, 6, 2, before=before)


# ---------------------------------------------------------------- made by others
def others(arrays):
    """A state dict with the names of the CIFAR nets that are passed round most."""
    return {"module." + name.replace("fc.", "linear."): a for name, a in arrays.items() if "tracked" not in name}


def test_weights_by_other_names(tmp_path):
    arrays = models.resnet20().state_dict()
    safetensors.numpy.save_file(others(arrays), tmp_path / "w.safetensors")
    net = models.resnet20()
    assert models.load_weights(net, tmp_path / "w.safetensors") is None
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, arrays[name])
    hundred = models.resnet20(num_classes=100)
    with pytest.raises(CheckpointError, match=r"fc\.weight: got shape \(10, 64\), expected \(100, 64\)"):
        models.load_weights(hundred, tmp_path / "w.safetensors")
    assert "fc has 10 classes" in models.load_weights(hundred, tmp_path / "w.safetensors", replace_head=True)


def test_two_classifiers_are_refused_and_a_prefix_of_some_names_is_no_prefix(tmp_path):
    arrays = models.resnet20().state_dict()
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({**arrays, "linear.weight": arrays["fc.weight"]}, path)
    with pytest.raises(CheckpointError, match="both fc and linear, expected one classifier"):
        models.load_weights(models.resnet20(), path)
    safetensors.numpy.save_file({**arrays, "module.extra": arrays["fc.bias"]}, path)
    with pytest.raises(CheckpointError, match=r"module\.extra: unexpected"):
        models.load_weights(models.resnet20(), path)


@pytest.mark.parametrize("blocks", [3, 9])
def test_the_same_logits_as_the_nets_passed_round(tmp_path, blocks):
    """Written in PyTorch as they are, from the paper's section 4.2 and zeros on both sides, with their names."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
            self.new = o - i

        def forward(self, x):
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.new:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))
            return F.relu(y + x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
            for k, (i, o) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
                first = Block(i, o, 1 + (i < o))
                setattr(self, f"layer{k}", nn.Sequential(first, *(Block(o, o, 1) for _ in range(blocks - 1))))
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            y = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
            return self.linear(y.mean((2, 3)))

    torch.manual_seed(0)
    theirs = Net()
    theirs(torch.from_numpy(X))  # running statistics that are not those of the start
    expected = theirs.eval()(torch.from_numpy(X)).detach().numpy()
    arrays = {f"module.{name}": t.numpy() for name, t in theirs.state_dict().items()}
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    ours, before = (models.create(f"resnet{6 * blocks + 2}", shortcut=option) for option in ("A", "A-after"))
    for net in (ours, before):
        models.load_weights(net.eval(), tmp_path / "w.safetensors")
    scale = np.abs(expected).max()
    assert np.abs(ours(tr.Tensor(X)).data - expected).max() < 1e-4 * scale
    assert np.abs(before(tr.Tensor(X)).data - expected).max() > 1e-2 * scale


# ---------------------------------------------------------------- made before
@pytest.fixture
def old(tmp_path, monkeypatch):
    """A run of three epochs, stopped after two, as the version before wrote it: format 2, and nothing said of A."""
    runs.install_tiny(monkeypatch)
    folder = tmp_path / "old"

    def stop(run):
        raise train.Interrupted

    with pytest.raises(train.Interrupted):
        train.Run(runs.config(shortcut="A-after"), folder).fit(runs.Reporter(9, stop))
    for path in folder.glob("*.safetensors"):
        arrays, info = checkpoints.load(path)
        info["config"]["shortcut"] = None
        del info["model"]["options"]["shortcut"]
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "FORMAT", 2)
            checkpoints.save(path, arrays, info)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "shortcut": None}))
    return folder


def test_an_old_checkpoint_is_read_as_it_was_made(old, tmp_path):
    net, info = checkpoints.load_model(old / "last.safetensors")
    assert info["model"]["options"]["shortcut"] == info["config"]["shortcut"] == "A-after"
    made = models.create("tiny", shortcut="A-after")
    made.load_state_dict(net.state_dict())
    other = models.create("tiny")
    other.load_state_dict(net.state_dict())
    expected = made.eval()(tr.Tensor(X)).data
    np.testing.assert_array_equal(net(tr.Tensor(X)).data, expected)
    assert np.abs(other.eval()(tr.Tensor(X)).data - expected).max() > 1e-3  # the shapes are the same: nothing told
    runtime = pytest.importorskip("onnxruntime")
    export.to_onnx(net, tmp_path / "net.onnx", image_size=16)
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    found = session.run(None, {session.get_inputs()[0].name: X})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_old_run_goes_on_as_it_began_and_is_verified(old, tmp_path):
    whole, found = runs.fit(tmp_path / "whole", shortcut="A-after")
    assert verify.verify(old).stop > 0
    run = train.Run(read_config(old), old, resume=True)
    assert run.fit() == whole
    assert runs.result(old)["last.safetensors"] == found["last.safetensors"]
    assert read_config(old).shortcut == "A-after"  # now that format 3 says so
    verify.verify(old)


def test_old_weights_are_not_misread(old):
    with pytest.raises(CheckpointError, match=r"with shortcut 'A-after', .*the model with shortcut='A-after'"):
        models.load_weights(models.create("tiny"), old / "last.safetensors")
    models.load_weights(models.create("tiny", shortcut="A-after"), old / "last.safetensors")


def test_new_weights_are_not_misread_by_the_old_way(tmp_path, monkeypatch):
    runs.install_tiny(monkeypatch)
    train.Run(runs.config(epochs=1), tmp_path / "run").fit()
    with pytest.raises(CheckpointError, match="trained with shortcut 'A', "):
        models.load_weights(models.create("tiny", shortcut="A-after"), tmp_path / "run" / "last.safetensors")
    with safetensors.safe_open(tmp_path / "run" / "last.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["tinyres"])["format"] == 3  # which versions before refuse
