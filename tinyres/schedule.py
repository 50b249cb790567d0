"""Learning rates as pure functions of the step: nothing to save, nothing to resume.

Each function here makes a `Schedule`, which takes the step (the first is 0) and gives the learning rate.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

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


class _HasRate(Protocol):
    def set_lr(self, lr: float) -> None: ...


class Scheduler:
    """A schedule that counts for itself and sets an optimizer's learning rate, for loops as PyTorch's users write them.

    Parameters
    ----------
    optimizer : Optimizer
        Gets the rate of the first step at once.
    schedule : callable
        From the step to the learning rate, as those above.

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
        """The rate that the optimizer has now."""
        return self.schedule(self.steps)

    def step(self) -> None:
        """After each step of the optimizer: the rate of the next."""
        self.steps += 1
        self.optimizer.set_lr(self.lr)

    def state_dict(self) -> dict[str, int]:
        """How many steps were taken: all there is to save."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there.

        Raises
        ------
        ValueError
            Where `state` is not a `state_dict` of a scheduler.
        """
        if state.keys() != {"steps"} or int(state["steps"]) < 0:
            raise ValueError(f"state: got {dict(state)}, expected {{'steps': ...}}, 0 or more")
        self.steps = int(state["steps"])
        self.optimizer.set_lr(self.lr)
