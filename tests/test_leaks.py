"""Nothing is left behind by a training step, whatever happens in it: by reference counting, without the collector."""

import gc
import os
import sys
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import tinyres as tr
from tinyres import Tensor, nn, ops, readonly, tape
from tinyres.kernels import memory

WARM, STEPS = 125, 400  # steps that fill what Python and NumPy keep for later, and those that must need no more

pytestmark = pytest.mark.usefixtures("one_thread", "pool_of_small_arrays")


@pytest.fixture
def pool_of_small_arrays(monkeypatch):
    monkeypatch.setattr(memory, "SMALLEST", 4 * 1024)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.MaxPool2d(2)
        self.flatten, self.fc = nn.Flatten(), nn.Linear(8 * 4 * 4, 5)

    def forward(self, x):
        h = ops.relu(self.bn(self.conv(x)))
        return self.fc(self.flatten(self.pool(h + h * 0.5)))


class Stop(Exception):
    """What goes wrong in a step."""


def stop(*_):
    raise Stop


class Training:
    """Steps of a network, some of whose activations come from the pool."""

    def __init__(self, optimizer):
        tr.manual_seed(0)
        rng = np.random.default_rng(0)
        self.net, self.x, self.y = Net(), rng.standard_normal((4, 3, 8, 8)).astype(np.float32), np.arange(4)
        self.optimizer = optimizer(self.net.parameters())

    def loss(self):
        self.optimizer.zero_grad()
        return ops.cross_entropy(self.net(Tensor(self.x)), self.y)

    def step(self):
        self.loss().backward()
        self.optimizer.step()

    def evaluate(self):
        self.net.eval()
        with tr.no_grad():
            self.loss()
        self.net.train()

    def never_backward(self):
        self.loss()

    def hooks(self):
        x = Tensor(self.x, requires_grad=True)
        h = self.net.conv(x)
        h.retain_grad()
        remove = h.register_hook(lambda gradient: gradient * 2)
        x.register_hook(lambda gradient: None)
        loss = ops.cross_entropy(self.net.fc(ops.flatten(ops.max_pool2d(h, 2))), self.y)
        loss.backward()
        remove()
        assert h.grad is not None

    def retained(self):
        loss = self.loss()
        loss.backward(retain_graph=True)
        loss.backward(retain_graph=True)

    def anomaly(self):
        with tr.detect_anomaly():
            self.step()

    def anomaly_found(self):
        loss = self.loss()
        with pytest.raises(FloatingPointError), tr.detect_anomaly():
            loss.backward(np.nan)

    def stopped_forward(self):
        fc, self.net.fc.forward = self.net.fc, stop
        with pytest.raises(Stop):
            self.loss()
        del fc.forward

    def stopped_backward(self):
        h = self.net.bn(self.net.conv(Tensor(self.x)))
        h.register_hook(stop)
        with pytest.raises(Stop):
            ops.relu(h).sum().backward()


SGD = lambda parameters: tr.optim.SGD(parameters, lr=0.01, momentum=0.9, nesterov=True)  # noqa: E731
CASES = [(name, SGD) for name in vars(Training) if not name.startswith("_") and name != "loss"]


def census():
    """Live tensors and nodes, what the tape holds, and what the pool has given."""
    found = Counter(type(thing) for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter, tape.Node))
    return found, len(readonly._locks), len(readonly._waiting), len(readonly._released), taken()


def taken():
    """Bytes of the pool that arrays have."""
    return memory._pool.held()


def blocks():
    """Pieces of memory that Python's objects are in, without dead tuples that it keeps for later, which is no leak."""
    gc.freeze()  # so that the collector, which empties those lists, finds nothing else to do
    gc.collect()
    return sys.getallocatedblocks()


def resident():
    """Bytes of memory of this process, where the system tells."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


@pytest.mark.parametrize(("what", "optimizer"), [*CASES, ("step", tr.optim.AdamW)])
def test_steps_leave_nothing_behind(what, optimizer):
    training = Training(optimizer)
    step = getattr(training, what)
    step()  # compiles, which leaves much to the collector
    gc.collect()
    gc.disable()
    try:
        for _ in range(WARM):
            step()
        pieces, before, rss = blocks(), census(), resident()  # in this order: frozen things are not counted
        for _ in range(3):  # other threads and Python's own tables may grow once; a leak is there in each round
            for i in range(STEPS):
                step()
                if i % 100 == 0:
                    assert census() == before
            assert census() == before
            pieces, grown = (now := blocks()), now - pieces
            if grown < 0.8 * STEPS:
                break
        assert grown < 0.8 * STEPS, "every step left an object behind"
        assert resident() - rss < 2**20
    finally:
        gc.enable()
    assert before[1:4] == (0, 0, 0)


def test_a_graph_that_is_never_run_dies_with_its_scope():
    training = Training(SGD)
    gc.collect()
    gc.disable()
    try:
        before = census()
        loss = training.loss()
        nodes = [weakref.ref(node) for node in tape.topological_order(loss._node) if isinstance(node, tape.Node)]
        assert len(nodes) > 7
        assert census() != before
        del loss
        assert not any(node() for node in nodes)
        assert census() == before
    finally:
        gc.enable()
