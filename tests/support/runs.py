"""Runs as the tests of training use them: a network of two blocks on 42 pictures of 16 pixels.

Four steps an epoch, the last batch not full.
"""

import signal

import numpy as np

import tinyres as tr
from tinyres import checkpoints, models, splits, train

SETTINGS = {"epochs": 2, "batch_size": 12, "lr": 0.05, "verbose": False}
BLACK = np.zeros((6, 3, 8, 8), np.uint8), np.arange(6) % 3
"""Images and labels where it does not matter what is in them."""


def pictures(split):
    return tr.data.shapes(50 if split == "train" else 20, split, size=16)


def install_tiny(monkeypatch):
    spec = {"block": models.BasicBlock, "layers": [1, 1], "widths": (8, 16), "shortcut": "A", "num_classes": 10}
    monkeypatch.setitem(models.FAMILY, "tiny", spec)
    monkeypatch.setitem(train.DATASETS, "shapes", (pictures, tr.data.SHAPES_CLASSES))
    monkeypatch.setattr(train, "curves", lambda history, title: None)  # drawing takes ten times as long as these epochs


def call_tiny(monkeypatch, *names):
    """Networks of these names that are quickly trained: the one of `install_tiny`, with blocks of each name's kind."""
    for name in names:
        block = models.PlainBlock if name.startswith("plain") else models.BasicBlock
        monkeypatch.setitem(models.FAMILY, name, {**models.FAMILY["tiny"], "block": block})


def data_set(n):
    """All its parts are the same n pictures of 8 pixels."""
    found = tr.data.shapes(n, size=8)
    return splits.Data(found, found, found, tr.data.SHAPES_CLASSES, *tr.data.channel_statistics(found[0]))


def config(**changes):
    options = {"dataset": "shapes", "model": "tiny", "epochs": 3, "batch_size": 12, "validation": 8, "lr": 0.05}
    return train.Config(**{**options, **changes})


def trainer(model="tiny", **changes):
    return tr.Trainer(model, **{**SETTINGS, **changes})


def bits(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


class Reporter(train.Callback):
    """Hears all, and does something after one of the steps."""

    def __init__(self, at=None, action=None):
        self.at, self.action = at, action
        self.started, self.losses, self.rates, self.images, self.epochs = 0, [], [], [], []

    def on_train_begin(self, run):
        self.started += 1

    def on_batch_end(self, run, logs):
        self.losses.append(logs["loss"])
        self.rates.append(logs["lr"])
        self.images.append(logs["images"])
        if run.step == self.at:
            self.action(run)

    def on_stopping(self, run):
        self.stopped_at = run.step

    def on_epoch_end(self, run, logs):
        self.epochs.append(logs)


def result(folder):
    """All that a run leaves behind, comparable by ==, but for the curves and the checkpoint before the last."""
    found = {"metrics": (folder / "metrics.jsonl").read_text()}
    for path in {*folder.glob("*.safetensors")} - {folder / "previous.safetensors"}:
        arrays, info = checkpoints.load(path)
        found[path.name] = info, {n: (a.dtype.str, a.shape, a.tobytes()) for n, a in arrays.items()}
    return found


def fit(folder, *callbacks, **changes):
    scores = train.Run(config(**changes), folder).fit(*callbacks)
    return scores, result(folder)


def stop(number):
    return lambda run: signal.raise_signal(number)
