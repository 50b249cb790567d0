"""Learning rates as pure functions of the step: nothing to save, nothing to resume.

Each function here makes a `Schedule`, which takes the step (the first is 0) and gives the learning rate.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """The same learning rate always.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """
    return lambda step: lr


def steps(lr: float, milestones: Sequence[int], *, gamma: float = 0.1) -> Schedule:
    """Multiply the learning rate by `gamma` at each milestone (steps).

    The paper's schedule for CIFAR-10 (section 4.2) is ``steps(0.1, [32_000, 48_000])``, ended at 64,000.

    Examples
    --------
    >>> lr = steps(0.1, [10, 20])
    >>> [round(lr(s), 4) for s in (0, 9, 10, 20)]
    [0.1, 0.1, 0.01, 0.001]
    """
    return lambda step: lr * gamma ** sum(step >= m for m in milestones)


def cosine(lr: float, total: int, *, final: float = 0.0) -> Schedule:
    """From `lr` down to `final` at step `total`, along half a cosine (Loshchilov and Hutter, "SGDR", 2017, equation 5).

    Examples
    --------
    >>> lr = cosine(1.0, 10)
    >>> [round(lr(s), 3) for s in (0, 5, 10)]
    [1.0, 0.5, 0.0]
    """
    _check_total(total)
    return lambda step: final + (lr - final) * (1 + math.cos(math.pi * min(step, total) / total)) / 2


def one_cycle(lr: float, total: int, *, warmup: float = 0.2, final: float = 0.0) -> Schedule:
    """Straight up from 0 to `lr` in the first `warmup` of `total` steps, then straight down to `final`.

    Smith and Topin, "Super-convergence", 2018, with linear halves.

    Examples
    --------
    >>> lr = one_cycle(0.5, 100)
    >>> [round(lr(s), 4) for s in (0, 19, 20, 60, 100)]
    [0.025, 0.5, 0.5, 0.25, 0.0]
    """
    _check_total(total)
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup: got {warmup}, expected 0 or more and less than 1, the part of all steps")
    peak = warmup * total
    return linear_warmup(lambda step: lr + (final - lr) * min(1, max(0, step - peak) / (total - peak)), math.ceil(peak))


def linear_warmup(schedule: Schedule, length: int) -> Schedule:
    """`schedule`, multiplied by (step + 1) / length in the first `length` steps.

    He et al. start ResNet-110 at a lower rate for this reason (section 4.2).

    Examples
    --------
    >>> lr = linear_warmup(constant(1.0), 4)
    >>> [lr(s) for s in (0, 1, 3, 4)]
    [0.25, 0.5, 1.0, 1.0]
    """
    return lambda step: schedule(step) * (min(1.0, (step + 1) / length) if length else 1.0)


def _check_total(total: int) -> None:
    if total < 1:
        raise ValueError(f"total: got {total} steps, expected 1 or more")
