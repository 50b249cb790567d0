"""The training error of the first steps, with the full learning rate from the start and with a tenth of it at first.

python examples/warm_up.py
"""

import tinyres as tr
from tinyres.study import probe, warm_up


def main() -> None:
    images = tr.data.shapes(320, size=8)
    found = tr.train.Data(images, images, images, tr.data.SHAPES_CLASSES, *tr.data.channel_statistics(images[0]))
    config = tr.train.Config(**probe.RECIPE, dataset="shapes", batch_size=16, lr=0.1)
    curves = [warm_up.train("resnet20", config, found, 60, warm_up=slow) for slow in (False, True)]
    print("\n".join(warm_up.verdict(curves)))


if __name__ == "__main__":
    main()
