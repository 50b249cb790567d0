"""Sums over the shards of all processes, bit by bit the same for any number of them.

Each process adds up its own shards, as far as the tree of `tree` has it, and cuts the result into as many slices as
there are processes. It sends each process its slice (Alltoall), adds up the slices of all, in the tree's order, and
hands the sum round (Allgather). For sums of n numbers over P processes each sends and receives 2 (P - 1) / P n numbers,
the least there can be; MPI's own Allreduce sends as many, but is free to add in another order.

Sums begin as soon as this process has its parts, and go on while it computes, whenever it calls `poll`.
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
    """What a batch is cut into, and which of it are this process's."""

    count: int
    world: World

    @classmethod
    def of_run(cls, count: int, world: World) -> "Shards":
        """So many shards, shared out to these processes.

        Raises
        ------
        ValueError
            If they cannot have as many each.
        """
        if count % world.size:
            fitting = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
            raise ValueError(f"shards: got {count} for {world.size} processes, which fit {fitting} processes")
        return cls(count, world)

    @property
    def whole(self) -> Span:
        return 0, self.count

    def of(self, rank: int) -> Span:
        """Those of a process."""
        return rank * self.count // self.world.size, (rank + 1) * self.count // self.world.size

    @property
    def own(self) -> range:
        return range(*self.of(self.world.rank))

    def bounds(self, shard: int, images: int) -> Span:
        """From where to where a shard goes of so many images."""
        return shard * images // self.count, (shard + 1) * images // self.count


class _Message(NamedTuple):
    """Something under way: of which sum, since when, MPI's handle, and memory that has to live as long."""

    which: int
    begun: float
    request: Any
    sent: Array
    received: Array


class Exchange:
    """Sums over all shards, of some sizes and dtypes.

    Parameters
    ----------
    shards : Shards
    sums : sequence of (int, dtype)
        How many numbers of which dtype each has. Sums begin in this order, the same in all processes.
    channels : pair of communicators, optional
        For no other exchange while this one is under way; two of its own by default.

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
        self.widths = [-(-size // world.size) for size, _ in self.kinds]  # numbers of a slice; the last may need fewer
        self.spans = [subtrees(shards.of(rank), shards.whole) for rank in range(world.size)]
        # what MPI does together it begins in one order everywhere, on each channel, and Allgather begins whenever an
        # Alltoall has ended: each has a channel of its own
        self.scatters, self.gathers = channels or (world.channel(), world.channel())
        self.log: list[tuple[float, float]] | None = None  # of when sums began and ended, for those who ask
        self._begin()

    def _begin(self) -> None:
        self.parts: list[dict[Span, Array]] = [{} for _ in self.kinds]
        self.totals: list[Array | None] = [None] * len(self.kinds)
        self.complete: set[int] = set()  # sums of which this process has all its parts,
        self.begun = 0  # and of these so many, in order, have begun
        self.scattering: deque[_Message] = deque()
        self.gathering: deque[_Message] = deque()

    def put(self, which: int, shard: int, arrays: Sequence[Array]) -> None:
        """Give a shard's part of a sum: arrays that, one after the other, have as many numbers. They are copied."""
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
        """Send each process its slice of this one's parts."""
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
        """Let what is under way go on."""
        while self.scattering and self.scattering[0].request.Test():
            self._gather()
        while self.gathering and self.gathering[0].request.Test():
            self._finish()

    def _gather(self) -> None:
        """Add up the slices that have come from all processes, and hand the sum round."""
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
        """All sums, once they are complete; the next ones may then be put."""
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
