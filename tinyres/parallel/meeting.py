"""Shards that run side by side, and meet whenever a computation needs all of them.

A process with several shards gives each a thread, and runs one at a time. When a shard comes to a meeting, it leaves an
array and lets the next shard run. When all shards of a process have come, the processes exchange these arrays, and
every shard gets all of them. So the order of events does not depend on the number of processes, and each shard computes
what it would compute alone.
"""

import contextvars
import threading
from collections.abc import Callable

import numpy as np

from tinyres.parallel.exchange import Shards
from tinyres.tape import Array


class _Left(Exception):
    """Another shard of this process has failed."""


class Meeting:
    """The meetings of the shards of a step. It can be used as a `Gather`, see `ops.batch_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from tinyres.parallel.world import world
    >>> meeting = Meeting(Shards(2, world()))
    >>> def work(shard):
    ...     print(shard, meeting(np.array([10.0 * shard])).ravel())
    >>> meeting.run(work)
    0 [ 0. 10.]
    1 [ 0. 10.]
    """

    def __init__(self, shards: Shards) -> None:
        self.shards, self.own = shards, list(shards.own)
        self.channel = shards.world.channel()
        self.turn = threading.Condition()
        self.running = 0  # the shard of this process that may run
        self.left: list[Array] = []
        self.found: Array | None = None
        self.failed: BaseException | None = None
        self.which = threading.local()

    @property
    def leads(self) -> bool:
        """Whether the calling shard is the first of its process."""
        return bool(getattr(self.which, "number", 0) == 0)

    def __call__(self, array: Array) -> Array:
        """Leave an array, of the same shape in all shards, and get those of all shards, stacked in order."""
        self.left.append(array)
        if len(self.left) == len(self.own):
            self.found, self.left = self._exchanged(np.stack(self.left)), []
        self._pass_on()
        assert self.found is not None
        return self.found

    def _exchanged(self, own: Array) -> Array:
        world = self.shards.world
        if world.size == 1:
            return own
        found = np.empty((self.shards.count, *own.shape[1:]), own.dtype)
        self.channel.Allgather(own, found)
        return found

    def run(self, work: Callable[[int], None]) -> None:
        """Call `work` with the number of each of this process's shards. An error in one of them is raised here.

        All shards must come to the same number of meetings.
        """
        if len(self.own) == 1:
            work(self.own[0])
            return
        self.running, self.left, self.failed = 0, [], None
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(self._run, work, i), daemon=True)
            for i in range(len(self.own))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failed is not None:
            raise self.failed

    def _run(self, work: Callable[[int], None], number: int) -> None:
        self.which.number = number
        try:
            self._await_turn()
            work(self.own[number])
        except _Left:
            pass
        except BaseException as error:
            self.failed = error
        with self.turn:
            self.running = number + 1 if number + 1 < len(self.own) else 0
            self.turn.notify_all()

    def _pass_on(self) -> None:
        """Let the next shard run, and wait until it is this one's turn again."""
        if len(self.own) > 1:
            with self.turn:
                self.running = (self.which.number + 1) % len(self.own)
                self.turn.notify_all()
            self._await_turn()

    def _await_turn(self) -> None:
        with self.turn:
            self.turn.wait_for(lambda: self.running == self.which.number or self.failed is not None)
        if self.failed is not None:
            raise _Left
