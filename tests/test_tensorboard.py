"""What TensorBoard is given, read by its own protocol."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from support.runs import pictures

import tinyres as tr

pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: pip install 'tinyres[tensorboard]'")

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.graph_pb2 import GraphDef

pytestmark = pytest.mark.usefixtures("tiny")


def events(folder):
    """Records of a length, its checksum, the event, and its checksum."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            yield event
            data = data[16 + length :]


@pytest.fixture
def fitted(tmp_path):
    board = tr.callbacks.TensorBoard(tmp_path / "board")
    trainer = tr.Trainer("tiny", epochs=2, batch_size=12, lr=0.05, callbacks=[board], verbose=False)
    trainer.fit(*pictures("train"), validation=0.2)
    return trainer, list(events(tmp_path / "board"))


def scalars(found, tag):
    return [(e.step, v.simple_value) for e in found for v in e.summary.value if v.tag == tag]


def test_scalars_are_those_of_the_history(fitted):
    trainer, found = fitted
    for name in ("train_loss", "validation_accuracy", "lr"):
        expected = [(record["step"], np.float32(record[name])) for record in trainer.history]
        assert scalars(found, f"epoch/{name}") == expected
    steps = scalars(found, "step/loss")
    assert [step for step, _ in steps] == list(range(1, trainer.run.total_steps + 1))


def test_histograms_are_of_all_weights_and_gradients(fitted):
    trainer, found = fitted
    tags = {v.tag for e in found for v in e.summary.value if v.HasField("histo")}
    names = [name for name, _ in trainer.model.named_parameters()]
    assert tags == {f"{kind}/{name}" for kind in ("weights", "gradients") for name in names}
    last = [v.histo for e in found for v in e.summary.value if v.tag == "weights/fc.weight"][-1]
    assert last.num == trainer.model.fc.weight.size
    assert last.sum == pytest.approx(trainer.model.fc.weight.data.sum(), rel=1e-4)


def test_the_graph_has_the_shortcuts(fitted):
    _, found = fitted
    (text,) = [e.graph_def for e in found if e.graph_def]
    graph = GraphDef()
    graph.ParseFromString(text)
    nodes = {node.name: node for node in graph.node}
    assert all(source in nodes for node in graph.node for source in node.input)
    forks = [name for name in nodes if sum(name in node.input for node in graph.node) > 1]
    assert len(forks) == 2  # blocks, whose input goes two ways
    assert "conv1/conv2d" in nodes
    assert nodes["conv1/conv2d"].input == ["images"]


def test_the_graph_lets_go_of_the_weights(tmp_path):
    """Also where it is the first to import what it is written with; else EMA could not change them."""
    program = (
        "import gc, sys, tinyres as tr\n"
        "from tinyres.callbacks.tensorboard import _graph\n"
        "gc.disable()\n"
        "net = tr.models.resnet20()\n"
        "_graph(net, tr.data.shapes(1)[0].astype('f4'))\n"
        "print(all(p.data.flags.writeable for p in net.parameters()))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"


def test_a_run_that_goes_on_adds_to_it(tmp_path):
    x, y = pictures("train")

    def fit(**options):
        board = tr.callbacks.TensorBoard(tmp_path / "board", graph=False, histograms=0)
        trainer = tr.Trainer(
            "tiny", batch_size=12, folder=tmp_path / "run", callbacks=[board], verbose=False, **options
        )
        return trainer.fit(x, y, resume=True)

    fit(epochs=1)
    fit(epochs=2)
    assert [step for step, _ in scalars(events(tmp_path / "board"), "epoch/train_loss")] == [5, 10]


def test_histograms_are_from_zero_epochs_on(tmp_path):
    with pytest.raises(ValueError, match="histograms: got -1, expected 0 or more"):
        tr.callbacks.TensorBoard(tmp_path, histograms=-1)
