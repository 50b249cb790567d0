"""Programs that tests start under mpiexec: `processes.py NAME ...`.

Environment variables put faults into `tinyres ...`: of process R, or of all (`*`), at step N.

=================  ==============================================================
VICTIM=R@N         is killed
FAIL=R@N           raises an error that a user can cause
CRASH=R@N          raises one that nobody expects
SIGNAL=R@N         gets SIGTERM
OTHER_SIMD=R       has other instructions
OTHER_VERSION=R    is of another version
FULL=R             has a full disk
=================  ==============================================================
"""

import json
import os
import signal
import sys

import numpy as np
import pytest
import runs

import tinyres as tr
from tinyres import machine, train
from tinyres.parallel.exchange import Exchange, Shards
from tinyres.parallel.launch import launch
from tinyres.parallel.meeting import Meeting
from tinyres.parallel.world import World
from tinyres.parallel.world import world as the_world


def say(line):
    """A whole line at once, so that those of several processes do not mix."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def exchange():
    tr.parallel.init()
    world = the_world()
    rng = np.random.default_rng(0)  # the same everywhere
    for _ in range(20):
        count = world.size * int(rng.integers(1, 5))
        sums = [(int(rng.integers(1, 50)), rng.choice(["f4", "f8"])) for _ in range(rng.integers(1, 6))]
        shards = Shards(count, world)
        together = Exchange(shards, sums)
        alone = Exchange(Shards(count, World()), sums)
        for _ in range(5):
            parts = [[rng.standard_normal(n).astype(d) for n, d in sums] for _ in range(count)]
            for shard, arrays in enumerate(parts):
                for i, array in enumerate(arrays):
                    alone.put(i, shard, [array])
                    if shard in shards.own:
                        together.put(i, shard, [array[:1], array[1:]])
            for one, other in zip(alone.wait(), together.wait(), strict=True):
                np.testing.assert_array_equal(one, other)
    say("same")


class Counting:
    """A channel that counts the bytes that this process sends to others."""

    def __init__(self, channel):
        self.channel, self.sent = channel, 0

    def Ialltoallv(self, sent, received):
        array, counts = sent
        self.sent += array.itemsize * (sum(counts) - counts[self.channel.rank])
        return self.channel.Ialltoallv(sent, received)

    def Iallgather(self, sent, total):
        self.sent += sent.nbytes * (self.channel.size - 1)
        return self.channel.Iallgather(sent, total)


def volume():
    """Of 2 (P - 1) / P of the gradients, and no more, for any number of shards that have P equal subtrees."""
    tr.parallel.init()
    world, size = the_world(), 960
    for each in (1, 2, 4):
        channels = tuple(Counting(world.channel()) for _ in range(2))
        shards = Shards(each * world.size, world)
        sums = Exchange(shards, [(size, "f4")], channels)
        for shard in shards.own:
            sums.put(0, shard, [np.full(size, shard, "f4")])
        np.testing.assert_array_equal(sums.wait(), [np.full(size, sum(range(shards.count)))])
        say(sum(channel.sent for channel in channels) / (4 * size))


def many():
    """More sums and messages than there can be communicators."""
    tr.parallel.init()
    for i in range(5000):
        assert tr.parallel.all_reduce(np.array([i]))[0] == i * tr.parallel.world_size()
    say("same")


def loop():
    if launch():
        tr.parallel.init()
    rank, processes = tr.parallel.rank(), tr.parallel.world_size()
    tr.manual_seed(rank)  # the first process's weights are everybody's
    net = tr.nn.Sequential(tr.nn.Conv2d(1, 3, 3), tr.nn.ReLU(), tr.nn.Flatten(), tr.nn.Linear(48, 2))
    net = double(net)
    gradients = tr.parallel.Gradients(net.parameters())
    optimizer = tr.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y = rng.standard_normal((8, 1, 6, 6)), rng.integers(0, 2, 8)
        own = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
        optimizer.zero_grad()
        tr.ops.cross_entropy(net(tr.Tensor(x[own])), y[own]).backward()
        gradients.mean()
        optimizer.step()
    say(json.dumps([float(v) for p in net.parameters() for v in p.data.ravel()]))


def trainer():
    """What a Trainer learns on arrays; and that it has batches, which nobody has cut, refused."""
    folder = sys.argv[2]
    if launch():
        tr.parallel.init()
    with pytest.MonkeyPatch.context() as patch:
        runs.install_tiny(patch)
        x, y = runs.pictures("train")
        saves = [tr.callbacks.CSVLogger(folder + "/a.csv"), tr.callbacks.ModelCheckpoint(folder + "/a.safetensors")]
        net = tr.Trainer("tiny", epochs=2, batch_size=12, shards=2, folder=folder + "/run", callbacks=saves)
        net.fit(x, y, validation=0.2, class_weight="balanced")
        say(json.dumps([net.history, *map(float, net.logits(x[:2]).ravel())]))
        if tr.parallel.world_size() > 1:
            with pytest.raises(ValueError, match=r"part: got a Loader of part \(0, 1\), expected"):
                tr.Trainer("tiny", epochs=1, shards=2, verbose=False).fit([(x / 255, y)])


def batch_norm():
    """Finite differences: of the sum of both processes' losses, by each element of each one's x, weight and bias."""
    tr.parallel.init()
    here = the_world()
    rng = np.random.default_rng(here.rank)
    shape = (2 + here.rank, 3, 2, 2)
    x, dy = rng.standard_normal(shape), rng.standard_normal(shape)
    same = np.random.default_rng(9)
    weight, bias = same.uniform(0.5, 1.5, 3), same.standard_normal(3)
    gather = Meeting(Shards(here.size, here))

    def loss(x, weight, bias):
        leaves = [tr.Tensor(a, requires_grad=True) for a in (x, weight, bias)]
        y = tr.ops.batch_norm(leaves[0], np.zeros(3), np.ones(3), *leaves[1:], training=True, gather=gather)
        return (y * tr.Tensor(dy)).sum(), leaves

    own, leaves = loss(x, weight, bias)
    own.backward()
    gradients = [leaf.grad for leaf in leaves]
    gradients[1:] = [tr.parallel.all_reduce(g) for g in gradients[1:]]
    h = 1e-6
    for rank in range(here.size):
        for which, size in enumerate((np.prod((2 + rank, 3, 2, 2)), 3, 3)):
            for i in range(size):
                sums = []
                for step in (h, -h):
                    moved = [a.copy() for a in (x, weight, bias)]
                    if which or rank == here.rank:  # the weight and bias are everybody's
                        moved[which].flat[i] += step
                    sums.append(tr.parallel.all_reduce(np.array([loss(*moved)[0].item()]))[0])
                if which or rank == here.rank:
                    np.testing.assert_allclose(
                        gradients[which].flat[i], (sums[0] - sums[1]) / (2 * h), rtol=1e-6, atol=1e-7
                    )
    say("same")


def shared():
    """A large array that one process makes is in the memory of both, and of neither alone."""
    tr.parallel.init()
    here, size = the_world(), 2**26

    def make():
        assert here.rank == 0
        return [np.arange(size, dtype=np.uint8), np.arange(3.0)], "text"

    before = private_bytes()
    (large, small), text = here.shared(make)
    assert (int(large.sum()), text) == (int(np.arange(size, dtype=np.uint8).sum()), "text")
    np.testing.assert_array_equal(small, [0, 1, 2])
    assert not large.flags.writeable
    here.barrier()
    assert private_bytes() - before < size / 4
    say("same")


def private_bytes():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private"))


def double(net):
    for module in [net, *net]:
        for name, p in list(module._parameters.items()):
            setattr(module, name, tr.nn.Parameter(p.data.astype("f8")))
    return net


def command():
    runs.install_tiny(pytest.MonkeyPatch())
    launched = launch()
    rank = launched.rank if launched else 0

    def is_mine(name):
        who, _, when = os.environ.get(name, "").partition("@")
        return int(when or 0) if who in (str(rank), "*") else None

    if is_mine("OTHER_SIMD") is not None:
        machine.simd = lambda: "sse2" if machine.isa.ACTIVE.name != "sse2" else "avx2"
    if is_mine("OTHER_VERSION") is not None:
        train.__version__ = "9.9"
    if is_mine("FULL") is not None:
        train.checkpoints.save = lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    step = train.Run._train_step

    def faulty(self, *arguments):
        if self.step == is_mine("VICTIM"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.step == is_mine("FAIL"):
            raise ValueError(f"fault of process {rank}")
        if self.step == is_mine("CRASH"):
            raise AssertionError(f"fault of process {rank}")
        if self.step == is_mine("SIGNAL"):
            signal.raise_signal(signal.SIGTERM)
        return step(self, *arguments)

    train.Run._train_step = faulty
    from tinyres.cli import main

    sys.argv = sys.argv[1:]
    main()


PROGRAMS = {
    "batch_norm": batch_norm,
    "exchange": exchange,
    "many": many,
    "shared": shared,
    "loop": loop,
    "trainer": trainer,
    "tinyres": command,
    "volume": volume,
}
PROGRAMS[sys.argv[1]]()
