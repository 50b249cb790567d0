"""The processes that work together, and their communication apart from sums.

`world()` is this process alone until `init` is called. Then it is all processes that a launcher such as ``mpiexec``
started. They communicate by MPI, through mpi4py, which only `init` imports. They send arrays and text; nothing is
pickled.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from tinyres import backend
from tinyres.kernels.memory import CACHE_LINE
from tinyres.parallel.launch import launch
from tinyres.tape import Array

PATIENCE = 0.5  # seconds in which only the first process reports an error, since all may have the same


class World:
    """One process, alone.

    Attributes
    ----------
    rank, size : int
        The number of this process, and the number of processes.
    """

    rank, size = 0, 1

    def channel(self) -> Any:
        """A communicator of its own, for messages of one kind. A process can have some thousands of them."""

    @cached_property
    def channels(self) -> tuple[Any, Any]:
        """Two communicators for sums that the caller waits for at once. They may be shared."""
        return self.channel(), self.channel()

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def broadcast(self, array: Array, source: int = 0) -> None:
        """Fill the array, in all processes, with its values in one of them."""

    def texts(self, text: str) -> list[str]:
        """The text of each process, in their order."""
        return [text]

    def first(self, action: Callable[..., None], *arguments: Any) -> None:
        """Let the first process do something before the others continue. If it fails, all of them raise an error."""
        action(*arguments)

    def shared(self, make: Callable[[], tuple[list[Array], str]]) -> tuple[list[Array], str]:
        """Arrays and a text that one process of each machine makes. All processes of the machine share their memory."""
        return make()

    def abort(self, code: int) -> None:
        """End all processes, including this one."""


class Elsewhere(RuntimeError):
    """Another process has failed; the message is from there."""


class MPIWorld(World):
    """The processes of an MPI communicator."""

    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator.Dup()
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        self.windows: list[Any] = []  # memory that the processes of a machine share, as long as they run

    def channel(self) -> Any:
        return self.communicator.Dup()

    def barrier(self) -> None:
        self.communicator.Barrier()

    def broadcast(self, array: Array, source: int = 0) -> None:
        self.communicator.Bcast(array, source)

    def texts(self, text: str) -> list[str]:
        own = np.frombuffer(text.encode(), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self.communicator.Allgather(np.array([own.size]), sizes)
        received = np.empty(sizes.sum(), np.uint8)
        self.communicator.Allgatherv(own, [received, sizes.tolist()])
        return [part.tobytes().decode() for part in np.split(received, sizes.cumsum()[:-1])]

    def first(self, action: Callable[..., None], *arguments: Any) -> None:
        failed = np.zeros(1, np.int64)
        try:
            if self.rank == 0:
                action(*arguments)
        except BaseException:
            failed[0] = 1
            raise
        finally:
            self.broadcast(failed)
        if failed[0]:
            raise Elsewhere("process 0 has failed")

    def shared(self, make: Callable[[], tuple[list[Array], str]]) -> tuple[list[Array], str]:
        from mpi4py import MPI

        machine = MPIWorld(self.communicator.Split_type(MPI.COMM_TYPE_SHARED))
        made: list[tuple[list[Array], str]] = []
        machine.first(lambda: made.append(make()))
        arrays, text = made[0] if made else ([], "")
        kinds = json.dumps([(a.shape, a.dtype.str) for a in arrays])
        text, kinds = machine.texts(text)[0], machine.texts(kinds)[0]
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in json.loads(kinds)]
        starts = np.cumsum([0, *(-(-size // CACHE_LINE) * CACHE_LINE for size in sizes)]).tolist()
        window = MPI.Win.Allocate_shared(0 if machine.rank else starts[-1], 1, comm=machine.communicator)
        self.windows.append(window)
        memory = np.asarray(window.Shared_query(0)[0]).view(np.uint8)
        found = []
        for (shape, dtype), start, size in zip(json.loads(kinds), starts, sizes, strict=False):
            found.append(memory[start : start + size].view(dtype).reshape(shape))
        for array, place in zip(arrays, found, strict=False):
            place[...] = array
        machine.barrier()
        for place in found:
            place.flags.writeable = False
        return found, text

    def abort(self, code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.communicator.Abort(code)


_worlds = [World()]  # the last one is in use


def world() -> World:
    """The processes that work together at the moment."""
    return _worlds[-1]


def init() -> None:
    """Connect to the other processes that ``mpiexec`` or ``srun`` started.

    The cores of a machine are divided among its processes. An uncaught exception in one process ends all of them. A
    second call has no effect.

    Raises
    ------
    ImportError
        If mpi4py, or an MPI library, is missing.
    RuntimeError
        If the launcher started several processes, but the MPI library finds only one.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.parallel.init()  # doctest: +SKIP
    >>> tr.parallel.rank(), tr.parallel.world_size()
    (0, 1)
    """
    if len(_worlds) > 1:
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: there is no MPI library
        raise ImportError(
            f"several processes need mpi4py and an MPI library ({error}): pip install 'tinyres[mpi]'"
        ) from error
    started, size = launch(), MPI.COMM_WORLD.Get_size()
    if started and size == 1:
        raise RuntimeError(
            f"{started.launcher} started {started.size} processes, and the MPI library of mpi4py, "
            f"{MPI.Get_library_version().splitlines()[0].strip()}, knows of 1: start them by its own mpiexec, or under "
            "Slurm by srun --mpi=pmi2 or --mpi=pmix (srun --mpi=list says what there is)"
        )
    _worlds.append(MPIWorld(MPI.COMM_WORLD))
    backend.set_num_threads(_fair_threads(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)))
    before = sys.excepthook

    def together(*exception: Any) -> None:
        with failing(1) as where:
            print(where, file=sys.stderr)
            before(*exception)

    sys.excepthook = together


def _fair_threads(neighbours: Any) -> int:
    """The number of cores of this process. Cores that it shares with others on this machine are divided among them."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    those = [json.loads(text) for text in MPIWorld(neighbours).texts(json.dumps(sorted(cores)))]
    share = sum(1 / sum(core in others for others in those) for core in cores)
    return max(1, min(int(share + 1e-6), backend.max_threads()))


@contextlib.contextmanager
def failing(code: int) -> Iterator[str]:
    """In this block, say what went wrong in this process. At its end all processes end, unless there is only one.

    Yields a text that names this process. The same error may occur in all processes, so the first process reports at
    once, and ends the others before they report too.
    """
    here = world()
    if here.rank:
        time.sleep(PATIENCE)
    yield f"process {here.rank} of {here.size}: " if here.size > 1 else ""
    here.abort(code)


def check_same(facts: Mapping[str, str]) -> None:
    """Raise ValueError if a fact differs between processes; name the first one, and a process where it differs."""
    everywhere = [json.loads(text) for text in world().texts(json.dumps(facts))]
    for name, value in everywhere[0].items():
        for rank, others in enumerate(everywhere):
            if others.get(name) != value:
                got = f"{others.get(name)} in process {rank} and {value} in process 0"
                raise ValueError(f"{name}: got {got}, expected the same in all")
