"""Networks in which nothing is trivially 0 or 1."""

import numpy as np

from tinyres import nn


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
