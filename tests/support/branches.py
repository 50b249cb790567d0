"""Hold every ReLU and max-pool of a network on the branch that it took, and the network is smooth.

Differences of a deep network meet its kinks: of its hundred thousand ReLUs, some change sides within any step that is
not so small that rounding spoils the quotient. But a gradient does not know of other sides. At x it is that of the
smooth function which each ReLU and max-pool follows around x: open or shut, and that pixel of the window, as at x.
"""

import contextlib

import numpy as np

from tinyres import backend, reference


class Branches:
    """Which way each kink went in one run, in the order of their calls, for the runs that shall go the same way."""

    def __init__(self):
        self.taken = []

    def noted(self):
        """Run as ever, and note which ReLUs are open and which pixels are the largest."""
        kernels = dict(vars(backend.active))

        def relu(x):
            return self._note_open(kernels["relu"](x))

        def batch_norm_apply(*args, relu=False):
            y = kernels["batch_norm_apply"](*args, relu=relu)
            return self._note_open(y) if relu else y

        def max_pool2d(x, kernel_size, **options):
            y, taps = kernels["max_pool2d"](x, kernel_size, **options)
            self.taken.append(taps)
            return y, taps

        return _instead(
            relu=relu, batch_norm_apply=batch_norm_apply, max_pool2d=max_pool2d, measures=reference.measures
        )

    def _note_open(self, y):
        self.taken.append(y > 0)
        return y

    @contextlib.contextmanager
    def held(self):
        """Run with each kink where it was."""
        kernels, taken = dict(vars(backend.active)), iter(self.taken)

        def relu(x):
            return x * next(taken)

        def batch_norm_apply(*args, relu=False):
            y = kernels["batch_norm_apply"](*args, relu=False)
            return y * next(taken) if relu else y

        def max_pool2d(x, kernel_size, *, stride, padding):
            taps = next(taken)
            image, channel, i, j = np.ogrid[tuple(map(slice, taps.shape))]
            row = i * stride[0] - padding[0] + taps // kernel_size[1]
            column = j * stride[1] - padding[1] + taps % kernel_size[1]
            return x[image, channel, row, column], taps

        with _instead(relu=relu, batch_norm_apply=batch_norm_apply, max_pool2d=max_pool2d, measures=reference.measures):
            yield
        assert next(taken, None) is None, "fewer kinks than in the run that noted them"


@contextlib.contextmanager
def _instead(**kernels):
    before = dict(vars(backend.active))
    vars(backend.active).update(kernels)
    try:
        yield
    finally:
        vars(backend.active).update(before)
