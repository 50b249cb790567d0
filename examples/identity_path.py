"""ReLU after the sum, or activation first? The part of the gradient that comes through shortcuts only, by stage.

python examples/identity_path.py
"""

import tinyres as tr
from tinyres.study import identity_path


def main() -> None:
    images, labels = tr.data.shapes(16)
    mean, std = tr.data.channel_statistics(images)
    x, y = next(tr.data.Loader(images, labels, 16, mean=mean, std=std).epoch(0))
    for name in ("resnet20", "preact_resnet20"):
        tr.manual_seed(0)
        _, stages = identity_path.measure(tr.models.create(name), x, y)
        for stage in stages:
            print(f"{name}, {stage.name}: {stage.kept:.0%} of the gradient's norm, {stage.open:.0%} of the places open")


if __name__ == "__main__":
    main()
