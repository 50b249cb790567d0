"""A training step on the floors of the package, with counts from a run."""

import numpy as np
from figures.svg import Box, Drawing

import tinyres as tr


def counts() -> dict[str, int]:
    """Counts for one step of ResNet-20: called modules, operations on the tape, launched kernels."""
    images, labels = tr.data.shapes(8)
    tr.manual_seed(0)
    net, calls, recorded = tr.models.resnet20(), [], []

    class Watch:
        def recorded(self, node, inputs):
            recorded.append(node.name)

        def summed(self, node):
            pass

    handles = [m.register_forward_hook(lambda *_: calls.append(1)) for _, m in net.named_modules()]
    with tr.tape.watching(Watch()):
        tr.ops.cross_entropy(net(tr.Tensor(images) / 255), labels)
    for handle in handles:
        handle.remove()
    step = tr.Replay(net, lambda x, t: tr.ops.cross_entropy(net(x), t))
    while not step.repeats:
        net.zero_grad()
        step((images / 255).astype(np.float32), labels)
    forward = {row.name: row.multiply_adds for row in tr.models.summarize(net)}
    return {
        "modules": len(calls), "operations": len(recorded), "launches": len(step._noted.launches),
        "multiply_adds": 3 * sum(forward.values()) - forward["conv1"],  # the gradient of an image is not needed
    }  # fmt: skip


def step() -> str:
    """The floors from the loop to the kernels, with the work of a step on each."""
    n = counts()
    floors = [
        ("train, loop", "1 step: a batch, forward, backward, update"),
        ("models, nn", f"{n['modules']} modules are called"),
        ("ops", f"{n['operations']} operations compute, each with a pullback"),
        ("tape, tensor", f"{n['operations']} nodes are written, then read backward"),
        ("kernels", f"{n['launches']} launches, {n['multiply_adds'] / 1e6:.0f} million multiply-adds an image"),
    ]
    drawing = Drawing(470, 60 * len(floors), "The floors of the package, and what one step does on each")
    for i, (name, does) in enumerate(floors):
        drawing.rect(40, 60 * i + 4, 428, 50)
        drawing.text(54, 60 * i + 20, name, "strong", "start")
        drawing.text(54, 60 * i + 40, does, "", "start")
    top, bottom = Box(18, 4, 1, 1), Box(18, 60 * len(floors) - 8, 1, 1)
    drawing.arrow(top, bottom, "calls", "")
    return str(drawing)
