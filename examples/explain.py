"""Backprop, step by step: the inputs, results and gradients of each operation of a residual block.

    python examples/explain.py

Prints one line for each step of the backward pass of a small residual network, and writes explain.html, a page to step
through both passes. The page needs jinja2: pip install 'tinyres[report]'.
"""

from pathlib import Path

import numpy as np

import tinyres as tr
from tinyres.study import page
from tinyres.study.explain import Step, explain


def main() -> None:
    tr.manual_seed(0)
    net = tr.models.ResNet(tr.models.BasicBlock, [1, 1], widths=(8, 16), shortcut="A")
    images, labels = tr.data.shapes(1, size=16)
    x = (images[0] / 255 - 0.5) / 0.25  # (3, 16, 16)
    passes = explain(net, x.astype(np.float32), int(labels[0]))

    def name(step: Step) -> str:
        return step.module or {"input": "image"}.get(step.op, step.op)

    for step in reversed(passes.steps):
        gives = [name(passes.steps[given.step]) for given in step.inputs if given.step is not None]
        assert step.gradient is not None  # backward has reached every step
        norm = np.linalg.norm(step.gradient)
        sums = f"  (a sum of {len(step.received)})" if len(step.received) > 1 else ""
        print(f"{step.op:13} {step.module:19} |dL/dy| = {norm:8.5f}{sums}  -> {', '.join(gives) or 'the end'}")

    html = page.render(passes, title="a small residual network", picture=images[0], classes=tr.data.SHAPES_CLASSES)
    Path("explain.html").write_text(html, encoding="utf-8")
    print("Written: explain.html")


if __name__ == "__main__":
    main()
