"""The time of making batches compared with a training step, and whether a step ever waits for a batch.

    python benchmarks/loader.py --steps 100

First, batches of 32 x 32 images are made without other work, on one thread. Then the first steps of an epoch are run,
in turns: with batches that the loader makes meanwhile, and with one batch that is already there. Waiting is the time
from the loop's request for a batch until the batch is there.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import introduce, machine, parse, save

import tinyres as tr

KINDS: dict[str, dict[str, Any]] = {
    "crop and flip": {},
    "and cutout": {"augment": tr.data.Augment(cutout=8)},
    "and mixup": {"mix": tr.data.Mix(10, mixup=0.2)},
    "and cutmix": {"mix": tr.data.Mix(10, cutmix=1.0)},
}


def batches(batch_size: int, kind: str) -> Iterator[Any]:
    """Batches of as many random images as CIFAR-10 has, without end."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50_000, 3, 32, 32), np.uint8), rng.integers(0, 10, 50_000)
    how = {"augment": tr.data.Augment(), **KINDS[kind]}
    loader = tr.data.Loader(images, labels, batch_size, mean=[0.5] * 3, std=[0.25] * 3, **how)
    return (batch for epoch in itertools.count() for batch in loader.epoch(epoch))


class Steps:
    """Training steps of a network, on batches from any source."""

    def __init__(self, name: str) -> None:
        tr.manual_seed(0)
        self.model = tr.models.create(name, num_classes=10)
        self.optimizer = tr.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        self.replay = tr.Replay(self.model, lambda x, y: tr.ops.cross_entropy(self.model(x), y))

    def take(self, source: Iterator[Any], steps: int) -> tuple[float, float]:
        """Seconds of this many steps, and the seconds of waiting among them."""
        waited, start = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            x, y = next(source)
            waited += time.perf_counter() - asked
            self.optimizer.zero_grad()
            self.replay(x, y)
            self.optimizer.step()
        return time.perf_counter() - start, waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["slim_resnet9", "resnet20"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100, help="steps in each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parse(parser)
    what = {name: getattr(args, name) for name in ("batch_size", "steps", "turns")}
    figures: dict[str, Any] = {"machine": machine(tr.num_threads()), **what, "kinds": {}}
    introduce(figures["machine"])
    print(f"median of {args.turns} turns; with one batch again and again, with the loader's batches, and of it waiting")
    for kind in KINDS:
        source = batches(args.batch_size, kind)
        first = next(source)
        alone = []
        for _ in range(args.turns * args.steps // 10):
            start = time.perf_counter()
            next(source)
            alone.append(time.perf_counter() - start)
        found: dict[str, dict[str, float]] = {}
        for name in args.models:
            steps = Steps(name)
            there = itertools.repeat(first)
            steps.take(there, 5)
            turns = [(steps.take(there, args.steps), steps.take(source, args.steps)) for _ in range(args.turns)]
            still, fed, waited = np.median([(a[0], b[0], b[1]) for a, b in turns], axis=0) / args.steps * 1e3
            found[name] = {"still_ms": still, "fed_ms": fed, "waited_ms": waited}
            print(f"{kind}, {name}: {still:.1f} ms, {fed:.1f} ms, {waited:.2f} ms", flush=True)
        figures["kinds"][kind] = {"alone_ms": 1e3 * float(np.median(alone)), "models": found}
    save(args.json, figures)


if __name__ == "__main__":
    main()
