"""Files for TensorBoard."""

from collections import Counter
from pathlib import Path
from typing import Any

from tinyres import extras
from tinyres.callback import Callback, Logs, Training
from tinyres.nn import Module
from tinyres.parallel.world import world
from tinyres.tape import Array, Node, topological_order
from tinyres.tensor import Tensor

MOST = 100_000  # at most this many numbers of an array go into a histogram


class TensorBoard(Callback):
    """Write files for ``tensorboard --logdir FOLDER``.

    They have the loss and learning rate of each step, the records of epochs, and histograms of weights and gradients.

    Parameters
    ----------
    folder : str or Path
    histograms : int
        Write histograms every this many epochs; 0 for none.
    graph : bool
        Whether to write the network's graph from the tape, too: its operations by module, with output shapes.

    Raises
    ------
    ImportError
        If tensorboardX is not installed; the message names the command that installs it.

    Notes
    -----
    Gradients are those of the epoch's last batch. For an array of more than 100,000 numbers, about 100,000 numbers at
    equal distances are used. A resumed run adds a file to the folder, and TensorBoard shows both files as one run.

    Examples
    --------
    >>> import tinyres as tr
    >>> board = tr.callbacks.TensorBoard("runs/board")  # doctest: +SKIP
    >>> trainer = tr.Trainer("resnet20", callbacks=[board])  # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, *, histograms: int = 1, graph: bool = True) -> None:
        if histograms < 0:
            raise ValueError(f"histograms: got {histograms}, expected 0 or more")
        tensorboardX = extras.find("tensorboardX", "TensorBoard: tensorboardX is not installed", "tensorboard")
        self.open, self.folder = tensorboardX.SummaryWriter, Path(folder)
        self.histograms, self.graph = histograms, graph
        self.writer: Any = None

    def on_train_begin(self, training: Training) -> None:
        if world().rank:
            return
        again = training.step + 1 if training.step else None
        self.writer = self.open(str(self.folder), purge_step=again, filename_suffix=f".{training.step}")
        if not training.step:
            config = "\n".join(f"    {name} = {value!r}" for name, value in vars(training.config).items())
            self.writer.add_text("configuration", config, 0)
        if self.graph and not training.step:
            x, *_ = next(training.loader.epoch(0))
            self.writer.file_writer.add_event(_graph(training.model, x[:1]))

    def on_batch_end(self, training: Training, logs: Logs) -> None:
        if self.writer is None:  # only the first process writes
            return
        for name in ("loss", "lr"):
            self.writer.add_scalar(f"step/{name}", logs[name], training.step)

    def on_epoch_end(self, training: Training, logs: Logs) -> None:
        if self.writer is None:
            return
        for name, value in logs.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(f"epoch/{name}", value, training.step)
        if self.histograms and training.epoch % self.histograms == 0:
            for name, parameter in training.model.named_parameters():
                self.writer.add_histogram(f"weights/{name}", _some(parameter.data), training.step)
                if parameter.grad is not None:
                    self.writer.add_histogram(f"gradients/{name}", _some(parameter.grad), training.step)
        self.writer.flush()

    def teardown(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def _some(array: Array) -> Array:
    flat = array.reshape(-1)
    return flat[:: -(-flat.size // MOST)]


def _graph(model: Module, images: Array) -> Any:
    """The operations of a network, grouped by modules."""
    from tensorboardX.proto.attr_value_pb2 import AttrValue
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.graph_pb2 import GraphDef
    from tensorboardX.proto.node_def_pb2 import NodeDef
    from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboardX.proto.versions_pb2 import VersionDef

    nodes = [NodeDef(name="images", op="Input")]
    for name, op, inputs, shape in _operations(model, images):
        dims = [TensorShapeProto.Dim(size=size) for size in shape]
        shapes = AttrValue(list=AttrValue.ListValue(shape=[TensorShapeProto(dim=dims)]))
        nodes.append(NodeDef(name=name, op=op, input=inputs, attr={"_output_shapes": shapes}))
    return Event(graph_def=GraphDef(node=nodes, versions=VersionDef(producer=22)).SerializeToString())


def _operations(model: Module, images: Array) -> list[tuple[str, str, list[str], tuple[int, ...]]]:
    """Name, kind, names of inputs and output shape of each operation in a forward pass, from the tape.

    It is a separate function, since the frame with the imports may live longer, and would keep the graph in memory.
    """
    x, was_training = Tensor(images, requires_grad=True), model.training
    logits = model.eval()(x)
    model.train(was_training)
    names, taken = {id(x): "images"}, Counter[str]()
    found = []
    for node in topological_order(logits._node):
        if not isinstance(node, Node):
            continue  # a parameter
        name = "/".join([*filter(None, node.module.split(".")), node.name])
        taken[name] += 1
        names[id(node)] = name + (f"_{taken[name]}" if taken[name] > 1 else "")
        inputs = [names[id(parent)] for parent in node.parents if id(parent) in names]
        found.append((names[id(node)], node.name, inputs, node.shape))
    return found
