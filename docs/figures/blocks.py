"""Residual blocks, with the operations, shapes and weights recorded in a run of each."""

import numpy as np
from figures.svg import Drawing

import tinyres as tr

STEP, WIDE = 52, 216


def _column(drawing: Drawing, x: float, title: str, block: tr.nn.Module, image: tr.Tensor) -> None:
    """Draw one block from top to bottom, with the shortcut beside it."""
    seen, module = [], {name: m for name, m in block.named_modules() if name}
    handles = [
        m.register_forward_hook(lambda m, inputs, y, name=name: seen.append((name, y.shape)))
        for name, m in module.items()
    ]
    block(image)
    for handle in handles:
        handle.remove()
    drawing.text(x, 14, title, "strong")
    top = before = drawing.box(x, 44, [("value", f"x: {image.shape[1]} channels")], "soft")
    y, last = 44, [name for name, _ in seen][-1]
    for name, shape in seen:
        if not isinstance(conv := module[name], tr.nn.Conv2d):
            continue
        y += STEP + 14
        side = conv.weight.shape[2]
        lines = [("", f"{side} × {side} convolution, {shape[1]}"), ("note", f"{conv.weight.size:,} weights")]
        box = drawing.box(x, y, lines)
        drawing.arrow(before, box)
        y += STEP
        final = module[last] is module[name.replace("conv", "bn")]
        norm = drawing.box(x, y, [("", "batch norm" if final else "batch norm, ReLU")])
        drawing.arrow(box, norm)
        before = norm
    y += STEP
    plus = drawing.box(x, y, [("strong", "+")])
    drawing.arrow(before, plus)
    drawing.way_round(top, plus, x + WIDE / 2, "x")
    end = drawing.box(x, y + STEP, [("", "ReLU")])
    drawing.arrow(plus, end)
    drawing.height = max(drawing.height, y + STEP + 24)


def both() -> str:
    """A basic block of 64 channels and a bottleneck of 256, which cost about the same (He et al., figure 5)."""
    drawing = Drawing(520, 0, "A basic block and a bottleneck, from top to bottom, each with its shortcut")
    rng = np.random.default_rng(0)
    for x, title, kind, channels in (
        (100, "basic block", tr.models.BasicBlock, 64),
        (370, "bottleneck", tr.models.Bottleneck, 256),
    ):
        image = tr.Tensor(rng.standard_normal((1, channels, 8, 8)).astype(np.float32))
        _column(drawing, x, title, kind(channels, 64), image)
    return str(drawing)
