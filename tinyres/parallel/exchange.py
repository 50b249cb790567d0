"""Sums over the shards of all processes, equal to the last bit for any number of processes.

Each process adds its own shards, as far as they form subtrees of the tree in `tree`, and cuts the result into one slice
for each process. It sends each process its slice (Alltoall), adds the slices that it receives, in the tree's order, and
sends the sum to all (Allgather). For sums of n numbers over P processes, each process sends and receives 2 (P - 1) / P
n numbers, the least possible number. MPI's own Allreduce sends as many, but may add in another order.

A sum begins as soon as this process has its parts. It continues during computation, whenever the process calls `poll`.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinyres.kernels.memory import empty
from tinyres.parallel.tree import Span, add_up, subtrees
from tinyres.parallel.world import World
from tinyres.tape import Array


@dataclass(frozen=True)
class Shards:
    """The shards of a batch, and those that belong to this process."""

    count: int
    world: World

    @classmethod
    def of_run(cls, count: int, world: World) -> "Shards":
        """Divide `count` shards among these processes.

        Raises
        ------
        ValueError
            If the processes cannot get equal numbers of shards.
        """
        if count % world.size:
            fitting = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
            raise ValueError(f"shards: got {count} for {world.size} processes, which fit {fitting} processes")
        return cls(count, world)

    @property
    def whole(self) -> Span:
        return 0, self.count

    def of(self, rank: int) -> Span:
        """The shards of a process."""
        return rank * self.count // self.world.size, (rank + 1) * self.count // self.world.size

    @property
    def own(self) -> range:
        return range(*self.of(self.world.rank))

    def bounds(self, shard: int, images: int) -> Span:
        """First and last image of a shard (the last is not included), for this number of images."""
        return shard * images // self.count, (shard + 1) * images // self.count


class _Message(NamedTuple):
    """A message on its way: its sum, its start time, MPI's handle, and the memory that must exist until it arrives."""

    which: int
    begun: float
    request: Any
    sent: Array
    received: Array


class Exchange:
    """Sums over all shards, with given sizes and dtypes.

    Parameters
    ----------
    shards : Shards
    sums : sequence of (int, dtype)
        Size and dtype of each sum. Sums begin in this order, which must be the same in all processes.
    channels : pair of communicators, optional
        Two communicators that no other exchange uses at the same time; by default two new ones.

    Examples
    --------
    >>> import numpy as np
    >>> from tinyres.parallel.world import world
    >>> exchange = Exchange(Shards(2, world()), [(3, np.float64)])
    >>> for shard in exchange.shards.own:
    ...     exchange.put(0, shard, [np.arange(3.0)])
    >>> exchange.wait()
    [array([0., 2., 4.])]
    """

    def __init__(
        self, shards: Shards, sums: Sequence[tuple[int, npt.DTypeLike]], channels: tuple[Any, Any] | None = None
    ) -> None:
        self.shards, self.kinds = shards, [(size, np.dtype(dtype)) for size, dtype in sums]
        world = shards.world
        self.widths = [-(-size // world.size) for size, _ in self.kinds]  # numbers in a slice; the last may need fewer
        self.spans = [subtrees(shards.of(rank), shards.whole) for rank in range(world.size)]
        # All processes must begin MPI's collective operations on a channel in the same order. An Allgather begins
        # whenever an Alltoall has ended, so each of the two has a channel of its own.
        self.scatters, self.gathers = channels or (world.channel(), world.channel())
        self.log: list[tuple[float, float]] | None = None  # start and end of each sum, if somebody wants them
        self._begin()

    def _begin(self) -> None:
        self.parts: list[dict[Span, Array]] = [{} for _ in self.kinds]
        self.totals: list[Array | None] = [None] * len(self.kinds)
        self.complete: set[int] = set()  # sums for which this process has all its parts,
        self.begun = 0  # of which this many, in order, have begun
        self.scattering: deque[_Message] = deque()
        self.gathering: deque[_Message] = deque()

    def put(self, which: int, shard: int, arrays: Sequence[Array]) -> None:
        """Add a shard's part of a sum: arrays that together have as many numbers as the sum. They are copied."""
        (size, dtype), parts = self.kinds[which], self.parts[which]
        part = empty((self.shards.world.size * self.widths[which],), dtype)
        if arrays:
            np.concatenate([array.reshape(-1) for array in arrays], out=part[:size])
        part[size:] = 0
        parts[shard, shard + 1] = part
        add_up(parts, self.shards.whole)
        if sorted(parts) == self.spans[self.shards.world.rank]:
            self.complete.add(which)
            while self.begun in self.complete:
                self._scatter(self.begun)
                self.begun += 1
        self.poll()

    def _scatter(self, which: int) -> None:
        """Send each process its slice of this process's parts."""
        world, width = self.shards.world, self.widths[which]
        own = [self.parts[which][span] for span in self.spans[world.rank]]
        if world.size == 1:
            self.totals[which] = own[0]
            return
        sent = own[0] if len(own) == 1 else np.stack([part.reshape(world.size, width) for part in own], 1)
        counts = [len(spans) * width for spans in self.spans]
        received = empty((sum(counts),), sent.dtype)
        request = self.scatters.Ialltoallv([sent, [len(own) * width] * world.size], [received, counts])
        self.scattering.append(_Message(which, time.perf_counter(), request, sent, received))

    def poll(self) -> None:
        """Let messages on their way make progress."""
        while self.scattering and self.scattering[0].request.Test():
            self._gather()
        while self.gathering and self.gathering[0].request.Test():
            self._finish()

    def _gather(self) -> None:
        """Add the slices that have arrived from all processes, and send the sum to all."""
        which, begun, _, _, received = self.scattering.popleft()
        width, spans = self.widths[which], [span for spans in self.spans for span in spans]
        parts = {span: received[i * width : (i + 1) * width] for i, span in enumerate(spans)}
        add_up(parts, self.shards.whole)
        sent = parts[self.shards.whole]
        total = empty((self.shards.world.size * width,), sent.dtype)
        self.gathering.append(_Message(which, begun, self.gathers.Iallgather(sent, total), sent, total))

    def _finish(self) -> None:
        which, begun, _, _, total = self.gathering.popleft()
        self.totals[which] = total
        if self.log is not None:
            self.log.append((begun, time.perf_counter()))

    def wait(self) -> list[Array]:
        """Wait for all sums, and return them. Then the next ones may be put."""
        if self.begun < len(self.kinds):
            raise RuntimeError(f"exchange: sum {self.begun} lacks a part of process {self.shards.world.rank}")
        while self.scattering:
            self.scattering[0].request.Wait()
            self._gather()
        while self.gathering:
            self.gathering[0].request.Wait()
            self._finish()
        sums = [total[:size] for total, (size, _) in zip(self.totals, self.kinds, strict=True) if total is not None]
        self._begin()
        return sums
