"""A batch that takes less memory: keep only the input of each block, and compute the block again in backward.

python examples/memory.py
"""

from typing import Any

import numpy as np

import tinyres as tr
from tinyres.study import memory


def gradients(checkpoint: Any) -> Any:
    """Gradients of a function of our own; `tr.checkpoint` takes any function that can be called twice."""
    w = tr.Tensor([0.5, -1.5], requires_grad=True)
    loss = checkpoint(lambda w: tr.ops.tanh(w * w).sum(), w)
    loss.backward()
    return w.grad


def main() -> None:
    net = tr.models.resnet20()
    for step in memory.memory(net, batch_size=16, steps=1):
        print(f"{memory.name(step.segment)} in a checkpoint: at most {memory.shown(step.peak)}")

    images, labels = tr.data.shapes(32)
    x = tr.Tensor((images / 128 - 1).astype(np.float32))
    net.recompute(1)  # each block, from this call on
    tr.ops.cross_entropy(net(x), labels).backward()

    print("without:", gradients(lambda fn, *args: fn(*args)))
    print("with:   ", gradients(tr.checkpoint))


if __name__ == "__main__":
    main()
