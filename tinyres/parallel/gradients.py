"""Gradients of a batch that several processes share."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from tinyres.parallel.exchange import Exchange, Shards
from tinyres.parallel.messages import broadcast
from tinyres.parallel.world import world
from tinyres.tape import Array
from tinyres.tensor import Tensor

Shaped = TypeVar("Shaped", Tensor, Array)

BUCKET_BYTES = 2**17  # of gradients that are summed together: enough to be worth a message, and soon complete


class Gradients:
    """Adds the gradients of parameters over all processes, while backward still runs.

    At the start, all processes get the parameters and buffers of the first one. Backward completes the gradients of the
    last layers first. When a few gradients are complete, their sum begins (Li et al., "PyTorch Distributed", VLDB 2020,
    section 3.2).

    Parameters
    ----------
    parameters : iterable of Parameter
        Parameters that require no gradient are ignored.
    buffers : iterable of ndarray
        Batch norm's running statistics. After each step they are set to the mean over all shards. Arrays of int, which
        count steps, are taken from one shard.
    shards : Shards, optional
        The shards of a batch; by default one for each process.
    numbers : int
        How many other numbers, in float64, are summed together with the gradients.

    Notes
    -----
    RuntimeError is raised if a parameter gets no gradient, or gets one twice in a backward pass. The second happens if
    `recompute` runs several blocks that share a parameter.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> model = tr.nn.Linear(2, 1)
    >>> gradients = tr.parallel.Gradients(model.parameters())
    >>> model(tr.Tensor([[1.0, 2.0]])).sum().backward()
    >>> gradients.mean()
    >>> model.weight.grad
    array([[1., 2.]], dtype=float32)
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        buffers: Iterable[Array] = (),
        *,
        shards: Shards | None = None,
        numbers: int = 0,
    ) -> None:
        trained = [p for p in parameters if p.requires_grad]
        every = list(buffers)
        self.shards = shards or Shards(world().size, world())
        self.own = list(self.shards.own)
        broadcast([*(p.data for p in trained), *every])
        alone = self.shards.count == 1  # nothing is summed, then
        self.before = [] if alone else [(b, b.copy()) for b in every]
        self.buffers = [b for b, _ in self.before if b.dtype.kind == "f"]
        self.buckets = [] if alone else _buckets(trained[::-1])
        self.bucket_of = {p: i for i, bucket in enumerate(self.buckets) for p in bucket}
        sums: list[tuple[int, Any]] = [(sum(p.size for p in bucket), bucket[0].dtype) for bucket in self.buckets]
        sums.append((sum(b.size for b in self.buffers), np.result_type(np.float32, *self.buffers)))
        self.exchange = Exchange(self.shards, [*sums, (numbers, np.float64)])
        self.handles = [p.register_post_accumulate_grad_hook(self._final) for p in self.bucket_of]
        self.at, self.ended = _Shard(self.own[0]), 0

    def begin(self, shard: int) -> None:
        """Begin a shard, in this thread. Each starts with the buffers from before the step."""
        self.at.shard, self.at.taken = shard, {}
        for buffer, before in self.before:
            if shard == self.own[0]:
                before[...] = buffer
            else:
                buffer[...] = before

    def _final(self, parameter: Tensor) -> None:
        """The gradient of a parameter is complete: take it, and if it is the last of its bucket, hand that on."""
        taken = self.at.taken
        if parameter in taken:
            raise RuntimeError(f"gradient of a parameter of shape {parameter.shape}: got a second one in this step")
        taken[parameter], parameter.grad = parameter.grad, None
        which = self.bucket_of[parameter]
        arrays = [array for p in self.buckets[which] if (array := taken.get(p)) is not None]
        if len(arrays) == len(self.buckets[which]):
            self.exchange.put(which, self.at.shard, arrays)
            taken.update(dict.fromkeys(self.buckets[which]))  # handed on
        else:
            self.exchange.poll()

    def end(self, numbers: Sequence[float] = ()) -> None:
        """End a shard, after its backward pass. `numbers` are added to those of the other shards."""
        missing = next((p for p in self.bucket_of if p not in self.at.taken), None)
        if missing is not None:
            raise RuntimeError(
                f"gradient of a parameter of shape {missing.shape}: got none, expected one for each parameter: what a "
                "network does not use must not require a gradient"
            )
        self.exchange.put(len(self.buckets), self.at.shard, self.buffers)
        self.exchange.put(len(self.buckets) + 1, self.at.shard, [np.array(numbers, np.float64)])
        self.at.taken = {}
        self.ended += 1

    def sum(self) -> Array:
        """Wait for the sums. They are then in `grad`, and buffers are means. Returns the sums of the numbers."""
        if not self.ended:  # a loop of the user's own, with one shard
            self.end()
        *sums, means, numbers = self.exchange.wait()
        for bucket, total in zip(self.buckets, sums, strict=True):
            for p, gradient in _cut(total, bucket):
                p.grad = gradient
        means /= means.dtype.type(self.shards.count)
        for buffer, mean in _cut(means, self.buffers):
            buffer[...] = mean
        self.ended = 0
        return numbers

    def mean(self) -> None:
        """As `sum`, but gradients are divided by the number of shards: those of the mean loss."""
        self.sum()
        for p in self.bucket_of:
            if p.grad is not None:
                p.grad /= p.dtype.type(self.shards.count)


class _Shard(threading.local):
    """The shard that runs in this thread, and its gradients so far; None in place of one that was handed on."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.taken: dict[Tensor, Array | None] = {}


def _cut(total: Array, like: Sequence[Shaped]) -> Iterator[tuple[Shaped, Array]]:
    """Each array or tensor with what is its own of their sum, of its shape."""
    start = 0
    for one in like:
        yield one, total[start : start + one.size].reshape(one.shape)
        start += one.size


def _buckets(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """Parameters in their order, in groups of one dtype and about so many bytes."""
    buckets: list[list[Tensor]] = []
    size = 0
    for p in parameters:
        if not buckets or size >= BUCKET_BYTES or buckets[-1][0].dtype != p.dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(p)
        size += p.data.nbytes
    return buckets
