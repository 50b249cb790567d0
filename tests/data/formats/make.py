"""How the runs in this folder were made: each by the last commit that wrote its format of checkpoints.

    git archive COMMIT | tar -x -C TREE
    python tests/data/formats/make.py TREE tests/data/formats/format-N

The commits are 169bad6 (format 1), 8f65653 (format 2) and 6045662 (the first of format 3, without the later settings).
A new format needs a new folder.
"""

import json
import sys
from pathlib import Path

tree, out = sys.argv[1], Path(sys.argv[2])
sys.path.insert(0, tree)

import numpy as np  # noqa: E402

import tinyres as tr  # noqa: E402
from tinyres import export, models, train  # noqa: E402

assert Path(tr.__file__).parents[1] == Path(tree).resolve()
tr.use_backend("reference").__enter__()
models.FAMILY["tiny"] = dict(block=models.BasicBlock, layers=[1, 1], widths=(2, 4), shortcut="A", num_classes=10)
train.DATASETS["shapes"] = (
    lambda split: tr.data.shapes({"train": 24}.get(split, 8), split, size=16),
    tr.data.SHAPES_CLASSES,
)
train.curves = lambda history, title: None
options = dict(dataset="shapes", model="tiny", epochs=2, batch_size=8, validation=8, lr=0.05)
run = train.Run(train.Config(**options), out)
run.fit(None)
for name in ("previous.safetensors", "curves.png", "times.json"):
    (out / name).unlink(missing_ok=True)
x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
export.to_onnx(run.model.eval(), out / "net.onnx", image_size=16)
logits = run.model(tr.Tensor(x)).data  # those of last.safetensors
(out / "logits.json").write_text(json.dumps(logits.tolist()) + "\n")
