"""The time of each operation in a training step, and how much faster this machine could compute it.

One stopwatch runs through the whole step. Whenever something ends, the time since the previous end is added to its
account: the forward or backward pass of an operation, a sum of gradients, the optimizer, or the rest. So the accounts
add up to the step: no time is counted twice or lost.
"""

import contextlib
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from tinyres import machine, ops, optim
from tinyres.flops import count_bytes, count_flops
from tinyres.kernels.pending import Pending
from tinyres.machine import Ceilings
from tinyres.nn import Module
from tinyres.replay import Replay
from tinyres.tape import Array, Leaf, Node, no_grad, watching
from tinyres.tensor import Tensor

__all__ = ["Cost", "Profile", "Row", "Total", "count_bytes", "count_flops", "left_as_it_was", "profile"]

WARMUP = 3  # unmeasured steps at the beginning: kernels compile, and memory use becomes stable
LR = 1e-3  # small, since there is nothing to learn from noise
SUM, OPTIMIZER, REST, UNEVEN = "sum of gradients", "optimizer", "rest", "uneven"
Account: TypeAlias = tuple[int, str] | str


# ---------------------------------------------------------------- results
@dataclass(frozen=True)
class Cost:
    """Seconds, floating-point operations and bytes of some work: see `count_flops` and `count_bytes`."""

    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.flops + other.flops, self.bytes + other.bytes)

    def rates(self, ceilings: Ceilings) -> dict[str, float]:
        """Operations and bytes per second, each with its share of the machine's ceiling."""
        seconds = self.seconds or math.inf
        flops, moved = self.flops / seconds, self.bytes / seconds
        return {
            "gflop_per_second": flops / 1e9,
            "gb_per_second": moved / 1e9,
            "of_sgemm": flops / ceilings.sgemm,
            "of_copy": moved / ceilings.copy,
        }


@dataclass(frozen=True)
class Row:
    """An operation on the tape, or the sum of the gradients of one result, which has no forward pass.

    `module` is the path of the module that called the operation, or the name of the parameter for a sum of gradients.
    """

    module: str
    op: str
    output: tuple[int, ...]
    forward: Cost
    backward: Cost


@dataclass(frozen=True)
class Total:
    """The sum over all operations of a kind: forward and backward seconds, all costs, and the share of the step."""

    kind: str
    forward: float
    backward: float
    cost: Cost
    share: float


@dataclass(frozen=True)
class Profile:
    """The costs of a training step. Seconds are medians over the steps.

    Attributes
    ----------
    rows : list of Row
        In the order of the forward pass.
    optimizer : Cost
        Setting the gradients to zero, and the update.
    rest : float
        Seconds of the tape and Python between operations.
    step_seconds : list of float
        Seconds of each measured step.
    batch_size, image_size : int
    ceilings : Ceilings
        Ceilings of the machine: the better of two measurements, before and after the steps.
    hardware : dict
        See `machine.describe`.
    peak_memory : int or None
        Most bytes that this process had held at any time until the end of the warm-up steps.
    repeated_seconds : list of float
        Seconds of steps in the way that training runs them, without the Python code that launches the kernels; see
        `Replay`. Empty if the model's step cannot be repeated.
    """

    rows: list[Row]
    optimizer: Cost
    rest: float
    step_seconds: list[float]
    batch_size: int
    image_size: int
    ceilings: Ceilings
    hardware: dict[str, Any]
    peak_memory: int | None
    repeated_seconds: list[float] = field(default_factory=list)

    @property
    def step(self) -> float:
        """Seconds of the median step."""
        return median(self.step_seconds)

    @property
    def uneven(self) -> float:
        """Median step minus all other medians. They need not add up to it, since each step has its own disturbances."""
        rows = math.fsum(row.forward.seconds + row.backward.seconds for row in self.rows)
        return self.step - rows - self.optimizer.seconds - self.rest

    @property
    def training_step(self) -> float:
        """Seconds of the median step in the way that training runs it: repeated, if possible."""
        return median(self.repeated_seconds or self.step_seconds)

    @property
    def images_per_second(self) -> float:
        return self.batch_size / self.training_step

    def epoch_seconds(self, images: int) -> float:
        """Seconds for this number of images, if the loader never makes a step wait."""
        return images / self.batch_size * self.training_step

    def totals(self) -> list[Total]:
        """Sums by kind of operation, the most expensive first, then everything that is not a row: together the step."""
        forward: dict[str, Cost] = defaultdict(Cost)
        backward: dict[str, Cost] = defaultdict(Cost)
        for row in self.rows:
            forward[row.op] += row.forward
            backward[row.op] += row.backward
        both = {op: forward[op] + backward[op] for op in forward}
        both = dict(sorted(both.items(), key=lambda item: -item[1].seconds))
        both |= {OPTIMIZER: self.optimizer, REST: Cost(self.rest), UNEVEN: Cost(self.uneven)}
        return [
            Total(kind, forward[kind].seconds, backward[kind].seconds, cost, cost.seconds / self.step)
            for kind, cost in both.items()
        ]

    def as_dict(self, images: int) -> dict[str, Any]:
        """Everything, as JSON. An epoch has `images` images."""

        def full(cost: Cost) -> dict[str, Any]:
            return {**asdict(cost), **cost.rates(self.ceilings)}

        return {
            "batch_size": self.batch_size,
            "image_size": self.image_size,
            "hardware": self.hardware,
            "ceilings": {
                "gflop_per_second": self.ceilings.sgemm / 1e9,
                "gb_per_second": self.ceilings.copy / 1e9,
            },
            "step_seconds": self.step,
            "all_step_seconds": self.step_seconds,
            "repeated_step_seconds": self.repeated_seconds,
            "images_per_second": self.images_per_second,
            "epoch": {"images": images, "seconds": self.epoch_seconds(images)},
            "peak_memory_bytes": self.peak_memory,
            "totals": [
                {"kind": t.kind, "forward": t.forward, "backward": t.backward, "share": t.share, **full(t.cost)}
                for t in self.totals()
            ],
            "rows": [{**asdict(r), "forward": full(r.forward), "backward": full(r.backward)} for r in self.rows],
        }


