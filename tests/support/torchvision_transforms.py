"""Write down what torchvision's transforms do, for `tests/test_transforms.py`: tests/data/torchvision_transforms.npz.

    pip install torch==2.14.1 torchvision==0.29.1 pillow==13.0.0    # into an environment of its own
    python tests/support/torchvision_transforms.py

It has arrays alone, by these names; a row of one is a row of those beside it:

    versions                        what wrote it
    picture0, picture1, ...         pictures of noise and smooth ones, grey and in colour: (C, H, W)
    names, numbers, done0, ...      a function of torchvision and its argument; each picture after it
    operations, signed, randaugment, trivialaugment    a policy's operation, whether it takes either sign, and its
                                    argument in each of 31 bins, for a picture of 20 x 40 pixels
    boxes, cut0, ...                left, top, right and bottom of a part; it, scaled to 9 x 7 pixels
    crops, values, shares           height, width, scale and ratio of random crops; values of left, top, width, height,
                                    area and width / height; the share of 20,000 crops that are at most these
    strips, middles                 height, width and ratio where nothing fits; the box that is taken then
"""

from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment, RandomResizedCrop, TrivialAugmentWide
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

FILE = Path(__file__).parents[1] / "data" / "torchvision_transforms.npz"
BINS = 31
DRAWS = 20_000
ADJUST = [0, 0.3, 0.75, 1, 1.4, 2.5]
TURNS = [-0.5, -0.21, -0.003, 0.003, 0.1, 1 / 3, 0.5]


def noise(channels, height, width):
    return np.random.default_rng(height).integers(0, 256, (channels, height, width), np.uint8)


def smooth(channels, height, width):
    """Not all of the range, and edges nowhere."""
    c, y, x = np.ogrid[:channels, :height, :width]
    return (110 + 60 * np.sin(x / 5 + c) * np.cos(y / 4 - c)).astype(np.uint8)


PICTURES = [noise(3, 16, 16), noise(1, 12, 18), smooth(3, 12, 18), smooth(1, 16, 16)]


def picture(array):
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


def array(image):
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def operate(image, name, number):
    if name.startswith("adjust_"):
        return getattr(F, name)(image, number)
    return _apply_op(image, name, number, InterpolationMode.NEAREST, None)


def argument(arguments, place):
    """As the policies take it from their tables."""
    return float(arguments[place].item()) if arguments.ndim else 0.0


def operations():
    rand = RandAugment()._augmentation_space(BINS, (20, 40))
    trivial = TrivialAugmentWide()._augmentation_space(BINS)
    assert list(rand) == list(trivial)
    rows = {}  # in order, and each once
    for space, places in ((rand, (9, 30)), (trivial, (5, 14, 30))):
        for name, (arguments, signed) in space.items():
            for sign in (1, -1) if signed else (1,):
                rows.update(dict.fromkeys((name, sign * argument(arguments, place)) for place in places))
    rows.update(
        dict.fromkeys((f"adjust_{name}", f) for name in ("brightness", "contrast", "saturation") for f in ADJUST)
    )
    rows.update(dict.fromkeys(("adjust_hue", turn) for turn in TURNS))
    names, numbers = zip(*rows, strict=True)
    done = [np.stack([array(operate(picture(p), *row)) for row in rows]) for p in PICTURES]
    tables = [[[argument(a, place) for place in range(BINS)] for a, _ in space.values()] for space in (rand, trivial)]
    return {
        "names": np.array(names),
        "numbers": np.array(numbers, float),
        **{f"done{i}": images for i, images in enumerate(done)},
        "operations": np.array(list(rand)),
        "signed": np.array([signed for _, signed in rand.values()]),
        "randaugment": np.array(tables[0]),
        "trivialaugment": np.array(tables[1]),
    }


def crops():
    # none is tall and narrow: where width grows and height shrinks, Pillow 10 to 12 round some pixels unlike 13
    boxes = [(0, 0, 16, 12), (0, 0, 7, 9), (3, 2, 4, 3), (1, 0, 16, 2), (5, 1, 8, 8), (2, 3, 12, 10), (6, 4, 15, 12)]
    cut = [
        np.stack([array(F.resized_crop(picture(p), y, x, b - y, r - x, [9, 7])) for x, y, r, b in boxes])
        for p in PICTURES
    ]
    common = (0.08, 1, 3 / 4, 4 / 3)
    crops = [
        (224, 224, *common),
        (375, 500, *common),
        (28, 28, *common),
        (100, 400, *common),
        (20, 20, 0.05, 0.2, 0.2, 5),
    ]
    values, shares = [], []
    for height, width, low, high, least, most in crops:
        blank = Image.new("L", (width, height))
        drawn = [RandomResizedCrop.get_params(blank, [low, high], [least, most]) for _ in range(DRAWS)]
        y, x, h, w = np.array(drawn).T
        measured = np.stack([x, y, w, h, w * h, w / h])
        values.append(np.quantile(measured, np.arange(1, 20) / 20, axis=1, method="lower").T)
        shares.append(
            [np.searchsorted(np.sort(m), v, "right") / DRAWS for m, v in zip(measured, values[-1], strict=True)]
        )
    strips, middles = [], []
    for height, width in ((10, 100), (100, 10), (16, 16), (33, 47), (7, 200), (201, 8), (5, 5), (224, 223)):
        for least, most in ((3 / 4, 4 / 3), (1, 1), (2, 3), (0.2, 0.5), (0.3, 4)):
            # four times the picture's area fits never
            y, x, h, w = RandomResizedCrop.get_params(Image.new("L", (width, height)), [4.0, 4.0], [least, most])
            strips.append((height, width, least, most))
            middles.append((x, y, x + w, y + h))
    return {
        "boxes": np.array(boxes),
        **{f"cut{i}": images for i, images in enumerate(cut)},
        "crops": np.array(crops),
        "values": np.array(values),
        "shares": np.array(shares),
        "strips": np.array(strips),
        "middles": np.array(middles),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    FILE.parent.mkdir(exist_ok=True)
    versions = [f"{m.__name__} {m.__version__}" for m in (torch, torchvision, PIL, np)]
    pictures = {f"picture{i}": p for i, p in enumerate(PICTURES)}
    np.savez_compressed(FILE, versions=np.array(versions), **pictures, **operations(), **crops())
    print(FILE, FILE.stat().st_size, *versions)
