"""Networks in which nothing is trivially 0 or 1, and numbers to give them."""

import numpy as np

from tinyres import models, nn


def images(n, side, channels=3, dtype=np.float32):
    return np.random.default_rng(1).standard_normal((n, channels, side, side)).astype(dtype)


def batch(seed=0, n=2, side=8, dtype=np.float32):
    """Images and labels."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3, side, side)).astype(dtype), rng.integers(0, 10, n)


def randomised(model, seed=0):
    """Give every batch norm statistics and parameters of a trained network's size, and return the model."""
    rng = np.random.default_rng(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            c = module.weight.size
            module.weight.data[...] = rng.uniform(0.5, 1.5, c) * rng.choice([-1, 1], c)
            module.bias.data[...] = rng.normal(0, 0.3, c)
            module.running_mean[...] = rng.normal(0, 0.3, c)
            module.running_var[...] = rng.uniform(0.5, 2, c)
    return model


LAST = {"BasicBlock": "bn2", "Bottleneck": "bn3", "PreActBlock": "conv2", "PreActBottleneck": "conv3"}  # of a branch


def nearly_linear(model, seed=0, branch=0.3):
    """The same, where rounding must stay small, and return the model.

    Depth amplifies rounding, least where blocks are nearly linear: so the last layer of a branch has the small
    scale `branch`, and a plain net, which has no branch, biases about 1 (with 0, 56 layers amplify it by 10^5).
    """
    rng = np.random.default_rng(seed)
    modules = dict(model.named_modules())
    plain = any(isinstance(m, models.PlainBlock) for m in modules.values())
    state = model.state_dict()
    for key, array in state.items():
        path, _, kind = key.rpartition(".")
        block, _, layer = path.rpartition(".")
        small = kind == "weight" and LAST.get(type(modules[block]).__name__) == layer
        if array.ndim != 1 or path == "fc":
            array *= branch if small else 1
            continue
        if kind in ("running_mean", "bias"):
            about = 1 if kind == "bias" and plain else 0
            array[...] = about + 0.3 * rng.standard_normal(array.shape)
        else:  # weight, running_var
            array[...] = rng.uniform(0.5, 1.5, array.shape) * (branch if small else 1)
    model.load_state_dict(state)
    return model