# ---------------------------------------------------------------- the stopwatch
class _Stopwatch:
    """The accounts of one step. The tape reports each end of an operation; pullbacks are wrapped to report theirs.

    An account is the number of an operation and the kind of its work: "forward", "backward", or "sum" of its result's
    gradients. `work` has the floating-point operations and bytes of each account, and `things` has module, operation
    and shape for each number.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names  # of parameters, by id
        self.numbers: dict[int, int] = {}  # by id of a node or a leaf
        self.things: dict[int, tuple[str, str, tuple[int, ...]]] = {}
        self.work: dict[Account, tuple[int, int]] = {}
        self.seconds: dict[Account, float] = defaultdict(float)
        self.at = time.perf_counter()

    def lap(self, account: Account) -> None:
        """Add the time since the last lap to this account."""
        now = time.perf_counter()
        self.seconds[account] += now - self.at
        self.at = now

    def recorded(self, node: Node, inputs: Sequence[Array | Pending]) -> None:
        number = self._number(node, node.module, node.name)
        self.lap((number, "forward"))
        flops, moved = count_flops(node, inputs), count_bytes(node, inputs)
        self.work[number, "forward"] = flops[0], moved[0]
        pullback = node.pullback
        assert pullback is not None

        def timed(*gradients: Any) -> Sequence[Array | None]:
            self.lap(REST)
            parts = pullback(*gradients)
            self.lap((number, "backward"))
            self.work[number, "backward"] = flops[1], moved[1]
            return parts

        node.pullback = timed
        self.lap(REST)  # the time of this method

    def summed(self, node: Node | Leaf) -> None:
        if id(node) not in self.numbers:  # a parameter has no number yet
            self._number(node, self.names.get(id(node), ""), "")
        account = self.numbers[id(node)], "sum"
        self.lap(account)
        moved = 3 * math.prod(node.shape) * node.dtype.itemsize  # two arrays are read, one is written
        self.work[account] = 0, self.work.get(account, (0, 0))[1] + moved

    def _number(self, node: Node | Leaf, module: str, op: str) -> int:
        number = len(self.things)  # not from `numbers`: an id may be used again after its node was deleted
        self.numbers[id(node)] = number
        self.things[number] = module, op, node.shape
        return number


# ---------------------------------------------------------------- the measurement
def profile(
    model: Module, *, batch_size: int = 128, image_size: int = 32, channels: int = 3, steps: int = 10
) -> Profile:
    """Run a few training steps on noise, and measure the cost of each operation.

    A step is forward, cross entropy, backward, and SGD with Nesterov momentum and weight decay, on a batch in memory.
    The first steps are not measured. The model is left as it was. Work that is not on the tape, such as flattening
    images that need no gradient, counts with the next operation.

    Parameters
    ----------
    model : Module
        A function from images (N, C, H, W) to logits (N, K).
    batch_size : int
        N, the images in a batch.
    image_size, channels : int
        Height and width of the images, and C.
    steps : int
        Number of measured steps.

    Returns
    -------
    Profile

    Raises
    ------
    ValueError
        If a number is less than 1, the model does not accept such images, or its steps differ from each other.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.nn.Sequential(tr.nn.Flatten(), tr.nn.Linear(12, 5), tr.nn.ReLU())
    >>> found = tr.profile.profile(net, batch_size=4, image_size=2, steps=2)
    >>> [(row.module, row.op, row.output) for row in found.rows]
    [('1', 'linear', (4, 5)), ('2', 'relu', (4, 5)), ('', 'cross_entropy', ())]
    """
    for name, value in {
        "batch_size": batch_size, "image_size": image_size, "channels": channels, "steps": steps
    }.items():  # fmt: skip
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected 1 or more")
    rng = np.random.default_rng(0)
    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    shape = batch_size, image_size, image_size, channels
    x = Tensor(rng.standard_normal(shape, dtype).transpose(0, 3, 1, 2))  # channels-last, as from the loader
    with left_as_it_was(model):
        optimizer = optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4, nesterov=True)
        model.train()
        with no_grad():
            logits = model(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            what = f"shape {logits.shape}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"model: it returned {what}, expected logits (N, K), for N images of K classes")
        labels = rng.integers(0, logits.shape[1], batch_size)
        for _ in range(WARMUP):
            _take_step(model, x, labels, optimizer)
        peak = machine.peak_memory()  # before the arrays for measuring the ceilings
        before = machine.ceilings()
        taken = [_take_step(model, x, labels, optimizer) for _ in range(steps)]
        repeated = _repeat_steps(model, x, labels, optimizer, steps)
    ceilings = Ceilings(*map(max, before, machine.ceilings()))  # other programs may disturb one of the two
    watches = [watch for watch, _ in taken]
    things, work = watches[0].things, watches[0].work
    if any(watch.things != things or watch.work != work for watch in watches):
        raise ValueError("model: its steps differ from each other, so there are no medians for its operations")

    def cost(account: Account) -> Cost:
        return Cost(median(watch.seconds[account] for watch in watches), *work.get(account, (0, 0)))

    rows = []
    for number, (module, op, output) in things.items():
        if (number, "forward") in work:
            rows.append(Row(module, op, output, cost((number, "forward")), cost((number, "backward"))))
        if (number, "sum") in work:
            rows.append(Row(module, SUM, output, Cost(), cost((number, "sum"))))
    parameters = sum(p.data.nbytes for p in model.parameters())
    return Profile(
        rows=rows,
        optimizer=Cost(cost(OPTIMIZER).seconds, 0, 5 * parameters),  # reads p, its gradient and momentum; writes two
        rest=cost(REST).seconds,
        step_seconds=[seconds for _, seconds in taken],
        batch_size=batch_size,
        image_size=image_size,
        ceilings=ceilings,
        hardware=machine.describe(),
        peak_memory=peak,
        repeated_seconds=repeated,
    )


def _take_step(model: Module, x: Tensor, labels: Array, optimizer: optim.SGD) -> tuple[_Stopwatch, float]:
    """The accounts of a step, and the seconds from its start to its last lap."""
    watch = _Stopwatch({id(p): name for name, p in model.named_parameters()})
    start = watch.at = time.perf_counter()
    with watching(watch):
        optimizer.zero_grad()
        watch.lap(OPTIMIZER)
        ops.cross_entropy(model(x), labels).backward()
        watch.lap(REST)
        optimizer.step()
        watch.lap(OPTIMIZER)
    return watch, watch.at - start


def _repeat_steps(model: Module, x: Tensor, labels: Array, optimizer: optim.SGD, steps: int) -> list[float]:
    """Seconds of steps in the way that training runs them; empty if they cannot be repeated."""
    replay = Replay(model, lambda x, labels: ops.cross_entropy(model(x), labels))
    seconds = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the warning that they cannot
        for number in range(3 + steps):  # the first three are not repeated yet: see `Replay`
            start = time.perf_counter()
            optimizer.zero_grad()
            replay(x, labels)
            optimizer.step()
            if number >= 3 and replay.repeats:
                seconds.append(time.perf_counter() - start)
    return seconds


@contextlib.contextmanager
def left_as_it_was(model: Module) -> Iterator[None]:
    """Restore what training changes: parameters, buffers, gradients and modes.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.nn.Linear(2, 1)
    >>> before = net.weight.data.copy()
    >>> with left_as_it_was(net):
    ...     net.weight.data[...] = 0
    >>> bool((net.weight.data == before).all())
    True
    """
    state = model.state_dict()
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        model.load_state_dict(state)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
