"""The product of all layers' factors, with batch norm and without, for weights of half and twice the size.

python examples/batch_norm.py
"""

import tinyres as tr
from tinyres.study import batch_norm, probe


def main() -> None:
    images = tr.data.shapes(16)
    found = tr.train.Data(images, images, images, tr.data.SHAPES_CLASSES, *tr.data.channel_statistics(images[0]))
    config = tr.train.Config(**probe.RECIPE, dataset="shapes", batch_size=16)
    for point in batch_norm.batch_norm(["plain20"], config, found, (0.5, 1.0, 2.0)):
        norm = "with" if point.batch_norm else "without"
        print(
            f"{norm} batch norm, weights times {point.scale:g}: all layers multiply the gradient by {point.product:.2g}"
        )


if __name__ == "__main__":
    main()
