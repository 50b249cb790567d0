"""The networks and batches of the benchmarks, and the contenders: a training step here, and in PyTorch's modes.

PyTorch's networks are those of `tests/support/twin.py`; the tests check that they equal ours. Each library is imported
only when it is needed, since a process that measures its memory must not contain the other libraries.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import OURS, Call

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the folder of `support`

OTHERS = ("jax", "tinygrad", "mygrad")  # a step of each is in a file of its own, such as jax_rival.py
MODES = ("eager", "channels-last", "compile", "compile+channels-last")
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}


class Work(NamedTuple):
    """A network and a batch."""

    model: str
    stem: str
    image_size: int
    batch_size: int

    @property
    def classes(self) -> int:
        return 10 if self.stem == "cifar" else 1000

    def __str__(self) -> str:
        return f"{self.model}, {self.stem} stem, {self.image_size} px, batch {self.batch_size}"


WORKS = (
    Work("resnet20", "cifar", 32, 128),
    Work("resnet56", "cifar", 32, 128),
    Work("resnet18", "cifar", 32, 64),
    Work("resnet18", "imagenet", 224, 16),
    Work("resnet50", "imagenet", 224, 8),
)


# ---------------------------------------------------------------- options
def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that choose a network and a batch."""
    parser.add_argument("--model", help="resnet20 by default")
    parser.add_argument("--stem", choices=("cifar", "imagenet"), help="the model's own by default")
    parser.add_argument("--image-size", type=int, help="what the stem is for by default")
    parser.add_argument("--batch-size", type=int, help="that of the list of works by default, else 32")


def add_modes(parser: argparse.ArgumentParser, default: Sequence[str] = MODES, others: Sequence[str] = ()) -> None:
    """Options that choose the contenders."""
    text = " and ".join(["PyTorch's modes", *others]) + " that compete"
    parser.add_argument("--modes", nargs="*", choices=(*MODES, *others), default=default, help=text)


def works_of(args: argparse.Namespace, default: Sequence[Work]) -> Sequence[Work]:
    """The work that the options describe, or the default if none of them is given."""
    if not (args.model or args.stem or args.image_size or args.batch_size):
        return default
    model, stem = args.model or WORKS[0].model, args.stem
    if stem is None:
        from tinyres import models

        stem = "imagenet" if models.image_size(model) == 224 else "cifar"
    listed = next((work for work in WORKS if work[:2] == (model, stem)), None)
    size = args.image_size or (32 if stem == "cifar" else 224)
    return [Work(model, stem, size, args.batch_size or (listed.batch_size if listed else 32))]


def need_mpiexec(parser: argparse.ArgumentParser) -> str:
    """The launcher of several processes; exits with an error message if there is none."""
    from tinyres.parallel.launch import mpiexec

    if (found := mpiexec()) is None:
        parser.error("there is no mpiexec: pip install 'tinyres[mpi]'")
    return found


# ---------------------------------------------------------------- networks and batches
def batch(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Images in PyTorch's memory order, and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((work.batch_size, 3, work.image_size, work.image_size), np.float32)
    return images, rng.integers(0, work.classes, work.batch_size)


def channels_last(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) in channels-last memory, as from our loader."""
    return x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)


def our_net(work: Work) -> Any:
    import tinyres as tr

    tr.manual_seed(0)
    return tr.models.create(work.model, stem=work.stem, num_classes=work.classes)


def torch_net(work: Work) -> Any:
    import torch
    from support import twin

    torch.manual_seed(0)
    return twin.create(work.model, work.classes, stem=work.stem)


def in_mode(mode: str, net: Any, x: Any, **options: bool) -> tuple[Any, Any, Any]:
    """A network in one of MODES, its input, and the function from input to logits; options are the compiler's."""
    import torch

    if "channels-last" in mode:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    # fullgraph: an error is better than a measurement of an unnoticed fallback to eager mode
    return net, x, torch.compile(net, dynamic=False, fullgraph=True, options=options) if "compile" in mode else net


def use_threads(who: str, n: int) -> None:
    """Set the number of threads of one library. This happens at each call, since contenders may differ in it."""
    if who.startswith(OURS):
        import tinyres as tr

        if tr.num_threads() != n:  # setting it takes milliseconds
            tr.set_num_threads(n)
    elif who in OTHERS:  # they use as many as there are cores
        if n != os.cpu_count():
            raise ValueError(f"{who}: got {n} threads, expected as many as there are cores")
    else:
        import torch

        torch.set_num_threads(n)


# ---------------------------------------------------------------- a training step
def training(who: str, work: Work, threads: int) -> Call:
    """A function that takes one training step and returns the loss: forward, loss, backward and SGD's update."""
    use_threads(who, threads)
    if who in OTHERS:
        step: Call = import_module(f"{who}_rival").step_of(our_net(work), *batch(work), SGD)
        return step
    return _our_training(work, threads) if who == OURS else _torch_training(who, work, threads)


def _our_training(work: Work, threads: int) -> Call:
    import tinyres as tr

    net = our_net(work)
    optimizer = tr.optim.SGD(net.parameters(), **SGD)
    images, labels = batch(work)
    x, replay = channels_last(images), tr.Replay(net, lambda x, y: tr.ops.cross_entropy(net(x), y))

    def step() -> float:
        use_threads(OURS, threads)
        optimizer.zero_grad()
        loss = replay(x, labels)
        optimizer.step()
        return float(loss.item())

    return step


def our_step(net: Any, x: Any, labels: np.ndarray, optimizer: Any, gradients: Any = None) -> float:
    """A step. With `gradients`, several processes share the step, and each computes a part."""
    import tinyres as tr

    optimizer.zero_grad()
    loss = tr.ops.cross_entropy(net(x), labels)
    loss.backward()
    if gradients:
        gradients.mean()
    optimizer.step()
    return float(loss.item())


def _torch_training(mode: str, work: Work, threads: int) -> Call:
    import torch

    x, labels = (torch.from_numpy(a) for a in batch(work))
    net, x, forward = in_mode(mode, torch_net(work), x)
    optimizer = torch.optim.SGD(net.parameters(), fused=True, **SGD)

    def step() -> float:
        use_threads(mode, threads)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
