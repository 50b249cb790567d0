"""Learning-rate schedules as pure functions of the step: they have no state to save.

Each function returns a `Schedule`: a function that takes the step (the first is 0) and returns the learning rate.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

Schedule: TypeAlias = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """The same learning rate in every step.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """
    return lambda step: lr


def steps(lr: float, milestones: Sequence[int], *, gamma: float = 0.1) -> Schedule:
    """Start with `lr`, and multiply it by `gamma` at each milestone, which is a number of steps.

    The paper's schedule for CIFAR-10 (section 4.2) is ``steps(0.1, [32_000, 48_000])``. It ends after 64,000 steps.

    Examples
    --------
    >>> lr = steps(0.1, [10, 20])
    >>> [round(lr(s), 4) for s in (0, 9, 10, 20)]
    [0.1, 0.1, 0.01, 0.001]
    """
    return lambda step: lr * gamma ** sum(step >= m for m in milestones)


def cosine(lr: float, total: int, *, final: float = 0.0) -> Schedule:
    """Half a cosine from `lr` down to `final` at step `total` (Loshchilov and Hutter, "SGDR", 2017, equation 5).

    Examples
    --------
    >>> lr = cosine(1.0, 10)
    >>> [round(lr(s), 3) for s in (0, 5, 10)]
    [1.0, 0.5, 0.0]
    """
    _check_total(total)
    return lambda step: final + (lr - final) * (1 + math.cos(math.pi * min(step, total) / total)) / 2


def one_cycle(lr: float, total: int, *, warmup: float = 0.2, final: float = 0.0) -> Schedule:
    """Rise linearly from 0 to `lr`, then fall linearly to `final`. `warmup` is the part of all steps that rises.

    Smith and Topin, "Super-convergence", 2018, with two linear parts. ValueError if `warmup` is not 0 or more and less
    than 1.

    Examples
    --------
    >>> lr = one_cycle(0.5, 100)
    >>> [round(lr(s), 4) for s in (0, 19, 20, 60, 100)]
    [0.025, 0.5, 0.5, 0.25, 0.0]
    """
    _check_total(total)
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup: got {warmup}, expected 0 or more and less than 1, a part of all steps")
    peak = warmup * total
    return linear_warmup(lambda step: lr + (final - lr) * min(1, max(0, step - peak) / (total - peak)), math.ceil(peak))


def linear_warmup(schedule: Schedule, length: int) -> Schedule:
    """`schedule`, multiplied by (step + 1) / length in the first `length` steps.

    He et al. start ResNet-110 at a lower rate, since 0.1 is too large for it at first (section 4.2).

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


class _HasRate(Protocol):
    def set_lr(self, lr: float) -> None: ...


class Scheduler:
    """Counts steps and sets an optimizer's learning rate by a schedule, for training loops in the style of PyTorch.

    Parameters
    ----------
    optimizer : Optimizer
        It gets the learning rate of the first step at once.
    schedule : callable
        Takes the step and returns the learning rate, such as a `Schedule`.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.nn.Linear(2, 1)
    >>> optimizer = tr.optim.SGD(net.parameters(), lr=0.1)
    >>> scheduler = tr.schedule.Scheduler(optimizer, tr.schedule.cosine(0.1, total=10))
    >>> for _ in range(5):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> round(scheduler.lr, 3), scheduler.state_dict()
    (0.05, {'steps': 5})
    """

    def __init__(self, optimizer: _HasRate, schedule: Schedule) -> None:
        self.optimizer, self.schedule, self.steps = optimizer, schedule, 0
        self.optimizer.set_lr(self.lr)

    @property
    def lr(self) -> float:
        """The learning rate that the optimizer has now."""
        return self.schedule(self.steps)

    def step(self) -> None:
        """Set the learning rate of the next step. Call it after each step of the optimizer."""
        self.steps += 1
        self.optimizer.set_lr(self.lr)

    def state_dict(self) -> dict[str, int]:
        """The state to save: the number of steps so far."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore a `state_dict`.

        Raises
        ------
        ValueError
            If `state` is not a `state_dict` of a scheduler.
        """
        if state.keys() != {"steps"} or int(state["steps"]) < 0:
            raise ValueError(f"state: got {dict(state)}, expected {{'steps': ...}}, 0 or more")
        self.steps = int(state["steps"])
        self.optimizer.set_lr(self.lr)
