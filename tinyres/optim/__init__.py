"""Optimizers: how a gradient changes a parameter."""

from tinyres.optim.adaptive import Adam, AdamW, RMSprop
from tinyres.optim.groups import clip_grad_norm, parameter_groups
from tinyres.optim.optimizer import Optimizer
from tinyres.optim.sgd import LARS, SGD

__all__ = ["LARS", "SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm", "parameter_groups"]
