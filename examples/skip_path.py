"""Through the shortcut or through the branch? The gradient at each block of a residual network, in two parts.

    python examples/skip_path.py

The parts come from the tape as it runs backward, and add up to the gradient bit for bit.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinyres as tr
from tinyres.study import skip_path


def main() -> None:
    tr.manual_seed(0)
    net = tr.models.create("resnet20")
    images, labels = tr.data.shapes(32)
    mean, std = tr.data.channel_statistics(images)
    x, y = next(tr.data.Loader(images, labels, 32, mean=mean, std=std).epoch(0))

    def see(block: str, kind: str, shortcut: NDArray[Any], branch: NDArray[Any], total: NDArray[Any]) -> None:
        assert np.array_equal(shortcut + branch, total)
        a, b = np.linalg.norm(shortcut), np.linalg.norm(branch)
        print(f"{block} ({kind}): {a:.2e} through the shortcut, {b:.2e} through the branch")

    skip_path.split_backward(net, x, y, see)  # from the last block to the first


if __name__ == "__main__":
    main()
