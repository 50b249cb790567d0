"""The pages for stepping through two networks, written to the site at the end of a build."""

from pathlib import Path

import numpy as np

import tinyres as tr
from tinyres.study import explain, page


def step_through(app, exception):
    """Write the pages that explain.md links to. Like the output of notebooks, they are made by this version."""
    if exception or app.builder.format != "html":
        return
    folder, classes = Path(app.outdir, "explain"), tr.data.SHAPES_CLASSES
    folder.mkdir(exist_ok=True)
    (image,), (label,) = tr.data.shapes(1, "test", seed=0, size=16)
    about = f"random weights; a {classes[label]} of the built-in shapes; batch norm with the image's own statistics"
    for name, layers, shortcut in (("two-blocks", [1, 1], "A"), ("small-resnet", [2, 2, 2], "B")):
        tr.manual_seed(0)
        widths = (4, 8, 16)[: len(layers)]
        net = tr.models.ResNet(tr.models.BasicBlock, layers, widths=widths, shortcut=shortcut, num_classes=len(classes))
        passes = explain.explain(net, ((image / 255 - 0.5) / 0.25).astype(np.float32), int(label))
        html = page.render(passes, title=name.replace("-", " "), about=about, picture=image, classes=classes)
        (folder / f"{name}.html").write_text(html, encoding="utf-8")


def setup(app):
    app.connect("build-finished", step_through)
    return {"parallel_read_safe": True}
